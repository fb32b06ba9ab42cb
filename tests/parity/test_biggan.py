"""BigGAN's and IC-GAN's networks and losses against the published ones.

A case may leave out the blocks of a network: then its outputs are those of the parts that are there.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from biggan_cases import FAMILY, Outputs, compared, computed, has_blocks, outputs
from cases import WEIGHTS, Case, case_at, cases, close, each, load_parts, skip_unused, stated
from sg2 import renamed
from torch import Tensor
from torch.nn import functional as F

from fsgen.families.biggan import convert, networks
from fsgen.families.biggan.layers import SNLayer
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Converted, Inputs, Spec

G_KINDS = ("biggan-g", "icgan-biggan-g", "icgan-biggan-g-cc")
D_KINDS = ("biggan-d", "icgan-biggan-d", "icgan-biggan-d-cc")


class Run:
    """What the cases of both networks have in common.

    Gradients are computed in float64: in float32 a value at the kink of a ReLU falls to either side, and with
    it a thousandth of the gradient, as the order of sums has it (with one thread, say, or with two).
    """

    net: torch.nn.Module
    names: dict[str, str]  # published key -> ours

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        self.case, self.dtype = case, dtype
        self.io = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.tensors().items()}
        self.names = renamed(case.tensors(WEIGHTS), convert.renamed)

    def labels(self, y: Tensor | None, classes: int) -> Tensor | None:
        return None if y is None else F.one_hot(y, classes).to(self.dtype)

    def published(self, key: str, values: dict[str, Tensor]) -> Tensor:
        """One of ``values`` by its published key, in the published shape."""
        ours = self.names[key]
        return values[ours].T if ours == "embed.weight" else values[ours]

    def module(self, key: str) -> str:
        """blocks.0.0.conv1 -> blocks.0.conv1"""
        return self.names[f"{key}.u0"].removesuffix(".u")

    @cached_property
    def sigmas(self) -> dict[str, Tensor]:
        """What each weight is divided by in the first pass, by our module's name."""
        spectral = {name: m for name, m in self.net.named_modules() if isinstance(m, SNLayer)}
        return {name: module.step()[1].detach() for name, module in spectral.items()}

    @cached_property
    def training(self) -> torch.nn.Module:
        """The network that makes the one pass in training, and is changed by it."""
        return copy.deepcopy(self.net).train()

    @cached_property
    def trained(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs of that pass, and what it leaves behind."""
        out = self.pass_in_training(self.training)
        return out, {key: value.clone() for key, value in self.training.state_dict().items()}

    def after(self, key: str) -> Tensor:
        if key.endswith(".sv0"):  # what the pass divided by
            return self.sigmas[self.module(key.removesuffix(".sv0"))]
        return self.published(key, self.trained[1])

    @cached_property
    def exact(self) -> Run:
        return type(self)(self.case, torch.float64)

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Of the case's loss, by our parameter's name."""
        parameters = dict(self.exact.training.named_parameters())
        found = torch.autograd.grad(self.exact.loss(), parameters.values(), retain_graph=True)
        return dict(zip(parameters, found, strict=True))


# ---- G ---------------------------------------------------------------------------------------------------


def spec_of_g(case: Case) -> Spec:
    """The spec of G as the case's config has it."""
    config, derived = case.info["config"], case.info["derived"]
    io = case.tensors()
    classes = config["n_classes"] if config.get("class_cond", "y" in io) else 0
    instances = config.get("instance_cond", "h" in io)
    spec = FAMILY.fresh(config["resolution"], classes=classes, width=config["G_ch"])
    spec |= {
        "z_dim": derived["dim_z_used"],
        "h_dim": io["h"].shape[1] if instances else 0,
        "g_embed_dim": config["shared_dim"] if classes else 0,
        "h_embed_dim": config["shared_dim_feat"] if instances else 0,
        "g_widths": [derived["in_channels"][0], *derived["out_channels"]],
        "g_attention": [int(name.split(".")[1]) for name in derived["attention_modules"]],
    }
    return spec if config.get("hier", True) else spec | {"hier": False}


class GeneratorRun(Run):
    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(case, dtype)
        self.converted: Converted | None = None  # of a case with the whole network
        if has_blocks(case):
            foreign = read_foreign(case.folder / WEIGHTS)
            self.converted = FAMILY.convert(replace(foreign, settings={"": case.info["config"]}))
            spec, state = self.converted.spec, self.converted.g_ema
        else:
            spec = spec_of_g(case)
            state = convert.drop_unused(convert.renamed(case.tensors(WEIGHTS)), spec)
        self.net = FAMILY.build(spec, discriminator=False).g
        load_parts(self.net, state)
        self.net.eval().to(dtype)
        y = self.labels(self.io.get("y"), self.net.c_dim)
        self.inputs = Inputs(z=self.io["z"], y=y, h=self.io.get("h"))

    @cached_property
    def seen(self) -> dict[str, Tensor]:
        """What each part of G makes in evaluation, by its published name, and the image under ``image``."""
        kept: dict[str, Tensor] = {}
        parts = {"linear": "linear"}
        parts |= {f"blocks.{i}": f"blocks.{i}.0" for i in range(len(self.net.blocks))}
        parts |= {f"attention.{i}": f"blocks.{i}.1" for i in self.net.attention}
        hooks = [
            self.net.get_submodule(ours).register_forward_hook(
                lambda module, args, out, name=name: kept.update({name: out})
            )
            for ours, name in parts.items()
        ]
        with torch.no_grad():
            kept["image"] = self.net(self.inputs)
        for hook in hooks:
            hook.remove()
        return kept

    @cached_property
    def condition(self) -> Tensor:
        return torch.cat(self.net.condition(self.inputs), dim=1)

    def interpolated(self) -> Tensor:
        """One z with soft labels whose embeddings are the case's."""
        wanted = self.io["eval.interp_embedding"]
        y = torch.linalg.lstsq(self.net.embed.weight, wanted.T).solution.T
        close(self.net.embed(y), wanted)
        return self.net(Inputs(z=self.io["z"][:1].expand(len(y), -1), y=y))

    def pass_in_training(self, net: torch.nn.Module) -> Tensor:
        return net(self.inputs)

    def loss(self) -> Tensor:
        text = self.case.info["tensors"].get("train loss", "")
        return (self.trained[0] - stated(text, r"- ([\d.]+)\)", 0.25)).square().mean()


G_OUTPUTS: Outputs = (
    (r"eval\.image", lambda run, m: run.seen["image"]),
    (r"eval\.act\.(.+)", lambda run, m: run.seen[m[1]]),
    (r"cond_embedding|eval\.class_embedding", lambda run, m: run.condition),
    (r"eval\.interp_image", lambda run, m: run.interpolated()),
    (r"train\.image", lambda run, m: run.trained[0]),
    (r"train\.after\.(.+)", lambda run, m: run.after(m[1])),
    (r"train\.grad\.(.+)", lambda run, m: run.published(m[1], run.gradients)),
)


@lru_cache(maxsize=1)  # the tests of one case follow one another
def generator_of(folder: Path) -> GeneratorRun:
    return GeneratorRun(case_at(folder))


@pytest.mark.parametrize("case, name", outputs(*G_KINDS))
def test_generator(case, name):
    compared(G_OUTPUTS, generator_of(case.folder), case, name)


@pytest.mark.parametrize("case", each(*G_KINDS))
def test_numbers_of_a_generator(case):
    """Loss, norms of gradients, singular values: what stands in case.json."""
    run = generator_of(case.folder)
    if "train_loss" in case.info:
        close(run.loss(), case.info["train_loss"])
    same_norms(run)
    for key, value in case.info.get("eval_sigma_per_SN_layer", {}).items():
        close(run.sigmas[run.module(key)], value)


@pytest.mark.parametrize("case", each(*G_KINDS))
def test_a_generators_architecture_is_inferred(case):
    """Without the case's settings as well, unless the tensors fit several conditions, and a note says so."""
    converted, expected = generator_of(case.folder).converted, spec_of_g(case)
    if converted is None:
        pytest.skip("the case leaves out the blocks")
    alone = FAMILY.convert(read_foreign(case.folder / WEIGHTS))
    ambiguous = any("the tensors also fit" in note for note in alone.notes)
    for spec in [converted.spec] if ambiguous else [converted.spec, alone.spec]:
        g = {key: value for key, value in spec.items() if not key.startswith("d_")}
        assert g == {key: value for key, value in expected.items() if not key.startswith("d_")}


# ---- D ---------------------------------------------------------------------------------------------------


def spec_of_d(case: Case) -> Spec:
    """The spec of D as the case's config has it."""
    config, derived = case.info["config"], case.info["derived"]
    io = case.names()
    classes = config.get("class_cond", any(name.startswith("y_") for name in io))
    instances = config.get("instance_cond", any(name.startswith("h_") for name in io))
    return {
        "channels": derived["in_channels"][0],
        "c_dim": config["n_classes"] if classes else 0,
        "h_dim": config["instance_sz"] if instances else 0,
        "d_widths": derived["out_channels"],
        "d_halves": derived["downsample"],
        "d_wide": config.get("D_wide", True),
        "d_attention": [int(name.split(".")[1]) for name in derived["attention_modules"]],
    }


class DiscriminatorRun(Run):
    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(case, dtype)
        self.net = networks.Discriminator(spec_of_d(case)).eval()
        load_parts(self.net, convert.renamed(case.tensors(WEIGHTS)))
        self.net.to(dtype)
        if not has_blocks(case):  # the head alone, of what the blocks give
            self.net.pooled = lambda pooled: pooled

    @cached_property
    def fake(self) -> Tensor:
        return self.io["x_fake"].clone().requires_grad_()

    def shown(self, which: str) -> Tensor:
        """The images; where the case leaves out the blocks, their features."""
        return self.io[f"x_{which}" if has_blocks(self.case) else f"eval.pooled_{which}"]

    def told(self, which: str) -> Inputs:
        y = self.labels(self.io.get(f"y_{which}"), self.net.c_dim)
        return Inputs(y=y, h=self.io.get(f"h_{which}"))

    def pass_in_training(self, net: torch.nn.Module) -> Tensor:
        told = [self.told(which) for which in ("fake", "real")]
        both = Inputs(**{
            name: torch.cat([getattr(part, name) for part in told])
            for name in ("y", "h") if getattr(told[0], name) is not None
        })  # fmt: skip
        return net(torch.cat([self.fake, self.io["x_real"]]), both)

    def logits(self, which: str) -> Tensor:
        fakes = len(self.fake)
        return self.trained[0][:fakes] if which == "fake" else self.trained[0][fakes:]

    def loss(self) -> Tensor:
        return FAMILY.loss_d(self.logits("real"), self.logits("fake"))

    def of_fakes(self) -> Tensor:
        return torch.autograd.grad(self.exact.loss(), self.exact.fake, retain_graph=True)[0]


D_OUTPUTS: Outputs = (
    (r"eval\.logits_(real|fake)", lambda run, m: run.net(run.shown(m[1]), run.told(m[1]))),
    (
        r"eval\.logits_real_images_with_fake_(?:labels|condition)",
        lambda run, m: run.net(run.shown("real"), run.told("fake")),
    ),
    (r"eval\.pooled_(real|fake)", lambda run, m: run.net.pooled(run.io[f"x_{m[1]}"])),
    (r"train\.logits_(real|fake)", lambda run, m: run.logits(m[1])),
    (r"train\.after\.(.+)", lambda run, m: run.after(m[1])),
    (r"train\.grad\.(.+)", lambda run, m: run.published(m[1], run.gradients)),
    (r"train\.grad_x_fake\d*", lambda run, m: run.of_fakes()),
)


@lru_cache(maxsize=1)
def discriminator_of(folder: Path) -> DiscriminatorRun:
    return DiscriminatorRun(case_at(folder))


@pytest.mark.parametrize("case, name", outputs(*D_KINDS))
def test_discriminator(case, name):
    compared(D_OUTPUTS, discriminator_of(case.folder), case, name)


D_LOSSES: Outputs = (
    (r"hinge_d_real", lambda run, m: FAMILY.loss_d(run.logits("real"), -BEYOND)),
    (r"hinge_d_fake", lambda run, m: FAMILY.loss_d(BEYOND, run.logits("fake"))),
    (r"hinge_g_on_same_fake_logits", lambda run, m: FAMILY.loss_g(run.logits("fake"))),
)
BEYOND = torch.full([1, 1], 2.0)  # a real's logit beyond the margin: it adds nothing to the loss


@pytest.mark.parametrize("case", each(*D_KINDS))
def test_numbers_of_a_discriminator(case):
    """Losses and norms of gradients: what stands in case.json."""
    run, losses = discriminator_of(case.folder), case.info.get("train_losses", {})
    for name, value in losses.items():
        close(computed(D_LOSSES, run, case, name), value)
    same_norms(run)
    if not losses and "train_grad_l2_norm" not in case.info:
        pytest.skip("the case has no numbers of training")


@pytest.mark.parametrize("case", each(*D_KINDS))
def test_a_discriminators_architecture_is_inferred(case):
    if not has_blocks(case):
        pytest.skip("the case leaves out the blocks")
    inferred, expected = convert.infer_d(convert.renamed(case.tensors(WEIGHTS))), spec_of_d(case)
    assert inferred == {key: expected[key] for key in inferred}


def same_norms(run: Run) -> None:
    """The norms of parameters' gradients; rounding noise where the reference's is."""
    for key, value in run.case.info.get("train_grad_l2_norm", {}).items():
        close(run.gradients[run.names[key]].norm(), value, grad=True)


@pytest.mark.parametrize("kinds, patterns", [(G_KINDS, G_OUTPUTS), (D_KINDS, D_OUTPUTS)])
def test_every_pattern_finds_a_tensor_of_some_case(kinds, patterns):
    skip_unused((pattern for pattern, _ in patterns), (n for case in cases(*kinds) for n in case.names()))
