"""What makes no sense, what to beware of, and what nobody should overlook."""

from __future__ import annotations

from typing import Any

from fsgen.data.images import ImageSet
from fsgen.data.streaming import ImageStream
from fsgen.errors import FsgenError
from fsgen.evaluation.availability import Notes
from fsgen.evaluation.image_sets import Subject
from fsgen.evaluation.protocols import DEFAULT, Protocol
from fsgen.evaluation.scores import LEAST_REALS, NEIGHBOURS

RELIABLE = 2048  # images below which a FID is mostly bias: Inception has as many features
COPIES = 0.05  # share of near copies above which it is flagged
LEAKED = 0.5  # likewise for leakage


def leave_out_senseless(subject: Subject, base: Subject | None, pile: ImageStream, notes: Notes) -> None:
    """Metrics that compare with something that is not there."""
    if base is None:
        own = subject.model is not None and not subject.model.about.get("source")
        why = "this is a source itself" if own else "its source is not known"
        notes.leave_out(("leakage", "correspondence"), FsgenError(why, hint="name it: --source NAME"))
    elif subject.model is None:
        error = FsgenError("images of a folder do not tell from which latent they were made")
        notes.leave_out(("correspondence",), error)
    elif subject.model.family.name != base.model.family.name:
        notes.leave_out(("correspondence",), FsgenError("it does not share its source's latents"))
    if len(pile) < LEAST_REALS:
        why = f"{len(pile)} reals are too few to say which of two sets a sample is nearer to"
        notes.leave_out(("leakage",), FsgenError(why, hint=f"give --real at least {LEAST_REALS}"))
    if min(len(pile), subject.n) <= NEIGHBOURS:
        error = FsgenError(f"{NEIGHBOURS} neighbours are looked for: it takes more images")
        notes.leave_out(("precision", "recall", "density", "coverage"), error)


def beware(
    subject: Subject, real_images: Subject, training: ImageSet | None, protocol: Protocol, notes: Notes
) -> None:
    """What the figures may be misread for."""
    if subject.pile is not None and protocol.name != DEFAULT and subject.n != protocol.samples:
        notes.warn(f"the protocol {protocol.name} takes {protocol.samples} samples, here are {subject.n}")
    pile = real_images.pile
    if "fid" in notes.metrics:
        for n, which in ((len(pile), "reals"), (subject.n, "samples")):
            if n < RELIABLE:
                notes.warn(f"FID with {n} {which} is biased upwards; KID is not")
    shared = len(set(pile.hashes) & set(training.hashes)) if training is not None else 0
    if shared and {"fid", "kid"} & set(notes.metrics):
        notes.warn(
            f"{shared} of the {len(pile)} reals are training images: FID and KID reward copies of them"
        )
    if pile.skipped:
        notes.warn(f"{len(pile.skipped)} files of --real could not be read")
    if pile.resized:
        side = real_images.resolution
        notes.warn(f"{pile.resized} of {len(pile)} reals are not {side} x {side}: made square and resized")
    if subject.pile is not None and subject.pile.resized:
        notes.warn(
            f"{subject.pile.resized} of {subject.n} images are of another size: made square and resized"
        )


def flags(metrics: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What nobody should overlook."""
    found = []
    copies = metrics.get("near_copies", {}).get("value", 0)
    if copies > COPIES:
        text = f"{copies:.0%} of the samples repeat a training image"
        if copies > 0.5:
            text += ": this generator replays what it was shown"
        found.append({"name": "near_copies", "value": copies, "text": text})
    leaked = metrics.get("leakage", {}).get("value", 0)
    if leaked > LEAKED:
        text = f"{leaked:.0%} of the samples are nearer to the source's pictures than to the target's"
        found.append({"name": "leakage", "value": leaked, "text": text})
    return found
