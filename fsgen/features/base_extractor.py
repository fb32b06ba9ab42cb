"""The base class of feature extractors: uint8 images in, one row of features each out.

Weights are local files: ``weight_files`` locates and downloads them. Arithmetic is float32 and follows
torch's own switches (TF32 on a GPU), as in the packages these networks come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fsgen.errors import unknown_name
from fsgen.io.checksums import hash_file

RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)  # of pixels in [0, 1]
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


class Extractor(ABC):
    """A frozen network that turns images into features.

    Args:
        path: its weights.
        device: where it runs.
        mode: preprocessing, one of ``modes``; default: the first.

    Raises:
        FsgenError: unknown mode; the file is absent, damaged or of another network.
    """

    name: str
    modes: tuple[str, ...]
    dim: int  # of the features
    version: int  # raised by any code change that changes the features

    def __init__(self, path: Path, device: torch.device | str = "cpu", mode: str | None = None) -> None:
        if mode is not None and mode not in self.modes:
            raise unknown_name(f"{self.name} has no mode '{mode}'", mode, self.modes)
        self.mode = mode or self.modes[0]
        self.device = torch.device(device)
        self.file = path.name
        self.network = self._load(path).to(self.device).eval()
        for parameter in self.network.parameters():  # a TorchScript has no requires_grad_() for all of them
            parameter.requires_grad_(False)
        self.key = f"{self.name} {self.mode} {hash_file(path)} {self.version}"
        """Identifies the features of given images: network, preprocessing, weights, version of this code."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute features, float32 [n, dim] on the CPU, of uint8 images [n, 3, H, W] of any size."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected uint8 [n, 3, H, W], got {images.dtype} {list(images.shape)}")
        return self._features(images).flatten(1).float().cpu()

    @abstractmethod
    def _load(self, path: Path) -> nn.Module:
        """Build the network with the weights in ``path``."""

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """Compute [n, dim] or [n, dim, 1, 1] of uint8 images [n, 3, H, W]."""


def map_images(function: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> Tensor:
    """Apply ``function`` to each ``images[i]`` in threads and stack the results."""
    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock while it resizes
        return torch.from_numpy(np.stack(list(pool.map(function, images))))


def crop_centre(images: Tensor) -> Tensor:
    """Crop ``images`` [n, C, H, W] to the central square."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, :, top : top + side, left : left + side]


def standardise(images: Tensor, mean: RGB, std: RGB) -> Tensor:
    """Map [n, 3, H, W] in [0, 255] to (images / 255 - mean) / std, float32."""
    means, deviations = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (mean, std))
    return (images.float() / 255 - means) / deviations
