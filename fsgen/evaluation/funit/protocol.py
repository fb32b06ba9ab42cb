"""The protocol of FUNIT (Liu et al. 2019, section 4): translate images to classes unseen in training.

The generator gets K images of an unseen class and translates contents, images of the classes of its training,
to that class. All classes and K share the contents; translations are measured in 8 bits, like all images.
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
from fsgen.errors import Code, FsgenError
from fsgen.evaluation import image_sets, metric_networks
from fsgen.evaluation.accumulators import Collected, Thumbnails, thumbnails
from fsgen.evaluation.availability import Availability
from fsgen.evaluation.cautions import RELIABLE
from fsgen.evaluation.funit.classifiers import CLASSIFIERS, TOP, train_classifiers
from fsgen.evaluation.funit.splits import LabelledImages, Split, check_unseen, open_labelled
from fsgen.evaluation.funit.translation_scores import TranslationNetworks, TranslationScores
from fsgen.evaluation.metric_networks import MetricNetworks
from fsgen.evaluation.protocols import Request, Translations
from fsgen.evaluation.result import Evaluation
from fsgen.interfaces import Inputs
from fsgen.metrics.intervals import Estimate
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler
from fsgen.sampling import translation as codes
from fsgen.sampling.conditioning import conditioning_of
from fsgen.sampling.sampler import Loaded

USAGE = "fsgen eval RUN --protocol funit --real UNSEEN --content SEEN, each with one sub-folder per class"
SHOWN = 48  # translations for a page


def evaluate_translations(
    path: str | Path, real: str | Path, content: str | Path | None, request: Request, rules: Translations,
    metrics: Availability, *, weights_dir: Path | None, download: bool, dry_run: bool, callbacks: Callbacks,
) -> Evaluation | dict[str, Any]:  # fmt: skip
    """Evaluate a translator by this protocol.

    The rows: one for each number of shots, the largest first; the contents themselves; real images; chance.

    Raises:
        FsgenError: a model that does not translate, no contents, classes that are too few, too small or not
            unseen; a metric requested by name that cannot be computed here.
    """
    began = time.perf_counter()
    if content is None:
        raise FsgenError("the protocol funit needs --content, images to translate", where="--content",
                         hint=USAGE)  # fmt: skip
    model = _model(path)
    known = open_labelled(content, "--content", model, request.fit, callbacks.say, least=2)
    unseen = open_labelled(real, "--real", model, request.fit, callbacks.say, least=1 + rules.kept)
    check_unseen(known, unseen, model)
    split = Split.of(unseen, rules.shots, rules.kept, request.seed)
    order = torch.randperm(len(known.images), generator=random.generator(request.seed, "contents"))
    wanted = request.samples or rules.samples
    contents = known.images.pixels[order[:wanted]]
    for name, n in (("all", len(known) + len(unseen)), ("unseen", len(unseen))):
        if n <= TOP:
            why = f"top-{TOP} of {n} classes is always right"
            hint = f"give more than {TOP} classes"
            metrics.exclude((f"top{TOP}_{name}",), FsgenError(why, code=Code.TOO_FEW, where=n, hint=hint))
    files = metric_networks.locate_weights(rules, weights_dir, download, metrics, callbacks)
    networks = metric_networks.load_networks(files, rules, model.spec["resolution"], request.device, metrics)
    _warn(known, unseen, split, wanted, rules, metrics)
    settings = _settings(request, model, known, unseen, split, contents, networks)
    if dry_run:
        return {**settings, "metrics": metrics.metrics, "protocol": rules.name, "left_out": metrics.left_out}
    names = [name for name in CLASSIFIERS if any(m.endswith(f"_{name}") for m in metrics.metrics)]
    classifiers = train_classifiers(names, known, unseen, split, request, callbacks)
    translator = ContentTranslator(
        sampler.ready(model, str(request.device)), unseen, split, contents, request.batch
    )
    rows = _rows(
        translator, TranslationNetworks.of(classifiers, networks, unseen, split, len(contents), request),
        metrics.metrics, callbacks,
    )  # fmt: skip
    for line in metrics.lines():
        callbacks.say(line)
    return Evaluation(
        path=str(path), what=image_sets.describe_model(model),
        real={"path": str(real), **image_sets.describe_images(unseen.images)},
        content={"path": str(content), **image_sets.describe_images(known.images)}, shots=None, source=None,
        protocol=rules.about(),
        settings=settings | {"classifiers": {name: one.about() for name, one in classifiers.items()}},
        near_copy=None, clusters=None, rows=rows, flags=[], left_out=metrics.left_out,
        warnings=metrics.warnings, seconds=round(time.perf_counter() - began, 1),
        collected=translator.examples(), training=None,
    )  # fmt: skip


# ---- checks and warnings -------------------------------------------------------------------------------


def _model(path: str | Path) -> Model:
    if image_sets.is_images(path):
        raise FsgenError(f"the protocol funit evaluates a model, and {path} is images",
                         code=Code.INCOMPATIBLE, where=path, hint=USAGE)  # fmt: skip
    model = models.load_model(path)
    if conditioning_of(model).draws_alone:
        raise FsgenError(
            f"the protocol funit needs a model that translates, and the family {model.family.name} does not",
            code=Code.INCOMPATIBLE, where=path, hint="leave --protocol and --content out",
        )  # fmt: skip
    return model


def _warn(
    known: LabelledImages, unseen: LabelledImages, split: Split, wanted: int, rules: Translations,
    metrics: Availability,
) -> None:  # fmt: skip
    """Warn of values of K left out, few contents, bias of mFID, and skipped files."""
    n, name = unseen.smallest
    if gone := [str(k) for k in rules.shots if k not in split.counts]:
        metrics.warn(
            f"K = {', '.join(gone)} left out: '{name}' has {n} images, {rules.kept} of them no shots"
        )
    if len(known.images) < wanted:
        metrics.warn(f"--content holds {len(known.images)} of {wanted} contents: all are used")
    made, fewest = min(wanted, len(known.images)), min(map(len, split.real_images))
    if "mfid" in metrics.metrics and min(made, fewest) < RELIABLE:
        metrics.warn(
            f"mFID with {made} translations and as few as {fewest} images a class is biased upwards: "
            "compare it only among models evaluated alike"
        )
    for flag, images in (("--real", unseen.images), ("--content", known.images)):
        if images.skipped:
            metrics.warn(f"{len(images.skipped)} files of {flag} could not be read")


def _settings(
    request: Request, model: Model, known: LabelledImages, unseen: LabelledImages, split: Split,
    contents: Tensor, networks: MetricNetworks,
) -> dict[str, Any]:  # fmt: skip
    return {
        "samples": len(contents), "shots": split.counts, "seed": request.seed,
        "classes": {"seen": len(known), "unseen": len(unseen)},
        "resolution": model.spec["resolution"], "fit": request.fit, "device": str(request.device),
        "weights": networks.weights(),
    }  # fmt: skip


# ---- translations --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContentTranslator:
    """A generator with contents and the shots of the classes it translates them to."""

    loaded: Loaded
    unseen: LabelledImages
    split: Split
    contents: Tensor  # uint8 [m, C, H, W]
    batch: int

    def code(self, label: int, k: int) -> Tensor:
        """The class code of the first ``k`` shots of a class, [1, latent_dim]."""
        return codes.code_of(self.loaded.g, self.unseen.images.floats(self.split.shots[label][:k]))

    def translations(self, label: int, k: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of translations to a class by ``k`` shots, with their contents, uint8 [n, C, H, W] each."""
        code = self.code(label, k)
        for part in self.contents.split(self.batch):
            yield self.translate(part, code.expand(len(part), -1)), part

    def translate(self, contents: Tensor, code: Tensor) -> Tensor:
        """Translate uint8 ``contents`` [n, C, H, W] by codes [n, latent_dim]."""
        inputs = Inputs(content=contents.float() / 127.5 - 1, h=code)
        return to_uint8(self.loaded.render(inputs.to(self.loaded.device)))

    def examples(self) -> dict[str, Collected]:
        """Images for a page: contents, their translations to each class in turn, shots, real images."""
        contents = self.contents[:SHOWN]
        labels = [i % len(self.unseen) for i in range(len(contents))]
        made = [self.code(label, self.split.counts[0]) for label in range(len(self.unseen))]
        first = torch.stack([shots[0] for shots in self.split.shots])[labels]
        real_images = [self.split.real_images[i % len(self.unseen)] for i in range(SHOWN)]
        rows = torch.stack([some[i // len(self.unseen) % len(some)] for i, some in enumerate(real_images)])
        pixels = self.unseen.images.pixels
        examples = {
            "subject": self.translate(contents, torch.cat([made[label] for label in labels])),
            "content": contents, "shot": pixels[first], "real": pixels[rows],
        }  # fmt: skip
        return {
            kind: Collected(Thumbnails(len(images), [thumbnails(images)]), len(images))
            for kind, images in examples.items()
        }


def _rows(
    translator: ContentTranslator, networks: TranslationNetworks, names: list[str], callbacks: Callbacks
) -> list[dict[str, Any]]:
    """Scores for each K, then of the contents themselves, of real images and of guessing."""
    classes, contents = range(len(translator.unseen)), translator.contents
    rows: list[tuple[str, str, int | None, dict[str, Estimate]]] = []
    total = len(translator.split.counts) * len(classes)
    for k in translator.split.counts:
        scores = TranslationScores(networks)
        for label in classes:
            scores.add(networks.run(translator.translations(label, k)), label)
            callbacks.progress("translations", len(rows) * len(classes) + label + 1, total)
        rows.append((f"K = {k}", "subject", len(classes) * len(contents), scores.compute()))
    scores = TranslationScores(networks)
    outputs = networks.run((part, part) for part in contents.split(translator.batch))
    for label in classes:
        scores.add(outputs, label)
    rows.append(("contents", "content", len(contents), scores.compute()))
    real_images = next((len(one.labels) for one in networks.classifiers.values()), 0)
    rows.append(("real", "real", real_images, networks.score_real_images()))
    rows.append(("chance", "chance", None, networks.score_chance()))
    return [
        {"name": name, "kind": kind, "n": n,
         "metrics": {key: found[key].plain() for key in names if key in found}}
        for name, kind, n, found in rows if found.keys() & names
    ]  # fmt: skip
