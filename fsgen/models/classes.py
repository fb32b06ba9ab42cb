"""Classes of a conditional model: their names, and adding one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Family
from fsgen.models.model import Model


def names_of(model: Model) -> list[str]:
    """The names of the classes of ``model`` in the order of its labels; their numbers if it has no names."""
    return list(model.about.get("classes") or map(str, range(model.spec.get("c_dim", 0))))


def with_class(model: Model, name: str) -> Model:
    """Add a class to ``model``; images of the result are of that class by default.

    The embedding of the new class starts as the mean of the others. Images of other classes do not change.

    Args:
        model: a conditional model.
        name: the name of the new class.

    Raises:
        FsgenError: the model has no classes, or none can be added, or the name is empty or taken.
    """
    classes = model.spec.get("c_dim", 0)
    title = model.about.get("title", "this source")
    if not classes or not model.family.embeddings:
        why = f"the family {model.family.name} cannot take one" if classes else f"{title} has no classes"
        raise FsgenError(
            f"there can be no new class: {why}",
            code=Code.INCOMPATIBLE, where="--new-class", hint="leave --new-class out",
        )  # fmt: skip
    names = names_of(model)
    if not name.strip() or name in names:
        why = f"{title} already has a class '{name}'" if name.strip() else "a new class needs a name"
        raise FsgenError(
            why, code=Code.EXISTS if name.strip() else Code.OUT_OF_RANGE, where="--new-class",
            hint="choose another name for --new-class",
        )  # fmt: skip
    scale = _embedding_scale(model.family, classes)
    networks = {
        network: {
            key: torch.cat([value, value.mean(dim=1, keepdim=True)], dim=1) * scale
            if key in model.family.embeddings else value
            for key, value in state.items()
        }
        for network, state in model.networks.items()
    }  # fmt: skip
    about = {**model.about, "classes": [*names, name], "class": name}
    return replace(model, spec={**model.spec, "c_dim": classes + 1}, networks=networks, about=about)


def with_class_fisher(fisher: Mapping[str, Tensor], family: Family, classes: int) -> dict[str, Tensor]:
    """The Fisher information of ``with_class`` from that of its source with ``classes`` classes.

    The column of the new class is 0: it is not penalised.
    """
    scale = _embedding_scale(family, classes) ** -2  # weights are multiplied by it, gradients divided
    return {
        key: nn.functional.pad(value * scale, (0, 1)) if key in family.embeddings else value
        for key, value in fisher.items()
    }


def _embedding_scale(family: Family, classes: int) -> float:
    """The factor of the stored embeddings that undoes the change of gain by one class more."""
    return family.embedding_gain(classes) / family.embedding_gain(classes + 1)


def drawn_class(model: Model) -> int | None:
    """The number of the class that ``model`` draws by default, if it was adapted to one."""
    return names_of(model).index(model.about["class"]) if "class" in model.about else None
