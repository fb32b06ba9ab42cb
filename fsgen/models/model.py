"""A model on disk: a family, its spec, its tensors and their provenance; models are found by name."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsgen import registry
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError, unknown_name
from fsgen.interfaces import Discriminator, Family, Generator, Module, Networks, Spec, Trait
from fsgen.io import checkpoint
from fsgen.io.cache_folders import sources_dir
from fsgen.io.run_folder import REDRAWN, RUN_MODEL

LISTED = "fsgen info lists all sources"


@dataclass(frozen=True)
class Model:
    """Networks of one family as tensors; ``about`` holds provenance, licence, subject (plain values)."""

    family: Family
    spec: Spec
    networks: dict[str, dict[str, Tensor]]  # "g", "g_ema", "d", as far as present
    about: PlainDict = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)  # "conditions" [k, h_dim]; tensors of methods
    from_average: bool = False  # theta_S is the moving average, not g

    @property
    def hash(self) -> str:
        """SHA-256 of the tensors."""
        return checkpoint.hash_tensors(self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        return checkpoint.join({**self.networks, "extra": self.extra})

    @property
    def start(self) -> str:
        """The network theta_S: ``g`` if present, else ``g_ema``; with ``from_average`` the reverse."""
        return self.best if self.from_average or "g" not in self.networks else "g"

    @property
    def best(self) -> str:
        """The network that images are drawn with: the moving average if present, else ``g``."""
        return "g_ema" if "g_ema" in self.networks else "g"

    def generator(self, which: str | None = None, device: torch.device | str = "cpu") -> Generator:
        """A generator with the weights ``which`` (default: ``best``), float32, in eval mode."""
        g = self._on_meta(discriminator=False).g.to_empty(device="cpu")
        _load(g, self.networks[which or self.best], which or self.best)
        return g.eval().to(device)

    def discriminator(self, device: torch.device | str = "cpu") -> Discriminator | None:
        """The discriminator, or None if there is none."""
        if "d" not in self.networks or (d := self._on_meta(discriminator=True).d) is None:
            return None
        d = d.to_empty(device="cpu")
        _load(d, self.networks["d"], "d")
        return d.eval().to(device)

    def fresh_discriminator(self, seed: int, device: torch.device | str = "cpu") -> Discriminator:
        """An untrained discriminator for a model without one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            d = self.family.build(self.spec).d
        assert d is not None
        return d.to(device)

    def parameters(self) -> dict[str, int]:
        """Number of parameters by network."""
        with torch.device("meta"):
            built = self.family.build(self.spec)
        return {
            name: sum(p.numel() for p in getattr(built, "d" if name == "d" else "g").parameters())
            for name in self.networks
        }

    def save(self, path: Path) -> None:
        """Write the native checkpoint, atomically."""
        about = {"family": self.family.name, "spec": self.spec, **self.about}
        checkpoint.write_file(path, self._tensors(), about)

    def _on_meta(self, *, discriminator: bool) -> Networks:
        """The networks without memory for their weights."""
        with torch.device("meta"):
            return self.family.build(self.spec, discriminator=discriminator)


def _load(net: Module, state: Mapping[str, Tensor], which: str) -> None:
    try:
        net.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise FsgenError(
            f"the tensors of '{which}' do not fit the spec: {reason}", code=Code.DAMAGED, where=which
        ) from None


def fresh(
    family: str, size: int, channels: int, classes: list[str], width: int | None,
    architecture: Mapping[str, Any], features: str, h_dim: int, seed: int,
) -> Model:  # fmt: skip
    """An untrained model, determined by the arguments.

    Args:
        family: name of the family.
        size: side of the images, pixels.
        channels: 3 or 1.
        classes: names of the classes in the order of the labels; empty: none.
        width: channels, in the family's own measure; None: as published.
        architecture: fields of the spec that differ from the published ones.
        features: name of the network of the instance features; empty: no instances.
        h_dim: number of instance features; 0: none.
        seed: seed of the weights.

    Raises:
        FsgenError: an unknown family or field; a size, channels, classes or instances it cannot have.
    """
    kind = registry.family(family)()
    if h_dim and Trait.INSTANCES not in kind.traits:
        raise FsgenError(
            f"{family} cannot be conditioned on the features of images",
            code=Code.INCOMPATIBLE, where="--features", hint="leave --features out",
        )  # fmt: skip
    instances = {"h_dim": h_dim} if h_dim else {}
    spec = kind.fresh(size, channels, len(classes), width=width, **instances)
    for key, value in architecture.items():
        if key not in spec:
            raise unknown_name(f"the architecture of {family} has no '{key}'", key, spec)
        if type(value) is not type(spec[key]):
            raise FsgenError(
                f"'{key}' in the architecture of {family} takes a {type(spec[key]).__name__}, not {value!r}",
                code=Code.OUT_OF_RANGE, where=key,
            )  # fmt: skip
    spec |= architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = kind.build(spec)
    assert built.d is not None
    g = built.g.state_dict()
    about = {"title": f"{family} {size} px", "classes": classes, "features": features}
    about = {key: value for key, value in about.items() if value}
    return Model(kind, spec, {"g": g, "g_ema": g, "d": built.d.state_dict()}, about)


def bundled() -> dict[str, Path]:
    """Sources that are part of the package: name -> file."""
    folder = resources.files("fsgen.io") / "sources"
    with contextlib.suppress(OSError):
        return {Path(f.name).stem: Path(str(f)) for f in folder.iterdir() if f.name.endswith(".safetensors")}
    return {}


def pulled() -> dict[str, Path]:
    """Sources that ``fsgen pull`` stored: name -> file."""
    return {path.stem: path for path in sorted(sources_dir().glob("*.safetensors"))}


def find(name: str) -> Path:
    """Find the file of a model: in a run folder, by path, or by name (bundled, then pulled).

    Raises:
        FsgenError: no such file, run or name; a name of the catalogue that was not pulled yet.
    """
    from fsgen.io.catalog import catalog

    path = Path(name)
    known = bundled() | pulled()
    if path.is_dir() and (name not in known or (path / RUN_MODEL).is_file()):
        return _in_run(path)
    if path.is_file():
        return path
    if name in known:
        return known[name]
    if name in catalog():
        message, hint = f"'{name}' is in the catalogue but not on this machine", f"fsgen pull {name}"
        raise FsgenError(message, code=Code.NOT_FOUND, where=name, hint=hint)
    if path.suffix or path.parent != Path():
        raise FsgenError(f"no such file or run folder: {name}", code=Code.NOT_FOUND, where=name)
    raise unknown_name(f"there is no source '{name}'", name, [*known, *catalog()], otherwise=LISTED)


def _in_run(path: Path) -> Path:
    """The model file in a run folder.

    Raises:
        FsgenError: the run is not finished, or has no model.
    """
    if (path / RUN_MODEL).is_file():
        return path / RUN_MODEL
    message, hint = f"{path} is not a run folder: it has no {RUN_MODEL}", ""
    if (path / REDRAWN).is_dir():
        folder = shlex.quote(str(path / REDRAWN))
        message = f"the run in {path} has images, not a model"
        hint = f"evaluate them: fsgen eval {folder} --real IMAGES"
    elif (path / "state").is_dir():
        message = f"the run in {path} is not finished"
        hint = f"finish it: fsgen adapt --resume {shlex.quote(str(path))}"
    raise FsgenError(message, code=Code.NOT_FOUND, where=path, hint=hint)


def load_model(name: str | Path) -> Model:
    """Load the model of a run folder, a native file or a name.

    Raises:
        FsgenError: not found, truncated, not native, or of an unknown family.
    """
    path = find(str(name))
    tensors, header = checkpoint.read_file(path)
    about = {key: value for key, value in header.items() if key != "format"}
    if "spec" not in about:
        raise FsgenError(
            f"{path} is no model; its kind is '{about.get('kind')}'",
            code=Code.UNSUPPORTED, where=path,
            hint="an adapter goes with its base model: fsgen.load(BASE, adapter=FILE)",
        )  # fmt: skip
    spec, family = about.pop("spec"), str(about.pop("family", None))
    networks = checkpoint.split(tensors)
    extra = networks.pop("extra", {})
    try:
        return Model(registry.family(family)(), spec, networks, about, extra)
    except FsgenError as error:
        message = f"{path}: {error.message}"
        raise FsgenError(message, code=error.code, where=path, hint=error.hint) from None
