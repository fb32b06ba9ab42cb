"""AdAM: what is modulated, what is trained and what is frozen, what is folded."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import SPECS, make_source

import fsgen
from fsgen import registry
from fsgen.interfaces import Layer
from fsgen.methods.adam import AdAM, Probe, above
from fsgen.methods.stack import Stack
from fsgen.models import model as models
from fsgen.nn import modulation
from fsgen.nn.filter_masks import axis_of
from fsgen.nn.modulation import added, original
from fsgen.training import loop

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_percentile_splits_each_pool():
    """Importance by hand: mean(F_u) + F_v, and (mean(F_u) + F_v + F_b) / 2 where there is a bias."""
    layers = [Layer("convolutions", "a.weight"), Layer("convolutions", "b.weight", ("b.bias",)),
              Layer("modulations", "c.weight")]  # fmt: skip
    found = {
        added("a.weight", "u"): torch.tensor([1.0, 3.0]), added("a.weight", "v"): torch.tensor([0.0, 4.0]),
        added("b.weight", "u"): torch.tensor([2.0]), added("b.weight", "v"): torch.tensor([0.0, 6.0, 2.0]),
        added("b.bias", "b"): torch.tensor([4.0, 0.0, 8.0]),
        added("c.weight", "u"): torch.tensor([0.0]), added("c.weight", "v"): torch.tensor([9.0, 8.0]),
    }  # fmt: skip
    # a: 2, 6; b: 3, 4, 6; together 2 3 4 6 6, with its median at 4, which itself is not above
    found = above(layers, found, 50.0)
    assert found["a.weight"].tolist() == [False, True]
    assert found["b.weight"].tolist() == [False, False, True]
    assert found["c.weight"].tolist() == [True, False]  # 9 and 8, a pool of their own


@pytest.mark.parametrize("name", ["stylegan2", "dcgan"])
def test_the_probe_trains_the_modulation_and_the_head(name):
    kind, spec = registry.family(name)(), SPECS[name]
    nets, method = kind.build(spec), AdAM()
    method.context = SimpleNamespace(family=kind, spec=spec, seed=0)
    stack = Stack([Probe(method)])
    stack.add_modules(*nets)
    state = loop.begin(kind, *nets, kind.recipe(spec), partial(stack.trains_parameter, kind, spec))
    head = kind.filters(spec).head
    for who, net in zip("gd", nets, strict=True):
        names = dict(net.named_parameters())
        vectors = {key for key in names if key.endswith((".0.u", ".0.v", ".0.b"))}
        assert state.trained[who].keys() == vectors | (head & names.keys() if who == "d" else set())
        # every weight, but a learned constant and the head, has both; every other parameter has b
        for key in kind.build(spec)[who == "d"].state_dict():
            if key in names or key not in dict(kind.build(spec)[who == "d"].named_parameters()):
                continue
            parts = "uv" if names[original(key)].ndim > 1 else "b"
            assert {added(key, part) for part in parts} <= vectors
        whole = {key for key in names if "parametrizations" not in key}
        assert whole <= head | {"synthesis.b4.const"}


@pytest.fixture
def unfolded(monkeypatch):
    """Each network's parameters just before it is folded, in that order."""
    seen = []
    fold = modulation.fold

    def spied(net):
        seen.append({key: value.detach().clone() for key, value in net.named_parameters()})
        fold(net)

    monkeypatch.setattr(modulation, "fold", spied)
    return seen


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("stylegan2", {"beta1": 0.9}), ("dcgan", {}), ("fastgan", {})],
    ids=lambda value: str(value),
)
def test_frozen_filters_are_bit_identical_and_modulated_the_others_tuned(
    tmp_path, drawings, unfolded, name, recipe, monkeypatch
):
    """Families whose Adam has a beta1 above 0."""
    source = make_source(tmp_path / "source.safetensors", name=name)
    run = fsgen.adapt(
        drawings, out=tmp_path / "run", source=source, method="adam", steps=4, device="cpu",
        options={"adam": {"probe": "2", "samples": "4"}}, recipe={"batch": 4, **recipe},
    )  # fmt: skip
    before, after, state = (
        models.load_model(source),
        models.load_model(run),
        load_file(run / "state/latest.safetensors"),
    )
    assert before.networks["g"].keys() == after.networks["g"].keys() and not after.extra
    nets, filters = before.family.build(before.spec), before.family.filters(before.spec)
    for who, net, last in (("g", nets.g, unfolded[-2]), ("d", nets.d, unfolded[-1])):
        plain = before.networks[who]
        in_layers = set()
        for layer in filters.layers[who]:
            kept = state[f"method.adam.{who}.{layer.weight}"]
            in_layers |= {layer.weight, *layer.also}
            assert (last[added(layer.weight, "v")][kept] != 0).all()
            for key in (layer.weight, *layer.also):
                axis = axis_of(net, key) if plain[key].ndim > 1 else 0
                now, then = (value.movedim(axis, 0) for value in (last[original(key)], plain[key]))
                assert torch.equal(now[kept], then[kept])
                assert all((a != b).any() for a, b in zip(now[~kept], then[~kept], strict=True))
                vector = added(key, "v" if plain[key].ndim > 1 else "b")
                assert not last[vector][~kept].any()
        for key in dict(net.named_parameters()).keys() - in_layers:
            moved = not torch.equal(plain[key], last.get(key, last.get(original(key))))
            assert moved == (who == "d" and key in filters.head), key
        # what was folded is the product, to rounding
        for key, value in last.items():
            if key.endswith(".original") and value.ndim > 1:
                weight = key.removesuffix(".original").replace(".parametrizations", "")
                rows = value.movedim(axis_of(net, weight), 0)
                u, v = (last[added(weight, part)] for part in "uv")
                product = (rows * (1 + torch.outer(v, u)).reshape(rows.shape)).movedim(
                    0, axis_of(net, weight)
                )
                torch.testing.assert_close(after.networks[who][weight], product)
