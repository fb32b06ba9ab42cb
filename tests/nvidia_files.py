"""Write pickles in the format of NVIDIA's programs."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor


class Persistent:
    """Pickled like NVIDIA's persistent modules; see the fixture ``nvidia``."""

    def __init__(self, name, source="", modules=None, **state):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": name,
            "state": {"_parameters": {}, "_buffers": {}, "_modules": modules or {}, **state},
        }

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


class Network:
    """Pickled like dnnlib.tflib's networks."""

    def __init__(self, **state):
        self.__dict__.update(state)


@pytest.fixture
def nvidia(monkeypatch):
    """Register the modules that NVIDIA's pickles name, so that ``pickle`` can write such files."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("called")

    for name, member in (
        ("torch_utils.persistence", _reconstruct_persistent_obj),
        ("dnnlib.tflib.network", Network),
    ):
        parts = name.split(".")
        for i in range(len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[: i + 1]), types.ModuleType(parts[i]))
        member.__module__, member.__qualname__ = name, member.__name__
        setattr(sys.modules[name], member.__name__, member)


def persistent(name: str, state: dict[str, Tensor]) -> Persistent:
    """A module ``name`` of these tensors, nested by their dotted keys."""
    own = {key: value for key, value in state.items() if "." not in key}
    below: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        first, dot, rest = key.partition(".")
        if dot:
            below.setdefault(first, {})[rest] = value
    return Persistent(
        name,
        modules={first: persistent("Layer", part) for first, part in below.items()},
        _parameters={key: torch.nn.Parameter(value) for key, value in own.items()},
    )
