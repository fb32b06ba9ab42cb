"""Pickles as NVIDIA's programs write them."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor


class Persistent:
    """Pickles as NVIDIA's persistent modules do; see the fixture ``nvidia``."""

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
    """Pickles as dnnlib.tflib's networks do."""

    def __init__(self, **state):
        self.__dict__.update(state)


@pytest.fixture
def nvidia(monkeypatch):
    """The modules NVIDIA's pickles name, so that ``pickle`` can write such files here."""

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
    """The module ``name`` of these tensors, in a tree by their keys."""
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
