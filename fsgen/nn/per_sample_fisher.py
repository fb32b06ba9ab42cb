"""The diagonal Fisher information of a generator's parameters: one estimator for all methods that need it.

F_i = E_z[(d/d theta_i log L(G_theta(z)))^2] (Li et al. 2020, equation 2; Kirkpatrick et al. 2017): the mean
of the *per-sample* squared gradients, on the stored (un-equalised) parameters. The square of a batch's mean
gradient, found in public code, is another quantity: it shrinks with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fsgen.interfaces import Inputs

Likelihood = Callable[[Tensor, Inputs, Any], Tensor]
"""(image [1, C, H, W], its inputs, the sample's own draw or None) -> the scalar whose gradient is squared."""

Score = Callable[[Callable[..., Tensor], Inputs, Any], Tensor]
"""The same of any network: (the network, one sample's inputs, its own draw or None) -> scalar."""


def diagonal(
    g: nn.Module, likelihood: Likelihood, batches: Iterable[tuple[Inputs, Tensor | None]]
) -> dict[str, Tensor]:
    """The diagonal by parameter name, vectorised over the samples of each batch.

    Every sample passes alone: a discriminator's minibatch spread sees a batch of one, as in the definition.

    Args:
        g: the generator at theta_S.
        likelihood: the proxy.
        batches: (inputs of n samples, [n, ...] draws or None); the size of a batch bounds the memory
            (n times the parameters), not the result.
    """
    return diagonal_of_network(g, lambda net, inputs, draw: likelihood(net(inputs), inputs, draw), batches)


def diagonal_of_network(
    net: nn.Module, score: Score, batches: Iterable[tuple[Inputs, Tensor | None]]
) -> dict[str, Tensor]:
    """``diagonal`` of the parameters of any network, of the scalar ``score`` of each sample."""
    params = {name: p.detach() for name, p in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def scored(params: dict[str, Tensor], parts: dict[str, Tensor], draw: Tensor | None) -> Tensor:
        inputs = Inputs(**{name: part[None] for name, part in parts.items()})
        return score(lambda *args: functional_call(net, (params, buffers), args), inputs, draw)

    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for inputs, draws in batches:
        axes = (None, 0, None if draws is None else 0)
        gradients = vmap(grad(scored), in_dims=axes)(params, inputs.parts(), draws)
        for name, gradient in gradients.items():
            total[name] += gradient.detach().square().sum(dim=0)
        count += len(inputs.z)
    return {name: value / count for name, value in total.items()}


def diagonal_by_loop(
    g: nn.Module, likelihood: Likelihood, batches: Iterable[tuple[Inputs, Tensor | None]]
) -> dict[str, Tensor]:
    """The same, one backward pass a sample: the definition spelled out, for the tests."""
    params = dict(g.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for inputs, draws in batches:
        for i in range(len(inputs.z)):
            one = inputs[i : i + 1]
            value = likelihood(g(one), one, None if draws is None else draws[i])
            gradients = torch.autograd.grad(value, list(params.values()), allow_unused=True)
            for name, gradient in zip(params, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.square()
            count += 1
    return {name: value / count for name, value in total.items()}
