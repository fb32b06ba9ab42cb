"""Classes of a conditional model: their names, and one more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fsgen.errors import FsgenError
from fsgen.interfaces import Family
from fsgen.models.model import Model


def names_of(model: Model) -> list[str]:
    """The names of the classes of ``model`` in the order of its labels: their numbers where it knows none."""
    return list(model.about.get("classes") or map(str, range(model.spec.get("c_dim", 0))))


def with_class(model: Model, name: str) -> Model:
    """``model`` with one class more, the one that its pictures are then of unless another is asked for.

    The new class begins as the mean of the others' embeddings; pictures of the others stay as they are.

    Args:
        model: a conditional one.
        name: of the new class.

    Raises:
        FsgenError: the model has no classes, or none can be added, or the name is empty or taken.
    """
    classes = model.spec.get("c_dim", 0)
    title = model.about.get("title", "this source")
    if not classes:
        raise FsgenError(f"{title} has no classes, so there can be no new one", hint="leave --new-class out")
    if not model.family.embeddings:
        raise FsgenError(f"the family {model.family.name} cannot take a new class")
    names = names_of(model)
    if not name.strip() or name in names:
        why = f"{title} has a class '{name}' already" if name.strip() else "a new class needs a name"
        raise FsgenError(why, hint="choose another name for --new-class")
    kept = _kept(model.family, classes)
    networks = {
        network: {
            key: torch.cat([value, value.mean(dim=1, keepdim=True)], dim=1) * kept
            if key in model.family.embeddings else value
            for key, value in state.items()
        }
        for network, state in model.networks.items()
    }  # fmt: skip
    about = {**model.about, "classes": [*names, name], "class": name}
    return replace(model, spec={**model.spec, "c_dim": classes + 1}, networks=networks, about=about)


def with_class_fisher(fisher: Mapping[str, Tensor], family: Family, classes: int) -> dict[str, Tensor]:
    """The Fisher information of a source of ``classes`` as that of ``with_class``, which knows nothing of the
    new one: its column is 0, so it is free."""
    scale = _kept(family, classes) ** -2  # the others' weights are multiplied by it, their gradients divided
    return {
        key: nn.functional.pad(value * scale, (0, 1)) if key in family.embeddings else value
        for key, value in fisher.items()
    }


def _kept(family: Family, classes: int) -> float:
    """What embeddings of ``classes`` are multiplied by to say the same with one class more."""
    return family.embedding_gain(classes) / family.embedding_gain(classes + 1)


def drawn_class(model: Model) -> int | None:
    """The number of the class that pictures of ``model`` are of unless another is asked for, if of one."""
    return names_of(model).index(model.about["class"]) if "class" in model.about else None
