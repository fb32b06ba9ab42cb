"""BigGAN's and IC-GAN's networks, losses, checkpoint folders and neighbours against the published ones."""

from __future__ import annotations

import copy
import re
import tarfile
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, cases, close, each, skipped
from sg2 import crop, renamed
from torch import Tensor
from torch.nn import functional as F

from fsgen.data import neighbours
from fsgen.families.biggan import convert, networks
from fsgen.families.biggan.family import BigGAN
from fsgen.families.biggan.layers import Spectral
from fsgen.importers.archives import read_archive
from fsgen.importers.pickles import read_foreign
from fsgen.interfaces import Inputs

FAMILY = BigGAN()
WEIGHTS = "weights.safetensors"
G_KINDS = ("biggan-g", "icgan-biggan-g", "icgan-biggan-g-cc")
D_KINDS = ("biggan-d", "icgan-biggan-d", "icgan-biggan-d-cc")
GIVEN = re.compile(r"z|[hyx](_real|_fake)?|eval\.interp_embedding|features_raw|labels")


def outputs(*kinds: str) -> list[Any]:
    """For ``parametrize("case, name", ...)``: every tensor of the cases that is not an input."""
    found = [
        pytest.param(case, name, id=f"{case.label}-{name}")
        for case in cases(*kinds)
        for name in case.names()
        if not GIVEN.fullmatch(name)
    ]
    return found or [skipped(kinds, values=2)]


def compared(
    outputs: tuple[tuple[str, Callable[[Any, re.Match], Tensor]], ...], run: Any, case: Case, name: str
) -> None:
    """One tensor of a case; one that no pattern knows fails."""
    for pattern, compute in outputs:
        if match := re.fullmatch(pattern, name):
            ours, reference = compute(run, match), run.io[name]
            atol = None if name.startswith("train.") else case.info.get("suggested_atol")
            close(crop(ours, reference), reference, grad=".grad" in name, atol=atol)
            return
    pytest.fail(f"{case.label} has {name}, which no test compares")


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
        spectral = {name: m for name, m in self.net.named_modules() if isinstance(m, Spectral)}
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


class Maker(Run):
    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(case, dtype)
        self.converted = FAMILY.convert(read_foreign(case.folder / WEIGHTS))
        self.net = FAMILY.build(self.converted.spec, discriminator=False).g
        self.net.load_state_dict(self.converted.g_ema)
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
        return (self.trained[0] - 0.25).square().mean()


MADE: tuple[tuple[str, Callable[[Maker, re.Match], Tensor]], ...] = (
    (r"eval\.image", lambda run, m: run.seen["image"]),
    (r"eval\.act\.(.+)", lambda run, m: run.seen[m[1]]),
    (r"cond_embedding|eval\.class_embedding", lambda run, m: run.condition),
    (r"eval\.interp_image", lambda run, m: run.interpolated()),
    (r"train\.image", lambda run, m: run.trained[0]),
    (r"train\.after\.(.+)", lambda run, m: run.after(m[1])),
    (r"train\.grad\.(.+)", lambda run, m: run.published(m[1], run.gradients)),
)


@lru_cache(maxsize=1)  # the tests of one case follow one another
def maker_of(folder: Path) -> Maker:
    return Maker(next(case for case in cases(*G_KINDS) if case.folder == folder))


@pytest.mark.parametrize("case, name", outputs(*G_KINDS))
def test_generator(case, name):
    compared(MADE, maker_of(case.folder), case, name)


@pytest.mark.parametrize("case", each(*G_KINDS))
def test_figures_of_a_generator(case):
    """Loss, norms of all gradients, singular values: what stands in case.json."""
    run = maker_of(case.folder)
    close(run.loss(), case.info["train_loss"])
    norms(run)
    for key, value in case.info.get("eval_sigma_per_SN_layer", {}).items():
        close(run.sigmas[run.module(key)], value)


@pytest.mark.parametrize("case", each(*G_KINDS))
def test_a_generators_architecture_is_inferred(case):
    config, spec = case.info["config"], maker_of(case.folder).converted.spec
    derived = case.info["derived"]
    classes, instances = config.get("class_cond", True), config.get("instance_cond", False)
    assert (spec["resolution"], spec["z_dim"]) == (config["resolution"], derived["dim_z_used"])
    assert spec["g_widths"] == [derived["in_channels"][0], *derived["out_channels"]]
    assert spec["g_attention"] == [int(name.split(".")[1]) for name in derived["attention_modules"]]
    assert spec["c_dim"] == (config["n_classes"] if classes else 0)
    assert spec["g_embed_dim"] == (config["shared_dim"] if classes else 0)
    assert spec["h_embed_dim"] == (config["shared_dim_feat"] if instances else 0)
    assert bool(spec["h_dim"]) == instances


# ---- D ---------------------------------------------------------------------------------------------------


class Judge(Run):
    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(case, dtype)
        state = convert.renamed(case.tensors(WEIGHTS))
        self.spec = convert.infer_d(state) | {
            "channels": state["blocks.0.conv1.weight"].shape[1],
            "c_dim": state["embed.weight"].shape[1] if "embed.weight" in state else 0,
            "h_dim": state["embed_h.weight"].shape[1] if "embed_h.weight" in state else 0,
        }
        self.net = networks.Discriminator(self.spec).eval()
        self.net.load_state_dict(state)
        self.net.to(dtype)
        self.fake = self.io["x_fake"].clone().requires_grad_()

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


JUDGED: tuple[tuple[str, Callable[[Judge, re.Match], Tensor]], ...] = (
    (r"eval\.logits_(real|fake)", lambda run, m: run.net(run.io[f"x_{m[1]}"], run.told(m[1]))),
    (
        r"eval\.logits_real_images_with_fake_(?:labels|condition)",
        lambda run, m: run.net(run.io["x_real"], run.told("fake")),
    ),
    (r"eval\.pooled_(real|fake)", lambda run, m: run.net.pooled(run.io[f"x_{m[1]}"])),
    (r"train\.logits_(real|fake)", lambda run, m: run.logits(m[1])),
    (r"train\.after\.(.+)", lambda run, m: run.after(m[1])),
    (r"train\.grad\.(.+)", lambda run, m: run.published(m[1], run.gradients)),
    (r"train\.grad_x_fake0", lambda run, m: run.of_fakes()),
)


@lru_cache(maxsize=1)
def judge_of(folder: Path) -> Judge:
    return Judge(next(case for case in cases(*D_KINDS) if case.folder == folder))


@pytest.mark.parametrize("case, name", outputs(*D_KINDS))
def test_discriminator(case, name):
    compared(JUDGED, judge_of(case.folder), case, name)


@pytest.mark.parametrize("case", each(*D_KINDS))
def test_figures_of_a_discriminator(case):
    run = judge_of(case.folder)
    said = dict(case.info["train_losses"])
    nothing = torch.full([1, 1], 2.0)  # beyond the margin: no loss of its own
    close(FAMILY.loss_d(run.logits("real"), -nothing), said.pop("hinge_d_real"))
    close(FAMILY.loss_d(nothing, run.logits("fake")), said.pop("hinge_d_fake"))
    close(FAMILY.loss_g(run.logits("fake")), said.pop("hinge_g_on_same_fake_logits"))
    assert not said, f"{case.label} has losses that no test compares"
    norms(run)


@pytest.mark.parametrize("case", each(*D_KINDS))
def test_a_discriminators_architecture_is_inferred(case):
    config, derived, spec = case.info["config"], case.info["derived"], judge_of(case.folder).spec
    assert spec["d_widths"] == derived["out_channels"] and spec["d_halves"] == derived["downsample"]
    assert spec["d_attention"] == [int(name.split(".")[1]) for name in derived["attention_modules"]]
    assert spec["d_wide"] == config["D_wide"]
    assert spec["c_dim"] == (config["n_classes"] if config.get("class_cond", True) else 0)
    assert spec["h_dim"] == (config["instance_sz"] if config.get("instance_cond", False) else 0)


def norms(run: Run) -> None:
    """The norms of all parameters' gradients; rounding noise where the reference's is."""
    said = run.case.info["train_grad_l2_norm"]
    assert {run.names[key] for key in said} == run.gradients.keys()
    for key, value in said.items():
        close(run.gradients[run.names[key]].norm(), value, grad=True)


# ---- checkpoint folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case, name", outputs("icgan-ckpt"))
def test_pictures_of_a_checkpoint(case, name):
    assert name == "eval.image", f"{case.label} has {name}, which no test compares"
    converted = FAMILY.convert(read_archive(case.folder / case.info["folder"]))
    nets, io = FAMILY.build(converted.spec), case.tensors()
    nets.g.load_state_dict(converted.g_ema if converted.g_ema is not None else converted.g)
    y = F.one_hot(io["y"], nets.g.c_dim).float() if "y" in io else None
    with torch.no_grad():
        image = nets.g.eval()(Inputs(z=io["z"], y=y, h=io.get("h")))
    close(image, io[name], atol=case.info["suggested_atol"])


@pytest.mark.parametrize("case", each("icgan-ckpt"))
def test_all_networks_of_a_checkpoint_are_read(case):
    folder, config = case.folder / case.info["folder"], case.info["config"]
    foreign = read_archive(folder)
    run = foreign.extras["run"]
    there = {part for part in ("G", "G_ema", "D") if (folder / f"{part}_{run}.pth").is_file()}
    assert foreign.tensors.keys() == there
    assert foreign.settings["G"] == config
    converted = FAMILY.convert(foreign)
    nets, spec = FAMILY.build(converted.spec), converted.spec
    for net, state in ((nets.g, converted.g), (nets.g, converted.g_ema), (nets.d, converted.d)):
        if state is not None:
            net.load_state_dict(state)
    assert spec["resolution"] == config["resolution"]
    assert bool(spec["c_dim"]) == config["class_cond"] and bool(spec["h_dim"]) == config["instance_cond"]
    assert spec["d_widths"][0] == config["D_ch"]


@pytest.mark.parametrize("case", each("icgan-ckpt"))
def test_an_archive_of_a_checkpoint_is_the_checkpoint(case, tmp_path):
    folder = case.folder / case.info["folder"]
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    ours, reference = read_archive(tmp_path / "packed.tar.gz"), read_archive(folder)
    assert (ours.settings, ours.extras) == (reference.settings, reference.extras)
    for name, state in reference.tensors.items():
        assert ours.tensors[name].keys() == state.keys()
        assert all(torch.equal(ours.tensors[name][key], value) for key, value in state.items())


# ---- neighbours --------------------------------------------------------------------------------------------


class Set:
    """The images of one case, and the numbers that the published program drew for them."""

    def __init__(self, case: Case) -> None:
        self.io, config = case.tensors(), case.info["config"]
        self.near = neighbours.nearest(self.io["features_raw"], config["k_nn"])
        self.seed, self.classes = config["seed_for_sampling"], config["n_classes"]

    def ranks(self, n: int) -> Tensor:
        return torch.tensor([np.random.choice(self.near.images.shape[1]) for _ in range(n)])

    @cached_property
    def instance_balance(self) -> neighbours.Pairs:
        n = len(self.io["instance_balance.labels"])
        np.random.seed(self.seed)
        instances = torch.from_numpy(np.random.randint(0, len(self.near.images), size=n))
        return neighbours.by_instance(self.near.images, instances, self.ranks(n))

    @cached_property
    def nnclass_balance(self) -> neighbours.Pairs:
        labels, n = self.io["labels"], len(self.io["nnclass_balance.labels"])
        np.random.seed(self.seed)
        classes = np.random.choice(range(self.classes), n, replace=True, p=None)
        drawn = [  # within its class, then among its neighbours, image by image
            (np.random.choice(int((labels == c).sum())), np.random.choice(self.near.images.shape[1]))
            for c in classes
        ]
        within, ranks = torch.tensor(drawn).T
        images = neighbours.of_class(labels, torch.from_numpy(classes), within)
        return neighbours.by_image(self.near.images, images, ranks)

    @cached_property
    def real_batch(self) -> neighbours.Pairs:
        n = len(self.io["real_batch.label"])
        np.random.seed(self.seed)
        return neighbours.by_instance(self.near.images, torch.arange(n), self.ranks(n))


KNN: tuple[tuple[str, Callable[[Set, re.Match], Tensor]], ...] = (
    (r"features_normalised", lambda run, m: neighbours.normalised(run.io["features_raw"])),
    (r"neighbours", lambda run, m: run.near.images),
    (r"radius", lambda run, m: run.near.distances[:, -1]),
    (r"kth_values", lambda run, m: F.pad(run.near.distances, (1, 0))),  # theirs begins with the image itself
    (r"(\w+_balance)\.instance_index", lambda run, m: getattr(run, m[1]).instances),
    (r"(\w+_balance)\.labels", lambda run, m: run.io["labels"][getattr(run, m[1]).images]),
    (
        r"(\w+_balance)\.features_first\d+",
        lambda run, m: neighbours.normalised(run.io["features_raw"])[getattr(run, m[1]).instances],
    ),
    (r"real_batch\.neighbour_index", lambda run, m: run.real_batch.images),
    (r"real_batch\.label", lambda run, m: run.io["labels"][run.real_batch.images]),
)


@lru_cache(maxsize=1)
def set_of(folder: Path) -> Set:
    return Set(next(case for case in cases("icgan-knn") if case.folder == folder))


@pytest.mark.parametrize("case, name", outputs("icgan-knn"))
def test_neighbours(case, name):
    compared(KNN, set_of(case.folder), case, name)


def test_every_pattern_finds_a_tensor_of_some_case():
    for kinds, patterns in ((G_KINDS, MADE), (D_KINDS, JUDGED), (("icgan-knn",), KNN)):
        names = {name for case in cases(*kinds) for name in case.names()}
        if {case.kind for case in cases(*kinds)} != set(kinds):
            pytest.skip("not every kind of case is here")
        for pattern, _ in patterns:
            assert any(re.fullmatch(pattern, name) for name in names), f"{pattern} tests nothing"
