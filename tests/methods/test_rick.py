"""RICK: decisions on filters; frozen ones do not move, whatever the optimiser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import SPECS, make_source

import fsgen
from fsgen import registry
from fsgen.interfaces import Layer
from fsgen.methods.rick import FROZEN, PRUNED, RICK, TUNED, between
from fsgen.models import model as models
from fsgen.nn.filter_masks import axis_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_two_percentiles_of_each_pool():
    layers = [Layer("a", "x"), Layer("a", "y"), Layer("b", "z")]
    scores = {
        "x": torch.tensor([5.0, 1.0, 3.0]),
        "y": torch.tensor([2.0, 4.0]),
        "z": torch.tensor([7.0, 6.0]),
    }
    # pool a: 1 2 3 4 5, its quarter at 2 and its three quarters at 4; what is on a line is below it
    found = between(layers, scores, 25.0, 75.0)
    assert found["x"].tolist() == [FROZEN, PRUNED, TUNED] and found["y"].tolist() == [PRUNED, TUNED]
    assert found["z"].tolist() == [FROZEN, PRUNED]


def information(nets, turn: int) -> dict:
    """Random information, so that every estimate decides otherwise."""
    rng = torch.Generator().manual_seed(turn)
    return {who: {key: torch.rand(p.shape, generator=rng) for key, p in net.named_parameters()}
            for who, net in nets.items()}  # fmt: skip


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_frozen_and_pruned_filters_stay_between_estimates(beta1):
    kind, spec = registry.family("dcgan")(), SPECS["dcgan"] | {"g_widths": [16, 8], "d_widths": [8, 16]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = dict(zip("gd", kind.build(spec), strict=True))
    method = RICK(RICK.Options(warmup="0", every="3", prune=15.0, freeze=60.0))
    turns = iter(range(99))
    method.setup(SimpleNamespace(
        family=kind, spec=spec, steps=1, seed=0, pretrained={"g", "d"},
        information=lambda *_: information(nets, next(turns)),
    ))  # fmt: skip
    optimisers = {who: torch.optim.Adam(net.parameters(), lr=0.01, betas=(beta1, 0.9), foreach=True)
                  for who, net in nets.items()}  # fmt: skip
    rng, history = torch.Generator().manual_seed(1), []
    for step in range(12):
        method.before_step(SimpleNamespace(
            g=nets["g"], d=nets["d"], g_ema=nets["g"], opt_g=optimisers["g"], opt_d=optimisers["d"], step=step
        ))  # fmt: skip
        history.append({})
        for who, net in nets.items():
            for layer in method.layers[who]:
                decided = method.decisions[who][layer.weight].clone()
                then = {key: net.get_parameter(key).detach().clone() for key in (layer.weight, *layer.also)}
                history[-1][who, layer.weight] = decided, then
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=rng)
            method.mask_gradients(who, net)
            optimisers[who].step()
            for layer in method.layers[who]:
                decided, then = history[-1][who, layer.weight]
                for key, old in then.items():
                    axis = axis_of(net, key) if old.ndim > 1 else 0
                    now, old = (value.movedim(axis, 0) for value in (net.get_parameter(key).detach(), old))
                    assert torch.equal(now[decided != TUNED], old[decided != TUNED])
                    assert (now[decided == TUNED] != old[decided == TUNED]).all()
                    assert not now[decided == PRUNED].any()
    for key in history[0]:
        over_time = torch.stack([some[key][0] for some in history])  # [steps, filters]
        cut = over_time == PRUNED
        assert (cut[1:] >= cut[:-1]).all()  # a pruned filter stays pruned
        assert cut[-1].sum() > cut[0].sum()
        assert ((over_time[3:] == FROZEN) & (over_time[:-3] == TUNED)).any()  # with momentum when it froze
        assert ((over_time[3:] == TUNED) & (over_time[:-3] == FROZEN)).any()


def test_the_warm_up_trains_the_head_alone_then_the_layers_with_filters(tmp_path, drawings):
    source = make_source(tmp_path / "source.safetensors", name="dcgan")
    before = models.load_model(source)
    filters = before.family.filters(before.spec)
    for warmup, steps in (("4", 4), ("1", 4)):
        run = fsgen.adapt(
            drawings, out=tmp_path / warmup, source=source, method="rick", steps=steps, device="cpu",
            options={"rick": {"warmup": warmup, "every": "2"}}, recipe={"batch": 4},
        )  # fmt: skip
        after = models.load_model(run)
        assert before.networks["g"].keys() == after.networks["g"].keys() and not after.extra
        for who, net in zip("gd", before.family.build(before.spec), strict=True):
            moved = {key for key, _ in net.named_parameters()
                     if not torch.equal(before.networks[who][key], after.networks[who][key])}  # fmt: skip
            held = {key for layer in filters.layers[who] for key in (layer.weight, *layer.also)}
            head = filters.head & dict(net.named_parameters()).keys() if who == "d" else set()
            assert moved == (head if warmup == "4" else head | held)


def test_a_run_on_stylegan2(tmp_path, tiny, drawings):
    """Noise strengths and biases of G's layers are trained whatever is decided on filters; the mapping
    network is not, although path lengths depend on it."""
    run = fsgen.adapt(drawings, out=tmp_path / "run", source=tiny, method="rick", steps=5, device="cpu",
                      options={"rick": {"warmup": "1", "every": "2", "prune": 20.0}})  # fmt: skip
    before, after = (models.load_model(path).networks for path in (tiny, run))
    filters = models.load_model(tiny).family.filters(models.load_model(tiny).spec)
    g = {key: not torch.equal(value, after["g"][key]) for key, value in before["g"].items()
         if "noise_const" not in key and "w_avg" not in key}  # fmt: skip
    held = {key for layer in filters.layers["g"] for key in (layer.weight, *layer.also)}
    assert {key for key, moved in g.items() if moved} == held | filters.beside
    gone = [not rows.any() for layer in filters.layers["g"] for rows in after["g"][layer.weight]]
    assert 0.2 * len(gone) <= sum(gone) < len(gone) / 2
