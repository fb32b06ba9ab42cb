"""Families by their adversarial loss: logistic or hinge."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fsgen.interfaces import Family
from fsgen.interfaces.families import D, G, R
from fsgen.nn import losses


class LogisticFamily(Family[G, D, R]):
    """D gives log-odds; G is trained with the non-saturating loss (Goodfellow et al. 2014)."""

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.logistic_d(real_logits, fake_logits)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return losses.nonsaturating_g(fake_logits)

    def log_likelihood(self, logits: Tensor) -> Tensor:
        return losses.log_sigmoid(logits)


class HingeFamily(Family[G, D, R]):
    """D is trained with the hinge loss (Lim & Ye 2017), G maximises the mean logit."""

    margin: ClassVar[float] = 1.0

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.hinge(real_logits, self.margin) + losses.hinge(-fake_logits, self.margin)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def log_likelihood(self, logits: Tensor) -> Tensor:
        """The mean logit of each sample, [n, patches] -> [n], in place of log D(x).

        A discriminator trained with a hinge loss gives no probability. With its logits the Fisher information
        is the squared gradient of G's own loss.
        """
        return logits.flatten(1).mean(dim=1)
