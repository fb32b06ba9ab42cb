"""MineGAN by itself: what is frozen when, what it leaves in the model, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import draw_images, make_source
from torch import nn

import fsgen
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.errors import FsgenError, Interrupted
from fsgen.interfaces import Inputs
from fsgen.io import checkpoint
from fsgen.methods.minegan import MineGAN
from fsgen.models import model as models
from fsgen.nn import miners
from fsgen.sampling.conditioning import conditioning_of
from fsgen.training.adapt import resume, technique_of
from fsgen.training.loop import _descend

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 5


def adapt(out: Path, source: Path, images: Path, **options: object) -> Path:
    given = {"steps": STEPS, "recipe": {"batch": 4}, "method": "minegan", "device": "cpu", **options}
    return fsgen.adapt(images, out=out, source=source, **given)


def weights(run: Path) -> tuple[dict, dict]:
    """G's tensors and what is stored beside them."""
    tensors = load_file(run / "model.safetensors" if run.is_dir() else run)
    g = {key: value for key, value in tensors.items() if key.startswith("g.") and "w_avg" not in key}
    return g, {key: value for key, value in tensors.items() if key.startswith("extra.")}


def test_the_generator_is_frozen_for_its_share_of_the_steps_and_trained_after(tmp_path, tiny, drawings):
    before, _ = weights(tiny)
    first, mined = weights(adapt(tmp_path / "a", tiny, drawings, options={"minegan": {"frozen": 1.0}}))
    assert first.keys() == before.keys() and all(torch.equal(first[key], before[key]) for key in before)
    assert set(mined) == {f"extra.minegan.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")}
    second, _ = weights(adapt(tmp_path / "b", tiny, drawings, options={"minegan": {"frozen": 0.8}}))
    # a bias that pictures do not depend on has no gradient: none of these is one
    moved = {key for key in before if not torch.equal(second[key], before[key])}
    assert moved == {key for key in before if "noise_const" not in key}
    adapted, found = models.load(tmp_path / "a"), models.load(tiny)
    assert any(
        not torch.equal(adapted.networks["d"][key], found.networks["d"][key]) for key in found.networks["d"]
    )


def test_the_miner_has_moved_and_pictures_are_drawn_with_it(tmp_path, tiny, drawings):
    first, last = (
        weights(run := adapt(tmp_path / f"{steps}", tiny, drawings, steps=steps))[1] for steps in (1, STEPS)
    )
    assert all(not torch.equal(first[key], last[key]) for key in first)
    model = models.load(run)
    g = model.generator()
    z = torch.cat([g.draw(1, random.generator(seed, "picture")).z for seed in range(3)])
    drawn = conditioning_of(model).inputs(g, range(3), "cpu").z
    w = {key.removeprefix("extra.minegan."): value.double() for key, value in last.items()}
    by_hand = (z.double() @ w["0.weight"].T + w["0.bias"]).clamp(min=0) @ w["2.weight"].T + w["2.bias"]
    torch.testing.assert_close(drawn.double(), by_hand)


def test_gradients_are_those_of_one_step_alone():
    """The published code adds those of the miner up over all steps."""
    method, net = MineGAN(), nn.Module()
    method.frozen = True
    net.minegan, net.own = miners.latent_miner(3), nn.Linear(3, 3)
    optimiser, z = torch.optim.SGD(net.parameters(), lr=0.0), torch.randn(4, 3)
    seen = []
    for _ in range(2):
        _descend(
            optimiser, {"g": net.own(net.minegan(z)).square().mean()}, lambda: method.mask_gradients("g", net)
        )
        seen.append(net.minegan[0].weight.grad.clone())
        assert net.own.weight.grad is None
    assert torch.equal(*seen) and seen[0].any()


@pytest.mark.parametrize("mine", ["latents", "both"])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, tiny, drawings, mine):
    options = {"minegan": {"frozen": 0.6, "mine": mine}}
    whole = adapt(tmp_path / "whole", tiny, drawings, options=options)
    for stop in (2, 4):  # in the one stage and in the other
        left = iter([*[False] * (stop - 1), True])
        with pytest.raises(Interrupted):
            adapt(
                tmp_path / f"{stop}",
                tiny,
                drawings,
                options=options,
                callbacks=Callbacks(stop=lambda it=left: next(it)),
            )
        resume(tmp_path / f"{stop}")
        for name in ("model.safetensors", "state/latest.safetensors"):
            same = [checkpoint.hash_tensors(load_file(run / name)) for run in (whole, tmp_path / f"{stop}")]
            assert same[0] == same[1], name


def test_the_mined_constant_is_folded_into_the_sources_keys(tmp_path, tiny, drawings):
    run = adapt(tmp_path / "run", tiny, drawings, options={"minegan": {"mine": "both", "frozen": 1.0}})
    (before, _), (after, extra) = weights(tiny), weights(run)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert before.keys() == after.keys() and moved == {"g.synthesis.b4.const"} and len(extra) == 4
    # the constant is that of the miner which was trained, not of another
    state = load_file(run / "state" / "latest.safetensors")
    prefix = "g.synthesis.b4.parametrizations.const.0."
    trained = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    channels, side, _ = before["g.synthesis.b4.const"].shape
    constant = miners.ConstantMiner(channels, side)
    constant.load_state_dict(trained)
    torch.testing.assert_close(constant(None), after["g.synthesis.b4.const"])


def test_styles_are_mixed_with_mined_latents(tiny):
    g = models.load(tiny).generator()
    method = MineGAN()
    method.add_modules(g, None)
    z = g.draw(2, torch.Generator().manual_seed(0)).z
    drawn = method.draw(g, Inputs(z=z), torch.Generator().manual_seed(1), shown=True)
    other = g.draw(2, torch.Generator().manual_seed(1)).z
    torch.testing.assert_close(drawn.mix, g.minegan(other))
    torch.testing.assert_close(drawn.z, g.minegan(z))


def test_what_it_made_can_be_trained_further_but_not_by_itself(tmp_path, tiny, drawings):
    run = adapt(tmp_path / "first", tiny, drawings, steps=2)
    with pytest.raises(FsgenError, match="holds what minegan left there") as refused:
        adapt(tmp_path / "again", run, drawings)
    assert refused.value.exit_code == 2 and not (tmp_path / "again").exists()
    further = adapt(tmp_path / "further", run, drawings, method="finetune", steps=2)
    _, extra = weights(further)
    assert extra.keys() == weights(run)[1].keys()


@pytest.mark.parametrize("frozen", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_none_and_all(frozen):
    with pytest.raises(FsgenError, match="is no share of the steps"):
        MineGAN(MineGAN.Options(frozen=frozen))


def test_a_constant_is_mined_where_there_is_one(tmp_path):
    source = make_source(tmp_path / "dcgan.safetensors", name="dcgan")
    images = draw_images(tmp_path / "images", 2)
    with pytest.raises(FsgenError, match="minegan needs constant; the family dcgan has none"):
        adapt(tmp_path / "run", source, images, options={"minegan": {"mine": "both"}})
    with pytest.raises(FsgenError, match="'mine' cannot be 'constant'"):
        technique_of("minegan", {"minegan": {"mine": "constant"}})


def test_two_methods_do_not_both_decide_one_thing(tmp_path, tiny, drawings):
    with pytest.raises(FsgenError, match="minegan and cdc both decide what latents are drawn"):
        adapt(tmp_path / "run", tiny, drawings, method="minegan,cdc")
    with pytest.raises(FsgenError, match="ewc and minegan both decide how weights are held"):
        adapt(tmp_path / "run", tiny, drawings, method="ewc,minegan", options={"minegan": {"mine": "both"}})
