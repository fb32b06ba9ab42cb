"""What ``fsgen eval`` can measure: names, units, and what each figure says. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fsgen.errors import FsgenError, suggest


@dataclass(frozen=True)
class Measure:
    """One figure of a set of images."""

    name: str  # in JSON and on the command line
    title: str  # in tables
    style: Literal["number", "percent", "thousandth"]
    better: Literal["lower", "higher", ""]  # "": neither, it describes
    space: str  # whose features it is taken in: of metrics.weights, or one of ``OWN``
    summary: str  # what it says, for people
    of: Literal["pictures", "translations"] = "pictures"  # the latter by the protocol funit alone


WITHOUT_FILE = {"discriminator", "classifier"}  # the source's; one trained for the evaluation


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("fid", "FID", "number", "lower", "inception",
                "Frechet distance to the reals in Inception's features (Heusel et al. 2017)"),
        Measure("kid", "KID x 1000", "thousandth", "lower", "inception",
                "kernel distance to the reals, without FID's bias for small sets (Binkowski et al. 2018)"),
        Measure("precision", "precision", "percent", "higher", "inception",
                "share of samples inside the reals' manifold (Kynkaanniemi et al. 2019)"),
        Measure("recall", "recall", "percent", "higher", "inception",
                "share of reals inside the samples' manifold (Kynkaanniemi et al. 2019)"),
        Measure("density", "density", "number", "higher", "inception",
                "how many reals' neighbourhoods hold a sample, over k (Naeem et al. 2020)"),
        Measure("coverage", "coverage", "percent", "higher", "inception",
                "share of reals with a sample in their neighbourhood (Naeem et al. 2020)"),
        Measure("is", "Inception Score", "number", "higher", "inception",
                "how sure and how varied the classes of ImageNet are (Salimans et al. 2016)"),
        Measure("clip_fid", "CLIP-FID", "number", "lower", "clip",
                "Frechet distance to the reals in CLIP ViT-B/32's features (Kynkaanniemi et al. 2023)"),
        Measure("fd_dinov2", "FD-DINOv2", "number", "lower", "dinov2",
                "Frechet distance to the reals in DINOv2 ViT-L/14's features (Stein et al. 2023)"),
        Measure("lpips", "LPIPS diversity", "number", "higher", "alexnet",
                "mean LPIPS between samples (Zhang et al. 2018)"),
        Measure("intra_lpips", "intra-LPIPS", "number", "higher", "vgg16",
                "mean LPIPS among the samples nearest to one training image (Ojha et al. 2021)"),
        Measure("dissimilarity", "LPIPS to reals", "number", "", "alexnet",
                "mean LPIPS between samples and reals; the source's says how far the domains are apart"),
        Measure("near_copies", "near copies", "percent", "lower", "discriminator",
                "share of samples that repeat a training image"),
        Measure("leakage", "leakage", "percent", "lower", "discriminator",
                "share of samples nearer to the source's samples than to the reals"),
        Measure("correspondence", "correspondence", "percent", "higher", "discriminator",
                "how often a sample is nearer to the source's picture of its own latent than of another "
                "(50% by chance)"),
        Measure("diversity", "diversity", "number", "higher", "discriminator",
                "mean distance between samples"),
        Measure("top1_all", "top-1 (all)", "percent", "higher", "classifier",
                "share of translations that a classifier of all classes, seen and unseen, takes for their "
                "class (Liu et al. 2019)", "translations"),
        Measure("top5_all", "top-5 (all)", "percent", "higher", "classifier",
                "share with their class among the five that this classifier finds likeliest", "translations"),
        Measure("top1_unseen", "top-1 (unseen)", "percent", "higher", "classifier",
                "as top-1 (all), by a classifier of the unseen classes alone", "translations"),
        Measure("top5_unseen", "top-5 (unseen)", "percent", "higher", "classifier",
                "as top-5 (all), by a classifier of the unseen classes alone", "translations"),
        Measure("dipd", "DIPD", "number", "lower", "vgg16",
                "how far a translation is from its content, whatever the class (Huang et al. 2018)",
                "translations"),
        Measure("is_all", "IS (all)", "number", "higher", "classifier",
                "Inception Score of translations by the classifier of all classes", "translations"),
        Measure("is_unseen", "IS (unseen)", "number", "higher", "classifier",
                "Inception Score of translations by the classifier of the unseen classes", "translations"),
        Measure("mfid", "mFID", "number", "lower", "inception",
                "mean over the unseen classes of the FID between translations and the class's pictures",
                "translations"),
    )
}  # fmt: skip


def get_measure(name: str) -> Measure:
    """The measure called ``name``.

    Raises:
        FsgenError: unknown name, with the nearest known one.
    """
    if name not in MEASURES:
        raise FsgenError(f"there is no metric '{name}'", hint=suggest(name, list(MEASURES)))
    return MEASURES[name]


def format_value(name: str, value: float) -> str:
    """``value`` as people read it: ``4.7%``, ``61.3``, ``0.857``."""
    style = MEASURES[name].style
    if style == "percent":
        return f"{value:.1%}"
    if style == "thousandth":
        return f"{value * 1000:.2f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
