"""The one training loop of fsgen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.interfaces import (
    Discriminator,
    Draw,
    Family,
    Generator,
    ImageKind,
    Inputs,
    Module,
    NetworkName,
    StepContext,
    TrainingRecipe,
    TrainingState,
)
from fsgen.methods.stack import Stack
from fsgen.training.batches import RealBatches

NETWORKS: tuple[NetworkName, NetworkName] = ("g", "d")


def begin(
    family: Family, g: Generator, d: Discriminator, recipe: TrainingRecipe,
    trains: Callable[[NetworkName, str], bool] = lambda network, name: True,
) -> TrainingState:  # fmt: skip
    """The state before step 0. ``g`` and ``d`` are trained in place.

    Args:
        family, g, d: the networks and their family.
        recipe: the family's.
        trains: (network, parameter name) -> whether it is trained. Frozen modules are in evaluation mode, so
            that statistics of their normalisations do not change either.
    """
    if next(g.parameters()).device.type == "cpu":
        for net in (g, d):  # a seventh less time a step at 64 px: convolutions reorder less
            net.to(memory_format=torch.channels_last)
    g_ema = copy.deepcopy(g).eval().requires_grad_(False)
    trained: dict[NetworkName, dict[str, nn.Parameter]] = {
        name: _freeze_others(net, partial(trains, name)) for name, net in zip(NETWORKS, (g, d), strict=True)
    }
    opt_g, opt_d = (family.optimiser(list(trained[name].values()), recipe, name) for name in NETWORKS)
    return TrainingState(g, d, g_ema, opt_g, opt_d, trained)


def _freeze_others(net: Module, trains: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """The trained parameters of ``net``; modules without any are left in evaluation mode."""
    trained = {name: p for name, p in net.requires_grad_(False).named_parameters() if trains(name)}
    known = {id(p) for p in trained.values()}

    def set_mode(module: Module, training: bool) -> None:
        """A module without parameters, such as a normalisation without scales, takes its parent's mode."""
        own = list(module.parameters())
        module.training = any(id(p) in known for p in own) if own else training
        for child in module.children():
            set_mode(child, module.training)

    set_mode(net, True)
    return trained


def train_steps(
    state: TrainingState,
    *,
    family: Family,
    methods: Stack,
    real_batches: RealBatches,
    recipe: TrainingRecipe,
    steps: int,
    seed: int,
    draw: Draw | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    after: Callable[[TrainingState, dict[str, Tensor]], bool] = lambda state, losses: False,
) -> None:
    """Train until ``steps`` are done or ``after`` (called after each step) returns True.

    Every draw comes from (seed, purpose, step), so starting at ``state.step`` gives what the uninterrupted
    run would have had. ``draw`` replaces G's own prior.
    """
    g, d = state.g, state.d
    draw_inputs = partial(_draw_inputs, methods, g, draw or g.draw)  # inputs whose images D sees
    draw_more = partial(draw_inputs, shown=False)  # inputs for regularisers and loss terms
    device = next(g.parameters()).device
    if methods.frozen_statistics:
        g.eval()
    while state.step < steps:
        rng = partial(_generator, seed, state.step, device)
        mask_d, mask_g = partial(methods.mask_gradients, "d", d), partial(methods.mask_gradients, "g", g)
        losses: dict[str, Tensor] = {}
        methods.before_step(state)

        # --- the discriminator: adversarial step, then its lazy regulariser as a step of its own
        _require_gradients(state, "d")
        inputs = draw_inputs(recipe.batch, rng("latents d"))
        real_images = real_batches(recipe.batch, rng("shots"), inputs)
        context = StepContext(
            g, methods.discriminator(d), recipe, real_images, inputs, draw_more,
            partial(_augment, methods, rng), rng, state.scalars, perceptual,
        )  # fmt: skip
        if methods.adversarial:
            fakes = family.fakes(g, context.inputs, recipe, rng("noise d"))
            losses |= _descend(state.opt_d, family.discriminator_loss(context, fakes), mask_d)
            losses |= _descend(state.opt_d, family.regularise(context, "d", state.step), mask_d)
        state.real_logits = context.real_logits

        # --- the generator: the same, plus the loss terms of the methods
        _require_gradients(state, "g")
        context.inputs = draw_inputs(recipe.batch, rng("latents g"))
        if methods.adversarial:
            fakes = family.fakes(g, context.inputs, recipe, rng("noise g"))
            adversarial = family.generator_loss(context, fakes)
            losses |= _descend(state.opt_g, adversarial | methods.loss_terms(context), mask_g)
            losses |= _descend(state.opt_g, family.regularise(context, "g", state.step), mask_g)
        else:
            context.real_images = real_batches(recipe.batch, rng("shots g"), context.inputs)
            losses |= _descend(state.opt_g, methods.loss_terms(context), mask_g)

        update_average(state.g_ema, state.g, ema_decay(recipe, state.step))
        state.step += 1
        losses = {name: value.detach() for name, value in losses.items()} | methods.after_step(state)
        if after(state, losses):
            return


def _generator(seed: int, step: int, device: torch.device, purpose: str) -> torch.Generator:
    return random.generator(seed, purpose, step, device=device)


def _draw_inputs(
    methods: Stack, g: Generator, draw: Draw, n: int, rng: torch.Generator, shown: bool = True
) -> Inputs:
    return methods.transform_inputs(draw(n, rng), g, rng, shown)


def _augment(
    methods: Stack, rng: Callable[[str], torch.Generator], images: Tensor, kind: ImageKind
) -> Tensor:
    return methods.augment(images, kind, rng)


def _require_gradients(state: TrainingState, network: NetworkName) -> None:
    """Let gradients reach the trained parameters of one network only."""
    for name, parameters in state.trained.items():
        for parameter in parameters.values():
            parameter.requires_grad_(name == network)


def _descend(
    optimiser: torch.optim.Optimizer, losses: dict[str, Tensor], mask_gradients: Callable[[], None]
) -> dict[str, Tensor]:
    """Take one step down the sum of ``losses``, if there are any and a parameter is trained; return them."""
    if losses and (total := _total(losses.values())).requires_grad:
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        mask_gradients()
        optimiser.step()
    return losses


def _total(losses: Iterable[Tensor]) -> Tensor:
    first, *others = losses
    return sum(others, first)


def ema_decay(recipe: TrainingRecipe, step: int) -> float:
    """The decay of the moving average in a step that follows ``step`` others: 0.5^(1 / half-life).

    The half-life is in steps, whatever the batch, and ramps up with them as NVIDIA's does with images: the
    first step copies G. rosinality's code, and with it CDC's, AdAM's and RICK's, has no ramp-up.
    """
    half_life = min(recipe.ema_half_life, recipe.ema_rampup * step)
    return 0.5 ** (1 / max(half_life, 1e-8))


@torch.no_grad()
def update_average(g_ema: Module, g: Module, decay: float) -> None:
    """Exponential moving average of G's parameters (Karras et al. 2018, section 2). Buffers are copied, as
    NVIDIA's are; in rosinality's code those of the average never change."""
    torch._foreach_lerp_(list(g_ema.parameters()), list(g.parameters()), 1 - decay)
    for ours, theirs in zip(g_ema.buffers(), g.buffers(), strict=True):
        ours.copy_(theirs)
