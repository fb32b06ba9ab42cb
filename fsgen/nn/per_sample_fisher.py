"""Estimate the diagonal Fisher information of a network's parameters.

F_i = E_z[(d/d theta_i log L(G_theta(z)))^2] (Li et al. 2020, equation 2; Kirkpatrick et al. 2017): the mean
of *per-sample* squared gradients, on the stored (un-equalised) parameters. The squared mean gradient of a
batch, found in public code, is a different quantity that shrinks with the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fsgen.interfaces import Generator, Inputs, Module

Likelihood = Callable[[Tensor, Inputs, Any], Tensor]
"""(image [1, C, H, W], its inputs, the sample's draw or None) -> scalar whose gradient is squared."""

Score = Callable[[Callable[..., Tensor], Inputs, Any], Tensor]
"""The same for any network: (network, inputs of one sample, its draw or None) -> scalar."""


def diagonal(
    g: Generator, likelihood: Likelihood, batches: Iterable[tuple[Inputs, Tensor | None]]
) -> dict[str, Tensor]:
    """Estimate the diagonal by parameter name, vectorised over the samples of each batch.

    Each sample is evaluated alone: a discriminator's minibatch statistics are of one image, as in the
    definition.

    Args:
        g: the generator at theta_S.
        likelihood: the proxy.
        batches: (inputs of n samples, [n, ...] draws or None); n affects the memory (n times the
            parameters), not the result.
    """
    return diagonal_of_network(g, lambda net, inputs, draw: likelihood(net(inputs), inputs, draw), batches)


def diagonal_of_network(
    net: Module, score: Score, batches: Iterable[tuple[Inputs, Tensor | None]]
) -> dict[str, Tensor]:
    """``diagonal`` for any network and a scalar ``score`` of each sample."""
    params = {name: p.detach() for name, p in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def scored(params: dict[str, Tensor], parts: dict[str, Tensor], draw: Tensor | None) -> Tensor:
        inputs = Inputs(**{name: part[None] for name, part in parts.items()})
        return score(
            lambda *args: functional_call(cast(nn.Module, net), (params, buffers), args), inputs, draw
        )

    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for inputs, draws in batches:
        axes = (None, 0, None if draws is None else 0)
        gradients = vmap(grad(scored), in_dims=axes)(params, inputs.parts(), draws)
        for name, gradient in gradients.items():
            total[name] += gradient.detach().square().sum(dim=0)
        count += len(inputs)
    return {name: value / count for name, value in total.items()}


def diagonal_by_loop(
    g: Generator, likelihood: Likelihood, batches: Iterable[tuple[Inputs, Tensor | None]]
) -> dict[str, Tensor]:
    """Reference for ``diagonal``: one backward pass per sample."""
    params = dict(g.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for inputs, draws in batches:
        for i in range(len(inputs)):
            one = inputs[i : i + 1]
            value = likelihood(g(one), one, None if draws is None else draws[i])
            gradients = torch.autograd.grad(value, list(params.values()), allow_unused=True)
            for name, gradient in zip(params, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.square()
            count += 1
    return {name: value / count for name, value in total.items()}
