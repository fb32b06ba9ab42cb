"""MineGAN: when G is frozen, what the finished model stores, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from tiny import draw_images, make_source
from torch import nn

import fsgen
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, Interrupted
from fsgen.interfaces import Claim, Inputs
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
    # every parameter has a gradient: images depend on all of them
    moved = {key for key in before if not torch.equal(second[key], before[key])}
    assert moved == {key for key in before if "noise_const" not in key}
    adapted, found = models.load_model(tmp_path / "a"), models.load_model(tiny)
    assert any(
        not torch.equal(adapted.networks["d"][key], found.networks["d"][key]) for key in found.networks["d"]
    )


def test_the_miner_is_trained_and_images_are_drawn_with_it(tmp_path, tiny, drawings):
    first, last = (
        weights(run := adapt(tmp_path / f"{steps}", tiny, drawings, steps=steps))[1] for steps in (1, STEPS)
    )
    assert all(not torch.equal(first[key], last[key]) for key in first)
    model = models.load_model(run)
    g = model.generator()
    z = torch.cat([g.draw(1, random.generator(seed, "picture")).z for seed in range(3)])
    drawn = conditioning_of(model).inputs(g, range(3), "cpu").z
    w = {key.removeprefix("extra.minegan."): value.double() for key, value in last.items()}
    by_hand = (z.double() @ w["0.weight"].T + w["0.bias"]).clamp(min=0) @ w["2.weight"].T + w["2.bias"]
    torch.testing.assert_close(drawn.double(), by_hand)


def test_gradients_are_those_of_one_step_alone():
    """The published code accumulates the miner's over all steps."""
    method, net = MineGAN(), nn.Module()
    method.frozen = True
    net.minegan, net.own = miners.latent_miner(3, 3), nn.Linear(3, 3)
    optimiser, z = torch.optim.SGD(net.parameters(), lr=0.0), torch.randn(4, 3)
    found = []
    for _ in range(2):
        _descend(
            optimiser, {"g": net.own(net.minegan(z)).square().mean()}, lambda: method.mask_gradients("g", net)
        )
        found.append(net.minegan[0].weight.grad.clone())
        assert net.own.weight.grad is None
    assert torch.equal(*found) and found[0].any()


@pytest.mark.parametrize("mine", ["latents", "both"])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, tiny, drawings, mine):
    options = {"minegan": {"frozen": 0.6, "mine": mine}}
    whole = adapt(tmp_path / "whole", tiny, drawings, options=options)
    for stop in (2, 4):  # with G frozen and with G trained
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
    # the constant is the trained miner's
    state = load_file(run / "state" / "latest.safetensors")
    prefix = "g.synthesis.b4.parametrizations.const.0."
    trained = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    channels, side, _ = before["g.synthesis.b4.const"].shape
    constant = miners.ConstantMiner(channels, side, 8, [32, 128])
    constant.load_state_dict(trained)
    torch.testing.assert_close(constant(None), after["g.synthesis.b4.const"])


def test_styles_are_mixed_with_mined_latents(tiny):
    g = models.load_model(tiny).generator()
    method = MineGAN()
    method.add_modules(g, None)
    z = g.draw(2, torch.Generator().manual_seed(0)).z
    drawn = method.transform_inputs(Inputs(z=z), g, torch.Generator().manual_seed(1), True)
    other = g.draw(2, torch.Generator().manual_seed(1)).z
    torch.testing.assert_close(drawn.mix, g.minegan(other))
    torch.testing.assert_close(drawn.z, g.minegan(z))


def test_an_adapted_model_can_be_trained_further_by_other_methods(tmp_path, tiny, drawings):
    run = adapt(tmp_path / "first", tiny, drawings, steps=2)
    with refused(Code.INCOMPATIBLE, "minegan") as caught:
        adapt(tmp_path / "again", run, drawings)
    assert caught.value.exit_code == 2 and not (tmp_path / "again").exists()
    further = adapt(tmp_path / "further", run, drawings, method="finetune", steps=2)
    _, extra = weights(further)
    assert extra.keys() == weights(run)[1].keys()


def test_the_sizes_of_the_miners_are_options(tmp_path, tiny, drawings):
    sizes = {"hidden": "5", "code": 3, "widths": "7,9,4"}
    run = adapt(tmp_path / "run", tiny, drawings, steps=2, options={"minegan": {"mine": "both", **sizes}})
    _, extra = weights(run)
    shapes = {key.removeprefix("extra.minegan."): list(value.shape) for key, value in extra.items()}
    assert shapes == {"0.weight": [5, 6], "0.bias": [5], "2.weight": [6, 5], "2.bias": [6]}
    state = load_file(run / "state" / "latest.safetensors")
    prefix = "g.synthesis.b4.parametrizations.const.0."
    found = {key.removeprefix(prefix): list(value.shape) for key, value in state.items() if prefix in key}
    assert found.pop("code") == [3, 4, 4]
    convolutions = [shape[:2] for key, shape in found.items() if key.endswith("weight")]
    assert convolutions == [[7, 3], [9, 7], [4, 9], [8, 4]]  # up to the constant's 8 channels
    assert len(fsgen.load(run, device="cpu").sample(2)) == 2  # the finished model knows its miner's size


@pytest.mark.parametrize(
    "sizes", [{"hidden": "0"}, {"hidden": "many"}, {"code": 0}, {"widths": "32,"}, {"widths": "32,-1"}]
)
def test_sizes_that_are_none_are_refused(sizes):
    ((name, value),) = sizes.items()
    with refused(Code.OUT_OF_RANGE, f"--minegan-{name} {value}"):
        MineGAN(MineGAN.Options(**sizes))


@pytest.mark.parametrize("frozen", [-0.1, 1.1, float("nan")])
def test_shares_out_of_range_are_refused(frozen):
    with refused(Code.OUT_OF_RANGE, f"--minegan-frozen {frozen}"):
        MineGAN(MineGAN.Options(frozen=frozen))


def test_a_constant_is_mined_only_where_there_is_one(tmp_path):
    source = make_source(tmp_path / "dcgan.safetensors", name="dcgan")
    images = draw_images(tmp_path / "images", 2)
    with refused(Code.INCOMPATIBLE, "minegan needs constant", "dcgan"):
        adapt(tmp_path / "run", source, images, options={"minegan": {"mine": "both"}})
    with refused(Code.OUT_OF_RANGE, "mine", "constant"):
        technique_of("minegan", {"minegan": {"mine": "constant"}})


def test_two_methods_of_one_claim_are_refused(tmp_path, tiny, drawings):
    with refused(Code.INCOMPATIBLE, "minegan and cdc", Claim.LATENTS.value):
        adapt(tmp_path / "run", tiny, drawings, method="minegan,cdc")
    with refused(Code.INCOMPATIBLE, "ewc and minegan", Claim.FREEZING.value):
        adapt(tmp_path / "run", tiny, drawings, method="ewc,minegan", options={"minegan": {"mine": "both"}})
