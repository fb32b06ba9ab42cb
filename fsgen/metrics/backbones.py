"""The one place that knows clean-fid and lpips, so that either can be swapped.

Images in, features or distances out. No file is fetched here: paths come from ``weights.locate``. Arithmetic
follows torch's own switches (TF32 on a GPU), as in the two packages.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fsgen.errors import FsgenError, near
from fsgen.metrics.torchvision_shim import import_torchvision
from fsgen.metrics.weights import CATALOGUE

Net = Literal["alex", "vgg"]

WEIGHTS_OF: dict[str, str] = {"alex": "alexnet", "vgg": "vgg16"}  # lpips' name -> name in weights.CATALOGUE

_SMALLEST = {"alex": 31, "vgg": 16}  # pixels a side below which the last pooling layer has nothing left
_SIDE = 299  # of Inception's input


class Inception:
    """Inception v3 features as clean-fid computes them in its mode "clean".

    Args:
        path: the TorchScript file ``inception-2015-12-05.pt``.
        device: where the network runs.

    Raises:
        FsgenError: the file is absent, damaged, or something else.
    """

    dim = 2048

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        from cleanfid.inception_torchscript import InceptionV3W

        if path.name != CATALOGUE["inception"].file:  # clean-fid takes the folder and knows the name
            raise FsgenError(f"{path}: clean-fid wants this file to be called {CATALOGUE['inception'].file}")
        with _reading(path):
            network = InceptionV3W(str(path.parent), download=False)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features, float32 [n, 2048] on the CPU, of uint8 images [n, 3, H, W]."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected uint8 [n, 3, H, W], got {images.dtype} {list(images.shape)}")
        return self.network(resize_clean(images).to(self.device)).float().cpu()


def resize_clean(images: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] -> float32 [n, 3, 299, 299] in [0, 255] on the CPU, as clean-fid resizes.

    Each channel on its own as float32, antialiased bicubic, overshoot clipped, not rounded to 8 bits again.
    """
    channels = images.cpu().numpy().reshape(-1, *images.shape[2:])

    def resize(channel: np.ndarray) -> np.ndarray:
        image = Image.fromarray(channel.astype(np.float32))
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)).clip(0, 255)

    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter lock while it resizes
        resized = np.stack(list(pool.map(resize, channels)))
    return torch.from_numpy(resized).view(-1, 3, _SIDE, _SIDE)


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
        if net not in WEIGHTS_OF:
            raise FsgenError(f"LPIPS has no backbone '{net}' here", hint=near(net, list(WEIGHTS_OF)))
        self.net = net
        self.device = torch.device(device)
        model = _untrained_lpips(net)
        with _reading(path):
            model.net.load_state_dict(
                _sliced(model.net, torch.load(path, map_location="cpu", weights_only=True))
            )
        self.model = model.to(self.device).eval().requires_grad_(False)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [n] between float images [n, 3, H, W] in [-1, 1]; either n may be 1."""
        return self.model(self._checked(a), self._checked(b)).flatten()

    def embed(self, images: Tensor) -> Tensor:
        """Points e(x), [n, D] with D depending on H and W, such that LPIPS(a, b) = |e(a) - e(b)|^2.

        LPIPS is a sum over layers of the spatial mean of sum_c w_c (a_c - b_c)^2 with w_c >= 0: a squared
        Euclidean distance once each unit-normalised feature is scaled by sqrt(w_c / (h w)). All distances
        among n images then need n forward passes, not n^2.
        """
        import lpips

        layers = self.model.net(self.model.scaling_layer(self._checked(images)))
        parts = []
        for features, linear in zip(layers, self.model.lins, strict=True):  # [n, c, h, w], Dropout + 1x1 conv
            weight = linear.model[-1].weight  # [1, c, 1, 1]
            parts.append(lpips.normalize_tensor(features) * (weight / features[0, 0].numel()).sqrt())
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _checked(self, images: Tensor) -> Tensor:
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected float [n, 3, H, W], got {images.dtype} {list(images.shape)}")
        if min(images.shape[2:]) < _SMALLEST[self.net]:
            size = "x".join(map(str, images.shape[2:]))
            raise FsgenError(
                f"LPIPS ({self.net}) needs images of at least {_SMALLEST[self.net]} pixels a side, got {size}"
            )
        return images.to(self.device)


def _untrained_lpips(net: Net) -> nn.Module:
    """lpips' network with its shipped linear layers and a random backbone: no download, no print."""
    import_torchvision()
    import lpips

    # Random weights are thrown away: they must not move the caller's random stream either.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated keyword
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def _sliced(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ``features.6.weight`` under lpips' name ``slice3.6.weight``; no classifier layers."""
    targets = {key.split(".", 1)[1]: key for key in backbone.state_dict()}
    features = {
        key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")
    }
    return {targets[key]: value for key, value in features.items() if key in targets}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what loading ``path`` may raise into one sentence about it."""
    if not path.is_file():
        raise FsgenError(f"there is no weight file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.load is deprecated, and the published file's format
            yield
    except Exception as error:  # torch raises half a dozen kinds, down to AttributeError, for a wrong file
        raise FsgenError(
            f"{path} cannot be read as these weights: {' '.join(str(error).split())[:300]}",
            hint=f"delete {path} and fetch it again: the file is damaged or another one",
        ) from error
