"""FUNIT against the published implementation: pictures, logits, losses, gradients, checkpoint files."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case, cases, close, each, skipped
from sg2 import renamed
from torch import Tensor

from fsgen.errors import FsgenError
from fsgen.families.funit import convert, networks
from fsgen.families.funit.family import FUNIT, Recipe
from fsgen.importers.pickles import read_foreign
from fsgen.interfaces import Converted, Foreign, Inputs, Spec, StepContext
from fsgen.nn import losses

FAMILY = FUNIT()
WEIGHTS = "weights.safetensors"
KINDS = ("funit-g", "funit-d", "funit-losses", "funit-ckpt")
INPUTS = {
    "funit-g": ("content", "class_images", "batch.content", "batch.class_images"),
    "funit-d": ("x_real", "x_fake", "y"),
    "funit-losses": ("xa", "xb", "la", "lb"),
    "funit-ckpt": ("content", "class_images"),
}
Outputs = tuple[tuple[str, Callable[[Any, re.Match], Tensor | float]], ...]


# ---- what the cases have in common -----------------------------------------------------------------------


def outputs(kind: str) -> list[Any]:
    """For ``parametrize("case, name", ...)``: every tensor of the cases that is not an input."""
    found = [
        pytest.param(case, name, id=f"{case.label}-{name}")
        for case in cases(kind)
        for name in case.names()
        if name not in INPUTS[kind]
    ]
    return found or [skipped((kind,), values=2)]


def numbers(kind: str, *within: str) -> list[Any]:
    """For ``parametrize("case, name, value", ...)``: what case.json says below ``within``, in words."""
    found = []
    for case in cases(kind):
        table = case.info
        for key in within:
            table = table[key]
        found += [
            pytest.param(case, name, value, id=f"{case.label}-{name.split()[0]}")
            for name, value in table.items()
            if isinstance(value, int | float)
        ]
    return found or [skipped((kind,), values=3)]


def compared(table: Outputs, run: Any, name: str) -> Tensor | float:
    """What ``table`` computes for one value of a case; one that no pattern knows fails."""
    for pattern, compute in table:
        if match := re.fullmatch(pattern, name):
            return compute(run, match)
    pytest.fail(f"{run.case.label} has {name}, which no test compares")


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).float()


def itself(content: Tensor) -> Inputs:
    """A content to be drawn as its own class, from the one picture of it."""
    return Inputs(content=content, style=content[:, None])


def gradients(loss: Tensor, net: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter of ``net``, 0 where it has none."""
    parameters = dict(net.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad
        for (name, p), grad in zip(parameters.items(), found, strict=True)
    }


# ---- G ---------------------------------------------------------------------------------------------------


class Translator:
    """G of one case."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        self.converted = FAMILY.convert(read_foreign(case.folder / WEIGHTS))
        self.g = FAMILY.build(self.converted.spec).g.eval()
        self.g.load_state_dict(self.converted.g_ema)

    @cached_property
    def code(self) -> Tensor:
        return self.g.class_code(Inputs(style=self.io["class_images"][None]))

    def batched(self, k: int) -> Tensor:
        """Each content by its own k class pictures, which are stored one after another."""
        contents, images = self.io["batch.content"], self.io["batch.class_images"]
        style = images[: k * len(contents)].unflatten(0, (-1, k))
        return self.g(Inputs(content=contents, style=style))

    @property
    def k(self) -> int:
        return len(self.io["batch.class_images"]) // len(self.io["batch.content"])


TRANSLATED: Outputs = (
    (r"content_code", lambda run, m: run.g.content(run.io["content"])),
    (r"class_codes", lambda run, m: run.g.style(run.io["class_images"])[:, :, None, None]),
    (r"class_code", lambda run, m: run.code[:, :, None, None]),
    (r"adain_params", lambda run, m: run.g.mlp(run.code)),
    (r"translation", lambda run, m: run.g(Inputs(content=run.io["content"], h=run.code))),
    (r"reconstruction", lambda run, m: run.g(itself(run.io["content"]))),
    (r"batch\.translation_kshot", lambda run, m: run.batched(run.k)),
    (r"batch\.translation_1shot_.+", lambda run, m: run.batched(1)),
)


@lru_cache(maxsize=1)  # the tests of one case follow one another
def translator_of(folder: Path) -> Translator:
    return Translator(next(case for case in cases("funit-g") if case.folder == folder))


@pytest.mark.parametrize("case, name", outputs("funit-g"))
def test_generator(case, name):
    run = translator_of(case.folder)
    with torch.no_grad():
        close(compared(TRANSLATED, run, name), run.io[name], atol=case.info.get("suggested_atol"))


@pytest.mark.parametrize("case", each("funit-g"))
def test_architecture_is_inferred(case):
    spec, config = translator_of(case.folder).converted.spec, case.info["config"]["gen"]
    assert [w // config["nf"] for w in spec["content_widths"]] == [
        1 << i for i in range(config["n_downs_content"] + 1)
    ]
    assert [w // config["nf"] for w in spec["class_widths"]] == [
        min(4, 1 << i) for i in range(config["n_downs_class"] + 1)
    ]
    assert spec["content_blocks"] == spec["decoder_blocks"] == config["n_res_blks"]
    assert spec["latent_dim"] == config["latent_dim"]
    assert spec["mlp_widths"] == [config["nf_mlp"]] * (config["n_mlp_blks"] - 1)
    assert 4 * spec["decoder_blocks"] * spec["content_widths"][-1] == case.info["num_adain_params"]


@pytest.mark.parametrize("case", each("funit-g"))
def test_slices_of_the_affine_parameters(case):
    """Each of them reaches the layer that the case names, as a shift or as a scale."""
    run = translator_of(case.folder)
    at = torch.arange(case.info["num_adain_params"]).reshape(run.g.affine)
    for entry in case.info["adain_slices"]:
        match = re.search(r"\.model\.(\d+)\.model\.(\d+)\.norm", entry["layer"])
        shift, scale = at[int(match[1]), int(match[2])]
        assert [shift[0], shift[-1] + 1] == entry["bias"] and [scale[0], scale[-1] + 1] == entry["weight"]


# ---- D ---------------------------------------------------------------------------------------------------


class Judge:
    """D of one case and what it says to the case's pictures."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        published = case.tensors(WEIGHTS)
        state = convert.discriminator(published)
        self.names = renamed(published, convert.discriminator)
        config = case.info["config"]["dis"]
        spec: Spec = {"channels": self.io["x_real"].shape[1], **convert.infer_d(state)}
        assert spec["c_dim"] == config["num_classes"]
        assert spec["d_widths"][0] == config["nf"] and 2 * (len(spec["d_widths"]) - 1) == config["n_res_blks"]
        self.d = networks.Discriminator(spec)
        self.d.load_state_dict(state)
        self.y = one_hot(self.io["y"], spec["c_dim"])

    def images(self, which: str) -> Tensor:
        return self.real if which == "real" else self.io["x_fake"]

    @cached_property
    def real(self) -> Tensor:
        return self.io["x_real"].clone().requires_grad_()

    @cached_property
    def logits(self) -> dict[str, Tensor]:
        return {which: self.d(self.images(which), Inputs(y=self.y)) for which in ("real", "fake")}

    def patches(self, which: str) -> Tensor:
        return self.logits[which].reshape(self.io[f"logits_{which}"].shape)

    @cached_property
    def gradient(self) -> Tensor:
        return torch.autograd.grad(self.logits["real"].mean(), self.real, create_graph=True)[0]

    @cached_property
    def penalty(self) -> Tensor:
        return losses.r1(self.logits["real"] / self.logits["real"].numel(), self.real)

    @cached_property
    def gradients(self) -> dict[str, dict[str, Tensor]]:
        return {
            "penalty": gradients(10 * self.penalty, self.d),
            "hinge": gradients(FAMILY.loss_d(self.logits["real"], self.logits["fake"]), self.d),
        }


def share(hits: Tensor) -> Tensor:
    return hits.float().mean()


JUDGED: Outputs = (
    (r"logits_(real|fake)", lambda run, m: run.patches(m[1])),
    (r"logits_real_all_classes", lambda run, m: run.d.head(run.d.look(run.real))),
    (r"features_(real|fake)", lambda run, m: run.d.look(run.images(m[1]))),
    (r"features_before_act_(real|fake)0", lambda run, m: unactivated(run.d.look(run.images(m[1])[:1]))),
    (r"pooled_features_(real|fake)", lambda run, m: run.d.look(run.images(m[1])).mean(dim=(2, 3))),
    (r"grad_penalty\.grad_x", lambda run, m: run.gradient),
)
LOST: Outputs = (
    (r"dis_real_hinge .*", lambda run, m: losses.hinge(run.logits["real"])),
    (r"dis_fake_hinge .*", lambda run, m: losses.hinge(-run.logits["fake"])),
    (r"gen .*", lambda run, m: FAMILY.loss_g(run.logits["fake"])),
    (r"acc_real .*", lambda run, m: share(run.logits["real"] >= 0)),
    (r"acc_fake .*", lambda run, m: share(run.logits["fake"] < 0)),
    (r"acc_gen .*", lambda run, m: share(run.logits["fake"] >= 0)),
    (r"grad_penalty .*", lambda run, m: run.penalty),
)


def unactivated(features: Tensor) -> Tensor:
    return torch.where(features < 0, features / networks.LEAKY, features)


@lru_cache(maxsize=1)
def judge_of(folder: Path) -> Judge:
    return Judge(next(case for case in cases("funit-d") if case.folder == folder))


@pytest.mark.parametrize("case, name", outputs("funit-d"))
def test_discriminator(case, name):
    run = judge_of(case.folder)
    grad = "grad" in name
    atol = None if grad else case.info.get("suggested_atol")
    close(compared(JUDGED, run, name), run.io[name], grad=grad, atol=atol)


@pytest.mark.parametrize("case, name, value", numbers("funit-d", "losses"))
def test_numbers_of_the_discriminator(case, name, value):
    grad = "grad" in name
    close(compared(LOST, judge_of(case.folder), name), value,
          grad=grad, atol=None if grad else case.info.get("suggested_atol"))  # fmt: skip


@pytest.mark.parametrize("of, within", [
    ("penalty", "grad_l2_norm_of_10x_grad_penalty"), ("hinge", "grad_l2_norm_of_dis_real_plus_dis_fake"),
])  # fmt: skip
@pytest.mark.parametrize("case", each("funit-d"))
def test_gradients_of_the_discriminator(case, of, within):
    run = judge_of(case.folder)
    same_norms(case.info[within], run.gradients[of], run.names)


def same_norms(reference: dict[str, float], ours: dict[str, Tensor], names: dict[str, str]) -> None:
    """Gradients by their length; every parameter of ours that the case does not list must have none."""
    for name, value in reference.items():
        close(ours[names[name]].norm(), value, grad=True)
    for name in ours.keys() - {names[name] for name in reference}:
        assert not ours[name].any(), f"{name} has a gradient"


# ---- losses ----------------------------------------------------------------------------------------------


class Step:
    """Both updates of one case from the same weights, by way of the family's own losses."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        published = case.tensors(WEIGHTS)
        by_network = convert.networks(Foreign("safetensors", {"": published}))
        self.names = {
            "dis": renamed(by_network["dis"], convert.discriminator),
            "gen": renamed(by_network["gen"], convert.generator),
        }
        converted = FAMILY.convert(read_foreign(case.folder / WEIGHTS))
        self.g, self.d = FAMILY.build(converted.spec)
        self.g.load_state_dict(converted.g), self.d.load_state_dict(converted.d)
        config, classes = case.info["config"], converted.spec["c_dim"]
        assert classes == config["dis"]["num_classes"]
        self.recipe = Recipe(
            lr=config["lr_gen"], weight_decay=config["weight_decay"], adversarial=float(config["gan_w"]),
            reconstruction=float(config["r_w"]), matching=float(config["fm_w"]),
        )  # fmt: skip
        self.inputs = Inputs(
            content=self.io["xa"], content_y=one_hot(self.io["la"], classes),
            style=self.io["xb"][:, None], y=one_hot(self.io["lb"], classes),
        )  # fmt: skip
        self.context = StepContext(
            g=self.g, d=self.d, recipe=self.recipe, real_images=self.io["xb"], inputs=self.inputs,
            draw=None, view=lambda images, who: images, rng=None, scalars={},
        )  # fmt: skip
        self.fakes = FAMILY.fakes(self.g, self.inputs, self.recipe, torch.Generator())

    @cached_property
    def rebuilt(self) -> Tensor:
        return self.g(itself(self.io["xa"]))

    @cached_property
    def terms(self) -> dict[str, dict[str, Tensor]]:
        """From pictures of the same graph: gradients are then taken of each player's own parameters."""
        return {
            "dis": FAMILY.discriminator_loss(self.context, self.fakes),
            "gen": FAMILY.generator_loss(self.context, self.fakes),
        }

    def total(self, of: str) -> Tensor:
        return sum(self.terms[of].values())

    @cached_property
    def gradients(self) -> dict[str, dict[str, Tensor]]:
        nets = {"dis": self.d, "gen": self.g}
        return {of: gradients(self.total(of), net) for of, net in nets.items()}

    def logits(self, images: Tensor, labels: str) -> Tensor:
        return self.d(images, Inputs(y=one_hot(self.io[labels], self.inputs.y.shape[1])))


STEPPED: Outputs = (
    (r"xt", lambda run, m: run.fakes.images),
    (r"xr", lambda run, m: run.rebuilt),
    (r"(dis|gen)_update\.grad\.(.+)", lambda run, m: run.gradients[m[1]][run.names[m[1]][m[2]]]),
)
CRITIC: Outputs = (
    (r"l_total .*", lambda run, m: run.total("dis")),
    (r"l_fake .*", lambda run, m: losses.hinge(-run.logits(run.fakes.images, "lb"))),
    (r"l_real .*", lambda run, m: losses.hinge(run.logits(run.io["xb"], "lb"))),
    (r"reg .*", lambda run, m: run.terms["dis"]["penalty"] / run.recipe.penalty),
    (r"acc", lambda run, m: (share(run.logits(run.io["xb"], "lb") >= 0)
                             + share(run.logits(run.fakes.images, "lb") < 0)) / 2),
)  # fmt: skip
ARTIST: Outputs = (
    (r"l_total .*", lambda run, m: run.total("gen")),
    (r"l_adv .*", lambda run, m: run.terms["gen"]["g"] / run.recipe.adversarial),
    (r"l_x_rec .*", lambda run, m: run.terms["gen"]["reconstruction"] / run.recipe.reconstruction),
    (r"l_c_rec .*", lambda run, m: run.terms["gen"]["matching_content"] / run.recipe.matching),
    (r"l_m_rec .*", lambda run, m: run.terms["gen"]["matching_style"] / run.recipe.matching),
    (r"acc", lambda run, m: (share(run.logits(run.fakes.images, "lb") >= 0)
                             + share(run.logits(run.rebuilt, "la") >= 0)) / 2),
)  # fmt: skip


@lru_cache(maxsize=1)
def step_of(folder: Path) -> Step:
    return Step(next(case for case in cases("funit-losses") if case.folder == folder))


@pytest.mark.parametrize("case, name", outputs("funit-losses"))
def test_pictures_and_gradients_of_a_step(case, name):
    run = step_of(case.folder)
    close(compared(STEPPED, run, name), run.io[name], grad="grad" in name)


@pytest.mark.parametrize("table, within", [(CRITIC, "dis_update"), (ARTIST, "gen_update")])
@pytest.mark.parametrize("case", each("funit-losses"))
def test_losses_of_a_step(case, table, within):
    for name, value in case.info[within].items():
        if name != "grad_l2_norm":
            atol = case.info.get("suggested_rtol", 1e-4) * abs(value)
            close(compared(table, step_of(case.folder), name), value, atol=atol)


@pytest.mark.parametrize("of", ["dis", "gen"])
@pytest.mark.parametrize("case", each("funit-losses"))
def test_gradients_of_a_step(case, of):
    run = step_of(case.folder)
    same_norms(case.info[f"{of}_update"]["grad_l2_norm"], run.gradients[of], run.names[of])


@pytest.mark.parametrize("case", each("funit-losses"))
def test_the_optimiser_is_the_published_one(case):
    step = FAMILY.optimiser([torch.nn.Parameter(torch.zeros(1))], step_of(case.folder).recipe, "g")
    said = case.info["optimiser_facts"]["optimiser"]
    assert type(step).__name__ in said and not step.defaults["momentum"]
    for name, of in {"lr": "lr", "weight_decay": "weight_decay", "alpha": "alpha", "eps": "eps"}.items():
        assert step.defaults[of] == float(re.search(rf"\b{name} ([\d.e-]+)", said)[1]), name


# ---- checkpoint files ------------------------------------------------------------------------------------


class Files:
    """The two generators of one case's file, and the discriminator of another."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        named = {name.split("_")[0]: case.folder / name for name in case.info["files_bytes"]}
        self.gen, self.dis = read_foreign(named["gen"]), read_foreign(named["dis"])
        self.converted = FAMILY.convert(Foreign("torch", self.gen.tensors | self.dis.tensors))

    def g(self, which: str) -> torch.nn.Module:
        g = FAMILY.build(self.converted.spec).g.eval()
        g.load_state_dict(self.converted.g if which == "gen" else self.converted.g_ema)
        return g

    def inputs(self) -> Inputs:
        return Inputs(content=self.io["content"], style=self.io["class_images"][None])


STORED: Outputs = (
    (r"(gen|gen_test)\.translation", lambda run, m: run.g(m[1])(run.inputs())),
    (r"(gen|gen_test)\.class_code", lambda run, m: run.g(m[1]).class_code(run.inputs())[:, :, None, None]),
)


@lru_cache(maxsize=1)
def files_of(folder: Path) -> Files:
    return Files(next(case for case in cases("funit-ckpt") if case.folder == folder))


@pytest.mark.parametrize("case, name", outputs("funit-ckpt"))
def test_pictures_of_a_checkpoint(case, name):
    run = files_of(case.folder)
    with torch.no_grad():
        close(compared(STORED, run, name), run.io[name], atol=case.info.get("suggested_atol"))


@pytest.mark.parametrize("case", each("funit-ckpt"))
def test_each_file_of_a_checkpoint(case):
    run = files_of(case.folder)
    both: Converted = run.converted
    assert FAMILY.recognise(run.gen) and FAMILY.recognise(run.dis)
    alone = FAMILY.convert(run.gen)
    assert alone.d is None and any("no discriminator" in note for note in alone.notes)
    assert all(torch.equal(alone.g[key], value) for key, value in both.g.items())
    FAMILY.build(both.spec).d.load_state_dict(both.d)
    assert both.spec["c_dim"] == case.info["config"]["dis"]["num_classes"]
    with pytest.raises(FsgenError, match="discriminator alone"):
        FAMILY.convert(run.dis)


@pytest.mark.parametrize("case", each("funit-ckpt"))
def test_no_tensor_is_lost(case):
    """Bit for bit, but for the statistics of the affine normalisations, which nothing reads."""
    run = files_of(case.folder)
    for theirs, ours, change in (
        (run.gen.tensors["gen"], run.converted.g, convert.generator),
        (run.gen.tensors["gen_test"], run.converted.g_ema, convert.generator),
        (run.dis.tensors["dis"], run.converted.d, convert.discriminator),
    ):
        names = renamed(theirs, change)
        assert all(torch.equal(theirs[key].flatten(), ours[name].flatten()) for key, name in names.items())
        left = theirs.keys() - names.keys()
        assert set(names.values()) == ours.keys() and all(".norm.running_" in key for key in left)


# ---- nothing is left out ---------------------------------------------------------------------------------


def test_every_pattern_finds_something_in_some_case():
    if not all(cases(kind) for kind in KINDS):
        pytest.skip("not every kind of FUNIT has a case")
    names = {kind: {name for case in cases(kind) for name in case.names()} for kind in KINDS}
    said = {"losses": "funit-d", "dis_update": "funit-losses", "gen_update": "funit-losses"}
    words = {
        within: {name for case in cases(kind) for name in case.info[within]} for within, kind in said.items()
    }
    for table, known in (
        (TRANSLATED, names["funit-g"]), (JUDGED, names["funit-d"]), (STEPPED, names["funit-losses"]),
        (STORED, names["funit-ckpt"]), (LOST, words["losses"]), (CRITIC, words["dis_update"]),
        (ARTIST, words["gen_update"]),
    ):  # fmt: skip
        for pattern, _ in table:
            assert any(re.fullmatch(pattern, name) for name in known), f"{pattern} tests nothing"
