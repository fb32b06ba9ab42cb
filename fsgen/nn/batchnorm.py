"""Running statistics of batch normalisation that belong to the weights they are used with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fsgen.interfaces import Inputs


@torch.no_grad()
def refresh_stats(g: nn.Module, batches: Iterable[Inputs]) -> None:
    """Replace the running statistics of each batch normalisation in ``g`` by their means over ``batches``.

    What training leaves there is a mean over the last ten small batches, and of other weights: those before
    the last steps or, in a moving average of G, those of the live network. Averaged weights need statistics
    of their own (Izmailov et al. 2018, section 3.2).

    Args:
        g: called with each of ``batches``; its mode is as before afterwards.
        batches: inputs on the device of ``g``; a normalisation sees each batch by itself, as in training.
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


def add_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the batch counters that files from before PyTorch 0.4.1 lack; nobody reads them."""
    counters = {
        f"{key.removesuffix('running_mean')}num_batches_tracked": torch.zeros([], dtype=torch.int64)
        for key in state
        if key.endswith(".running_mean")
    }
    return counters | state
