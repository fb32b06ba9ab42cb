"""The numbers of the published training loop: optimisers, moving averages, style mixing.

The engine averages as NVIDIA's loop does, with half-lives in steps. rosinality's rule is its decay at every
step without a ramp-up; that its average keeps its first buffers is that repository's own, and not followed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import Case, close, each, stated
from sg2 import FAMILY
from torch import Tensor, nn

from fsgen.families.stylegan2.family import Recipe
from fsgen.interfaces import Inputs
from fsgen.training import loop

KIND = "train-numbers"
EXACT = {"rel": 1e-12}
WITHIN = 1e-6  # of max|reference|


class Net(nn.Module):
    """A parameter and a buffer."""

    def __init__(self, param: Tensor, buffer: Tensor) -> None:
        super().__init__()
        self.param = nn.Parameter(param.clone())
        self.register_buffer("buffer", buffer.clone())


def formula(case: Case, start: str) -> str:
    """What the case says under the first heading that begins with ``start``."""
    return next((text for name, text in case.info.get("formula", {}).items() if name.startswith(start)), "")


def recipes(case: Case) -> dict[str, SimpleNamespace]:
    """The rules in the loop's terms: half-lives in steps, of so many images each."""
    config, text = case.info["config"], formula(case, "moving average, rosinality")
    half_life = config["ema_kimg"] * 1000 / config["batch"]
    steps = stated(text, r"/ (\d+)\)", 10_000) / stated(text, r"\((\d+) /", 32)  # 0.5 ** (32 / 10000)
    return {
        "nvidia": SimpleNamespace(ema_half_life=half_life, ema_rampup=math.inf),
        "nvidia_rampup": SimpleNamespace(ema_half_life=half_life, ema_rampup=config.get("ema_rampup")),
        "rosinality": SimpleNamespace(ema_half_life=steps, ema_rampup=math.inf),
    }


def start(case: Case, rule: str) -> float:
    """Steps that the trace comes after; a rule without a ramp-up does not ask."""
    config = case.info["config"]
    seen = config.get("images_seen_at_start_of_rampup_trace", 0)
    return seen / config["batch"] if rule.endswith("rampup") else 1


@pytest.mark.parametrize("case", each(KIND))
def test_moving_averages(case):
    io = case.tensors()
    rules = {name.split(".")[2] for name in io if name.startswith("out.ema.")}
    assert rules and rules <= set(recipes(case))
    for rule in rules:
        ours = Net(io["in.ema.param0"], io["in.ema.buffer0"])
        steps = zip(io["in.ema.params"], io["in.ema.buffers"], strict=True)
        for i, (param, buffer) in enumerate(steps):
            decay = loop.ema_decay(recipes(case)[rule], start(case, rule) + i)
            loop.update_average(ours, Net(param, buffer), decay)
            near(ours.param, io[f"out.ema.{rule}.params"][i])
            own = rule == "rosinality"  # its buffers stay
            near(io["in.ema.buffer0"] if own else ours.buffer, io[f"out.ema.{rule}.buffers"][i])
            if f"out.ema.{rule}.beta" in io:
                near(torch.tensor(decay), io[f"out.ema.{rule}.beta"][i])


def near(ours: Tensor, reference: Tensor) -> None:
    close(ours, reference, atol=WITHIN * float(reference.abs().max()))


@pytest.mark.parametrize("case", each(KIND))
def test_decays(case):
    """Those in case.json. NVIDIA's automatic configuration has rosinality's at every batch."""
    rules = recipes(case)
    of = {
        "ema_beta_nvidia": "nvidia",
        "ema_beta_nvidia_auto": "rosinality",
        "ema_decay_rosinality": "rosinality",
    }
    found = {name: value for name, value in case.info["numbers"].items() if name.startswith("ema_")}
    for name, value in found.items():
        assert loop.ema_decay(rules[of[name]], 1) == pytest.approx(value, **EXACT), name


@pytest.mark.parametrize("case", each(KIND))
def test_optimisers_are_corrected_for_lazy_regularisation(case):
    """With the rates and intervals of the case."""
    base, lazy = case.info["config"]["base_adam"], case.info["numbers"].get("lazy", {})
    recipe = replace(Recipe(), lr=base["lr"], beta1=base["betas"][0], beta2=base["betas"][1])
    for name, every in (("D", "r1_every"), ("G", "path_every")):
        recipe = replace(recipe, **{every: lazy[name]["interval"]} if name in lazy else {})
    for name, expected in lazy.items():
        optimiser = FAMILY.optimiser([nn.Parameter(torch.zeros(1))], recipe, name.lower())
        (group,) = optimiser.param_groups
        assert group["lr"] == pytest.approx(expected["lr"], **EXACT)
        assert group["lr"] / base["lr"] == pytest.approx(expected["ratio"], **EXACT)
        assert list(group["betas"]) == pytest.approx(expected["betas"], **EXACT)
        assert group["eps"] == base.get("eps", group["eps"])


@pytest.mark.parametrize("case", each(KIND))
def test_the_recipe_at_256_px_is_the_published_one(case):
    """Weights, intervals and shares by the case's words, whatever its own settings are."""
    recipe = FAMILY.recipe(FAMILY.fresh(256, width=4))
    assert (recipe.lr, recipe.beta1, recipe.beta2) == (0.002, 0, 0.99)
    assert recipe.ema_half_life == recipes(case)["rosinality"].ema_half_life
    text, mixing = formula(case, "lazy"), formula(case, "style mixing")
    assert recipe.r1_every == stated(text, r"\* (\d+) with gamma", recipe.r1_every)
    assert recipe.r1_gamma == stated(text, r"with gamma (\d+)", recipe.r1_gamma)
    assert recipe.path_weight == stated(text, r"path length: (\d+) \*", recipe.path_weight)
    assert recipe.path_every == stated(text, r"path length: \d+ \* (\d+)", recipe.path_every)
    assert recipe.path_shrink == (2 if "half the batch" in text else recipe.path_shrink)
    assert recipe.mixing == stated(mixing, r"probability ([\d.]*\d)", recipe.mixing)


@pytest.mark.parametrize("case", each(KIND))
def test_styles_are_mixed_from_a_uniform_layer_on(case):
    """One cut a batch, uniform in 1 to num_ws - 1; the mean latent does not follow."""
    if "1 .. num_ws - 1" not in formula(case, "style mixing"):
        pytest.skip("the case does not say how styles are mixed")
    g = FAMILY.build(FAMILY.fresh(16, width=4)).g
    mean, counts, draws = g.mapping.w_avg.clone(), [0] * (g.num_ws + 1), 1500
    with torch.no_grad():
        for seed in range(draws):
            rng = torch.Generator().manual_seed(seed)
            inputs = Inputs(z=torch.randn(2, g.z_dim, generator=rng))
            ws = FAMILY._mixed(g, inputs, replace(Recipe(), mixing=1.0), rng)
            same = (ws == g.map(inputs)).all(dim=2)
            assert torch.equal(same[0], same[1])  # the same cut for all of the batch
            counts[int(same[0].sum())] += 1
    assert counts[0] == counts[g.num_ws] == 0
    each_cut = draws / (g.num_ws - 1)
    assert all(abs(count - each_cut) < 5 * each_cut**0.5 for count in counts[1:-1])
    assert torch.equal(g.mapping.w_avg, mean)
