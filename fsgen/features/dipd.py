"""The domain-invariant perceptual distance (DIPD; Huang et al. 2018): does a translation keep its content?"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fsgen.errors import Code, FsgenError
from fsgen.features.lpips_network import Lpips

SMALLEST = 32  # px a side; conv5 has 2 x 2 positions then: a single one has no variance


class Dipd:
    """DIPD as in FUNIT's evaluation (Liu et al. 2019, section 4): L2 of normalised VGG conv5 features.

    Each map after the last ReLU of conv5 is normalised to mean 0 and variance 1 over its image, which removes
    most of what distinguishes domains. The distance is the mean squared difference over maps and positions:
    0 for equal images, about 2 for unrelated ones.

    Args:
        vgg: ``Lpips`` with the backbone "vgg", whose network is shared.
    """

    def __init__(self, vgg: Lpips) -> None:
        if vgg.net != "vgg":
            raise ValueError(f"DIPD needs VGG's features, not {vgg.net}'s")
        self.vgg = vgg

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute distances [n] between translations and contents, float [n, 3, H, W] in [-1, 1]."""
        if min(a.shape[2:]) < SMALLEST:
            size = "x".join(map(str, a.shape[2:]))
            raise FsgenError(
                f"DIPD needs images of at least {SMALLEST} px a side, got {size}",
                code=Code.INCOMPATIBLE, where=size,
            )  # fmt: skip
        first, second = (F.instance_norm(self.vgg.features(images)[-1]) for images in (a, b))
        return (first - second).square().mean(dim=(1, 2, 3))
