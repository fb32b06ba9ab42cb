"""Diagonal Fisher information of a source generator on disk: what names an estimate, and where it is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import fsgen
from fsgen.errors import FsgenError, suggest
from fsgen.io import checkpoint
from fsgen.io.cache_folders import fisher_dir
from fsgen.models.model import Model

CONVENTION = "mean of per-sample squared gradients, raw parameters, stored noise"
VERSION = 2  # of the estimator: part of the cache key
PROXIES = ("adversarial", "reconstruction", "perceptual")


@dataclass(frozen=True)
class Fisher:
    """A diagonal by parameter name of G, and how it was estimated."""

    diagonal: dict[str, Tensor]
    about: dict[str, Any]  # estimator, proxy, samples, seed, network, source_hash
    layers: dict[str, list[str]]  # parameters by layer, first to last

    @property
    def trace(self) -> float:
        """The sum over all parameters."""
        return sum(value.double().sum() for value in self.diagonal.values()).item()

    def by_layer(self) -> dict[str, float]:
        """Mean Fisher per layer, first to last: the paper's figure."""
        return {
            layer: (
                sum(self.diagonal[name].double().sum() for name in names)
                / sum(self.diagonal[name].numel() for name in names)
            ).item()
            for layer, names in self.layers.items()
        }


def cached(source: Model, *, samples: int, proxy: str, seed: int) -> Fisher | None:
    """The Fisher of ``of_model`` if it was estimated before, else None."""
    about, path = plan(source, samples, proxy, seed)
    kept = read(path, about)
    return None if kept is None else Fisher(kept, about, source.family.layers(source.spec))


def plan(source: Model, samples: int, proxy: str, seed: int) -> tuple[dict[str, Any], Path]:
    """Which estimate this is, and the place in the cache that is its own."""
    if proxy not in PROXIES:
        raise FsgenError(f"there is no Fisher proxy '{proxy}'", hint=suggest(proxy, list(PROXIES)))
    if samples < 1:
        raise FsgenError(f"a Fisher from {samples} samples cannot be estimated", hint="--samples 1000")
    about = {
        "kind": "fisher", "convention": CONVENTION, "version": VERSION, "proxy": proxy, "samples": samples,
        "seed": seed, "network": source.start, "source_hash": source.hash, "family": source.family.name,
    }  # fmt: skip
    # The spec holds what no tensor shows (clamps, group sizes) and the pictures depend on.
    key = hashlib.sha256(json.dumps([about, source.spec], sort_keys=True).encode()).hexdigest()[:32]
    return about, fisher_dir() / f"{key}.safetensors"


def read(path: Path, about: dict[str, Any]) -> dict[str, Tensor] | None:
    """The diagonal in the cache; a damaged or foreign file there is not trusted and counts as absent."""
    if not path.is_file():
        return None
    try:
        diagonal, header = checkpoint.read_file(path)
    except FsgenError:
        return None
    return diagonal if all(header.get(key) == value for key, value in about.items()) else None


def write(result: Fisher, path: Path) -> None:
    """Write a Fisher where the user asked for it: safetensors with its convention in the header."""
    checkpoint.write_file(path, result.diagonal, {**result.about, "fsgen": fsgen.__version__})
