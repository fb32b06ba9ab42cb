"""Few-shot translation by a class code alone (FUNIT, Liu et al. 2019, section 3.3)."""

from __future__ import annotations

from fsgen.interfaces import NoOptions, TrainingFree, Trait


class ClassCode(TrainingFree[NoOptions]):
    """Translate images to the class given by the mean code of the shots."""

    name = "classcode"
    summary = "translate images to the class of the shots"
    paper = "Liu et al. 2019, Few-Shot Unsupervised Image-to-Image Translation, arXiv 1905.01723"
    licence = "CC BY-NC-SA 4.0"
    needs = frozenset({Trait.TRANSLATION})
    starts = "g_ema"
