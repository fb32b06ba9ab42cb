"""The options of a run, spelled once: flags, Python arguments and ``config.toml`` derive from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import fsgen
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError

F = TypeVar("F", bound=Callable[..., Any])


def option(default: Any, text: str, *, shown: str = "") -> Any:
    """A field with its help; ``shown``: the default in words, where it depends on something."""
    return field(default=default, metadata={"help": text, "shown": shown})


@dataclass(frozen=True)
class RunOptions:
    """Options of every run."""

    method: str | None = option(None, "One method or several, joined by commas: ewc,diffaugment.")
    steps: int = option(400, "Generator steps.")
    batch: int | None = option(None, "Images a step.", shown="the family's")
    lr: float | None = option(None, "Adam's learning rate.", shown="the family's")
    features: str = option("", "Network of the instance features, for a generator conditioned on images.")
    weights_dir: str = option("", "A folder with the weight files of feature networks.")
    neighbours: int | None = option(
        None, "Nearest images of each instance.", shown="50; 5 below 10,000 images"
    )
    fit: str = option("crop", "Make images square: crop or pad.")
    mirror: bool | None = option(None, "Also show the images flipped.", shown="the family's")
    sample_every: int = option(100, "Steps between grids in samples/.")
    save_every: int = option(100, "Steps between saved states.")
    device: str = option("auto", "auto, cpu, cuda or mps.")
    seed: int = option(0, "Seed of all randomness.")

    @classmethod
    def of(cls, values: PlainDict) -> Any:
        """Options from ``values``; None means the default.

        Raises:
            FsgenError: a number out of range, an unknown choice.
        """
        names = {item.name for item in fields(cls)}
        if unknown := next((name for name in values if name not in names), None):
            raise TypeError(f"unexpected keyword argument '{unknown}'")
        given = {name: value for name, value in values.items() if value is not None}
        for name, value in given.items():
            if isinstance(value, Path):
                given[name] = str(value)
        options = cls(**given)
        options.check()
        return options

    def check(self) -> None:
        """Refuse values that no run can have."""
        for name in ("steps", "sample_every", "save_every"):
            if getattr(self, name) < 1:
                _refuse(name, f"{_flag(name)} is a whole number of at least 1")
        if self.fit not in ("crop", "pad"):
            _refuse("fit", f"there is no fit '{self.fit}'", Code.UNKNOWN_NAME, "crop or pad")

    @property
    def recipe(self) -> PlainDict:
        """The fields of the family's recipe that are given."""
        return {name: value for name in ("batch", "lr") if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class AdaptOptions(RunOptions):
    """Options of ``fsgen adapt``."""

    source: str = option("peeps64", "A run folder, a file, or a name (fsgen info).")
    new_class: str = option("", "Name of a new class, that of the images, for a source with classes.")
    method: str | None = option("ewc", "One method or several, joined by commas: ewc,diffaugment.")
    mirror: bool | None = option(False, "Also show the images flipped.")
    stop: str = option("steps", "steps, or auto: stop early, once samples are close to the images.")

    def check(self) -> None:
        super().check()
        if self.stop not in ("steps", "auto"):
            _refuse("stop", f"there is no stop '{self.stop}'", Code.UNKNOWN_NAME, "steps or auto")


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """Options of ``fsgen train``."""

    family: str = option("stylegan2", "Family of the generator (fsgen info).")
    size: int = option(64, "Side of the images in pixels.")
    grey: bool = option(False, "One channel instead of three.")
    classes: bool = option(False, "Condition on classes: the sub-folders of IMAGES.")
    width: int | None = option(None, "Channels, in the family's own measure.", shown="as published")
    method: str | None = option(None, "Methods that help: diffaugment, or none.", shown="the family's")
    steps: int = option(10_000, "Generator steps.")
    sample_every: int = option(500, "Steps between grids in samples/.")
    save_every: int = option(500, "Steps between saved states.")


@dataclass(frozen=True)
class RunConfig:
    """The resolved options of a run: [run] of its config.toml."""

    images: str = ""
    images_digest: str = ""  # SHA-256 over the files' own
    source: str = "peeps64"
    new_class: str = ""
    features: str = ""
    weights_dir: str = ""  # empty: where weights are always searched
    neighbours: int | None = None
    fresh: PlainDict | None = None  # trained from scratch: family, size, ...
    source_hash: str = ""
    method: str = "ewc"
    steps: int = 400
    seed: int = 0
    device: str = "cpu"
    fit: str = "crop"
    mirror: bool = False
    sample_every: int = 100
    save_every: int = 100
    stop: str = "steps"
    fsgen: str = fsgen.__version__

    @classmethod
    def of(cls, options: RunOptions | RunConfig, **resolved: Any) -> RunConfig:
        """The options that a configuration stores, with the ``resolved`` ones in their place."""
        given = {
            item.name: getattr(options, item.name) for item in fields(cls) if hasattr(options, item.name)
        }
        return replace(cls(), **given | resolved)

    @property
    def weights_path(self) -> Path | None:
        """``weights_dir`` as a path; None if empty."""
        return Path(self.weights_dir) if self.weights_dir else None

    def to_options(self, kind: type[RunOptions]) -> PlainDict:
        """The values of ``kind`` that lead to this configuration, for ``--config``."""
        names = {item.name for item in fields(kind)}
        values = {name: value for name, value in vars(self).items() if name in names}
        if not self.steps:  # of a technique that trains nothing
            del values["steps"]
        if self.fresh is not None:
            values |= {name: self.fresh.get(name) for name in ("family", "size", "width")}
            values |= {"grey": self.fresh["channels"] == 1, "classes": bool(self.fresh["classes"])}
            values["method"] = self.method or "none"
        return values


def option_fields(kind: type[RunOptions]) -> list[Field]:
    """The fields of ``kind``, its own before those of every run."""
    common = {item.name for item in fields(RunOptions)}
    return sorted(fields(kind), key=lambda item: item.name in common)


def takes(kind: type[RunOptions]) -> Callable[[F], F]:
    """Give a function that takes ``**values`` the fields of ``kind`` as keyword arguments, documented."""

    def derive(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        hints = get_type_hints(kind)
        added = [
            inspect.Parameter(
                item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=hints[item.name]
            )
            for item in option_fields(kind)
        ]
        function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]  # read by inspect
        lines = (f"        {item.name}: {item.metadata['help']}" for item in option_fields(kind))
        function.__doc__ = (function.__doc__ or "").replace("        OPTIONS", "\n".join(lines))
        return function

    return derive


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse(name: str, message: str, code: Code = Code.OUT_OF_RANGE, hint: str = "") -> None:
    raise FsgenError(message, code=code, where=_flag(name), hint=hint)
