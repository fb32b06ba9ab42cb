"""RICK against the published implementation: decisions at several percentiles, and two rounds of training."""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cases import Case, close, each
from sg2 import FAMILY
from torch import Tensor, nn

from fsgen.families.stylegan2 import convert
from fsgen.methods.rick import FROZEN, PRUNED, RICK, TUNED
from fsgen.methods.stack import Stack
from fsgen.nn.filter_masks import percentiles

KIND = each("rick-masks")
Tensors = dict[str, Tensor]


def part(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def spec_of(case: Case) -> dict:
    config = case.info["config"]
    widths = {str(side): width for side, width in config["channels_per_resolution"].items()}
    sizes = {"g_widths": widths, "d_widths": dict(widths)}
    wide = {"w_dim": config["style_dim"], "z_dim": config["style_dim"]}
    return FAMILY.fresh(config["resolution"]) | sizes | wide


def named(case: Case, who: str, keys: list[str]) -> dict[str, str]:
    """The reference's key -> ours."""
    every = sorted({*keys, *part(case.tensors(), f"in.round0.fisher_{who}.")})
    rename = convert.convert_g if who == "g" else convert.convert_d
    marked = rename({key: torch.full((1, 1, 1, 1, 1), float(i)) for i, key in enumerate(every)})
    return {every[int(value.flatten()[0])]: name for name, value in marked.items()}


def information(case: Case, net: nn.Module, turn: int, who: str) -> Tensors:
    given = part(case.tensors(), f"in.round{turn}.fisher_{who}.")
    names = named(case, who, list(given))
    return {names[key]: value.reshape(net.get_parameter(names[key]).shape) for key, value in given.items()}


class Round(RICK):
    """Decides upon the case's estimates in place of its own."""

    @classmethod
    def of(cls, case: Case, freeze: float, prune: float, **options) -> Round:
        method = cls(cls.Options(freeze=float(freeze), prune=float(prune), warmup="0", **options))
        method.case, method.nets = case, dict(zip("gd", FAMILY.build(spec_of(case)), strict=True))
        method.setup(SimpleNamespace(
            family=FAMILY, spec=spec_of(case), steps=1, seed=0, pretrained={"g", "d"},
            information=lambda *_: {w: information(case, n, method.turn, w) for w, n in method.nets.items()},
        ))  # fmt: skip
        return method

    def estimate(self, turn: int, opt_g, opt_d) -> None:
        self.turn = turn
        g, d = self.nets["g"], self.nets["d"]
        step = turn * self.lengths["every"]
        self.before_step(SimpleNamespace(g=g, d=d, g_ema=g, opt_g=opt_g, opt_d=opt_d, step=step))

    def alone(self, who: str, turn: int) -> Tensors:
        """Decisions without those before them."""
        self.decisions[who] = {}
        self._select(who, self.nets[who], information(self.case, self.nets[who], turn, who))
        return self.decisions[who]


def agree(case: Case, method: Round, who: str, fates: Tensors, wanted: Tensors) -> None:
    """Fates of the filters; a bias shares its weight's."""
    of = {name: layer.weight for layer in method.layers[who] for name in (layer.weight, *layer.also)}
    names = named(case, who, list(wanted))
    assert {names[key] for key in wanted} == set(of)
    for key, value in wanted.items():
        close(fates[of[names[key]]].to(value.dtype), value)


def test_the_numbers_are_those_of_the_case():
    assert (PRUNED, TUNED, FROZEN) == (0, 1, 2)


@pytest.mark.parametrize("case", KIND)
def test_decisions(case):
    for freeze, prune in case.info["config"]["percentiles"]:
        method = Round.of(case, freeze, prune)
        for who in ("g", "d"):
            wanted = part(case.tensors(), f"out.q{freeze:g}_{prune:g}.mask_{who}.")
            agree(case, method, who, method.alone(who, 0), wanted)


@pytest.mark.parametrize("case", KIND)
def test_the_lines_between_them(case, monkeypatch):
    for label, wanted in case.info.get("thresholds", {}).items():
        freeze, prune = (float(text) for text in re.fullmatch(r"q([\d.]+)_([\d.]+)", label).groups())
        found = {}

        def spied(layers, scores, percent, found=found):
            found[len(layers), percent] = percentiles(layers, scores, percent)
            return found[len(layers), percent]

        monkeypatch.setattr("fsgen.nn.filter_masks.percentiles", spied)
        method = Round.of(case, freeze, prune)
        for who in ("g", "d"):
            method.alone(who, 0)
            count = len(method.layers[who])
            for line, percent in (("cutline", freeze), ("pruneline", prune)):
                close(found[count, percent]["convolutions"], wanted[f"{line}_{who}_conv"])
                if who == "g":
                    close(found[count, percent]["modulations"], wanted[f"{line}_g_fc"])


@pytest.mark.parametrize("case", KIND)
def test_two_rounds_of_training(case):
    tensors, config = case.tensors(), case.info["config"]
    steps = config["dynamic"]["steps_per_round"]
    method = Round.of(case, *config["dynamic"]["percentiles"], every=str(steps))
    trained, optimisers, names = {}, {}, {}
    for who, net in method.nets.items():
        shown = part(tensors, f"in.dyn.{who}.param.")
        names[who] = named(case, who, list(shown))
        for key, value in shown.items():
            mine = net.get_parameter(names[who][key])
            mine.data = value.reshape(mine.shape).clone()
        trained[who] = [net.get_parameter(names[who][key]) for key in shown]
        trains = partial(Stack([method]).trains_parameter, FAMILY, method.context.spec, who)
        assert all(trains(names[who][key]) for key in shown)
        settings = config["adam"][f"{who}_optim"]
        optimisers[who] = torch.optim.Adam([{"params": trained[who]}], foreach=True, **settings)
    rounds = sorted({int(m[1]) for name in tensors if (m := re.match(r"out\.dyn(\d+)\.", name))})
    for turn in rounds:
        for who in method.nets:
            wanted = part(tensors, f"out.dyn{turn}.mask_{who}.")
            agree(
                case, method, who, Round.of(case, *config["dynamic"]["percentiles"]).alone(who, turn), wanted
            )
        method.estimate(turn, optimisers["g"], optimisers["d"])
        for who, net in method.nets.items():
            zeroed = {weight: fate == PRUNED for weight, fate in method.decisions[who].items()}
            agree(case, method, who, zeroed, part(tensors, f"out.dyn{turn}.zeroed_{who}."))
            for step in range(steps):
                given = part(tensors, f"in.dyn{turn}.step{step}.{who}.grad.")
                for key, value in given.items():
                    mine = net.get_parameter(names[who][key])
                    mine.grad = value.reshape(mine.shape).clone()
                method.mask_gradients(who, net)
                for key, value in part(tensors, f"out.dyn{turn}.step{step}.{who}.grad.").items():
                    mine = net.get_parameter(names[who][key])
                    close(mine.grad, value.reshape(mine.shape), grad=True)
                optimisers[who].step()
            for key, value in part(tensors, f"out.dyn{turn}.{who}.param.").items():
                mine = net.get_parameter(names[who][key])
                close(mine, value.reshape(mine.shape))
                assert torch.equal(mine == 0, value.reshape(mine.shape) == 0)


@pytest.mark.parametrize("case", KIND)
def test_what_is_not_trained(case):
    method = Round.of(case, *case.info["config"]["percentiles"][0])
    for who in ("g", "d"):
        keys = case.info.get(f"not_in_optimiser_{who}", [])
        for key, name in named(case, who, keys).items():
            assert key not in keys or not method.trains(FAMILY, method.context.spec, who, name), key


@pytest.mark.parametrize("case", KIND)
def test_every_tensor_of_the_case_is_compared(case):
    known = [
        r"in\.round\d+\.fisher_[gd]\..*",
        r"out\.q[\d.]+_[\d.]+\.mask_[gd]\..*",
        r"out\.dyn\d+\.(mask|zeroed)_[gd]\..*",
        r"in\.dyn\.[gd]\.param\..*",
        r"(in|out)\.dyn\d+\.step\d+\.[gd]\.grad\..*",
        r"out\.dyn\d+\.[gd]\.param\..*",
    ]
    for name in case.tensors():
        assert any(re.fullmatch(pattern, name) for pattern in known), f"{name} is not compared"
