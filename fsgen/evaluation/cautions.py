"""Exclude metrics that are undefined here, warn about scores that mislead, flag copies and leakage."""

from __future__ import annotations

from typing import Any

from fsgen.data.images import ImageSet
from fsgen.errors import Code, FsgenError
from fsgen.evaluation.accumulators import required
from fsgen.evaluation.availability import Availability
from fsgen.evaluation.image_sets import EvaluationSet
from fsgen.evaluation.protocols import DEFAULT, Protocol
from fsgen.evaluation.scores import LEAST_REALS, NEIGHBOURS

RELIABLE = 2048  # images below which an FID is mostly bias: Inception has as many features
COPIES = 0.05  # share of near copies above which they are flagged
LEAKED = 0.5  # likewise for leakage


def exclude_undefined(
    evaluated: EvaluationSet, source: EvaluationSet | None, real: EvaluationSet, metrics: Availability
) -> None:
    """Leave out metrics that compare with something absent or with too few images."""
    latents = ("correspondence",)
    if source is None:
        own = evaluated.model is not None and not evaluated.model.about.get("source")
        why = "the model is a source itself" if own else "the source is unknown"
        error = FsgenError(why, code=Code.NOT_FOUND, where="--source", hint="name it: --source NAME")
        metrics.exclude(("leakage", *latents), error)
    elif evaluated.model is None or evaluated.model.family.name != required(source.model).family.name:
        owner = "images of a folder" if evaluated.model is None else "the model"
        why = f"{owner} and the source share no latents"
        metrics.exclude(latents, FsgenError(why, code=Code.INCOMPATIBLE, where="--source"))
    for n, least, names in (
        (real.n, LEAST_REALS, ("leakage",)),
        (min(real.n, evaluated.n), NEIGHBOURS + 1, ("precision", "recall", "density", "coverage")),
    ):
        if n < least:
            why, hint = f"{n} images are too few for nearest neighbours", f"give at least {least}"
            metrics.exclude(names, FsgenError(why, code=Code.TOO_FEW, where="--real", hint=hint))


def warn_of_bias(
    evaluated: EvaluationSet, real: EvaluationSet, training: ImageSet | None, protocol: Protocol,
    metrics: Availability,
) -> None:  # fmt: skip
    """Warn of small sets, training images among the real images, skipped and resized files."""
    if evaluated.stream is not None and protocol.name != DEFAULT and evaluated.n != protocol.samples:
        metrics.warn(f"the protocol {protocol.name} uses {protocol.samples} samples, here are {evaluated.n}")
    stream = required(real.stream)
    if "fid" in metrics.metrics:
        for n, which in ((len(stream), "real images"), (evaluated.n, "samples")):
            if n < RELIABLE:
                metrics.warn(f"FID with {n} {which} is biased upwards; KID is not")
    shared = len(set(stream.hashes) & set(training.hashes)) if training is not None else 0
    if shared and {"fid", "kid"} & set(metrics.metrics):
        metrics.warn(
            f"{shared} of the {len(stream)} real images are training images: FID and KID reward copies"
        )
    if stream.skipped:
        metrics.warn(f"{len(stream.skipped)} files of --real could not be read")
    for images, which in ((stream, "real images"), (evaluated.stream, "evaluated images")):
        if images is not None and images.resized:
            side = real.resolution
            metrics.warn(f"{images.resized} of {len(images)} {which} are not {side} x {side}: resized")


def flags(scores: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Flag near copies and leakage above their limits: name, value, text of each."""
    found = []
    copies = scores.get("near_copies", {}).get("value", 0)
    if copies > COPIES:
        text = f"{copies:.0%} of the samples repeat a training image"
        if copies > 0.5:
            text += ": this generator replays what it was shown"
        found.append({"name": "near_copies", "value": copies, "text": text})
    leaked = scores.get("leakage", {}).get("value", 0)
    if leaked > LEAKED:
        text = f"{leaked:.0%} of the samples are nearer to the source's samples than to the target's images"
        found.append({"name": "leakage", "value": leaked, "text": text})
    return found
