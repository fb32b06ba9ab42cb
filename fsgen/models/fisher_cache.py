"""Diagonal Fisher information of a source generator: cache keys and files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import fsgen
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError, unknown_name
from fsgen.io import checkpoint
from fsgen.io.cache_folders import fisher_dir
from fsgen.models.model import Model

CONVENTION = "mean of per-sample squared gradients, raw parameters, stored noise"
VERSION = 2  # of the estimator: part of the cache key
PROXIES = ("adversarial", "reconstruction", "perceptual")


@dataclass(frozen=True)
class Fisher:
    """The diagonal by parameter name of G, with its provenance."""

    diagonal: dict[str, Tensor]
    about: PlainDict  # estimator, proxy, samples, seed, network, source_hash
    layers: dict[str, list[str]]  # parameters by layer, first to last

    @property
    def trace(self) -> float:
        """The sum over all parameters."""
        return sum(value.double().sum().item() for value in self.diagonal.values())

    def by_layer(self) -> dict[str, float]:
        """Mean Fisher information per layer, first to last, as plotted by Li et al. 2020."""
        return {
            layer: (
                sum(self.diagonal[name].double().sum().item() for name in names)
                / sum(self.diagonal[name].numel() for name in names)
            )
            for layer, names in self.layers.items()
        }


def cached(source: Model, *, samples: int, proxy: str, seed: int) -> Fisher | None:
    """The cached estimate, or None."""
    about, path = plan(source, samples, proxy, seed)
    kept = read(path, about)
    return None if kept is None else Fisher(kept, about, source.family.layers(source.spec))


def plan(source: Model, samples: int, proxy: str, seed: int) -> tuple[PlainDict, Path]:
    """The provenance of an estimate and its path in the cache.

    Raises:
        FsgenError: an unknown proxy, fewer than 1 sample.
    """
    if proxy not in PROXIES:
        raise unknown_name(f"there is no Fisher proxy '{proxy}'", proxy, PROXIES, where="--proxy")
    if samples < 1:
        raise FsgenError(
            f"the Fisher information cannot be estimated from {samples} samples",
            code=Code.OUT_OF_RANGE, where="--samples", hint="--samples 1000",
        )  # fmt: skip
    about = {
        "kind": "fisher", "convention": CONVENTION, "version": VERSION, "proxy": proxy, "samples": samples,
        "seed": seed, "network": source.start, "source_hash": source.hash, "family": source.family.name,
    }  # fmt: skip
    # Images also depend on fields of the spec that no tensor shows (clamps, group sizes).
    key = hashlib.sha256(json.dumps([about, source.spec], sort_keys=True).encode()).hexdigest()[:32]
    return about, fisher_dir() / f"{key}.safetensors"


def read(path: Path, about: PlainDict) -> dict[str, Tensor] | None:
    """The diagonal in a cache file; None if it is absent, damaged or of another estimate."""
    if not path.is_file():
        return None
    try:
        diagonal, header = checkpoint.read_file(path)
    except FsgenError:
        return None
    return diagonal if all(header.get(key) == value for key, value in about.items()) else None


def write(result: Fisher, path: Path) -> None:
    """Write a safetensors file with the provenance in its header."""
    checkpoint.write_file(path, result.diagonal, {**result.about, "fsgen": fsgen.__version__})
