"""The miner networks of MineGAN (Wang et al. 2020), as published for StyleGAN2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fsgen.nn.layers import EqualConv


def latent_miner(width: int, hidden: int) -> nn.Sequential:
    """[n, width] -> [n, width]: two linear layers, not equalised, so far from the identity at the start."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class ConstantMiner(nn.Module):
    """A new constant for a generator that starts from one: a learned code through 1x1 convolutions.

    Args:
        channels, side: of the constant.
        code: channels of the learned code.
        hidden: channels of the layers between code and constant.
    """

    def __init__(self, channels: int, side: int, code: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(code, side, side))
        layers = [EqualConv(inputs, outputs, 1) for inputs, outputs in pairwise([code, *hidden])]
        self.layers = nn.Sequential(*layers, EqualConv([code, *hidden][-1], channels, 1, bare=True))

    def forward(self, constant: Tensor) -> Tensor:
        """[channels, side, side] in place of ``constant``, which is not used."""
        return self.layers(self.code[None])[0]
