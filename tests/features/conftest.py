"""Weight files that the tests of this folder share."""

from stand_ins import (  # noqa: F401
    alexnet_file,
    clip_file,
    inception_file,
    inception_pytorch_file,
    inception_torchvision_file,
    picture_folders,
    vgg16_file,
    weights_dir,
)
