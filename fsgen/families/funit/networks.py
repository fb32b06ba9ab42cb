"""Networks of FUNIT, from the paper (arXiv 1905.01723, section 3 and appendix).

The content (pose, layout) comes from one image, the class from k others; the decoder combines them. Keys of
the ``spec``: channels, c_dim (classes of D), content_widths and class_widths (channels after the first
convolution and after each downsampling one), content_blocks and decoder_blocks (number of residual blocks),
latent_dim (length of a class code), mlp_widths (hidden layers), decoder_widths (after each upsampling),
d_widths (after the first convolution and after each stage), resolution (of the training images: no layer
depends on it).

Convolutions pad by reflection. Instance normalisations have neither weights nor running statistics.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.errors import Code, FsgenError
from fsgen.families.checks import require
from fsgen.interfaces import Inputs, Spec

LEAKY = 0.2


def conv(inputs: int, outputs: int, size: int, *, down: bool = False) -> nn.Conv2d:
    """A ``size`` x ``size`` convolution that keeps the resolution or, with ``down``, halves it."""
    padding = (size - 1) // 2
    return nn.Conv2d(inputs, outputs, size, 2 if down else 1, padding, padding_mode="reflect")


def _initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 10, as published."""
    if (
        isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta
    ):  # slow, and of no effect there
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ---- G ---------------------------------------------------------------------------------------------------


def adain(x: Tensor, affine: Tensor | None = None) -> Tensor:
    """Instance normalisation, times a scale, plus a shift (Huang & Belongie 2017, equation 8).

    Args:
        x: [n, C, H, W].
        affine: [n or 1, 2, C], shifts before scales; None: neither.
    """
    x = F.instance_norm(x)
    if affine is None:
        return x
    shift, scale = affine[..., None, None].unbind(dim=1)  # [n, C, 1, 1] each
    return scale * x + shift


class ResidualBlock(nn.ModuleList):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__([conv(width, width, 3), conv(width, width, 3)])

    def forward(self, x: Tensor, affine: Tensor | None = None) -> Tensor:
        """x [n, C, H, W], affine [n or 1, 2 (convolutions), 2, C] -> [n, C, H, W]"""
        first, second = (None, None) if affine is None else affine.unbind(dim=1)
        dx = F.relu(adain(self[0](x), first))
        return x + adain(self[1](dx), second)


class ContentEncoder(nn.Module):
    """Images -> contents: maps that do not depend on the class."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        widths = spec["content_widths"]
        self.stem = conv(spec["channels"], widths[0], 7)
        self.down = nn.ModuleList(conv(a, b, 4, down=True) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(ResidualBlock(widths[-1]) for _ in range(spec["content_blocks"]))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, H, W] -> [n, C, H / 2^k, W / 2^k]

        Raises:
            FsgenError: another number of channels, or sides that are no multiple of 2^k.
        """
        channels, *sides = x.shape[1:]
        factor = 2 ** len(self.down)
        if channels != self.stem.in_channels or any(side % factor or side < 2 * factor for side in sides):
            raise FsgenError(
                f"this generator translates no images of shape {list(x.shape[1:])} (channels, height, width)",
                code=Code.INCOMPATIBLE, where="content",
                hint=f"{self.stem.in_channels} channels, and sides of a multiple of {factor} px, at least "
                f"{2 * factor}",
            )  # fmt: skip
        for layer in (self.stem, *self.down):
            x = F.relu(adain(layer(x)))
        for block in self.blocks:
            x = block(x)
        return x


class ClassEncoder(nn.Module):
    """Images -> class codes. Without normalisation, so that colours and contrast are part of the class."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        widths = spec["class_widths"]
        self.stem = conv(spec["channels"], widths[0], 7)
        self.down = nn.ModuleList(conv(a, b, 4, down=True) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], spec["latent_dim"])

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, H, W] -> [n, latent_dim]"""
        for layer in (self.stem, *self.down):
            x = F.relu(layer(x))
        return self.out(x.mean(dim=(2, 3)))


class Decoder(nn.Module):
    """Contents, and scales and shifts computed from class codes -> images."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        widths = [spec["content_widths"][-1], *spec["decoder_widths"]]
        self.blocks = nn.ModuleList(ResidualBlock(widths[0]) for _ in range(spec["decoder_blocks"]))
        self.up = nn.ModuleList(conv(a, b, 5) for a, b in pairwise(widths))
        self.out = conv(widths[-1], spec["channels"], 7)

    def forward(self, x: Tensor, affine: Tensor) -> Tensor:
        """x [n, C, h, w], affine [n or 1, blocks, 2, 2, C] -> [n, channels, h * 2^k, w * 2^k] in (-1, 1)"""
        for i, block in enumerate(self.blocks):
            x = block(x, affine[:, i])
        for layer in self.up:
            x = F.relu(adain(layer(F.interpolate(x, scale_factor=2))))
        return self.out(x).tanh()


class Generator(nn.Module):
    """A content image and k images of a class -> an image with both (section 3.1)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.resolution, self.channels = spec["resolution"], spec["channels"]
        self.content = ContentEncoder(spec)
        self.style = ClassEncoder(spec)
        self.affine = (spec["decoder_blocks"], 2, 2, spec["content_widths"][-1])
        sizes = [spec["latent_dim"], *spec["mlp_widths"], 4 * self.affine[0] * self.affine[-1]]
        steps = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*steps[:-1])
        self.decoder = Decoder(spec)
        self.apply(_initialise)

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """Raises FsgenError: there is no prior to draw from."""
        raise FsgenError("funit has no latents to draw: it translates images", code=Code.USAGE, where="funit",
                         hint="give it images as contents")  # fmt: skip

    def class_code(self, inputs: Inputs) -> Tensor:
        """[n, latent_dim]: the mean over the k images of each class, or ``inputs.h``, a stored code."""
        if inputs.style is None:
            return require(inputs, "h")
        k = inputs.style.shape[1]
        return self.style(inputs.style.flatten(0, 1)).unflatten(0, (-1, k)).mean(dim=1)

    def decode(self, content: Tensor, class_code: Tensor) -> Tensor:
        """Encoded content [n, C, h, w], class_code [n or 1, latent_dim] -> images"""
        return self.decoder(content, self.mlp(class_code).unflatten(1, self.affine))

    def forward(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: str = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, channels, H, W] in (-1, 1). ``truncation`` and ``noise`` have no effect."""
        return self.decode(self.content(require(inputs, "content")), self.class_code(inputs))


# ---- D ---------------------------------------------------------------------------------------------------


class PreActivationBlock(nn.Module):
    """A residual block that activates before it convolves.

    As in the published code, whose activation works in place, an identity shortcut passes lrelu(x) and a
    convolutional one convolves x.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = min(inputs, outputs)
        self.conv0 = conv(inputs, hidden, 3)
        self.conv1 = conv(hidden, outputs, 3)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.leaky_relu(x, LEAKY)
        dx = self.conv1(F.leaky_relu(self.conv0(active), LEAKY))
        return dx + (active if self.skip is None else self.skip(x))


class Discriminator(nn.Module):
    """Images and classes -> one logit a patch: real or not, as an image of that class (section 3.2).

    Each class is a task of its own; only the last convolution depends on it.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        widths = spec["d_widths"]
        self.stem = conv(spec["channels"], widths[0], 7)
        self.stages = nn.ModuleList(
            nn.Sequential(PreActivationBlock(a, a), PreActivationBlock(a, b)) for a, b in pairwise(widths)
        )
        self.head = nn.Conv2d(widths[-1], spec["c_dim"], 1)
        self.apply(_initialise)

    def forward(self, images: Tensor, inputs: Inputs | None = None) -> Tensor:
        """[n, channels, H, W] -> [n, patches] logits of the classes ``inputs.y``."""
        return self.logits(self.last_features(images), require(inputs, "y"))

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps after each stage, fine to coarse; the last is activated, as the head receives it."""
        maps = [self.stages[0](self.stem(images))]
        for stage in self.stages[1:]:
            maps.append(stage(F.avg_pool2d(F.pad(maps[-1], (1, 1, 1, 1), mode="reflect"), 3, stride=2)))
        return [*maps[:-1], F.leaky_relu(maps[-1], LEAKY)]

    def last_features(self, images: Tensor) -> Tensor:
        """[n, channels, H, W] -> [n, C, h, w], the last of ``features``."""
        return self.features(images)[-1]

    def logits(self, features: Tensor, y: Tensor) -> Tensor:
        """[n, C, h, w], [n, c_dim] -> [n, h w] logits."""
        return (self.head(features) * y[:, :, None, None]).sum(dim=1).flatten(1)
