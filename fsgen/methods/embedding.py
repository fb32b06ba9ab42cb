"""A class by its embedding alone: how a conditional source learns a new one and forgets nothing."""

from __future__ import annotations

from fsgen.interfaces import Family, Method, NetworkName, Spec


class Embedding(Method):
    """Of G only the columns of the classes shown are trained, all of D is; every other picture stays.

    The columns of other classes have no gradient, since no label of theirs is drawn.
    """

    name = "embedding"
    summary = "learn a class by its embedding; pictures of the others stay as they are"
    paper = "Mirza & Osindero 2014, Conditional Generative Adversarial Nets, arXiv 1411.1784 (the condition)"
    trained = "of G the embedding of the classes shown, all of D"
    needs = frozenset({"classes"})
    claims = frozenset({"which weights of G stay"})
    adapts = True
    starts = "g_ema"

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        return network == "d" or name in family.embeddings
