"""Batch statistics adaptation against the published one: an SNGAN made here, with the method's own steps."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import Case, close, each, stated
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.families.biggan.family import BigGAN
from fsgen.families.dcgan import DCGAN
from fsgen.interfaces import Inputs, StepContext
from fsgen.methods.bsa import BSA, RATES, drift, perceptual

KIND = each("bsa")
EPS = 2e-5  # of the reference's normalisations
ORDINALS = ("first", "second", "third", *["later"] * 97)
FIRST = ("g_linear.W", "g_linear.b")  # the first layer, by the reference's names in io.safetensors


class SNGAN(nn.Module):
    """The reference's generator, frozen but for what it trains, which goes by its names there."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        weights = case.tensors("weights.safetensors")
        self.source = {key.removeprefix("source."): value for key, value in weights.items()}
        self.side = case.info["config"]["bottom_width"]
        self.places = sum(key.startswith("bsa.gamma") for key in weights)
        for i in range(1, self.places + 1):
            for kind in ("gamma", "beta"):
                self.register_parameter(f"{kind}{i}", nn.Parameter(weights[f"bsa.{kind}{i}"]))
        self.weight, self.bias = (nn.Parameter(self.source[f"l1.{part}"]) for part in "Wb")
        self.bsa = nn.ParameterDict({"z": weights["bsa.z"]})

    def named(self) -> dict[str, nn.Parameter]:
        """What is trained, by the names in io.safetensors."""
        scales = {f"{k}.W": p for k, p in self.named_parameters() if re.fullmatch(r"(gamma|beta)\d+", k)}
        return {**scales, "z.W": self.bsa["z"], **dict(zip(FIRST, (self.weight, self.bias), strict=True))}

    def place(self, i: int, x: Tensor) -> Tensor:
        return shift(x, self.get_parameter(f"gamma{i}"), self.get_parameter(f"beta{i}"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, scale, bias = (
            self.source[f"{name}.{k}"] for k in ("avg_mean", "avg_var", "gamma", "beta")
        )
        return F.batch_norm(x, mean, var, scale, bias, eps=EPS)

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.source[f"{name}.W"]
        return F.conv2d(x, weight, self.source[f"{name}.b"], padding=weight.shape[-1] // 2)

    def forward(self, inputs: Inputs) -> Tensor:
        x = F.linear(inputs.z, self.weight, self.bias).unflatten(1, (-1, self.side, self.side))
        x = self.place(1, x)
        for block in range(2, (self.places - 1) // 2 + 2):
            b, first = f"block{block}", 2 * block - 2
            y = F.relu(self.place(first, self.norm(f"{b}.b1", x)))
            y = self.conv(f"{b}.c1", F.interpolate(y, scale_factor=2))
            y = self.conv(f"{b}.c2", F.relu(self.place(first + 1, self.norm(f"{b}.b2", y))))
            x = y + self.conv(f"{b}.c_sc", F.interpolate(x, scale_factor=2))
        return self.conv("l7", F.relu(self.norm("b7", x))).tanh()


def shift(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """What a normalisation at rest does besides: statistics of 0 and 1."""
    return F.batch_norm(x, torch.zeros_like(gamma), torch.ones_like(gamma), gamma, beta, eps=0)


def features(case: Case):
    """The case's network in the place of VGG16: images in [-1, 1] -> maps by layer, shallow to deep."""
    weights = case.tensors("weights.safetensors")
    names = sorted(
        {key.split(".")[1] for key in weights if key.startswith("feat.")}, key=lambda n: int(n[1:])
    )
    told = case.info["config"].get("feature_net", "")
    halved = set(re.findall("first|second|third", told.partition("pooling after the ")[2])) or {"first"}

    def maps_of(images: Tensor) -> dict[str, Tensor]:
        x = (images + 1) * 127.5 - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
        maps = {}
        for i, name in enumerate(names):
            x = F.relu(F.conv2d(x, weights[f"feat.{name}.weight"], weights[f"feat.{name}.bias"], padding=1))
            maps[name] = x
            x = F.max_pool2d(x, 2) if ORDINALS[i] in halved else x
        return maps

    return maps_of


def options_of(case: Case) -> BSA.Options:
    """The method's options by the case's settings, the published variants among them."""
    settings = case.info["config"]["settings"]
    if not 0 <= settings["l_per"] <= 1000:
        pytest.skip("weights of VGG16's maps that depend on their values are no option here")
    variants = {
        "perceptual_type": settings.get("perceptual_type", "l1"),
        "normalize_l1": settings.get("normalize_l1_loss", False),
    }
    weights = {"perceptual": str(settings["l_per"]), "emd": settings["l_emd"], "drift": settings["l_re"]}
    return BSA.Options(**weights, **variants)


class Step:
    """One step of the method on the case, with the case's draws."""

    def __init__(self, case: Case, monkeypatch: pytest.MonkeyPatch, **variant: object) -> None:
        self.tensors = tensors = case.tensors()
        settings = case.info["config"]["settings"]
        self.g, self.vgg = SNGAN(case), features(case)
        self.method = method = BSA(replace(options_of(case), **variant))
        start = {k: torch.full_like(v, k.startswith("gamma")) for k, v in self.g.named_parameters()}
        source = SimpleNamespace(named_parameters=start.items)
        family = SimpleNamespace(
            name="sngan", traits={"scales"}, scales=lambda key: re.match(r"(gamma|beta)\d", key) is not None
        )
        recipe, adam = method.recipe(family, {}, len(self.g.bsa["z"])), case.info["adam"]
        rate = settings.get("init_lr", recipe["lr"])
        self.recipe = recipe | {"lr": rate, "beta1": adam["beta1"], "beta2": adam["beta2"]}
        method.setup(SimpleNamespace(
            source=source, family=family, spec={"z_dim": self.g.bsa["z"].shape[1]}, steps=10,
            shots=len(self.g.bsa["z"]), say=lambda line: None, frozen_network=lambda name, layers: self.vgg,
        ))  # fmt: skip
        drawn = [tensors["in.eps"], tensors["in.emd_t"]]
        monkeypatch.setattr(torch, "randn", lambda *shape, **_: drawn.pop(0).reshape(shape))
        rng = torch.Generator()
        inputs = Inputs(z=torch.zeros(len(tensors["in.perm"]), 0), rows=tensors["in.perm"])
        self.inputs = method.transform_inputs(inputs, self.g, rng, True)
        real_images = tensors["in.target"][tensors["in.perm"]]
        context = StepContext(
            self.g, None, None, real_images, self.inputs, None, None, lambda purpose: rng, {}
        )
        self.terms = method.loss_terms(context)


@pytest.mark.parametrize("case", KIND)
def test_images_and_terms(case, monkeypatch):
    step = Step(case, monkeypatch)
    tensors, settings, terms = step.tensors, case.info["config"]["settings"], step.terms
    x, target = step.g(step.inputs), tensors["in.target"][tensors["in.perm"]]
    ours, theirs = step.vgg(x), step.vgg(target)
    layers = {
        "l1": [perceptual({name: ours[name]}, {name: theirs[name]}) for name in ours],
        "l2": [perceptual({name: ours[name]}, {name: theirs[name]}, "l2") for name in ours],
    }
    each_layer = [settings["l_per"] * layer for layer in layers[settings.get("perceptual_type", "l1")]]
    found = {
        "z_with_noise": step.inputs.z,
        "x": x,
        "l1": F.l1_loss(x, target),
        "perceptual_l1": torch.stack(layers["l1"]),
        "perceptual_l2": torch.stack(layers["l2"]),
        "losses": torch.stack([terms["l1"], *each_layer, terms["emd"], terms["drift"]]),
        "total": sum(terms.values()),
    }
    if settings["l_per"]:
        close(terms["perceptual"], sum(each_layer))
    found |= {"emd": terms["emd"] / settings["l_emd"]} if settings["l_emd"] else {}
    found |= {"reg": terms["drift"] / settings["l_re"]} if settings["l_re"] else {}
    for name, value in found.items():
        if f"out.{name}" in tensors:
            close(value, tensors[f"out.{name}"])


@pytest.mark.parametrize("case", KIND)
def test_published_variants(case, monkeypatch):
    """The case's maps compared by squares; the pixel loss divided by its own value."""
    tensors, settings = case.tensors(), case.info["config"]["settings"]
    for kind in ("l1", "l2"):
        term = Step(case, monkeypatch, perceptual_type=kind).terms.get("perceptual")
        if term is not None and f"out.perceptual_{kind}" in tensors:
            close(term, settings["l_per"] * tensors[f"out.perceptual_{kind}"].sum())
    found = []
    for normalised in (False, True):
        step = Step(case, monkeypatch, normalize_l1=normalised)
        (grad,) = torch.autograd.grad(step.terms["l1"], step.g.bsa["z"])
        found.append((step.terms["l1"].detach(), grad))
    (l1, grad), (one, scaled) = found
    close(one, torch.ones([]))
    close(scaled, grad / l1, grad=True)


@pytest.mark.parametrize("case", KIND)
def test_gradients_and_one_step_of_the_optimiser(case, monkeypatch):
    """Under the case's rate; what the case leaves out is not compared."""
    step = Step(case, monkeypatch)
    sum(step.terms.values()).backward()
    trained, tensors, adam = step.g.named(), step.tensors, case.info["adam"]
    before = {name: value.detach().clone() for name, value in trained.items()}
    recipe = SimpleNamespace(**{"r1_every": 0, "path_every": 0} | step.recipe)
    optimiser = DCGAN().optimiser(list(trained.values()), recipe, "g")
    # The reference adds its epsilon to the root of the uncorrected second moment.
    optimiser.param_groups[0]["eps"] = adam["eps"] / math.sqrt(1 - adam["beta2"])
    step.method.before_step(SimpleNamespace(opt_g=optimiser, step=0))
    optimiser.step()
    shown = {name for name in trained if f"out.grad.{name}" in tensors}
    assert {f"out.grad.{name}" for name in shown} == {k for k in tensors if k.startswith("out.grad.")}
    for name in sorted(shown):
        wanted, value = tensors[f"out.grad.{name}"], trained[name]
        close(value.grad, wanted, grad=True)
        if (after := tensors.get(f"out.after_step.{name}")) is None:
            continue
        if name == FIRST[0]:  # the rate at which nothing moves: here it is frozen
            moved = (after - before[name]).abs().max()
            assert 0 < moved <= 1.5 * case.info["trained_sngan"][name]
            continue
        clear = wanted.abs() > 1e-6 * wanted.abs().max()
        close(value[clear], after[clear])
    if not shown:
        pytest.skip("the case has no gradients")


@pytest.mark.parametrize("case", KIND)
def test_scale_and_shift_alone_the_other_drift_and_a_line_between_latents(case):
    g, tensors = SNGAN(case), case.tensors()
    if "out.shift.y" in tensors:
        close(
            shift(*(tensors[f"in.shift.{name}"] for name in ("x", "gamma", "beta"))), tensors["out.shift.y"]
        )
    if "out.linear_reg" in tensors:
        vector = tensors["in.linear_W"]
        close(drift({"W": vector}, {"W": torch.zeros_like(vector)}), tensors["out.linear_reg"])
    if "out.interpolate" in tensors:
        for name, value in g.named().items():  # the line is drawn after the step
            value.data = tensors[f"out.after_step.{name}"]
        n = len(tensors["out.interpolate"])
        z = torch.stack([torch.lerp(g.bsa["z"][0], g.bsa["z"][1], i / (n - 1)) for i in range(n)])
        close(g(Inputs(z=z)), tensors["out.interpolate"])


@pytest.mark.parametrize("case", KIND)
def test_every_tensor_of_the_case_is_compared(case):
    parts = {"x", "z_with_noise", "l1", "perceptual_l1", "perceptual_l2", "emd", "reg", "losses", "total",
             "linear_reg", "interpolate", "shift.y"}  # fmt: skip
    for name in case.names():
        if name.startswith("out."):
            assert name.removeprefix("out.") in parts or name.startswith(("out.grad.", "out.after_step.")), (
                name
            )


@pytest.mark.parametrize("case", KIND)
def test_what_is_trained_and_at_which_rates(case):
    """By the case's own table; the method's rates are those that its text calls published."""
    sngan, rate = case.info["trained_sngan"], case.info["config"]["settings"].get("init_lr")
    assert set(sngan) == set(SNGAN(case).named())
    assert rate is None or {value for name, value in sngan.items() if name != FIRST[0]} == {rate}
    text, recipe = case.info.get("formula", {}).get("optimiser", ""), BSA().recipe(DCGAN(), {}, 10)
    plain, conditional = RATES[False], RATES[True]
    assert recipe["lr"] == plain["scales"] == plain["z"] == stated(text, r"SNGAN: ([\d.]+) for z", plain["z"])
    assert conditional["scales"] == stated(text, r"BigGAN: ([\d.]*\d)", conditional["scales"])
    assert conditional["z"] == stated(text, r"but z ([\d.]*\d)", conditional["z"])
    assert conditional["y"] == stated(text, r"class vector ([\d.]*\d)", conditional["y"])
    assert recipe["beta1"] == stated(text, r"beta ([\d.]*\d)", recipe["beta1"])
    assert recipe["beta2"] == stated(text, r"beta [\d.]+, ([\d.]*\d)", recipe["beta2"])


@pytest.mark.parametrize("case", KIND)
def test_biggan_trains_what_the_reference_does(case):
    """But the class vector, which is a label here, and what ``BSA`` says is left out."""
    tables = {key: value for key, value in case.info.items() if key.startswith("trained_biggan_width_")}
    if not tables:
        pytest.skip("the case has no BigGAN")
    for key, table in tables.items():
        shapes, rates = ({name: row[i] for name, row in table.items()} for i in (0, 1))
        condition = next(shape[1] for name, shape in shapes.items() if name.startswith("hyper_bn"))
        z_dim, part = shapes["z.W"][1], shapes["g_linear.W"][1]
        family = BigGAN()
        spec = family.fresh(256, classes=2, width=int(key.rsplit("_", 1)[1]))
        spec |= {"z_dim": z_dim, "g_embed_dim": condition - part}
        with torch.device("meta"):
            g = family.build(spec, discriminator=False).g
        ours = sorted(list(p.shape) for name, p in g.named_parameters() if family.scales(name))
        theirs = {n: shape for n, shape in shapes.items() if n.startswith("hyper_bn") or n == "g_linear.b"}
        assert ours == sorted(theirs.values())
        assert len({rates[name] for name in theirs}) == 1  # as here
