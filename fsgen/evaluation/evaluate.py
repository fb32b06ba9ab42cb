"""``fsgen eval``: the same measures for any model and for images made by anything."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fsgen
from fsgen.atomic import atomic
from fsgen.data.images import ImageSet, load_images
from fsgen.engine import device as devices
from fsgen.engine import sample as pictures
from fsgen.engine.watch import Watch
from fsgen.errors import FsgenError, near
from fsgen.evaluation.critic import Critic
from fsgen.evaluation.lenses import DIVERSE, KID, METRICS, Lenses, backbone
from fsgen.evaluation.subjects import Subject, described, of_images, of_model, open_subject
from fsgen.io.ledger import hash_file
from fsgen.metrics import weights
from fsgen.models import model as models
from fsgen.models.model import Model

SCHEMA = "fsgen-eval/1"
DEFAULT = "peeps64"  # whose discriminator looks at images of unknown origin
RELIABLE = 1000  # images below which a FID is mostly bias
BATCH = 32


@dataclass(frozen=True)
class Report:
    """What came out, as plain values."""

    schema: str
    fsgen: str
    path: str
    what: dict[str, Any]  # kind: model (title, hash, licence) or images (count, digest, skipped)
    real: dict[str, Any]  # path, count, digest, skipped
    shots: dict[str, Any] | None  # the training images, likewise
    source: dict[str, Any] | None  # title, hash
    settings: dict[str, Any]  # samples, seed, truncation, resolution, device, files of weights, ...
    near_copy: dict[str, Any] | None  # how near copies were told
    rows: list[dict[str, Any]]  # name, n, metrics; the first is what was evaluated
    left_out: dict[str, dict[str, str]]  # metric -> why, remedy
    warnings: list[str]
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Of what was evaluated."""
        return self.rows[0]["metrics"]

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        return dataclasses.asdict(self)

    def write(self, path: Path) -> None:
        """As JSON, atomically."""
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(self.plain(), indent=2) + "\n", encoding="utf-8")


@dataclass
class _Notes:
    """What could not be done, and what to beware of. ``strict``: what was asked for by name must be done."""

    strict: bool
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def leave_out(self, names: Sequence[str], error: FsgenError) -> None:
        if self.strict and names:
            raise error
        self.left_out |= {name: {"why": error.message, "remedy": error.hint} for name in names}


def evaluate(
    path: str | Path,
    *,
    real: str | Path,
    shots: str | Path | None = None,
    source: str | Path | None = None,
    samples: int | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    truncation: float = 1.0,
    fit: str = "crop",
    weights_dir: Path | None = None,
    download: bool = False,
    device: str = "auto",
    batch: int = BATCH,
    watch: Watch | None = None,
) -> Report:
    """Measure a model, or images made by anything, against real images.

    Args:
        path: a model (run folder, native file, name), or a folder or zip of images.
        real: images of the target: a folder or zip; they are brought to the resolution of what is measured.
        shots: the training images; default: those the model records, where they are still the same.
        source: the model's source, if it does not record it; its discriminator tells near copies.
        samples: how many pictures; default 1000 of a model, all images of a folder.
        metrics: of ``METRICS``; default: all that can be computed here, the others are named in ``left_out``.
        seed: pictures are those of the seeds ``seed``, ``seed + 1``, ...; KID's subsets depend on it too.
        truncation: of the model's pictures.
        fit: how other people's images become square: ``crop`` or ``pad``.
        weights_dir: a folder with the backbones' weight files.
        download: fetch weight files that are absent.
        device: auto, cpu, cuda or mps.
        batch: pictures at a time.
        watch: callbacks.

    Raises:
        FsgenError: refused input; a metric asked for by name that cannot be computed here.
    """
    began, watch = time.perf_counter(), watch or Watch()
    asked = _checked(metrics, samples, batch, fit)
    notes = _Notes(strict=metrics is not None)
    target = devices.pick(device)
    files = _weights(asked, weights_dir, download, notes, watch)
    subject = open_subject(
        path, samples, seed=seed, truncation=truncation, fit=fit, device=target, say=watch.say
    )
    reals = load_images(real, subject.resolution, fit=fit, channels=subject.channels, say=watch.say)
    if len(reals) < 2:
        raise FsgenError(
            f"there is one image in {real}; reals are a set", hint="give --real a folder of many"
        )
    origin = _origin(subject, source, notes)
    eyes = _eyes(subject, origin, notes) if {"near_copies", "diversity"} & set(asked) else None
    training = _shots(subject, shots, eyes, fit, notes) if "near_copies" in asked else None
    lenses = _lenses(asked, files, eyes, training, subject, target, batch, seed, notes, watch)
    _warn(subject, reals, training, lenses, notes)
    _tell(notes, watch)

    compared = [subject]
    if origin is not None and origin.hash != subject.about.get("hash"):
        compared.append(of_model(origin, "source", subject.n, seed, truncation, target))
    settings = {
        "samples": subject.n, "seed": seed, "truncation": truncation, "resolution": subject.resolution,
        "fit": fit, "device": str(target), "diversity_images": DIVERSE, "kid": KID,
        "weights": {name: {"file": p.name, "sha256": hash_file(p)} for name, p in files.items()},
    }  # fmt: skip
    return Report(
        schema=SCHEMA, fsgen=fsgen.__version__, path=str(path), what=subject.about,
        real={"path": str(real), **described(reals)},
        shots=None if training is None else described(training),
        source=None if origin is None else _named(origin),
        settings=settings,
        near_copy=lenses.critic.about() if "near_copies" in lenses.metrics else None,
        rows=_rows(lenses, compared, reals, training, batch),
        left_out=notes.left_out, warnings=notes.warnings, seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def _rows(
    lenses: Lenses, compared: list[Subject], reals: ImageSet, training: ImageSet | None, batch: int
) -> list[dict[str, Any]]:
    """What was evaluated, its source, and the reals themselves: what a perfect generator would score."""
    # FID takes all of them; a row to compare with needs no more than there are samples
    least = max(compared[0].n, DIVERSE)
    theirs = of_images(reals, "real", None if lenses.inception is not None else least)
    seen_reals = lenses.look(theirs.batches(batch), "real", theirs.n)
    rows = []
    for subject in compared:
        seen = lenses.look(subject.batches(batch), subject.name, subject.n)
        rows.append({"name": subject.name, "n": subject.n, "metrics": lenses.figures(seen, seen_reals)})
    known = set(training.hashes) if training is not None else set()
    new = [i for i, digest in enumerate(reals.hashes[: theirs.n]) if digest not in known]
    rows.append({"name": "real", "n": theirs.n, "metrics": lenses.figures(seen_reals, None, new)})
    return rows


# ---- what is needed, and whether it is there -----------------------------------------------------------


def _checked(metrics: Sequence[str] | None, samples: int | None, batch: int, fit: str) -> tuple[str, ...]:
    if fit not in ("crop", "pad"):
        raise FsgenError(f"there is no fit '{fit}'", hint="crop or pad")
    if samples is not None and samples < 2:
        raise FsgenError(f"--samples {samples} is too few", hint="2 are the least, 1000 usual")
    if batch < 1:
        raise FsgenError("--batch is at least 1")
    for name in metrics or ():
        if name not in METRICS:
            raise FsgenError(f"there is no metric '{name}'", hint=near(name, list(METRICS)))
    return tuple(name for name in METRICS if metrics is None or name in metrics)


def _weights(
    asked: tuple[str, ...], folder: Path | None, download: bool, notes: _Notes, watch: Watch
) -> dict[str, Path]:
    """Files of the backbones that are to be had; a download that was asked for must succeed."""
    names = list(dict.fromkeys(METRICS[metric] for metric in asked if METRICS[metric]))
    if download:
        fetch = weights.online(
            say=watch.say, progress=lambda done, total: watch.progress("weights", done, total or 0)
        )
        return weights.locate_all(names, folder, fetch)
    if notes.strict:
        return weights.locate_all(names, folder)
    weights.locate_all([], folder)  # a mistyped folder is not to be passed over
    found = {}
    for name in names:
        try:
            found[name] = weights.locate(name, folder)
        except FsgenError:
            entry = weights.CATALOGUE[name]
            why = f"the weights {entry.file} are not on this machine"
            remedy = f"--download fetches {entry.megabytes} MB from {entry.url}; or --weights-dir"
            notes.leave_out([m for m in asked if METRICS[m] == name], FsgenError(why, hint=remedy))
    return found


def _origin(subject: Subject, source: str | Path | None, notes: _Notes) -> Model | None:
    """The source of what is evaluated, if it is at hand."""
    if source is not None:
        return models.load(source)
    if subject.model is None or not subject.model.about.get("source"):
        return None
    try:
        return pictures.source_of(subject.model)
    except FsgenError as error:
        notes.warnings.append(f"{error.message}: there is no row of the source")
        return None


def _eyes(subject: Subject, origin: Model | None, notes: _Notes) -> Model:
    """Whose discriminator looks: the source's; a source's own; else the bundled one."""
    adapted = subject.model is not None and subject.model.about.get("source")
    model = origin if origin is not None or adapted else subject.model
    if model is not None and "d" in model.networks:
        return model
    notes.warnings.append(
        "no discriminator of its source is at hand: near copies and diversity are as that of "
        f"{DEFAULT} sees them"
    )
    return models.load(DEFAULT)


def _shots(
    subject: Subject, shots: str | Path | None, eyes: Model, fit: str, notes: _Notes
) -> ImageSet | None:
    """The training images at the resolution of the discriminator, or None where they are not known."""
    resolution = eyes.spec["resolution"]
    if shots is not None:
        return load_images(shots, resolution, fit=fit)
    about = {} if subject.model is None else subject.model.about
    run = about.get("provenance", {}).get("run", {})
    remedy = "name them: --shots DIR"
    if not run.get("images"):
        error = FsgenError("the training images are not recorded", hint=remedy)
    elif not Path(run["images"]).exists():
        error = FsgenError(f"the training images are no longer at {run['images']}", hint=remedy)
    else:
        found = load_images(run["images"], resolution, fit=run.get("fit", fit))
        if found.digest == run.get("images_digest"):
            return found
        error = FsgenError(f"the images in {run['images']} are not those of the training", hint=remedy)
    notes.leave_out(("near_copies",), error)
    return None


def _lenses(
    asked: tuple[str, ...], files: dict[str, Path], eyes: Model | None, training: ImageSet | None,
    subject: Subject, device: torch.device, batch: int, seed: int, notes: _Notes, watch: Watch,
) -> Lenses:  # fmt: skip
    built = {name: backbone(name, path, device) for name, path in files.items()}
    lpips = built.get("alexnet")
    if lpips is not None:
        try:
            lpips.embed(torch.zeros(1, 3, subject.resolution, subject.resolution))
        except FsgenError as error:  # the pictures are too small for it
            notes.leave_out(("lpips",), error)
            lpips = None
    metrics = tuple(name for name in asked if name not in notes.left_out)
    shots = None if training is None else training.pixels
    critic = None if eyes is None else Critic.of(eyes, shots, device, batch)
    return Lenses(metrics, built.get("inception"), lpips, critic, seed, watch.progress)


def _warn(
    subject: Subject, reals: ImageSet, training: ImageSet | None, lenses: Lenses, notes: _Notes
) -> None:
    if "fid" in lenses.metrics:
        for n, which in ((len(reals), "images"), (subject.n, "samples")):
            if n < RELIABLE:
                notes.warnings.append(f"FID against {n} {which} is unreliable; KID is less biased")
    shared = len(set(reals.hashes) & set(training.hashes)) if training is not None else 0
    if shared and {"fid", "kid"} & set(lenses.metrics):
        notes.warnings.append(
            f"{shared} of the {len(reals)} reals are training images: FID and KID reward copies of them"
        )


def _tell(notes: _Notes, watch: Watch) -> None:
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, note in notes.left_out.items():
        grouped.setdefault((note["why"], note["remedy"]), []).append(name)
    for (why, remedy), names in grouped.items():
        watch.say(f"left out: {', '.join(names)}: {why} ({remedy})")
    for line in notes.warnings:
        watch.say(f"warning: {line}")


def _named(model: Model) -> dict[str, Any]:
    return {"title": model.about.get("title"), "hash": model.hash}
