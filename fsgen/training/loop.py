"""The one training loop of fsgen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.interfaces import Family, Inputs, StepContext, TrainingState
from fsgen.methods.stack import Stack
from fsgen.sampling.latents import Draw
from fsgen.training.real_batches import RealBatches


def begin(
    family: Family, g: nn.Module, d: nn.Module, recipe: Any,
    trains: Callable[[str, str], bool] = lambda network, name: True,
) -> TrainingState:  # fmt: skip
    """The state before step 0. ``g`` and ``d`` are trained in place.

    Args:
        family, g, d: the networks, and what they are.
        recipe: the family's.
        trains: ("g" or "d", name of a parameter) -> whether it is trained. What is not is as in evaluation,
            so that statistics of frozen normalisations stay as well.
    """
    if next(g.parameters()).device.type == "cpu":
        for net in (g, d):  # a seventh less time a step at 64 px: convolutions reorder less
            net.to(memory_format=torch.channels_last)
    average = copy.deepcopy(g).eval().requires_grad_(False)
    free = {name: _freed(net, partial(trains, name)) for name, net in (("g", g), ("d", d))}
    opt_g, opt_d = (family.optimiser(list(free[name].values()), recipe, name) for name in ("g", "d"))
    return TrainingState(g, d, average, opt_g, opt_d, free)


def _freed(net: nn.Module, trains: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """The parameters of ``net`` that are trained; modules of which none is are left in evaluation mode."""
    free = {name: p for name, p in net.requires_grad_(False).named_parameters() if trains(name)}
    known = {id(p) for p in free.values()}

    def set_mode(module: nn.Module, training: bool) -> None:
        """A module without parameters, such as a normalisation without scales, is as the one it is in."""
        held = list(module.parameters())
        module.training = any(id(p) in known for p in held) if held else training
        for child in module.children():
            set_mode(child, module.training)

    set_mode(net, True)
    return free


def train(
    state: TrainingState,
    *,
    family: Family,
    methods: Stack,
    real_batches: RealBatches,
    recipe: Any,
    steps: int,
    seed: int,
    draw: Draw | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    after: Callable[[TrainingState, dict[str, Tensor]], bool] = lambda state, losses: False,
) -> None:
    """Train until ``steps`` are done or ``after`` (called after each step) returns True.

    Every draw comes from (seed, purpose, step), so starting at ``state.step`` gives what the uninterrupted
    run would have had. ``draw`` takes the place of G's own prior.
    """
    g, d = state.g, state.d
    data = partial(_fed, methods, g, draw or g.draw)  # the critic's batches; ``more``: all others
    more = partial(data, shown=False)
    device = next(g.parameters()).device
    if methods.at_rest:
        g.eval()
    while state.step < steps:
        rng = partial(_generator, seed, state.step, device)
        view = partial(_view, methods, rng)
        hold_d, hold_g = partial(methods.hold, "d", d), partial(methods.hold, "g", g)
        losses: dict[str, Tensor] = {}
        methods.before(state)

        # --- the critic: adversarial step, then its lazy regulariser as a step of its own
        _free(state, "d")
        inputs = data(recipe.batch, rng("latents d"))
        shots = real_batches(recipe.batch, rng("shots"), inputs)
        context = StepContext(
            g, methods.discriminator(d), recipe, shots, inputs, more, view, rng, state.scalars, perceptual,
            methods.judged,
        )  # fmt: skip
        if methods.adversarial:
            fakes = family.fakes(g, context.inputs, recipe, rng("noise d"))
            losses |= _descend(state.opt_d, family.discriminator_loss(context, fakes), hold_d)
            losses |= _descend(state.opt_d, family.regularise(context, "d", state.step), hold_d)

        # --- the generator: the same, plus what the methods add
        _free(state, "g")
        context.inputs = data(recipe.batch, rng("latents g"))
        if methods.adversarial:
            fakes = family.fakes(g, context.inputs, recipe, rng("noise g"))
            wanted = family.generator_loss(context, fakes)
            losses |= _descend(state.opt_g, wanted | methods.terms(context), hold_g)
            losses |= _descend(state.opt_g, family.regularise(context, "g", state.step), hold_g)
        else:
            context.real_images = real_batches(recipe.batch, rng("shots g"), context.inputs)
            losses |= _descend(state.opt_g, methods.objective(context) | methods.terms(context), hold_g)

        average(state.g_ema, state.g, decay_of(recipe, state.step))
        state.step += 1
        if after(state, {name: value.detach() for name, value in losses.items()} | methods.meters()):
            return


def _generator(seed: int, step: int, device: torch.device, purpose: str) -> torch.Generator:
    return random.generator(seed, purpose, step, device=device)


def _fed(
    methods: Stack, g: nn.Module, draw: Draw, n: int, rng: torch.Generator, shown: bool = True
) -> Inputs:
    return methods.draw(g, draw(n, rng), rng, shown)


def _view(methods: Stack, rng: Callable[[str], torch.Generator], images: Tensor, who: str) -> Tensor:
    return methods.view(images, who, rng)


def _free(state: TrainingState, player: str) -> None:
    """Gradients for what the next losses move, and for nothing else."""
    for name, parameters in state.free.items():
        for parameter in parameters.values():
            parameter.requires_grad_(name == player)


def _descend(
    optimiser: torch.optim.Optimizer, losses: dict[str, Tensor], hold: Callable[[], None]
) -> dict[str, Tensor]:
    """One step down the sum of ``losses``, if there are any; hands them back."""
    if losses:
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        hold()
        optimiser.step()
    return losses


def decay_of(recipe: Any, step: int) -> float:
    """What the average keeps of itself in a step that follows ``step`` others: 0.5^(1 / half-life).

    The half-life is in steps, whatever the batch, and ramps up with them as NVIDIA's does with images: the
    first step copies G. rosinality's code, and with it CDC's, AdAM's and RICK's, has no ramp-up.
    """
    half_life = min(recipe.ema_half_life, recipe.ema_rampup * step)
    return 0.5 ** (1 / max(half_life, 1e-8))


@torch.no_grad()
def average(g_ema: nn.Module, g: nn.Module, decay: float) -> None:
    """Exponential moving average of G's parameters (Karras et al. 2018, section 2); buffers are copied, as
    NVIDIA's are. In rosinality's code those of the average never change."""
    torch._foreach_lerp_(list(g_ema.parameters()), list(g.parameters()), 1 - decay)
    for ours, theirs in zip(g_ema.buffers(), g.buffers(), strict=True):
        ours.copy_(theirs)
