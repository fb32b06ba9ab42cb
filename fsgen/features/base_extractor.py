"""What the feature networks have in common: images in, one row of features each out, and a name for both.

No file is fetched here: paths come from ``weights.locate``. Nothing in a file is executed but the published
TorchScript of Inception, which can compute with tensors and do nothing else. Arithmetic is float32 and
follows torch's own switches (TF32 on a GPU), as in the packages these networks come from.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fsgen.errors import FsgenError, suggest
from fsgen.io.checksums import hash_file

DRAWING = {"uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_"}  # of tensors and of torch.nn.init


class Extractor(ABC):
    """A frozen network that turns images into features.

    Args:
        path: its weights.
        device: where it runs.
        mode: one of ``modes``, the ways to bring images to it; default: the first.

    Raises:
        FsgenError: the file is absent, damaged or another one; there is no such mode; a package is absent.
    """

    name: ClassVar[str]
    modes: ClassVar[tuple[str, ...]]
    dim: ClassVar[int]  # of the features
    version: ClassVar[int]  # raised whenever a change of this code changes what comes out

    def __init__(self, path: Path, device: torch.device | str = "cpu", mode: str | None = None) -> None:
        if mode is not None and mode not in self.modes:
            raise FsgenError(f"{self.name} has no mode '{mode}'", hint=suggest(mode, list(self.modes)))
        self.mode = mode or self.modes[0]
        self.device = torch.device(device)
        self.file = path.name
        self.network = self._load(path).to(self.device).eval()
        for parameter in self.network.parameters():  # a script has no requires_grad_ for all of them
            parameter.requires_grad_(False)
        self.key = f"{self.name} {self.mode} {hash_file(path)} {self.version}"
        """All that the features depend on besides the images, as one string."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features, float32 [n, dim] on the CPU, of uint8 images [n, 3, H, W] of any size."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected uint8 [n, 3, H, W], got {images.dtype} {list(images.shape)}")
        return self._features(images).flatten(1).float().cpu()

    @abstractmethod
    def _load(self, path: Path) -> nn.Module:
        """The network with the weights in ``path``."""

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """[n, dim] or [n, dim, 1, 1] of uint8 images [n, 3, H, W]."""


def each(function: Callable[[Any], np.ndarray], parts: np.ndarray) -> Tensor:
    """``function`` of every ``parts[i]``, stacked."""
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter lock while it resizes
        return torch.from_numpy(np.stack(list(pool.map(function, parts))))


def centre(images: Tensor) -> Tensor:
    """The middle square of ``images`` [n, C, H, W]."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, :, top : top + side, left : left + side]


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors or torch file, on the CPU; no code in it is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def undrawn() -> Iterator[None]:
    """Where a network is built whose weights a file is about to replace: drawing them takes most of the time.

    The caller's random stream stays where it is, also where a package draws in a way of its own.
    """
    with torch.random.fork_rng(devices=[]), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """What fills a tensor with random numbers leaves it as it is."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", None) in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def reading(path: Path) -> Iterator[None]:
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
