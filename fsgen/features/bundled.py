"""The feature network that comes with fsgen: small, for drawings of faces, of 128 numbers an image.

``examples/studies/bundled_features.py`` trained it on drawings in the public domain, and its weights are in
the public domain too (CC0 1.0). It knows nothing of photographs.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fsgen.features.base_extractor import Extractor, centre, read_state, reading, undrawn

FILE = Path(__file__).parent / "networks" / "bundled.safetensors"
SIDE = 64  # px of the network's input
DIM = 128
WIDTHS = ((3, 32, 2), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 2))  # in, out, stride
GRID = 4  # px a side after the last of them


class BundledNetwork(nn.Module):
    """Five 3x3 convolutions, and a linear layer that knows where in the picture it looks."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=stride, padding=1) for before, after, stride in WIDTHS
        )
        self.out = nn.Linear(GRID**2 * WIDTHS[-1][1], DIM)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 64, 64] in [-1, 1] -> [n, 128] of length one."""
        for convolution in self.convolutions:
            x = convolution(x).relu()
        return nn.functional.normalize(self.out(x.flatten(1)), dim=1)


class Bundled(Extractor):
    """The network above on pictures brought to 64 px: the centre square, antialiased bicubic."""

    name = "bundled"
    modes = ("drawings",)
    dim = DIM
    version = 1

    def _load(self, path: Path) -> nn.Module:
        with undrawn():
            network = BundledNetwork()
        with reading(path):
            network.load_state_dict(read_state(path))  # half precision in the file, single here
        return network

    def _features(self, images: Tensor) -> Tensor:
        levels = centre(images).to(self.device).float()
        if levels.shape[-1] != SIDE:
            levels = nn.functional.interpolate(levels, (SIDE, SIDE), mode="bicubic", antialias=True)
        return self.network(levels.clamp(0, 255) / 127.5 - 1)
