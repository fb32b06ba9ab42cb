"""Evaluate a model or a set of images: the same metrics, real images and protocol for both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fsgen.callbacks import Callbacks
from fsgen.data.images import ImageSet
from fsgen.errors import Code, FsgenError
from fsgen.evaluation import cautions, image_sets, metric_networks, provenance
from fsgen.evaluation.accumulators import Collected, lpips_points, required
from fsgen.evaluation.availability import Availability
from fsgen.evaluation.collect import Collector
from fsgen.evaluation.discriminator_judge import DiscriminatorJudge
from fsgen.evaluation.funit.protocol import USAGE, evaluate_translations
from fsgen.evaluation.image_sets import EvaluationSet
from fsgen.evaluation.metric_networks import MetricNetworks
from fsgen.evaluation.protocols import Request, Translations, checked_request
from fsgen.evaluation.result import Evaluation
from fsgen.evaluation.scores import SetScores
from fsgen.measures import MEASURES
from fsgen.metrics import intervals
from fsgen.metrics.intervals import Estimate
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling.conditioning import conditioning_of

BATCH = 32
ShotsAt = Callable[[int], ImageSet | None]
MOST_SHOWN = 1000  # thumbnails of evaluated samples to store for a page


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
    """Measure a model or a set of images against real images.

    Args:
        path: a model (run folder, native file, name), or a folder or zip of images.
        real: images of the target domain, a folder or zip; resized to the resolution of what is measured.
            For the protocol funit, one sub-folder for each of several classes unseen in training.
        shots: the training images; default: those the model records, if they are unchanged.
        source: the model's source, if it does not record it; its discriminator finds near copies.
        content: for the protocol funit: images to translate, one sub-folder for each class of the training.
        protocol: of ``protocols.toml``; default: fsgen's own. The rows of funit are of translations, the
            first with the most shots.
        fid: Inception network and resizing, of ``protocols.FIDS``; default: the protocol's.
        samples: number of samples; default: the protocol's number of a model, all images of a folder. For
            the protocol funit: contents of each class and number of shots.
        metrics: of ``measures.MEASURES``; default: all that can be computed here, the others are listed in
            ``left_out``.
        needed: metrics to compute in any case, besides ``metrics``.
        seeds: number of disjoint sets of samples. With several, scores are means over the sets with
            Student's interval; with one, intervals are a bootstrap over the samples.
        seed: samples are those of the seeds ``seed``, ``seed + 1``, ...; it seeds all other draws too.
        truncation: of the model's samples.
        fit: how images become square: ``crop`` or ``pad``.
        weights_dir: a folder with the weight files of the feature networks.
        download: fetch absent weight files.
        device: auto, cpu, cuda or mps.
        batch: images at a time.
        dry_run: check everything, compute nothing, return the resolved options as plain values.
        callbacks: for messages and progress.

    Raises:
        FsgenError: refused input; a metric requested by name that cannot be computed here.
    """
    began, callbacks = time.perf_counter(), callbacks or Callbacks()
    request = checked_request(protocol, fid, samples, seeds, seed, truncation, fit, batch, device)
    rules, availability = request.protocol, Availability.of(request.protocol, metrics, needed)
    if isinstance(rules, Translations):
        for flag, value in (("--shots", shots), ("--source", source)):
            if value is not None:
                raise FsgenError(f"{flag} has no effect with the protocol funit: it draws shots from --real",
                                 where=flag, hint=f"leave {flag} out")  # fmt: skip
        return evaluate_translations(
            path, real, content, request, rules, availability, weights_dir=weights_dir, download=download,
            dry_run=dry_run, callbacks=callbacks,
        )  # fmt: skip
    if content is not None:
        raise FsgenError(f"--content has no effect with the protocol {rules.name}", where="--content",
                         hint="--protocol funit, or leave --content out")  # fmt: skip
    files = metric_networks.locate_weights(rules, weights_dir, download, availability, callbacks)
    evaluated = _open(path, request, callbacks)
    real_set = image_sets.open_real(real, evaluated.resolution, evaluated.channels, request.fit,
                                    seed if rules.flip_reals else None, callbacks.say)  # fmt: skip
    source_model = provenance.find_source(evaluated, source, availability)
    networks = metric_networks.load_networks(files, rules, evaluated.resolution, request.device, availability)
    judge = training = None
    if availability.in_spaces("discriminator"):
        judge = provenance.find_judge(evaluated, source_model, availability)
    shots_at = partial(provenance.find_shots, evaluated, shots, request.fit, availability)
    if {"near_copies", "intra_lpips"} & set(availability.metrics):
        training = shots_at(evaluated.resolution if judge is None else judge.spec["resolution"])
    source_set = _source_set(evaluated, source_model, request)
    cautions.exclude_undefined(evaluated, source_set, real_set, availability)
    if dry_run:
        return {**_settings(request, evaluated, networks), "metrics": availability.metrics,
                "protocol": rules.name, "left_out": availability.left_out}  # fmt: skip
    _embed_shots(networks, judge, training, evaluated.resolution, shots_at, request, availability.metrics)
    collector = Collector(networks, evaluated.resolution, availability.metrics, rules, batch, callbacks)
    rows, collected = _rows(collector, evaluated, source_set, real_set, training, request)
    cautions.warn_of_bias(evaluated, real_set, training, rules, availability)
    for line in availability.lines():
        callbacks.say(line)
    return Evaluation(
        path=str(path), what=evaluated.about,
        real={"path": str(real), **image_sets.describe_images(required(real_set.stream))}, content=None,
        shots=None if training is None else image_sets.describe_images(training),
        source=(None if source_model is None
                else {"title": source_model.about.get("title"), "hash": source_model.hash}),
        protocol=rules.about(), settings=_settings(request, evaluated, networks),
        near_copy=_near_copy(collected["subject"]), clusters=_clusters(collected["subject"]), rows=rows,
        flags=cautions.flags(rows[0]["metrics"]),
        left_out=availability.left_out, warnings=availability.warnings,
        seconds=round(time.perf_counter() - began, 1), collected=collected, training=training,
    )  # fmt: skip


# ---- the rows of the table -----------------------------------------------------------------------------


def _rows(
    collector: Collector, evaluated: EvaluationSet, source: EvaluationSet | None, real: EvaluationSet,
    training: ImageSet | None, request: Request,
) -> tuple[list[dict[str, Any]], dict[str, Collected]]:  # fmt: skip
    """Scores of the evaluated set, of its source, and of the real images: those of a perfect generator."""
    networks, names = collector.networks, collector.metrics
    real_images = collector.collect(real, most=evaluated.n)
    shots = set() if training is None else set(training.hashes)
    hashes = required(real.stream).hashes[: real_images.n]
    copyable = [i for i, digest in enumerate(hashes) if digest not in shots]
    collected, turns = {"real": real_images}, []
    for turn in range(request.seeds):
        first = turn == 0
        of_source = None if source is None else collector.collect(_at(source, request, turn))
        ours = collector.collect(_at(evaluated, request, turn), shown=MOST_SHOWN if first else 0)
        sets = {"subject": SetScores("subject", ours, real_images, of_source, networks, request.seed)}
        if of_source is not None:
            sets["source"] = SetScores("source", of_source, real_images, None, networks, request.seed)
        turns.append({kind: scores.compute(names) for kind, scores in sets.items()})
        if first:
            collected |= {kind: scores.images for kind, scores in sets.items()}
    rows = [
        {"name": of.name, "kind": of.kind, "n": of.n if of.stream is None else len(of.stream),
         "metrics": {name: _mean(name, [turn[of.kind][name] for turn in turns])
                     for name in turns[0][of.kind]}}
        for of in (evaluated, source) if of is not None
    ]  # fmt: skip
    own = SetScores("real", real_images, None, None, networks, request.seed, copyable).compute(names)
    rows.append({"name": "real", "kind": "real", "n": len(required(real.stream)),
                 "metrics": {name: score.plain() for name, score in own.items()}})  # fmt: skip
    return rows, collected


def _mean(name: str, turns: list[Estimate]) -> dict[str, float | None]:
    """Mean over the sets of samples; only KID may be negative."""
    least, most = None if name == "kid" else 0, 1 if MEASURES[name].style == "percent" else None
    return intervals.over_seeds(turns, least=least, most=most).plain()


def _at(images: EvaluationSet, request: Request, turn: int) -> EvaluationSet:
    """``images`` with the samples of set number ``turn``."""
    if images.model is None or turn == 0:
        return images
    return image_sets.sample_set(
        images.model, images.name, images.kind, request.sample_seeds(turn), request.truncation,
        request.device,
    )  # fmt: skip


def _open(path: str | Path, request: Request, callbacks: Callbacks) -> EvaluationSet:
    """Open what is to be evaluated: a model's samples or images."""
    if not image_sets.is_images(path):
        model, seeds = models.load_model(path), request.sample_seeds()
        if not conditioning_of(model).draws_alone:
            raise FsgenError(f"{path} translates images to classes: it needs the protocol funit",
                             code=Code.INCOMPATIBLE, where=path, hint=USAGE)  # fmt: skip
        return image_sets.sample_set(model, str(path), "subject", seeds, request.truncation, request.device)
    if request.seeds > 1:
        raise FsgenError(f"--seeds has no effect on {path}, a fixed set of images", where="--seeds",
                         hint="leave --seeds out")  # fmt: skip
    return image_sets.open_evaluated(path, request.samples, request.fit, callbacks.say)


def _source_set(evaluated: EvaluationSet, source: Model | None, request: Request) -> EvaluationSet | None:
    """Samples of the source; None if it is unknown or evaluated itself."""
    if source is None or source.hash == evaluated.about.get("hash"):
        return None
    seeds = request.sample_seeds()[: evaluated.n]
    return image_sets.sample_set(source, "source", "source", seeds, request.truncation, request.device)


# ---- training images -----------------------------------------------------------------------------------


def _embed_shots(
    networks: MetricNetworks, judge: Model | None, training: ImageSet | None, resolution: int,
    shots_at: ShotsAt, request: Request, metrics: list[str],
) -> None:  # fmt: skip
    """Embed the training images for near copies and intra-LPIPS."""
    if judge is not None:
        pixels = required(training).pixels if "near_copies" in metrics else None
        networks.discriminator = DiscriminatorJudge.of(judge, pixels, request.device, request.batch)
    if "intra_lpips" in metrics:
        same = judge is None or judge.spec["resolution"] == resolution
        images = required(training if same else shots_at(resolution))
        with torch.no_grad():
            parts = images.pixels.split(request.batch)
            networks.shot_points = torch.cat([lpips_points(required(networks.vgg), part) for part in parts])


# ---- parts of the result -------------------------------------------------------------------------------


def _near_copy(images: Collected) -> dict[str, Any] | None:
    """The report of near copies: the threshold, and each sample's nearest training image and distance."""
    found = images.discriminator
    if found is None or not found.nearest:
        return None
    pairs = zip(found.shots.tolist(), found.distances.tolist(), strict=True)
    return {**found.discriminator.about(), "nearest": [[k, round(d, 5)] for k, d in pairs]}


def _clusters(images: Collected) -> dict[str, Any] | None:
    if images.clusters is None:
        return None
    clusters = images.clusters.clusters
    values = [None if value != value else value for value in clusters.values.tolist()]  # NaN: an empty one
    return {"sizes": clusters.sizes.tolist(), "values": values, "deviation": clusters.deviation}


def _settings(request: Request, evaluated: EvaluationSet, networks: MetricNetworks) -> dict[str, Any]:
    return {
        "samples": evaluated.n, "seeds": request.seeds, "seed": request.seed,
        "truncation": request.truncation, "resolution": evaluated.resolution, "fit": request.fit,
        "device": str(request.device), "weights": networks.weights(),
    }  # fmt: skip
