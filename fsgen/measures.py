"""The table of metrics: names, units and descriptions. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fsgen.errors import unknown_name


@dataclass(frozen=True)
class Measure:
    """One metric of a set of images."""

    name: str  # in JSON and on the command line
    title: str  # in tables
    style: Literal["number", "percent", "thousandth"]
    better: Literal["lower", "higher", ""]  # "": neither, it only describes
    space: str  # the network it is computed with: in ``weight_files.CATALOGUE``, or in ``WITHOUT_FILE``
    summary: str  # one line for the user
    of: Literal["pictures", "translations"] = "pictures"  # translations: of the protocol funit only


WITHOUT_FILE = {"discriminator", "classifier"}  # the source's, and one trained during the evaluation


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("fid", "FID", "number", "lower", "inception",
                "Frechet distance to the real images in Inception's features (Heusel et al. 2017)"),
        Measure("kid", "KID x 1000", "thousandth", "lower", "inception",
                "kernel distance to the real images, without FID's bias by set size (Binkowski et al. 2018)"),
        Measure("precision", "precision", "percent", "higher", "inception",
                "share of samples inside the real images' manifold (Kynkaanniemi et al. 2019)"),
        Measure("recall", "recall", "percent", "higher", "inception",
                "share of real images inside the samples' manifold (Kynkaanniemi et al. 2019)"),
        Measure("density", "density", "number", "higher", "inception",
                "mean number of real images' neighbourhoods around a sample, over k (Naeem et al. 2020)"),
        Measure("coverage", "coverage", "percent", "higher", "inception",
                "share of real images with a sample in their neighbourhood (Naeem et al. 2020)"),
        Measure("is", "Inception Score", "number", "higher", "inception",
                "confidence and diversity of predicted ImageNet classes (Salimans et al. 2016)"),
        Measure("clip_fid", "CLIP-FID", "number", "lower", "clip",
                "Frechet distance to the real images in CLIP ViT-B/32's features (Kynkaanniemi et al. 2023)"),
        Measure("fd_dinov2", "FD-DINOv2", "number", "lower", "dinov2",
                "Frechet distance to the real images in DINOv2 ViT-L/14's features (Stein et al. 2023)"),
        Measure("lpips", "LPIPS diversity", "number", "higher", "alexnet",
                "mean LPIPS between samples (Zhang et al. 2018)"),
        Measure("intra_lpips", "intra-LPIPS", "number", "higher", "vgg16",
                "mean LPIPS among the samples nearest to one training image (Ojha et al. 2021)"),
        Measure("dissimilarity", "LPIPS to real images", "number", "", "alexnet",
                "mean LPIPS between samples and real images; the source's shows the distance of the domains"),
        Measure("near_copies", "near copies", "percent", "lower", "discriminator",
                "share of samples that repeat a training image"),
        Measure("leakage", "leakage", "percent", "lower", "discriminator",
                "share of samples nearer to the source's samples than to the real images"),
        Measure("correspondence", "correspondence", "percent", "higher", "discriminator",
                "how often a sample is nearer to the source's sample of its own latent than of another "
                "(50% by chance)"),
        Measure("diversity", "diversity", "number", "higher", "discriminator",
                "mean distance between samples"),
        Measure("top1_all", "top-1 (all)", "percent", "higher", "classifier",
                "share of translations that a classifier of all classes, seen and unseen, assigns to their "
                "class (Liu et al. 2019)", "translations"),
        Measure("top5_all", "top-5 (all)", "percent", "higher", "classifier",
                "share with their class among this classifier's five likeliest", "translations"),
        Measure("top1_unseen", "top-1 (unseen)", "percent", "higher", "classifier",
                "as top-1 (all), by a classifier of the unseen classes alone", "translations"),
        Measure("top5_unseen", "top-5 (unseen)", "percent", "higher", "classifier",
                "as top-5 (all), by a classifier of the unseen classes alone", "translations"),
        Measure("dipd", "DIPD", "number", "lower", "vgg16",
                "distance of a translation to its content, whatever the class (Huang et al. 2018)",
                "translations"),
        Measure("is_all", "IS (all)", "number", "higher", "classifier",
                "Inception Score of translations by the classifier of all classes", "translations"),
        Measure("is_unseen", "IS (unseen)", "number", "higher", "classifier",
                "Inception Score of translations by the classifier of the unseen classes", "translations"),
        Measure("mfid", "mFID", "number", "lower", "inception",
                "mean over the unseen classes of the FID between translations and the class's images",
                "translations"),
    )
}  # fmt: skip


def get_measure(name: str) -> Measure:
    """Return the metric called ``name``.

    Raises:
        FsgenError: unknown name; the hint suggests the nearest known one.
    """
    if name not in MEASURES:
        raise unknown_name(f"there is no metric '{name}'", name, MEASURES)
    return MEASURES[name]


def format_value(name: str, value: float) -> str:
    """Format ``value`` for the user: ``4.7%``, ``61.3``, ``0.857``."""
    style = MEASURES[name].style
    if style == "percent":
        return f"{value:.1%}"
    if style == "thousandth":
        return f"{value * 1000:.2f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
