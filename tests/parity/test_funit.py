"""FUNIT's networks against the published implementation: images, logits, gradients.

A case may leave out parts of a network: then its outputs are those of the parts that are there, from maps
that the case has.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from cases import WEIGHTS, Case, case_at, cases, close, each, load_parts, skip_unused
from funit_cases import (
    FAMILY,
    INPUTS,
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

from fsgen.families.funit import convert, networks
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Inputs, Spec
from fsgen.nn import losses

# ---- G ---------------------------------------------------------------------------------------------------


def spec_of(case: Case, channels: int) -> Spec:
    """The spec of G, as the case's config has it."""
    config = case.info["config"]["gen"]
    nf, halvings = config["nf"], config["n_downs_content"]
    content = [nf << i for i in range(halvings + 1)]
    return {
        "resolution": case.info["config"].get("resolution", case.info.get("resolution")),
        "channels": channels,
        "content_widths": content,
        "content_blocks": config["n_res_blks"],
        "class_widths": [nf * min(4, 1 << i) for i in range(config["n_downs_class"] + 1)],
        "latent_dim": config["latent_dim"],
        "mlp_widths": [config["nf_mlp"]] * (config["n_mlp_blks"] - 1),
        "decoder_blocks": config["n_res_blks"],
        "decoder_widths": content[-2::-1],
    }


class GeneratorRun:
    """G of one case, whole or in part."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        self.spec = spec_of(
            case, next(iter(self.io[name] for name in INPUTS[case.kind] if name in self.io)).shape[1]
        )
        self.g = networks.Generator(self.spec).eval()
        self.absent = load_parts(self.g, convert.convert_g(case.tensors(WEIGHTS)))

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


G_OUTPUTS: Outputs = (
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
def generator_of(folder: Path) -> GeneratorRun:
    return GeneratorRun(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("funit-g"))
def test_generator(case, name):
    run = generator_of(case.folder)
    with torch.no_grad():
        close(compared(G_OUTPUTS, run, name), run.io[name], atol=case.info.get("suggested_atol"))


@pytest.mark.parametrize("case", each("funit-g"))
def test_architecture_is_inferred(case):
    run = generator_of(case.folder)
    affine = case.info.get("num_adain_params")
    assert affine in (None, 4 * run.spec["decoder_blocks"] * run.spec["content_widths"][-1])
    if run.absent:
        pytest.skip(f"the case leaves out {', '.join(sorted(run.absent))}")
    converted = FAMILY.convert(read_foreign(case.folder / WEIGHTS))
    shown = run.spec.keys() - {"resolution"}  # no tensor shows that
    assert {key: converted.spec[key] for key in shown} == {key: run.spec[key] for key in shown}
    run.g.load_state_dict(converted.g_ema)


@pytest.mark.parametrize("case", each("funit-g"))
def test_slices_of_the_affine_parameters(case):
    """Each of them reaches the layer that the case names, as a shift or as a scale."""
    run = generator_of(case.folder)
    at = torch.arange(run.g.mlp[-1].out_features).reshape(run.g.affine)
    for entry in case.info.get("adain_slices", []):
        match = re.search(r"\.model\.(\d+)\.model\.(\d+)\.norm", entry["layer"])
        shift, scale = at[int(match[1]), int(match[2])]
        assert [shift[0], shift[-1] + 1] == entry["bias"] and [scale[0], scale[-1] + 1] == entry["weight"]


# ---- D ---------------------------------------------------------------------------------------------------


class DiscriminatorRun:
    """D of one case, whole or its head alone, and what it says to the case's images."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        config, published = case.info["config"]["dis"], case.tensors(WEIGHTS)
        state = convert.convert_d(published)
        self.names = renamed(published, convert.convert_d)
        nf, stages = config["nf"], config["n_res_blks"] // 2
        widths = [min(nf << i, 1024) for i in range(stages + 1)]
        channels = self.io["x_real"].shape[1] if "x_real" in self.io else 3
        self.spec: Spec = {"channels": channels, "c_dim": config["num_classes"], "d_widths": widths}
        self.d = networks.Discriminator(self.spec)
        if not load_parts(self.d, state):
            assert self.spec == {"channels": channels, **convert.infer_d(state)}
        self.y = one_hot(self.io["y"], self.spec["c_dim"])

    def images(self, which: str) -> Tensor:
        return self.real if which == "real" else self.io["x_fake"]

    @cached_property
    def real(self) -> Tensor:
        return self.io["x_real"].clone().requires_grad_()

    def features(self, which: str) -> Tensor:
        """Of the case's images; where it has none, as it has them."""
        return (
            self.d.last_features(self.images(which))
            if f"x_{which}" in self.io
            else self.io[f"features_{which}"]
        )

    @cached_property
    def real_logits(self) -> Tensor:
        return self.d.logits(self.features("real"), self.y)

    @cached_property
    def fake_logits(self) -> Tensor:
        return self.d.logits(self.features("fake"), self.y)

    def patches(self, which: str) -> Tensor:
        logits = self.real_logits if which == "real" else self.fake_logits
        return logits.reshape(self.io[f"logits_{which}"].shape)

    @cached_property
    def gradient(self) -> Tensor:
        return torch.autograd.grad(self.real_logits.mean(), self.real, create_graph=True)[0]

    @cached_property
    def penalty(self) -> Tensor:
        return losses.r1(self.real_logits / self.real_logits.numel(), self.real)


D_OUTPUTS: Outputs = (
    (r"logits_(real|fake)", lambda run, m: run.patches(m[1])),
    (r"logits_real_all_classes", lambda run, m: run.d.head(run.features("real"))),
    (r"features_(real|fake)", lambda run, m: run.features(m[1])),
    (r"features_before_act_(real|fake)0", lambda run, m: unactivated(run.features(m[1])[:1])),
    (r"pooled_features_(real|fake)", lambda run, m: run.features(m[1]).mean(dim=(2, 3))),
    (r"grad_penalty\.grad_x", lambda run, m: run.gradient),
)
D_LOSSES: Outputs = (
    (r"dis_real_hinge .*", lambda run, m: losses.hinge(run.real_logits)),
    (r"dis_fake_hinge .*", lambda run, m: losses.hinge(-run.fake_logits)),
    (r"gen .*", lambda run, m: FAMILY.loss_g(run.fake_logits)),
    (r"acc_real .*", lambda run, m: share(run.real_logits >= 0)),
    (r"acc_fake .*", lambda run, m: share(run.fake_logits < 0)),
    (r"acc_gen .*", lambda run, m: share(run.fake_logits >= 0)),
    (r"grad_penalty .*", lambda run, m: run.penalty),
)


def unactivated(features: Tensor) -> Tensor:
    return torch.where(features < 0, features / networks.LEAKY, features)


@lru_cache(maxsize=1)
def discriminator_of(folder: Path) -> DiscriminatorRun:
    return DiscriminatorRun(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("funit-d"))
def test_discriminator(case, name):
    run = discriminator_of(case.folder)
    grad = "grad" in name
    atol = None if grad else case.info.get("suggested_atol")
    close(compared(D_OUTPUTS, run, name), run.io[name], grad=grad, atol=atol)


@pytest.mark.parametrize("case, name, value", numbers("funit-d", "losses"))
def test_numbers_of_the_discriminator(case, name, value):
    grad = "grad" in name
    close(compared(D_LOSSES, discriminator_of(case.folder), name), value,
          grad=grad, atol=None if grad else case.info.get("suggested_atol"))  # fmt: skip


NORMS: Outputs = (
    (r"([\d.]+)x_grad_penalty", lambda run, m: float(m[1]) * run.penalty),
    (r"dis_real_plus_dis_fake", lambda run, m: FAMILY.loss_d(run.real_logits, run.fake_logits)),
)


@pytest.mark.parametrize("case", each("funit-d"))
def test_gradients_of_the_discriminator(case):
    """Their norms, which stand in case.json: grad_l2_norm_of_LOSS."""
    run = discriminator_of(case.folder)
    tables = {key: norms for key, norms in case.info.items() if key.startswith("grad_l2_norm_of_")}
    if not tables:
        pytest.skip("the case has no norms")
    for key, norms in tables.items():
        loss = compared(NORMS, run, key.removeprefix("grad_l2_norm_of_"))
        same_norms(norms, gradients(loss, run.d), run.names)


@pytest.mark.parametrize("kind, within, table", [
    ("funit-g", None, G_OUTPUTS), ("funit-d", None, D_OUTPUTS), ("funit-d", "losses", D_LOSSES),
])  # fmt: skip
def test_every_pattern_finds_something_in_some_case(kind, within, table):
    of_kind = cases(kind)
    names = {name for case in of_kind for name in (case.info.get(within, {}) if within else case.names())}
    skip_unused((pattern for pattern, _ in table), names)
