"""The domain-invariant perceptual distance (Huang et al. 2018): is the content kept, whatever the class?"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fsgen.errors import FsgenError
from fsgen.features.lpips_network import Lpips

LEAST = 32  # pixels a side of which conv5 makes 2: a single one has no variance


class Dipd:
    """DIPD as FUNIT's evaluation has it (Liu et al. 2019, section 4): L2 of normalised VGG conv5 features.

    The maps behind the last ReLU of conv5, each brought to mean 0 and variance 1 over its picture, which
    takes away most of what tells domains apart. The distance is the mean over maps and positions of their
    squared difference: 0 for the same picture, about 2 for two that have nothing in common.

    Args:
        vgg: ``Lpips`` of the backbone "vgg", whose network is shared.
    """

    def __init__(self, vgg: Lpips) -> None:
        if vgg.net != "vgg":
            raise ValueError(f"DIPD is of VGG's features, not of {vgg.net}'s")
        self.vgg = vgg

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [n] between float images [n, 3, H, W] in [-1, 1], a translation and its content."""
        if min(a.shape[2:]) < LEAST:
            size = "x".join(map(str, a.shape[2:]))
            raise FsgenError(f"DIPD needs images of at least {LEAST} pixels a side, got {size}")
        first, second = (F.instance_norm(self.vgg.features(images)[-1]) for images in (a, b))
        return (first - second).square().mean(dim=(1, 2, 3))
