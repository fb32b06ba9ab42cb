"""Few-shot generation by conditioning alone: new instances (IC-GAN, Casanova et al. 2021)."""

from __future__ import annotations

from fsgen.interfaces import NoOptions, TrainingFree, Trait


class InstanceSwap(TrainingFree[NoOptions]):
    """Condition the source on the features of the shots."""

    name = "instances"
    summary = "condition the source on the features of the shots"
    paper = "Casanova et al. 2021, Instance-Conditioned GAN, arXiv 2109.05070"
    licence = "CC BY-NC 4.0, its BigGAN part MIT"
    needs = frozenset({Trait.INSTANCES})
    starts = "g_ema"
