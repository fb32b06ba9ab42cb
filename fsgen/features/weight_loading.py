"""Read weight files into networks. Nothing in a file is executed but the published TorchScript of Inception.

TorchScript can compute with tensors and do nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError

RANDOM_INIT = {"uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_"}  # of tensors and torch.nn.init


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or torch file to the CPU; no code in it is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def skip_random_init() -> Iterator[None]:
    """Build networks without random initial values, which a weight file is about to replace: it is faster.

    The caller's random stream is unchanged, also where a package draws in another way.
    """
    with torch.random.fork_rng(devices=[]), _SkipRandomInit():
        yield


class _SkipRandomInit(TorchFunctionMode):
    """Return tensors unchanged from functions that fill them with random numbers."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: PlainDict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", None) in RANDOM_INIT:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def refuse_bad_weights(path: Path) -> Iterator[None]:
    """Turn any error while ``path`` is loaded into one that names the file.

    Raises:
        FsgenError: the file is absent, damaged or of another network.
    """
    if not path.is_file():
        raise FsgenError(f"there is no weight file {path}", code=Code.NOT_FOUND, where=path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.load is deprecated, but it is the published format
            yield
    except Exception as error:  # torch raises half a dozen kinds, down to AttributeError, for a wrong file
        raise FsgenError(
            f"cannot load the weights in {path}: {' '.join(str(error).split())[:300]}",
            code=Code.DAMAGED, where=path,
            hint=f"the file is damaged or of another network: delete {path} and fetch it again",
        ) from error  # fmt: skip
