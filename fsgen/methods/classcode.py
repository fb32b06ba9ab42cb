"""Few-shot translation by a class code alone (FUNIT, Liu et al. 2019, section 3.3)."""

from __future__ import annotations

from fsgen.interfaces import Method


class ClassCode(Method):
    """Nothing is trained: contents are drawn as the class that the images' mean code stands for."""

    name = "classcode"
    summary = "translate pictures to the class of the shots"
    paper = "Liu et al. 2019, Few-Shot Unsupervised Image-to-Image Translation, arXiv 1905.01723"
    trained = "nothing"
    licence = "CC BY-NC-SA 4.0"
    needs = frozenset({"translation"})
    adapts = True
    conditions = True
    starts = "g_ema"
