"""Find the networks in a foreign pickle: modules, state dicts, TensorFlow-era variables.

Reading the pickle ran nothing, but its author chose its references: a few bytes can describe a tensor, or a
tree of modules, a million times. ``_Budget`` stops that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.importers.restricted_unpickler import Leaf, Record, printable
from fsgen.interfaces import Foreign

_SOURCE_CODE = ("module_src", "build_module_src", "source")  # always dropped
Collected = tuple[dict[str, Tensor], PlainDict]  # tensors and settings by dotted name


class _Budget:
    """Bounds what a small file can expand to: an object referenced twice counts twice."""

    def __init__(self, size: int) -> None:
        self.bytes = 2 * size + 2**20  # tied weights appear twice, once under each name
        self.visits = 500_000

    def visit(self, things: Any, kind: type[dict] | type[list] = dict) -> Any:
        """Count the members of ``things``, which must be of the type ``kind``, and return it."""
        if type(things) is not kind:
            raise ValueError("a module with parts of the wrong type")
        self.visits -= len(things) + 1
        if self.visits < 0:
            raise ValueError("more modules and attributes than any network has")
        return things

    def read(self, leaf: Leaf) -> Tensor:
        self.bytes -= leaf.nbytes
        if self.bytes < 0:
            raise ValueError("more tensors than the file has room for")
        return leaf.tensor()


def collect_networks(data: Any, layout: str, name: str, size: int, *, networks: bool = True) -> Foreign:
    """Collect networks into tensors and settings, other plain values into extras; drop the rest.

    Args:
        data: the unpickled object, from ``Machine.run``.
        layout: file format, for ``Foreign.layout``.
        name: file name for messages.
        size: file size in bytes; bounds the tensors that it can contain.
        networks: require at least one network.

    Raises:
        FsgenError: a required network is missing.
        ValueError: the content exceeds what the size allows.
    """
    budget = _Budget(size)
    foreign = Foreign(layout, {})
    if isinstance(data, Record):
        data = {"G_ema": data}
    elif type(data) is tuple and len(data) == 3:
        data = dict(zip(("G", "D", "G_ema"), data, strict=True))  # TensorFlow era: G, D, Gs
    elif _is_state_dict(data):
        data = {"": data}
    for key, value in budget.visit(data if type(data) is dict else {}).items():
        key = _joined("", key)
        if key == "augment_pipe":
            _add_ada_p(value, foreign.extras, budget)
        elif collect := _collector(value):
            foreign.tensors[key], foreign.settings[key] = collect(value, budget)
        elif isinstance(value, Leaf):
            foreign.extras[key] = budget.read(value)
        elif isinstance(value, Record | dict):
            inside = value.state if isinstance(value, Record) else value
            if plain := {str(k): v for k, v in budget.visit(inside).items() if _is_plain(v)}:
                foreign.extras[key] = plain
        elif _is_plain(value):
            foreign.extras[key] = value
    if networks and not any(foreign.tensors.values()):
        others = ", ".join(itertools.islice(map(printable, foreign.extras), 8))
        message = f"{name} contains no network" + (f", only {others}" if others else "")
        raise FsgenError(message, code=Code.UNSUPPORTED, where=name)
    return foreign


def _collector(value: Any) -> Callable[[Any, _Budget], Collected] | None:
    """Return the function that collects the tensors of ``value``; None if it is not a network."""
    if isinstance(value, Record) and "_modules" in value.state:
        return _module
    if isinstance(value, Record) and "variables" in value.state:
        return _tensorflow
    if type(value) is list and value and all(isinstance(v, Leaf) for v in value):
        return _list
    return _state_dict if _is_state_dict(value) else None


def _is_plain(value: Any) -> bool:
    """True for a number, a short text, None, or a short list of those."""
    if type(value) in (list, tuple):
        return len(value) <= 64 and all(type(v) not in (list, tuple) and _is_plain(v) for v in value)
    return value is None or type(value) in (bool, int, float) or (type(value) is str and len(value) <= 200)


def _is_state_dict(value: Any) -> bool:
    if type(value) is not dict:
        return False
    return any(isinstance(v, Leaf) for v in value.values()) and all(
        isinstance(v, Leaf) or _is_plain(v) for v in value.values()
    )


def _joined(prefix: str, name: object) -> str:
    if not isinstance(name, str | int) or len(joined := f"{prefix}{name}") > 300:
        raise ValueError("a name that no network has")
    return joined


def _state_dict(state: dict[Any, Any], budget: _Budget) -> Collected:
    tensors, settings = {}, {}
    for key, value in budget.visit(state).items():
        if isinstance(value, Leaf):
            tensors[_joined("", key)] = budget.read(value)
        else:
            settings[_joined("", key)] = value
    return tensors, settings


def _list(values: list[Leaf], budget: _Budget) -> Collected:
    """Unnamed tensors, by index: FastGAN stores its averages so."""
    return {str(i): budget.read(leaf) for i, leaf in enumerate(budget.visit(values, list))}, {}


def _module(root: Record, budget: _Budget) -> Collected:
    """Parameters and buffers (Freeze-D stores weights as buffers) of a module and its submodules."""
    tensors: dict[str, Tensor] = {}
    settings: PlainDict = {}
    pending = [("", root)]
    while pending:
        prefix, module = pending.pop()
        settings[_joined(prefix, "class_name")] = printable(module.class_name)
        for name, value in budget.visit(module.state).items():
            if not str(name).startswith("_") and name not in _SOURCE_CODE and _is_plain(value):
                settings[_joined(prefix, name)] = value
        for part in ("_parameters", "_buffers"):
            for name, value in budget.visit(module.state.get(part, {})).items():
                if isinstance(value, Leaf):
                    tensors[_joined(prefix, name)] = budget.read(value)
        pending += _children(module.state.get("_modules", {}), prefix, ".", budget)
    return tensors, settings


def _children(named: dict[Any, Any], prefix: str, joint: str, budget: _Budget) -> list[tuple[str, Record]]:
    """Child modules, last first: the caller pops them from the end."""
    found = [
        (f"{name}{joint}", child) for name, child in budget.visit(named).items() if isinstance(child, Record)
    ]
    return [(_joined(prefix, name), child) for name, child in reversed(found)]


def _tensorflow(root: Record, budget: _Budget) -> Collected:
    """Variables of a TensorFlow-era network as ``component/name``, neither transposed nor renamed."""
    tensors: dict[str, Tensor] = {}
    settings: PlainDict = {"era": "tensorflow", "class_name": "Network"}
    pending = [("", root)]
    while pending:
        prefix, network = pending.pop()
        state = budget.visit(network.state)
        for name, value in budget.visit(state.get("static_kwargs", {})).items():
            if _is_plain(value):
                settings[_joined(prefix, f"static_kwargs.{name}")] = value
        for name, value in budget.visit(state.get("variables", []), list):
            is_array = isinstance(value, Leaf)
            tensors[_joined(prefix, name)] = budget.read(value) if is_array else torch.tensor(float(value))
        pending += _children(state.get("components", {}), prefix, "/", budget)
    return tensors, settings


def _add_ada_p(pipe: Any, extras: PlainDict, budget: _Budget) -> None:
    """Add the last probability of ADA's augmentation pipeline; the rest of it is dropped."""
    buffers = pipe.state.get("_buffers", {}) if isinstance(pipe, Record) else {}
    if isinstance(buffers.get("p"), Leaf) and buffers["p"].nbytes <= 8:
        extras["ada_aug_p"] = budget.read(buffers["p"]).item()
