"""The protocol of FUNIT (Liu et al. 2019, section 4): pictures redrawn as classes that were never seen.

The generator is shown K pictures of an unseen class and redraws contents, pictures of classes it knows, as of
that class. The same contents go to every class and K, in 8 bits like all pictures that are measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.data.image_output import to_uint8
from fsgen.errors import FsgenError
from fsgen.evaluation import extractors, image_sets
from fsgen.evaluation.accumulators import Album, thumbnails
from fsgen.evaluation.availability import Notes
from fsgen.evaluation.cautions import RELIABLE
from fsgen.evaluation.extractors import Networks
from fsgen.evaluation.funit import classifiers as judging
from fsgen.evaluation.funit.classifiers import JUDGES, TOP
from fsgen.evaluation.funit.splits import Classes, Split, keep_apart, open_classes
from fsgen.evaluation.funit.translation_scores import Eyes, Row
from fsgen.evaluation.request import Request
from fsgen.evaluation.result import Evaluation
from fsgen.evaluation.scores import Seen
from fsgen.interfaces import Inputs
from fsgen.io.checksums import hash_file
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler as pictures
from fsgen.sampling import translation as codes
from fsgen.sampling.conditioning import conditioning_of
from fsgen.sampling.sampler import Loaded

USAGE = "fsgen eval RUN --protocol funit --real UNSEEN --content SEEN, each with a sub-folder for each class"
SHOWN = 48  # translations for a page


def translated(
    path: str | Path, real: str | Path, content: str | Path | None, request: Request, notes: Notes, *,
    weights_dir: Path | None, download: bool, dry_run: bool, callbacks: Callbacks,
) -> Evaluation | dict[str, Any]:  # fmt: skip
    """``evaluate`` by this protocol: rows of each K, the largest first, of the contents themselves, of real
    pictures and of chance.

    Raises:
        FsgenError: a model that translates nothing, no contents, classes that are too few, too small or not
            unseen; a metric asked for by name that cannot be computed here.
    """
    began = time.perf_counter()
    if content is None:
        raise FsgenError("the protocol funit translates pictures, and was given none", hint=USAGE)
    model = _model(path)
    kept = request.protocol.kept
    seen = open_classes(content, "--content", model, request.fit, callbacks.say, least=2)
    unseen = open_classes(real, "--real", model, request.fit, callbacks.say, least=1 + kept)
    keep_apart(seen, unseen, model)
    split = Split.of(unseen, request.protocol.shots, kept, request.seed)
    chosen = random.generator(request.seed, "contents")
    wanted = request.samples or request.protocol.samples
    contents = seen.images.pixels[torch.randperm(len(seen.images), generator=chosen)[:wanted]]
    for name, n in (("all", len(seen) + len(unseen)), ("unseen", len(unseen))):
        if n <= TOP:
            why = f"of {n} classes each is among the first {TOP}"
            notes.leave_out((f"top{TOP}_{name}",), FsgenError(why, hint=f"give more than {TOP} classes"))
    files = extractors.locate(request.protocol, weights_dir, download, notes, callbacks)
    looking = extractors.build(files, request.protocol, model.spec["resolution"], request.device, notes)
    _beware(seen, unseen, split, wanted, request, notes)
    settings = _settings(request, model, seen, unseen, split, contents, looking)
    if dry_run:
        return {**settings, "metrics": notes.metrics, "protocol": request.protocol.name,
                "left_out": notes.left_out}  # fmt: skip
    names = [name for name in JUDGES if any(m.endswith(f"_{name}") for m in notes.metrics)]
    judges = judging.trained(names, seen, unseen, split, request, callbacks)
    loaded = pictures.ready(model, str(request.device))
    translator = Translator(loaded, unseen, split, contents, request.batch)
    eyes = Eyes.of(judges, looking, unseen, split, len(contents), request)
    rows = _rows(translator, eyes, notes, callbacks)
    for line in notes.lines():
        callbacks.say(line)
    return Evaluation(
        path=str(path), what=image_sets.model_described(model),
        real={"path": str(real), **image_sets.described(unseen.images)},
        content={"path": str(content), **image_sets.described(seen.images)}, shots=None, source=None,
        protocol={"name": request.protocol.name, "title": request.protocol.title,
                  "choices": request.protocol.choices()},
        settings=settings | {"classifiers": {name: judge.about() for name, judge in judges.items()}},
        near_copy=None, clusters=None, rows=rows, flags=[], left_out=notes.left_out, warnings=notes.warnings,
        seconds=round(time.perf_counter() - began, 1), seen=translator.shown(), training=None,
    )  # fmt: skip


# ---- what is asked for, and whether it makes sense -----------------------------------------------------


def _model(path: str | Path) -> Model:
    if image_sets.is_images(path):
        raise FsgenError(f"the protocol funit judges a model, and {path} is images", hint=USAGE)
    model = models.load(path)
    if conditioning_of(model).draws_alone:
        raise FsgenError(
            f"the family {model.family.name} translates no pictures, as the protocol funit has it",
            hint="leave --protocol and --content out",
        )
    return model


def _beware(
    seen: Classes, unseen: Classes, split: Split, wanted: int, request: Request, notes: Notes
) -> None:
    """What the figures may be misread for."""
    n, name = unseen.fewest
    if gone := [k for k in request.protocol.shots if k not in split.counts]:
        notes.warn(
            f"K = {', '.join(map(str, gone))} left out: '{name}' has {n} images, of which "
            f"{request.protocol.kept} are no shots"
        )
    if len(seen.images) < wanted:
        notes.warn(f"{wanted} contents are wanted, and --content holds {len(seen.images)}: all are taken")
    made, fewest = min(wanted, len(seen.images)), min(map(len, split.real_images))
    if "mfid" in notes.metrics and min(made, fewest) < RELIABLE:
        notes.warn(
            f"mFID with {made} translations and as few as {fewest} pictures a class is biased upwards: "
            "compare it among models that were judged alike"
        )
    for flag, classes in (("--real", unseen), ("--content", seen)):
        if skipped := len(classes.images.skipped):
            notes.warn(f"{skipped} files of {flag} could not be read")


def _settings(
    request: Request, model: Model, seen: Classes, unseen: Classes, split: Split, contents: Tensor,
    looking: Networks,
) -> dict[str, Any]:  # fmt: skip
    return {
        "samples": len(contents), "shots": split.counts, "seed": request.seed,
        "classes": {"seen": len(seen), "unseen": len(unseen)},
        "resolution": model.spec["resolution"], "fit": request.fit, "device": str(request.device),
        "weights": {p.name: {"sha256": hash_file(p), "space": s} for s, p in looking.files.items()},
    }  # fmt: skip


# ---- translations --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Translator:
    """Contents, and the shots of the classes that they are redrawn as."""

    loaded: Loaded
    unseen: Classes
    split: Split
    contents: Tensor  # uint8 [m, C, H, W]
    batch: int

    def code(self, label: int, k: int) -> Tensor:
        """[1, latent_dim]: what the generator makes of the first ``k`` shots of a class."""
        return codes.code_of(self.loaded.g, self.unseen.images.floats(self.split.shots[label][:k]))

    def translations(self, label: int, k: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the contents as a class by ``k`` shots, and as they are, uint8 [n, C, H, W] each."""
        code = self.code(label, k)
        for part in self.contents.split(self.batch):
            yield self.render(part, code.expand(len(part), -1)), part

    def render(self, contents: Tensor, code: Tensor) -> Tensor:
        """uint8 ``contents`` [n, C, H, W] by codes [n, latent_dim]."""
        inputs = Inputs(content=contents.float() / 127.5 - 1, h=code)
        return to_uint8(self.loaded.render(inputs.to(self.loaded.device)))

    def shown(self) -> dict[str, Seen]:
        """Some contents, each as the next class by the most shots, a shot of each, and real pictures."""
        contents = self.contents[:SHOWN]
        labels = [i % len(self.unseen) for i in range(len(contents))]
        made = [self.code(label, self.split.counts[0]) for label in range(len(self.unseen))]
        first = torch.stack([shots[0] for shots in self.split.shots])[labels]
        real_images = [self.split.real_images[i % len(self.unseen)] for i in range(SHOWN)]
        rows = torch.stack([some[i // len(self.unseen) % len(some)] for i, some in enumerate(real_images)])
        pixels = self.unseen.images.pixels
        albums = {
            "subject": self.render(contents, torch.cat([made[label] for label in labels])),
            "content": contents, "shot": pixels[first], "real": pixels[rows],
        }  # fmt: skip
        return {
            kind: Seen(len(images), {}, album=Album(len(images), [thumbnails(images)]))
            for kind, images in albums.items()
        }


def _rows(translator: Translator, eyes: Eyes, notes: Notes, callbacks: Callbacks) -> list[dict[str, Any]]:
    """K by K; then what the contents themselves, pictures of the classes and knowing nothing would score."""
    classes, contents, rows = range(len(translator.unseen)), translator.contents, []
    total = len(translator.split.counts) * len(classes)
    for k in translator.split.counts:
        row = Row(eyes)
        for label in classes:
            row.add(eyes.look(translator.translations(label, k)), label)
            callbacks.progress("translations", len(rows) * len(classes) + label + 1, total)
        rows.append((f"K = {k}", "subject", len(classes) * len(contents), row.figures(notes.metrics)))
    row, looked = Row(eyes), eyes.look((part, part) for part in contents.split(translator.batch))
    for label in classes:
        row.add(looked, label)
    rows.append(("contents", "content", len(contents), row.figures(notes.metrics)))
    real_images = next((len(judge.labels) for judge in eyes.judges.values()), 0)
    rows.append(("real", "real", real_images, eyes.real_images(notes.metrics)))
    rows.append(("chance", "chance", None, eyes.chances(notes.metrics)))
    return [
        {"name": name, "kind": kind, "n": n, "metrics": {key: one.plain() for key, one in figures.items()}}
        for name, kind, n, figures in rows if figures
    ]  # fmt: skip
