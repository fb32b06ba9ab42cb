"""Names of families and methods, as text, so that listing them imports neither torch nor their code.

Adding one is a new file and one line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fsgen.errors import FsgenError, suggest

if TYPE_CHECKING:
    from fsgen.interfaces import Family, Method

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
    "nst": "fsgen.methods.nst:NST",
    "instances": "fsgen.methods.instances:Instances",
    "classcode": "fsgen.methods.classcode:ClassCode",
    "adam": "fsgen.methods.adam:AdAM",
    "rick": "fsgen.methods.rick:RICK",
    "freezed": "fsgen.methods.freezed:FreezeD",
    "freezeg": "fsgen.methods.freezeg:FreezeG",
    "ada": "fsgen.methods.ada:ADA",
    "minegan": "fsgen.methods.minegan:MineGAN",
    "cdc": "fsgen.methods.cdc:CDC",
}


def _load(table: dict[str, str], kind: str, name: str) -> type:
    if name not in table:
        raise FsgenError(f"there is no {kind} '{name}'", hint=suggest(name, list(table)))
    module, attribute = table[name].split(":")
    return getattr(import_module(module), attribute)


def family(name: str) -> type[Family]:
    """The family class called ``name``; imports torch.

    Raises:
        FsgenError: unknown name, with the nearest known one.
    """
    return _load(FAMILIES, "family", name)


def method(name: str) -> type[Method]:
    """The method class called ``name``; imports no torch, so that the command line may ask for its options.

    Raises:
        FsgenError: unknown name, with the nearest known one.
    """
    return _load(METHODS, "method", name)
