"""Small networks that find, in what a generator can already draw, what it should (MineGAN, Wang et al. 2020).

Both are as published for StyleGAN2.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fsgen.nn.layers import EqualConv

CODE = 8  # channels of the learned code at 4 px
HIDDEN = (32, 128)  # channels on the way to the constant


def latent_miner(width: int) -> nn.Sequential:
    """[n, width] -> [n, width]: two ordinary linear layers, so far from the identity at the start."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


class ConstantMiner(nn.Module):
    """A new constant for a generator that starts from one: a learned code through 1x1 convolutions."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(CODE, side, side))
        hidden = [EqualConv(before, after, 1) for before, after in pairwise((CODE, *HIDDEN))]
        self.layers = nn.Sequential(*hidden, EqualConv(HIDDEN[-1], channels, 1, bare=True))

    def forward(self, constant: Tensor) -> Tensor:
        """[channels, side, side] in place of ``constant``, which is not looked at."""
        return self.layers(self.code[None])[0]
