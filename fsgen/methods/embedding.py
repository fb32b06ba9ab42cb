"""Learn the embedding of a class: a conditional source gains one and forgets nothing."""

from __future__ import annotations

from fsgen.interfaces import Claim, Family, Method, NetworkName, NoOptions, Spec, Trait


class Embedding(Method[NoOptions]):
    """Trains all of D, and of G the embeddings of the classes shown; images of other classes do not change.

    The columns of other classes have no gradient, since none of their labels is drawn.
    """

    name = "embedding"
    summary = "learn a class by its embedding; images of other classes do not change"
    paper = "Mirza & Osindero 2014, Conditional Generative Adversarial Nets, arXiv 1411.1784 (the condition)"
    trained = "of G the embedding of the classes shown, all of D"
    needs = frozenset({Trait.CLASSES})
    claims = frozenset({Claim.WEIGHTS_G})
    adapts = True
    starts = "g_ema"

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        return network == "d" or name in family.embeddings
