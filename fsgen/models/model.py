"""A model at rest: a family, its spec, its tensors, and where they came from; and how to find one by name."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsgen import registry
from fsgen.errors import FsgenError, suggest
from fsgen.interfaces import Family, Spec
from fsgen.io import checkpoint
from fsgen.io.cache_folders import sources_dir
from fsgen.io.run_folder import REDRAWN, RUN_MODEL

LISTED = "fsgen info lists what there is"


@dataclass(frozen=True)
class Model:
    """Networks of one family as tensors; ``about`` holds provenance, licence, subject (plain values)."""

    family: Family
    spec: Spec
    networks: dict[str, dict[str, Tensor]]  # "g", "g_ema", "d": those that the file has
    about: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)  # "conditions", [k, h_dim]: what h is drawn from
    from_average: bool = False  # theta_S is its moving average, not the live network

    @property
    def hash(self) -> str:
        """SHA-256 of the tensors."""
        return checkpoint.hash_tensors(self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        return checkpoint.join({**self.networks, "extra": self.extra})

    @property
    def start(self) -> str:
        """Which network theta_S is: ``g`` where the file has it, else ``g_ema``, or that if asked for."""
        return self.best if self.from_average or "g" not in self.networks else "g"

    @property
    def best(self) -> str:
        """Which network pictures come from: the moving average where there is one."""
        return "g_ema" if "g_ema" in self.networks else "g"

    def generator(self, which: str | None = None, device: torch.device | str = "cpu") -> nn.Module:
        """A generator with the weights called ``which`` (default ``best``), float32, in eval mode."""
        g = self._bare("g")
        _load(g, self.networks[which or self.best], which or self.best)
        return g.eval().to(device)

    def discriminator(self, device: torch.device | str = "cpu") -> nn.Module | None:
        """The discriminator, or None where the file has none."""
        if "d" not in self.networks:
            return None
        d = self._bare("d")
        _load(d, self.networks["d"], "d")
        return d.eval().to(device)

    def fresh_discriminator(self, seed: int, device: torch.device | str = "cpu") -> nn.Module:
        """An untrained discriminator for a source that came without one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.family.build(self.spec).d.to(device)

    def parameters(self) -> dict[str, int]:
        """How many parameters each of its networks has."""
        with torch.device("meta"):
            built = self.family.build(self.spec)
        return {
            name: sum(p.numel() for p in (built.d if name == "d" else built.g).parameters())
            for name in self.networks
        }

    def save(self, path: Path) -> None:
        """Write the native checkpoint, atomically."""
        about = {"family": self.family.name, "spec": self.spec, **self.about}
        checkpoint.write_file(path, self._tensors(), about)

    def _bare(self, which: str) -> nn.Module:
        """G or D with room for its weights, which are about to be filled in: none are drawn before."""
        with torch.device("meta"):
            built = self.family.build(self.spec, discriminator=which == "d")
        return getattr(built, which).to_empty(device="cpu")


def _load(net: nn.Module, state: Mapping[str, Tensor], which: str) -> None:
    try:
        net.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise FsgenError(f"the tensors of '{which}' do not fit its spec: {reason}") from None


def fresh(
    family: str, size: int, channels: int, classes: list[str], width: int | None,
    architecture: Mapping[str, Any], features: str, h_dim: int, seed: int,
) -> Model:  # fmt: skip
    """An untrained model, to be trained from scratch: the same one whenever it is asked for.

    Args:
        family: its name.
        size: px a side.
        channels: 3 or 1.
        classes: their names, in the order of the labels; empty for none.
        width: in the family's own measure; None: as published.
        architecture: what else differs from the published one, by the names of its spec.
        features: name of the network whose ``h_dim`` features of an image it draws after; empty: of none.
        seed: of the weights.

    Raises:
        FsgenError: not of this family.
    """
    kind = registry.family(family)()
    if h_dim and "instances" not in kind.traits:
        raise FsgenError(f"{family} cannot draw after the features of an image", hint="leave --features out")
    after = {"h_dim": h_dim} if h_dim else {}
    spec = kind.fresh(size, channels, len(classes), width=width, **after)
    for key, value in architecture.items():
        if key not in spec:
            raise FsgenError(f"the architecture of {family} has no '{key}'", hint=suggest(key, list(spec)))
        if type(value) is not type(spec[key]):
            kind_of = type(spec[key]).__name__
            raise FsgenError(f"'{key}' in the architecture of {family} takes a {kind_of}, not {value!r}")
    spec |= architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = kind.build(spec)
    g = built.g.state_dict()
    about = {"title": f"{family} {size} px", "classes": classes, "features": features}
    about = {key: value for key, value in about.items() if value}
    return Model(kind, spec, {"g": g, "g_ema": g, "d": built.d.state_dict()}, about)


def bundled() -> dict[str, Path]:
    """Sources that ship inside the package: name -> file."""
    folder = resources.files("fsgen.io") / "sources"
    with contextlib.suppress(OSError):
        return {Path(f.name).stem: Path(str(f)) for f in folder.iterdir() if f.name.endswith(".safetensors")}
    return {}


def pulled() -> dict[str, Path]:
    """Sources that ``fsgen pull`` stored: name -> file."""
    return {path.stem: path for path in sorted(sources_dir().glob("*.safetensors"))}


def find(name: str) -> Path:
    """The file behind MODEL or SOURCE: a run folder, a file, or a name (bundled, then pulled).

    Raises:
        FsgenError: nothing there; a catalogue name that was not pulled yet; a near miss is suggested.
    """
    from fsgen.io.catalog import catalog

    path = Path(name)
    known = bundled() | pulled()
    if path.is_dir() and (name not in known or (path / RUN_MODEL).is_file()):
        if (path / RUN_MODEL).is_file():
            return path / RUN_MODEL
        if (path / REDRAWN).is_dir():
            folder = shlex.quote(str(path / REDRAWN))
            hint = f"they lie in {folder}; judge them with fsgen eval {folder} --real IMAGES"
            raise FsgenError(f"the run in {path} holds pictures, not a model", hint=hint)
        if (path / "state").is_dir():
            hint = f"finish it: fsgen adapt --resume {shlex.quote(name)}"
            raise FsgenError(f"the run in {path} is not finished", hint=hint)
        raise FsgenError(f"{path} is a folder without {RUN_MODEL}: not a run of fsgen")
    if path.is_file():
        return path
    if name in known:
        return known[name]
    if name in catalog():
        raise FsgenError(f"'{name}' is in the catalogue but not on this machine", hint=f"fsgen pull {name}")
    if path.suffix or path.parent != Path():
        raise FsgenError(f"no such file or run folder: {name}")
    raise FsgenError(f"there is no source '{name}'", hint=suggest(name, [*known, *catalog()], LISTED))


def load(name: str | Path) -> Model:
    """The model behind a run folder, a native file or a name.

    Raises:
        FsgenError: not found, truncated, not native, or of a family this fsgen does not know.
    """
    path = find(str(name))
    tensors, header = checkpoint.read_file(path)
    about = {key: value for key, value in header.items() if key != "format"}
    if "spec" not in about:
        raise FsgenError(f"{path} is no model but a file of fsgen's of another kind: {about.get('kind')}")
    spec, family = about.pop("spec"), str(about.pop("family", None))
    networks = checkpoint.split(tensors)
    extra = networks.pop("extra", {})
    try:
        return Model(registry.family(family)(), spec, networks, about, extra)
    except FsgenError as error:
        raise FsgenError(f"{path}: {error.message}", hint=error.hint) from None
