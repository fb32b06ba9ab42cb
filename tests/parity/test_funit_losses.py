"""Both updates of FUNIT against the published implementation: images, losses, gradients, the optimiser."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from cases import WEIGHTS, Case, case_at, cases, close, each, skip_unused, stated
from funit_cases import (
    FAMILY,
    Outputs,
    compared,
    gradients,
    itself,
    numbers,
    one_hot,
    outputs,
    same_norms,
    share,
)
from sg2 import renamed
from torch import Tensor

from fsgen.families.funit import convert
from fsgen.families.funit.family import Recipe
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Foreign, Inputs, StepContext
from fsgen.nn import losses


class Step:
    """Both updates of one case from the same weights, by way of the family's own losses."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        published = case.tensors(WEIGHTS)
        by_network = convert.networks(Foreign("safetensors", {"": published}))
        self.names = {
            "dis": renamed(by_network["dis"], convert.convert_d),
            "gen": renamed(by_network["gen"], convert.convert_g),
        }
        converted = FAMILY.convert(read_foreign(case.folder / WEIGHTS))
        self.g, self.d = FAMILY.build(converted.spec)
        self.g.load_state_dict(converted.g), self.d.load_state_dict(converted.d)
        config, classes = case.info["config"], converted.spec["c_dim"]
        assert classes == config["dis"]["num_classes"]
        penalty = stated(" ".join(case.info.get("dis_update", {})), r"([\d.]+)\s*\*\s*reg\b", 10.0)
        self.recipe = Recipe(
            weight_decay=config["weight_decay"], adversarial=float(config["gan_w"]),
            reconstruction=float(config["r_w"]), matching=float(config["fm_w"]), penalty=penalty,
        )  # fmt: skip
        self.inputs = Inputs(
            content=self.io["xa"], content_y=one_hot(self.io["la"], classes),
            style=self.io["xb"].unflatten(0, (len(self.io["xa"]), -1)), y=one_hot(self.io["lb"], classes),
        )  # fmt: skip
        self.context = StepContext(
            g=self.g, d=self.d, recipe=self.recipe, real_images=self.io["xb"], inputs=self.inputs,
            draw=None, augment=lambda images, kind: images, rng=None, scalars={},
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

    def unweighted(self, of: str, term: str, weight: float) -> Tensor:
        if not weight:
            pytest.skip(f"the case's weight of {term} is 0")
        return self.terms[of][term] / weight

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
DISCRIMINATOR: Outputs = (
    (r"l_total .*", lambda run, m: run.total("dis")),
    (r"l_fake .*", lambda run, m: losses.hinge(-run.logits(run.fakes.images, "lb"))),
    (r"l_real .*", lambda run, m: losses.hinge(run.logits(run.io["xb"], "lb"))),
    (r"reg .*", lambda run, m: run.unweighted("dis", "penalty", run.recipe.penalty)),
    (r"acc", lambda run, m: (share(run.logits(run.io["xb"], "lb") >= 0)
                             + share(run.logits(run.fakes.images, "lb") < 0)) / 2),
)  # fmt: skip
GENERATOR: Outputs = (
    (r"l_total .*", lambda run, m: run.total("gen")),
    (r"l_adv .*", lambda run, m: run.unweighted("gen", "g", run.recipe.adversarial)),
    (r"l_x_rec .*", lambda run, m: run.unweighted("gen", "reconstruction", run.recipe.reconstruction)),
    (r"l_c_rec .*", lambda run, m: run.unweighted("gen", "matching_content", run.recipe.matching)),
    (r"l_m_rec .*", lambda run, m: run.unweighted("gen", "matching_style", run.recipe.matching)),
    (r"acc", lambda run, m: (share(run.logits(run.fakes.images, "lb") >= 0)
                             + share(run.logits(run.rebuilt, "la") >= 0)) / 2),
)  # fmt: skip


@lru_cache(maxsize=1)
def step_of(folder: Path) -> Step:
    return Step(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("funit-losses"))
def test_images_and_gradients_of_a_step(case, name):
    run = step_of(case.folder)
    close(compared(STEPPED, run, name), run.io[name], grad="grad" in name)


@pytest.mark.parametrize("case, name, value", numbers("funit-losses", "dis_update"))
def test_losses_of_a_discriminator_step(case, name, value):
    same_loss(case, DISCRIMINATOR, name, value)


@pytest.mark.parametrize("case, name, value", numbers("funit-losses", "gen_update"))
def test_losses_of_a_generator_step(case, name, value):
    same_loss(case, GENERATOR, name, value)


def same_loss(case: Case, table: Outputs, name: str, value: float) -> None:
    atol = case.info.get("suggested_rtol", 1e-4) * abs(value)
    close(compared(table, step_of(case.folder), name), value, atol=atol)


@pytest.mark.parametrize("of", ["dis", "gen"])
@pytest.mark.parametrize("case", each("funit-losses"))
def test_gradients_of_a_step(case, of):
    run, norms = step_of(case.folder), case.info.get(f"{of}_update", {}).get("grad_l2_norm")
    if norms is None:
        pytest.skip("the case has no norms")
    same_norms(norms, run.gradients[of], run.names[of])


@pytest.mark.parametrize("network, rate", [("g", "lr_gen"), ("d", "lr_dis")])
@pytest.mark.parametrize("case", each("funit-losses"))
def test_the_optimiser_is_the_published_one(case, network, rate):
    """With the rate and the decay of the case's config; the rest by its text."""
    config, text = case.info["config"], case.info.get("optimiser_facts", {}).get("optimiser", "")
    recipe = replace(step_of(case.folder).recipe, lr=config[rate])
    step = FAMILY.optimiser([torch.nn.Parameter(torch.zeros(1))], recipe, network)
    assert type(step) is torch.optim.RMSprop and not step.defaults["momentum"]
    assert (step.defaults["lr"], step.defaults["weight_decay"]) == (config[rate], config["weight_decay"])
    for name in ("alpha", "eps"):
        assert step.defaults[name] == stated(text, rf"\b{name} ([\d.e-]+)", step.defaults[name]), name


@pytest.mark.parametrize("within, table", [
    (None, STEPPED), ("dis_update", DISCRIMINATOR), ("gen_update", GENERATOR),
])  # fmt: skip
def test_every_pattern_finds_something_in_some_case(within, table):
    of_kind = cases("funit-losses")
    names = {name for case in of_kind for name in (case.info.get(within, {}) if within else case.names())}
    skip_unused((pattern for pattern, _ in table), names)
