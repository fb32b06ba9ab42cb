"""``fsgen eval``: the same measures, reals and protocol for any model and for images made by anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsgen.callbacks import Callbacks
from fsgen.data.images import ImageSet
from fsgen.errors import FsgenError
from fsgen.evaluation import cautions, extractors, image_sets
from fsgen.evaluation.availability import Notes
from fsgen.evaluation.collect import Sight
from fsgen.evaluation.discriminator_judge import DiscriminatorJudge
from fsgen.evaluation.extractors import Networks
from fsgen.evaluation.funit.protocol import USAGE, translated
from fsgen.evaluation.image_sets import Subject
from fsgen.evaluation.protocols import Translations
from fsgen.evaluation.request import Request, checked
from fsgen.evaluation.result import Evaluation
from fsgen.evaluation.scores import Row, Seen
from fsgen.io.checksums import hash_file
from fsgen.measures import MEASURES
from fsgen.metrics import intervals
from fsgen.metrics.intervals import Estimate
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling.conditioning import conditioning_of

BATCH = 32
SHOWN = 1000  # samples of the subject a page may show, as thumbnails


def evaluate(
    path: str | Path,
    *,
    real: str | Path,
    shots: str | Path | None = None,
    source: str | Path | None = None,
    content: str | Path | None = None,
    protocol: str | None = None,
    fid: str | None = None,
    samples: int | None = None,
    metrics: Sequence[str] | None = None,
    needed: Sequence[str] = (),
    seeds: int = 1,
    seed: int = 0,
    truncation: float = 1.0,
    fit: str = "crop",
    weights_dir: Path | None = None,
    download: bool = False,
    device: str = "auto",
    batch: int = BATCH,
    dry_run: bool = False,
    callbacks: Callbacks | None = None,
) -> Evaluation | dict[str, Any]:
    """Measure a model, or images made by anything, against real images.

    Args:
        path: a model (run folder, native file, name), or a folder or zip of images.
        real: images of the target: a folder or zip; they are brought to the resolution of what is measured.
            For the protocol funit a sub-folder for each of several classes that the model was not trained on.
        shots: the training images; default: those the model records, where they are still the same.
        source: the model's source, if it does not record it; its discriminator tells near copies.
        content: for the protocol funit: images that are translated, likewise by class, of those that the
            model was trained on.
        protocol: of ``protocols.toml``; default: fsgen's own. See ``translation`` for funit, whose rows, the
            first with the most shots, are of translations.
        fid: which Inception and resizing, of ``protocols.FIDS``; default: the protocol's.
        samples: how many pictures; default: the protocol's number of a model, all images of a folder. For
            the protocol funit: contents of each class and number of shots.
        metrics: of ``measures.MEASURES``; default: all that can be computed here, the others are named in
            ``left_out``.
        needed: metrics that must be computed besides, whatever ``metrics`` says.
        seeds: how many sets of pictures, none in two of them: figures are then means over the sets, with
            Student's interval; otherwise intervals are a bootstrap over the samples.
        seed: pictures are those of the seeds ``seed``, ``seed + 1``, ...; whatever else is random follows it.
        truncation: of the model's pictures.
        fit: how other people's images become square: ``crop`` or ``pad``.
        weights_dir: a folder with the backbones' weight files.
        download: fetch weight files that are absent.
        device: auto, cpu, cuda or mps.
        batch: pictures at a time.
        dry_run: check everything, look at nothing, return what was resolved as plain values.
        watch: callbacks.

    Raises:
        FsgenError: refused input; a metric asked for by name that cannot be computed here.
    """
    began, callbacks = time.perf_counter(), callbacks or Callbacks()
    request = checked(protocol, fid, samples, seeds, seed, truncation, fit, batch, device)
    notes = Notes.of(request.protocol, metrics, needed)
    if isinstance(request.protocol, Translations):
        if shots is not None or source is not None:
            raise FsgenError("the protocol funit takes its shots from --real, and knows of no source",
                             hint="leave --shots and --source out")  # fmt: skip
        return translated(
            path, real, content, request, notes, weights_dir=weights_dir, download=download,
            dry_run=dry_run, callbacks=callbacks,
        )  # fmt: skip
    if content is not None:
        raise FsgenError(f"the protocol {request.protocol.name} translates no contents",
                         hint="--protocol funit, or leave --content out")  # fmt: skip
    files = extractors.locate(request.protocol, weights_dir, download, notes, callbacks)
    subject = _subject(path, request, callbacks)
    flip = seed if request.protocol.flip_reals else None
    real_images = image_sets.open_reals(real, subject, fit, flip, callbacks.say)
    pile = real_images.pile
    origin = extractors.origin_of(subject, source, notes)
    looking = extractors.build(files, request.protocol, subject.resolution, request.device, notes)
    training, eyes = _training(subject, origin, shots, request, notes)
    base = _base(subject, origin, request)
    cautions.leave_out_senseless(subject, base, pile, notes)
    if dry_run:
        return {**_settings(request, subject, looking), "metrics": notes.metrics,
                "protocol": request.protocol.name, "left_out": notes.left_out}  # fmt: skip
    _ready(looking, eyes, training, subject, shots, request, notes)
    sight = Sight(looking, subject.resolution, notes.metrics, request.protocol, training, batch, callbacks)
    rows, seen = _rows(sight, subject, base, real_images, request, notes)
    cautions.beware(subject, real_images, training, request.protocol, notes)
    for line in notes.lines():
        callbacks.say(line)
    return Evaluation(
        path=str(path), what=subject.about, real={"path": str(real), **image_sets.described(pile)},
        content=None, shots=None if training is None else image_sets.described(training),
        source=None if origin is None else {"title": origin.about.get("title"), "hash": origin.hash},
        protocol={"name": request.protocol.name, "title": request.protocol.title,
                  "choices": request.protocol.choices()},
        settings=_settings(request, subject, looking),
        near_copy=_near_copy(looking, seen["subject"]) if "near_copies" in notes.metrics else None,
        clusters=_clusters(seen["subject"]), rows=rows, flags=cautions.flags(rows[0]["metrics"]),
        left_out=notes.left_out, warnings=notes.warnings,
        seconds=round(time.perf_counter() - began, 1), seen=seen, training=training,
    )  # fmt: skip


# ---- the rows of the table -----------------------------------------------------------------------------


def _rows(
    sight: Sight, subject: Subject, base: Subject | None, real_images: Subject, request: Request,
    notes: Notes,
) -> tuple[list[dict[str, Any]], dict[str, Seen]]:  # fmt: skip
    """What was evaluated, its source, and the reals themselves: what a perfect generator would score."""
    theirs = sight.look(real_images, most=subject.n)
    known = set(sight.training.hashes) if sight.training is not None else set()
    fresh = [i for i, digest in enumerate(real_images.pile.hashes[: theirs.n]) if digest not in known]
    seen, turns = {"real": theirs}, []
    for turn in range(request.seeds):
        ours, first = _at(subject, request, turn), turn == 0
        sources = None if base is None else sight.look(_at(base, request, turn))
        found = sight.look(ours, shown=SHOWN if first else 0)
        sets = {"subject": Row("subject", found, theirs, sources, sight.networks, request.seed)}
        if sources is not None:
            sets["source"] = Row("source", sources, theirs, None, sight.networks, request.seed)
        turns.append({kind: row.figures(notes.metrics) for kind, row in sets.items()})
        if first:
            seen |= {kind: row.seen for kind, row in sets.items()}
    rows = [
        {"name": of.name, "kind": of.kind, "n": of.n if of.pile is None else len(of.pile),
         "metrics": {name: _mean(name, [turn[of.kind][name] for turn in turns])
                     for name in turns[0][of.kind]}}
        for of in (subject, base) if of is not None
    ]  # fmt: skip
    own = Row("real", theirs, None, None, sight.networks, request.seed, fresh).figures(notes.metrics)
    rows.append({"name": "real", "kind": "real", "n": len(real_images.pile),
                 "metrics": {name: figure.plain() for name, figure in own.items()}})  # fmt: skip
    return rows, seen


def _mean(name: str, turns: list[Estimate]) -> dict[str, float | None]:
    """Over the sets of pictures; KID alone may be below zero."""
    least, most = None if name == "kid" else 0, 1 if MEASURES[name].style == "percent" else None
    return intervals.over_seeds(turns, least=least, most=most).plain()


def _at(subject: Subject, request: Request, turn: int) -> Subject:
    """``subject`` with the pictures of the ``turn``-th set."""
    if subject.model is None or turn == 0:
        return subject
    seeds = request.pictures(turn)
    return image_sets.of_model(
        subject.model, subject.name, subject.kind, seeds, request.truncation, request.device
    )


def _subject(path: str | Path, request: Request, callbacks: Callbacks) -> Subject:
    if not image_sets.is_images(path):
        model, seeds = models.load(path), request.pictures()
        if not conditioning_of(model).draws_alone:
            raise FsgenError(f"{path} translates pictures to classes", hint=USAGE)
        return image_sets.of_model(model, str(path), "subject", seeds, request.truncation, request.device)
    if request.seeds > 1:
        raise FsgenError("--seeds makes several sets of a model's pictures; a folder is one set")
    return image_sets.open_files(path, request.samples, request.fit, callbacks.say)


def _base(subject: Subject, origin: Model | None, request: Request) -> Subject | None:
    """The source, as a subject; None where it is what is evaluated, or not known."""
    if origin is None or origin.hash == subject.about.get("hash"):
        return None
    seeds = request.pictures()
    return image_sets.of_model(
        origin, "source", "source", seeds[: subject.n], request.truncation, request.device
    )


# ---- what is needed, and whether it makes sense --------------------------------------------------------


def _training(
    subject: Subject, origin: Model | None, shots: str | Path | None, request: Request, notes: Notes
) -> tuple[ImageSet | None, Model | None]:
    """The training images, and whose discriminator looks; None where neither is asked for or known."""
    eyes = extractors.eyes_of(subject, origin, notes) if notes.needs("discriminator") else None
    if not {"near_copies", "intra_lpips"} & set(notes.metrics):
        return None, eyes
    resolution = subject.resolution if eyes is None else eyes.spec["resolution"]
    return extractors.shots_of(subject, shots, resolution, request.fit, notes), eyes


def _ready(
    looking: Networks, eyes: Model | None, training: ImageSet | None, subject: Subject,
    shots: str | Path | None, request: Request, notes: Notes,
) -> None:  # fmt: skip
    """Show the training images to what will compare with them."""
    if eyes is not None:
        pixels = training.pixels if "near_copies" in notes.metrics else None
        looking.discriminator = DiscriminatorJudge.of(eyes, pixels, request.device, request.batch)
    if "intra_lpips" in notes.metrics:
        images = training
        if images.pixels.shape[3] != subject.resolution:  # the discriminator's is another
            images = extractors.shots_of(subject, shots, subject.resolution, request.fit, notes)
        looking.anchors = extractors.anchors(looking.groups, images.pixels, request.batch)


def _near_copy(looking: Networks, seen: Seen) -> dict[str, Any]:
    """How near copies were told, and each sample's nearest training image: its number and how far it is."""
    judged = seen.judged
    nearest = [
        [k, round(d, 5)] for k, d in zip(judged.shots.tolist(), judged.distances.tolist(), strict=True)
    ]
    return {**looking.discriminator.about(), "nearest": nearest}


def _clusters(seen: Seen) -> dict[str, Any] | None:
    if seen.groups is None:
        return None
    clusters = seen.groups.clusters
    values = [None if value != value else value for value in clusters.values.tolist()]  # NaN: an empty one
    return {"sizes": clusters.sizes.tolist(), "values": values, "deviation": clusters.deviation}


def _settings(request: Request, subject: Subject, looking: Networks) -> dict[str, Any]:
    return {
        "samples": subject.n, "seeds": request.seeds, "seed": request.seed, "truncation": request.truncation,
        "resolution": subject.resolution, "fit": request.fit, "device": str(request.device),
        "weights": {p.name: {"sha256": hash_file(p), "space": s} for s, p in looking.files.items()},
    }  # fmt: skip
