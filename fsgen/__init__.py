"""fsgen: adapt a pretrained image generator to a handful of pictures.

``fsgen.load(path)`` gives a generator with ``sample``; the verbs of the command line are functions too:
``pull``, ``fisher``, ``adapt``, ``train``, ``sample``, ``evaluate``, ``compare``.
Importing this module imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "fsgen.sampling.sampler",
    "pull": "fsgen.importers.pull",
    "fisher": "fsgen.training.fisher",
    "adapt": "fsgen.training.adapt",
    "train": "fsgen.training.train",
    "sample": "fsgen.sampling.sampler",
    "evaluate": "fsgen.evaluation.evaluate",
    "compare": "fsgen.evaluation.compare",
}
__all__ = ["FsgenError", *_PUBLIC]

from fsgen.errors import FsgenError  # noqa: E402


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'fsgen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
