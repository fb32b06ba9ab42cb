"""Families and methods by name, as text, so that listing them imports neither torch nor their code.

Adding one is a new file and one line here; another package registers its own by the entry points
``fsgen.families`` and ``fsgen.methods`` (docs/ADDING_A_METHOD.md, docs/ADDING_A_FAMILY.md).
"""

from __future__ import annotations

import dataclasses
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from fsgen.errors import Code, FsgenError, unknown_name

if TYPE_CHECKING:
    from fsgen.interfaces import Family, Technique

FAMILIES = {
    "stylegan2": "fsgen.families.stylegan2.family:StyleGAN2",
    "fastgan": "fsgen.families.fastgan.family:FastGAN",
    "dcgan": "fsgen.families.dcgan:DCGAN",
    "cgan": "fsgen.families.cgan:CGAN",
    "funit": "fsgen.families.funit.family:FUNIT",
    "biggan": "fsgen.families.biggan.family:BigGAN",
}

METHODS = {
    "finetune": "fsgen.methods.finetune:Finetune",
    "ewc": "fsgen.methods.ewc:EWC",
    "diffaugment": "fsgen.methods.diffaugment:DiffAugment",
    "embedding": "fsgen.methods.embedding:Embedding",
    "bsa": "fsgen.methods.bsa:BSA",
    "nst": "fsgen.training_free.style_transfer:StyleTransfer",
    "instances": "fsgen.training_free.instance_swap:InstanceSwap",
    "classcode": "fsgen.training_free.class_code:ClassCode",
    "adam": "fsgen.methods.adam:AdAM",
    "rick": "fsgen.methods.rick:RICK",
    "freezed": "fsgen.methods.freezed:FreezeD",
    "freezeg": "fsgen.methods.freezeg:FreezeG",
    "ada": "fsgen.methods.ada:ADA",
    "minegan": "fsgen.methods.minegan:MineGAN",
    "cdc": "fsgen.methods.cdc:CDC",
    "weditgan": "fsgen.methods.weditgan:WeditGAN",
}


@cache
def families() -> dict[str, str]:
    """Name -> ``module:class`` of every family; fsgen's own first, then other packages'."""
    return FAMILIES | _from_packages("fsgen.families", FAMILIES)


@cache
def methods() -> dict[str, str]:
    """Name -> ``module:class`` of every method; fsgen's own first, then other packages'."""
    return METHODS | _from_packages("fsgen.methods", METHODS)


def _from_packages(group: str, own: dict[str, str]) -> dict[str, str]:
    """Entry points of other packages; none replaces one of fsgen's own."""
    return {point.name: point.value for point in entry_points(group=group) if point.name not in own}


def loadable_families() -> dict[str, type[Family]]:
    """The family classes that can be imported: a broken package of another's costs its own alone."""
    return _loadable(families(), "family")


def loadable_methods() -> dict[str, type[Technique]]:
    """The method classes that can be imported."""
    return _loadable(methods(), "method")


def _loadable(table: dict[str, str], kind: str) -> dict[str, Any]:
    found = {}
    for name in table:
        try:
            found[name] = _load(table, kind, name)
        except FsgenError:
            if name in FAMILIES or name in METHODS:
                raise
    return found


def family(name: str) -> type[Family]:
    """The family class called ``name``; imports torch.

    Raises:
        FsgenError: unknown name, with the nearest known one.
    """
    return _load(families(), "family", name)


def method(name: str) -> type[Technique]:
    """The method class called ``name``; imports no torch, so that the command line may ask for its options.

    Raises:
        FsgenError: unknown name, with the nearest known one.
    """
    return _load(methods(), "method", name)


def _load(table: dict[str, str], kind: str, name: str) -> Any:
    if name not in table:
        raise unknown_name(f"there is no {kind} '{name}'", name, table)
    module, _, attribute = table[name].partition(":")
    try:
        found = getattr(import_module(module), attribute)
        if found.name != name:
            raise TypeError(f"its name is '{found.name}'")
        if kind == "method" and (
            bare := [f.name for f in dataclasses.fields(found.Options) if "help" not in f.metadata]
        ):
            raise TypeError(f"its option '{bare[0]}' has no help")
    except Exception as error:  # whatever another package does when it is imported
        why = f"{type(error).__name__}: {error}"
        raise FsgenError(
            f"the {kind} '{name}' cannot be loaded from {table[name]} ({why})",
            code=Code.MISSING_PACKAGE, where=name, hint="reinstall or remove the package that provides it",
        ) from error  # fmt: skip
    return found
