"""Adapters: the tensors that a method adds to a base model, in a file of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

import fsgen
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.io import checkpoint
from fsgen.models.model import Model

KIND = "adapter"


@dataclass(frozen=True)
class Adapter:
    """The tensors that a method stores beside the weights of its base model."""

    about: PlainDict  # kind, method, base (title, hash), licence, family
    tensors: dict[str, Tensor]  # as ``METHOD.name``

    @classmethod
    def of(cls, base: Model, method: str, tensors: dict[str, Tensor]) -> Adapter:
        """The adapter that ``method`` has trained for ``base``."""
        about = {
            "kind": KIND, "method": method, "family": base.family.name,
            "base": {"title": base.about.get("title"), "hash": base.hash},
            "licence": base.about.get("licence"), "fsgen": fsgen.__version__,
        }  # fmt: skip
        return cls(about, {key: value.detach().cpu().contiguous() for key, value in tensors.items()})

    @classmethod
    def load(cls, path: str | Path) -> Adapter:
        """Read an adapter file.

        Raises:
            FsgenError: not found, damaged, or not an adapter.
        """
        tensors, header = checkpoint.read_file(Path(path))
        if header.get("kind") != KIND:
            raise FsgenError(
                f"{path} is not an adapter", code=Code.UNSUPPORTED, where=path,
                hint="a run of a method that trains only what it adds writes adapter.safetensors",
            )  # fmt: skip
        return cls({key: value for key, value in header.items() if key != "format"}, tensors)

    def save(self, path: Path) -> None:
        """Write the adapter file, atomically."""
        checkpoint.write_file(path, self.tensors, self.about)

    def apply(self, base: Model) -> Model:
        """``base`` with this adapter.

        Raises:
            FsgenError: the adapter belongs to another base model.
        """
        if base.hash != self.about["base"]["hash"]:
            title = base.about.get("title", "this model")
            raise FsgenError(
                f"the adapter was trained for {self.about['base']['title']}, not for {title}",
                code=Code.CHANGED, where=title, hint=f"its base has the hash {self.about['base']['hash']}",
            )  # fmt: skip
        return replace(base, extra=base.extra | self.tensors)
