"""torchvision's VGG16 (Simonyan & Zisserman 2015): feature maps for losses between images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError
from fsgen.features.base_extractor import IMAGENET_MEAN, IMAGENET_STD
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_loading import read_tensors, refuse_bad_weights

BLOCKS = (2, 2, 3, 3, 3)  # convolutions between poolings
LAYOUT = torch.channels_last  # of weights and maps: comparing maps of two layouts is slow


class Vgg:
    """Feature maps of VGG16 after the ReLUs; gradients flow to the images, the weights are frozen.

    torchvision's weights expect (pixel - mean) / std. Papers that weight losses on such maps used a network
    for pixels in [0, 255] minus their mean. ReLUs and poolings are homogeneous, so scaling pixels and biases
    by 255 times the mean std gives maps of that scale.

    Args:
        path: torchvision's state dict.
        layers: which maps, by the paper's names: conv1_1 to conv5_3.
        size: of the images' side, px.
        device: where it runs.
        average: average pooling instead of max pooling, better for synthesis by gradients (Gatys et al.
            2016, section 2).

    Raises:
        FsgenError: the file is absent, damaged, or of another network; the images are too small.
    """

    def __init__(
        self, path: Path, layers: Sequence[str], size: int, device: torch.device | str = "cpu", *,
        average: bool = False,
    ) -> None:  # fmt: skip
        self.layers = {_index(name): name for name in layers}
        with torch.device("meta"):
            whole = import_torchvision().models.vgg16(weights=None).features
        network = whole[: max(self.layers) + 1]
        with refuse_bad_weights(path):
            found = read_tensors(path)
            state = {key: found[f"features.{key}"] for key in network.state_dict()}
            network.load_state_dict(state, assign=True)
        pools = [name for name, layer in network.named_children() if isinstance(layer, nn.MaxPool2d)]
        if average:
            for name in pools:
                setattr(network, name, nn.AvgPool2d(2))
        if size < 1 << len(pools):
            raise FsgenError(
                f"VGG16's maps need images of at least {1 << len(pools)} px a side, got {size}",
                code=Code.INCOMPATIBLE, where=size,
            )  # fmt: skip
        self.network = network.to(device, memory_format=LAYOUT).eval().requires_grad_(False)
        self.mean, std = (
            torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        scale = 255 * std.mean()
        self.unit = std / scale  # pixels are divided by it
        for layer in self.network:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.mul_(scale)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Compute maps [n, C', h, w] by layer of images [n, 1 or 3, H, W] in [-1, 1]; grey is used as RGB."""
        x = ((images + 1) / 2 - self.mean) / self.unit  # [n, 3, H, W], also of grey images
        x = x.contiguous(memory_format=LAYOUT)
        maps = {}
        for index, layer in enumerate(self.network):
            x = layer(x)
            if index in self.layers:
                maps[self.layers[index]] = x
        return maps


def _index(layer: str) -> int:
    """Return the index in torchvision's list of the ReLU after a layer, such as ``conv3_2``."""
    block, number = map(int, layer.removeprefix("conv").split("_"))
    return sum(2 * convolutions + 1 for convolutions in BLOCKS[: block - 1]) + 2 * number - 1
