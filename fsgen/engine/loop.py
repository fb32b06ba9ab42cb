"""The one training loop of fsgen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.engine.reals import Reals
from fsgen.methods.stack import Stack
from fsgen.types import Family, Play


@dataclass
class State:
    """All that changes while training; what a resumed run must get back exactly."""

    g: nn.Module
    d: nn.Module
    g_ema: nn.Module
    opt_g: torch.optim.Adam
    opt_d: torch.optim.Adam
    scalars: dict[str, Tensor] = field(default_factory=dict)  # running means of the family's regularisers
    step: int = 0  # steps done


def begin(g: nn.Module, d: nn.Module, recipe: Any) -> State:
    """The state before step 0. ``g`` and ``d`` are trained in place."""
    if next(g.parameters()).device.type == "cpu":
        for net in (g, d):  # a seventh less time a step at 64 px: convolutions reorder less
            net.to(memory_format=torch.channels_last)
    g.train(), d.train()
    average = copy.deepcopy(g).eval().requires_grad_(False)
    return State(g, d, average, _adam(g, recipe, recipe.path_every), _adam(d, recipe, recipe.r1_every))


def _adam(net: nn.Module, recipe: Any, every: int) -> torch.optim.Adam:
    # Lazy regularisation adds a step every `every` steps; StyleGAN2, appendix B, corrects Adam for it.
    ratio = every / (every + 1) if every else 1.0
    betas = (recipe.beta1**ratio, recipe.beta2**ratio)
    # foreach: a quarter of the time on the CPU too, where it is not the default. Not fused: on the CPU that
    # silently mixes up tensors whose memory layouts differ.
    return torch.optim.Adam(net.parameters(), lr=recipe.lr * ratio, betas=betas, foreach=True)


def train(
    state: State,
    *,
    family: Family,
    methods: Stack,
    reals: Reals,
    recipe: Any,
    steps: int,
    seed: int,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    after: Callable[[State, dict[str, Tensor]], bool] = lambda state, losses: False,
) -> None:
    """Train until ``steps`` are done or ``after`` (called after each step) returns True.

    Every draw comes from (seed, purpose, step), so starting at ``state.step`` gives what the uninterrupted
    run would have had.
    """
    g, d = state.g, state.d
    device = next(g.parameters()).device
    while state.step < steps:
        rng = partial(_generator, seed, state.step, device)
        view = partial(_view, methods, rng)
        losses: dict[str, Tensor] = {}

        # --- the critic: adversarial step, then its lazy regulariser as a step of its own
        g.requires_grad_(False), d.requires_grad_(True)
        inputs = g.draw(recipe.batch, rng("latents d"))
        shots = reals(recipe.batch, rng("shots"), inputs.y)
        play = Play(g, d, recipe, shots, inputs, view, rng, state.scalars, perceptual)
        fakes = family.fakes(g, play.inputs, recipe, rng("noise d"))
        losses |= _descend(state.opt_d, family.critic_loss(play, fakes))
        losses |= _descend(state.opt_d, family.regularise(play, "d", state.step))

        # --- the generator: the same, plus what the methods add
        g.requires_grad_(True), d.requires_grad_(False)
        play.inputs = g.draw(recipe.batch, rng("latents g"))
        fakes = family.fakes(g, play.inputs, recipe, rng("noise g"))
        losses |= _descend(state.opt_g, family.generator_loss(play, fakes) | methods.terms(g))
        losses |= _descend(state.opt_g, family.regularise(play, "g", state.step))

        state.step += 1
        _average(state, recipe)
        if after(state, {name: value.detach() for name, value in losses.items()}):
            return


def _generator(seed: int, step: int, device: torch.device, purpose: str) -> torch.Generator:
    return random.generator(seed, purpose, step, device=device)


def _view(methods: Stack, rng: Callable[[str], torch.Generator], images: Tensor, who: str) -> Tensor:
    return methods.view(images, who, rng)


def _descend(optimiser: torch.optim.Optimizer, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """One step down the sum of ``losses``, if there are any; hands them back."""
    if losses:
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimiser.step()
    return losses


@torch.no_grad()
def _average(state: State, recipe: Any) -> None:
    """Exponential moving average of G's parameters; buffers are copied (Karras et al. 2018, section 2)."""
    half_life = min(recipe.ema_half_life, recipe.ema_rampup * state.step)
    decay = 0.5 ** (1 / max(half_life, 1e-8))
    torch._foreach_lerp_(list(state.g_ema.parameters()), list(state.g.parameters()), 1 - decay)
    for ours, theirs in zip(state.g_ema.buffers(), state.g.buffers(), strict=True):
        ours.copy_(theirs)
