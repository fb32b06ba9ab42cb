"""Plain fine-tuning (Wang et al. 2018, "Transferring GANs"): the reference row of every comparison."""

from __future__ import annotations

from fsgen.interfaces import Method, NoOptions


class Finetune(Method[NoOptions]):
    """Trains everything, adds nothing."""

    name = "finetune"
    summary = "continue training on the shots; no regulariser"
    paper = "Wang et al. 2018, Transferring GANs, arXiv 1805.01677"
