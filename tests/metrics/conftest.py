"""The fixtures of these tests."""

from stand_ins import (  # noqa: F401
    alexnet_file,
    inception_file,
    picture_folders,
    vgg16_file,
    weights_dir,
)
