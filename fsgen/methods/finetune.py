"""Plain fine-tuning (Wang et al. 2018, "Transferring GANs"): the reference row of every comparison."""

from __future__ import annotations

from fsgen.interfaces import Method


class Finetune(Method):
    """Trains everything, adds nothing."""

    name = "finetune"
    summary = "go on training on the shots; no regulariser"
    paper = "Wang et al. 2018, Transferring GANs, arXiv 1805.01677"
