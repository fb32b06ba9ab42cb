"""VGG16's maps (Simonyan & Zisserman 2015), for losses between pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen.errors import FsgenError
from fsgen.features.base_extractor import read_state, reading
from fsgen.features.torchvision_shim import import_torchvision

BLOCKS = (2, 2, 3, 3, 3)  # convolutions between poolings
LAYOUT = torch.channels_last  # of weights and maps, all alike: maps of two layouts take long to compare
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels, for torchvision's weights


class Vgg:
    """Maps of VGG16, each behind its ReLU; gradients flow to the images, the weights are frozen.

    torchvision's weights take pixels over their deviation. Papers that put weights on such maps had a network
    of pixels from 0 to 255, less their mean. Rectifiers and poolings hand a scale on, so that the maps are of
    that scale if pixels and biases are.

    Args:
        path: torchvision's state dict.
        layers: which maps, by the paper's names: conv1_1 to conv5_3.
        size: of the images' side, pixels.
        device: where it runs.
        average: pool by means instead of maxima, which drawing by gradients does better with (Gatys et al.
            2016, section 2).

    Raises:
        FsgenError: the file is absent, damaged, or of another network; the images are too small.
    """

    def __init__(
        self, path: Path, layers: Sequence[str], size: int, device: torch.device | str = "cpu", *,
        average: bool = False,
    ) -> None:  # fmt: skip
        self.layers = {_place(name): name for name in layers}
        with torch.device("meta"):
            whole = import_torchvision().models.vgg16(weights=None).features
        network = whole[: max(self.layers) + 1]
        with reading(path):
            found = read_state(path)
            state = {key: found[f"features.{key}"] for key in network.state_dict()}
            network.load_state_dict(state, assign=True)
        pools = [name for name, layer in network.named_children() if isinstance(layer, nn.MaxPool2d)]
        if average:
            for name in pools:
                setattr(network, name, nn.AvgPool2d(2))
        if size < 1 << len(pools):
            raise FsgenError(f"VGG16's maps take pictures of at least {1 << len(pools)} pixels a side")
        self.network = network.to(device, memory_format=LAYOUT).eval().requires_grad_(False)
        self.mean, deviation = (
            torch.tensor(values, device=device)[:, None, None] for values in (MEAN, DEVIATION)
        )
        scale = 255 * deviation.mean()
        self.unit = deviation / scale  # of pixels
        for layer in self.network:
            if isinstance(layer, nn.Conv2d):
                layer.bias.mul_(scale)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """[n, C', h, w] by layer, of images [n, 1 or 3, H, W] in [-1, 1]; grey ones are looked at as RGB."""
        x = ((images + 1) / 2 - self.mean) / self.unit  # [n, 3, H, W], whatever the channels
        x = x.contiguous(memory_format=LAYOUT)
        maps = {}
        for place, layer in enumerate(self.network):
            x = layer(x)
            if place in self.layers:
                maps[self.layers[place]] = x
        return maps


def _place(layer: str) -> int:
    """Where in torchvision's list the ReLU behind ``conv3_2`` stands."""
    block, number = map(int, layer.removeprefix("conv").split("_"))
    return sum(2 * convolutions + 1 for convolutions in BLOCKS[: block - 1]) + 2 * number - 1
