"""GAN losses and regularisers as pure functions of logits, images and latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def logistic_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))] with D = sigmoid(logit) (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def nonsaturating_g(fake_logits: Tensor) -> Tensor:
    """-E[log D(G(z))] (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def log_sigmoid(logits: Tensor) -> Tensor:
    """log D(x) per sample: [n, 1] -> [n]."""
    return -F.softplus(-logits).flatten()


def r1(logits: Tensor, images: Tensor) -> Tensor:
    """E[|grad_x D(x)|^2] on real images (Mescheder et al. 2018, equation 9), without gamma / 2.

    ``images`` must require grad and have produced ``logits``; the result is differentiable.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| per sample (StyleGAN2, equation 4), with y ~ N(0, I) / sqrt(H W): [n].

    Args:
        images: [n, C, H, W], generated from ``ws``.
        ws: [n, num_ws, w_dim], requiring grad; the squared norm is averaged over the num_ws layers.
        noise: standard normal, of the shape of ``images``.
    """
    height, width = images.shape[2:]
    (gradient,) = torch.autograd.grad((images * noise).sum() / (height * width) ** 0.5, ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def path_penalty(lengths: Tensor, mean: Tensor, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """E[(|J_w^T y| - a)^2] with the running mean a *after* this batch, and a, detached.

    As published, the gradient also flows through a.
    """
    a = mean + decay * (lengths.mean() - mean)
    return (lengths - a).square().mean(), a.detach()


def hinge(logits: Tensor, margin: Tensor | float = 1.0) -> Tensor:
    """E[max(0, margin - logit)] for real images (Lim & Ye 2017); pass negated logits for fakes."""
    return F.relu(margin - logits).mean()


def ewc_penalty(weights: Sequence[Tensor], start: Sequence[Tensor], importance: Sequence[Tensor]) -> Tensor:
    """sum_i F_i (theta_i - theta_S,i)^2 (Li et al. 2020, equation 4, less lambda) over tensors of any shape.

    Args:
        weights, start, importance: theta, theta_S and F, tensor by tensor. Gradients flow to ``weights``,
            once. Fastest if the three tensors have the same memory format.
    """
    return _EWCPenalty.apply(len(weights), *weights, *start, *importance)


class _EWCPenalty(torch.autograd.Function):
    """Use F (theta - theta_S) for value and gradient, tensor by tensor so it stays in the CPU's cache."""

    @staticmethod
    def forward(ctx: Any, n: int, *tensors: Tensor) -> Tensor:
        pulls, values = [], []
        for theta, start, importance in zip(tensors[:n], tensors[n : 2 * n], tensors[2 * n :], strict=True):
            difference = theta - start
            pull = importance * difference
            pulls.append(pull)
            values.append((pull * difference).sum())
        ctx.save_for_backward(*pulls)
        return torch.stack(values).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pulls, twice = ctx.saved_tensors, 2 * gradient
        return None, *(twice * pull for pull in pulls), *(2 * len(pulls) * [None])


def l1_distance(a: Tensor, b: Tensor) -> Tensor:
    """E|a - b| of two tensors of equal shape; gradients flow to ``a``, once.

    Reads memory less often than PyTorch's L1 loss, which matters for large feature maps.
    """
    return _L1Distance.apply(a, b)


class _L1Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.difference = a - b
        return torch.linalg.vector_norm(ctx.difference, ord=1) / ctx.difference.numel()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        difference, ctx.difference = ctx.difference, None
        return difference.sgn_().mul_(gradient / difference.numel()), None
