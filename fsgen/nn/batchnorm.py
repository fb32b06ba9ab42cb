"""Recompute buffers for given weights after training: running statistics, singular vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fsgen import rng as random
from fsgen.interfaces import Draw, Inputs

POWER_ITERATIONS = 30
STATISTICS = (16, 16)  # batches and their size for the running statistics


@torch.no_grad()
def refresh_stats(g: nn.Module, batches: Iterable[Inputs]) -> None:
    """Replace the running statistics of each batch normalisation in ``g`` by their means over ``batches``.

    After training they are means over about ten small batches under earlier weights or, in a moving average
    of G, under the training weights. Averaged weights need their own (Izmailov et al. 2018, section 3.2).

    Args:
        g: called with each of ``batches``; its mode is restored afterwards.
        batches: inputs on the device of ``g``, each normalised by itself, as in training.
    """
    norms = [module for module in g.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    for inputs in batches:
        g(inputs)
    for norm, (training, momentum) in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.train(training)


class SpectralLayer(Protocol):
    """A layer whose weight is divided by an estimate of its largest singular value."""

    def iterate(self, times: int) -> None: ...


def refresh_buffers(g: nn.Module, spectral: type[SpectralLayer], draw: Draw) -> None:
    """Refresh the singular vectors of the ``spectral`` layers in ``g``, then its running statistics.

    Args:
        g: on any device.
        spectral: the class of its spectrally normalised layers.
        draw: (n, rng) -> n inputs of ``g``.
    """
    for module in g.modules():
        if isinstance(module, spectral):
            module.iterate(POWER_ITERATIONS)
    device, (count, size) = next(g.parameters()).device, STATISTICS
    refresh_stats(g, (draw(size, random.generator(0, "settle", i)).to(device) for i in range(count)))


def add_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the batch counters, unused but required, that files from before PyTorch 0.4.1 lack."""
    counters = {
        f"{key.removesuffix('running_mean')}num_batches_tracked": torch.zeros([], dtype=torch.int64)
        for key in state
        if key.endswith(".running_mean")
    }
    return counters | state
