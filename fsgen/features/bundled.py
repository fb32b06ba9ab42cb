"""The feature network that ships with fsgen: 128 features, for drawings of faces; not for photographs.

``examples/studies/bundled_features.py`` trained it on public domain drawings; its weights are public domain
too (CC0 1.0).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fsgen.features.base_extractor import Extractor, crop_centre
from fsgen.features.weight_loading import read_tensors, refuse_bad_weights, skip_random_init

FILE = Path(__file__).parent / "networks" / "bundled.safetensors"
SIDE = 64  # px of the network's input
DIM = 128
WIDTHS = ((3, 32, 2), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 2))  # in, out, stride
GRID = 4  # px a side after the last convolution


class BundledNetwork(nn.Module):
    """Five 3x3 convolutions with ReLU, and a linear layer on the flattened map."""

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
    """``BundledNetwork`` on the central square, resized to 64 px by antialiased bicubic."""

    name = "bundled"
    modes = ("drawings",)
    dim = DIM
    version = 1

    def _load(self, path: Path) -> nn.Module:
        with skip_random_init():
            network = BundledNetwork()
        with refuse_bad_weights(path):
            network.load_state_dict(read_tensors(path))  # float16 in the file, float32 here
        return network

    def _features(self, images: Tensor) -> Tensor:
        levels = crop_centre(images).to(self.device).float()
        if levels.shape[-1] != SIDE:
            levels = nn.functional.interpolate(levels, (SIDE, SIDE), mode="bicubic", antialias=True)
        return self.network(levels.clamp(0, 255) / 127.5 - 1)
