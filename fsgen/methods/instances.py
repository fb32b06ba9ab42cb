"""Few-shot generation by conditioning alone: the instances are swapped (IC-GAN, Casanova et al. 2021)."""

from __future__ import annotations

from fsgen.interfaces import Method


class Instances(Method):
    """Nothing is trained: the features of the images become what the model draws after."""

    name = "instances"
    summary = "draw after the features of the shots"
    paper = "Casanova et al. 2021, Instance-Conditioned GAN, arXiv 2109.05070"
    trained = "nothing"
    licence = "CC BY-NC 4.0, its BigGAN part MIT"
    needs = frozenset({"instances"})
    adapts = True
    conditions = True
    starts = "g_ema"
