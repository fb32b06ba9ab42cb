"""LPIPS through the lpips package. No other module imports it, so that it can be replaced."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError, unknown_name
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_loading import read_tensors, refuse_bad_weights, skip_random_init

if TYPE_CHECKING:
    import lpips

Net = Literal["alex", "vgg"]

SMALLEST = {"alex": 31, "vgg": 16}  # px a side; below, the last pooling layer has no output


class Lpips:
    """LPIPS 0.1 (Zhang et al. 2018): the lpips package's network with its backbone read from a local file.

    Gradients flow to the images; the weights are frozen.

    Args:
        net: "alex" (the package's default for evaluation) or "vgg" (the intra-LPIPS of the literature).
        path: torchvision's state dict of that backbone.
        device: where the network runs.

    Raises:
        FsgenError: unknown backbone; the file is absent, damaged, or of another network.
    """

    def __init__(self, net: Net, path: Path, device: torch.device | str = "cpu") -> None:
        if net not in SMALLEST:
            raise unknown_name(f"LPIPS has no backbone '{net}' here", net, SMALLEST)
        self.net = net
        self.device = torch.device(device)
        model = _untrained_lpips(net)
        with refuse_bad_weights(path):
            model.net.load_state_dict(_rename(model.net, read_tensors(path)))
        self.model = model.to(self.device).eval().requires_grad_(False)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute distances [n] between float images [n, 3, H, W] in [-1, 1]; either n may be 1."""
        return self.model(self._checked(a), self._checked(b)).flatten()

    def features(self, images: Tensor) -> list[Tensor]:
        """Compute the maps that are compared: [n, C, h, w] after a ReLU in each of 5 stages, finest first."""
        return list(self.model.net(self.model.scaling_layer(self._checked(images))))

    def embed(self, images: Tensor) -> Tensor:
        """Compute points e(x), [n, D] with D depending on H and W, such that LPIPS(a, b) = |e(a) - e(b)|^2.

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
                f"LPIPS ({self.net}) needs images of at least {SMALLEST[self.net]} px a side, got {size}",
                code=Code.INCOMPATIBLE, where=size,
            )  # fmt: skip
        return images.to(self.device)


def _untrained_lpips(net: Net) -> lpips.LPIPS:
    """Build lpips' network with its shipped linear layers and no backbone weights: no download, no print."""
    import_torchvision()
    import lpips

    with skip_random_init(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated keyword
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def _rename(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's ``features.6.weight`` to lpips' ``slice3.6.weight``; drop the classifier."""
    targets = {f"features.{key.split('.', 1)[1]}": key for key in backbone.state_dict()}
    return {targets[key]: value for key, value in state.items() if key in targets}
