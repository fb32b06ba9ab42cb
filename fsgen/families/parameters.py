"""Names of parameters by layer and stage, from networks that are built without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

from fsgen.interfaces import Spec

K = TypeVar("K")


def parameter_names(network: Callable[[Spec], nn.Module], spec: Spec) -> list[str]:
    """Names of the parameters of ``network(spec)``, in the order of construction."""
    with torch.device("meta"):
        return [name for name, _ in network(spec).named_parameters()]


def grouped(names: Iterable[str], group: Callable[[str], K | None]) -> dict[K, list[str]]:
    """``names`` by group, in the order of their first members; without those of group None."""
    out: dict[K, list[str]] = {}
    for name in names:
        if (key := group(name)) is not None:
            out.setdefault(key, []).append(name)
    return out
