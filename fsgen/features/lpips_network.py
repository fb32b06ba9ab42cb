"""The one place that knows the lpips package, so that it can be swapped."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fsgen.errors import FsgenError, suggest
from fsgen.features.base_extractor import read_state, reading, undrawn
from fsgen.features.torchvision_shim import import_torchvision

Net = Literal["alex", "vgg"]

SMALLEST = {"alex": 31, "vgg": 16}  # pixels a side below which the last pooling layer has nothing left


class Lpips:
    """LPIPS 0.1 (Zhang et al. 2018): the lpips package's network with its backbone read from a local file.

    Gradients flow to the images; the weights are frozen.

    Args:
        net: "alex" (the package's default for evaluation) or "vgg" (the intra-LPIPS of the literature).
        path: torchvision's state dict of that backbone.
        device: where the network runs.

    Raises:
        FsgenError: the file is absent, damaged, or of another network.
    """

    def __init__(self, net: Net, path: Path, device: torch.device | str = "cpu") -> None:
        if net not in SMALLEST:
            raise FsgenError(f"LPIPS has no backbone '{net}' here", hint=suggest(net, list(SMALLEST)))
        self.net = net
        self.device = torch.device(device)
        model = _untrained_lpips(net)
        with reading(path):
            model.net.load_state_dict(_sliced(model.net, read_state(path)))
        self.model = model.to(self.device).eval().requires_grad_(False)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [n] between float images [n, 3, H, W] in [-1, 1]; either n may be 1."""
        return self.model(self._checked(a), self._checked(b)).flatten()

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps that are compared, fine to coarse: [n, C, h, w] behind a ReLU of each of five stages."""
        return list(self.model.net(self.model.scaling_layer(self._checked(images))))

    def embed(self, images: Tensor) -> Tensor:
        """Points e(x), [n, D] with D depending on H and W, such that LPIPS(a, b) = |e(a) - e(b)|^2.

        LPIPS is a sum over layers of the spatial mean of sum_c w_c (a_c - b_c)^2 with w_c >= 0: a squared
        Euclidean distance once each unit-normalised feature is scaled by sqrt(w_c / (h w)). All distances
        among n images then need n forward passes, not n^2.
        """
        import lpips

        layers, parts = self.features(images), []
        for features, linear in zip(layers, self.model.lins, strict=True):  # [n, c, h, w], Dropout + 1x1 conv
            weight = linear.model[-1].weight  # [1, c, 1, 1]
            parts.append(lpips.normalize_tensor(features) * (weight / features[0, 0].numel()).sqrt())
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _checked(self, images: Tensor) -> Tensor:
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected float [n, 3, H, W], got {images.dtype} {list(images.shape)}")
        if min(images.shape[2:]) < SMALLEST[self.net]:
            size = "x".join(map(str, images.shape[2:]))
            raise FsgenError(
                f"LPIPS ({self.net}) needs images of at least {SMALLEST[self.net]} pixels a side, got {size}"
            )
        return images.to(self.device)


def _untrained_lpips(net: Net) -> nn.Module:
    """lpips' network with its shipped linear layers and a random backbone: no download, no print."""
    import_torchvision()
    import lpips

    with undrawn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated keyword
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def _sliced(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ``features.6.weight`` under lpips' name ``slice3.6.weight``; no classifier layers."""
    targets = {key.split(".", 1)[1]: key for key in backbone.state_dict()}
    features = {
        key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")
    }
    return {targets[key]: value for key, value in features.items() if key in targets}
