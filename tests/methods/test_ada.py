"""ADA by itself: how p moves, and a run with it. Its pipe: tests/data; the published one: tests/parity."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.data import ada_augment
from fsgen.errors import FsgenError, Interrupted
from fsgen.io.run_folder import RunFolder
from fsgen.methods import ada
from fsgen.methods.ada import ADA
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"interval": "1", "kimg": "0.02", "target": -0.9}  # p is 0.2 after one step of 4


def entered(steps: int = 400, batch: int = 4, side: int = 32, known: str = "gd", **options) -> ADA:
    method = ADA(ADA.Options(**options))
    method.setup(SimpleNamespace(
        spec={"resolution": side}, recipe=SimpleNamespace(batch=batch), steps=steps, device="cpu",
        pretrained=frozenset(known),
    ))  # fmt: skip
    return method


def p_after(method: ADA, *batches: list[float]) -> list[float]:
    """p after each batch of logits."""
    found = []
    for step, logits in enumerate(batches, start=1):
        method.judged(torch.tensor(logits)[:, None])
        method.before_step(SimpleNamespace(step=step))
        found.append(method.p.item())
    return found


def test_p_follows_the_mean_sign_of_its_interval():
    sure, unsure, even = [3.0, 0.1], [-1.0, -2.0], [1.0, -9.0]
    found = p_after(entered(interval="2", kimg="0.04"), sure, sure, even, unsure, unsure, unsure, sure, sure)
    assert found == pytest.approx([0, 0.1, 0.1, 0, 0, 0, 0, 0.1])  # not below 0
    found = p_after(entered(interval="1", kimg="0.004"), *[sure] * 3)
    assert found == pytest.approx([0.5, 1, 1.5])  # nor limited above, as published
    assert p_after(entered(interval="1", kimg="0.004", rule="rosinality"), *[sure] * 3) == [0.5, 1, 1]
    at_target = {"interval": "1", "kimg": "0.02", "target": 0.0}
    assert p_after(entered(**at_target), sure, even) == pytest.approx([0.1, 0.1])
    assert p_after(entered(rule="rosinality", **at_target), sure, even) == pytest.approx([0.1, 0])
    slower = p_after(entered(interval="1", kimg="0.02", rule="cdc"), sure)
    assert slower == pytest.approx([0.06])  # by the target of 0.6


def test_many_logits_an_image_count_as_one():
    method = entered(interval="1", kimg="0.02")
    method.judged(torch.tensor([[1.0, 1.0, 1.0, -1.0], [2.0, 2.0, 2.0, 2.0]]))
    assert method.seen.tolist() == [1.5, 2]


def test_the_published_speed_and_when_a_run_is_too_short_for_it():
    assert entered(steps=5000).kimg == 100 == entered(steps=50000).kimg
    assert entered(steps=400).kimg == 8  # p can get to 0.2, as it can in 5,000 steps
    assert entered(steps=50000, known="").kimg == 500
    assert entered(steps=400, rule="cdc").kimg == 500 == entered(steps=400, rule="rosinality").kimg
    assert [entered(rule=rule).interval for rule in ada.RULES] == [4, 256, 64]
    assert entered(rule="cdc", batch=8).interval == 32
    method = entered()
    assert method.chosen() == {"interval": "4", "kimg": "8.0"} and not ADA().chosen()


def test_at_p_0_pictures_are_left_alone_and_later_shown_alike_for_equal_draws():
    x, method = torch.randn(4, 3, 24, 24), entered()
    assert method.view(x, "real", torch.Generator()) is x
    method.p = torch.tensor(0.9)
    once, again = (method.view(x, "real", torch.Generator().manual_seed(s)) for s in (1, 1))
    assert torch.equal(once, again) and not torch.equal(once, x)


def test_policies_are_the_pipes():
    assert list(ada.POLICIES) == list(ada_augment.POLICIES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": "0"}, "--ada-interval 0 is not auto, and no whole number above 0"),
        ({"interval": "1.5"}, "--ada-interval 1.5 is not auto, and no whole number above 0"),
        ({"kimg": "none"}, "--ada-kimg none is not auto, and no number above 0"),
        ({"target": 1.5}, "--ada-target 1.5 is not between -1 and 1"),
        ({"policy": "bgcf", "side": 16}, "ada's filter needs more than 21 px, and there are 16"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(FsgenError) as caught:
        entered(**options)
    assert caught.value.message == message


def adapt(drawings, out, source, **more):
    return fsgen.adapt(
        drawings, out=out, source=source, method="ada", options={"ada": QUICK}, steps=6, save_every=2,
        device="cpu", **more,
    )  # fmt: skip


def test_a_run_augments_trains_all_and_goes_on_as_if_never_stopped(tmp_path, tiny, drawings):
    whole = adapt(drawings, tmp_path / "whole", tiny)
    left = iter(range(3))
    with pytest.raises(Interrupted):
        adapt(drawings, tmp_path / "cut", tiny, callbacks=Callbacks(stop=lambda: next(left, None) is None))
    cut = resume(tmp_path / "cut")
    for name in ("model.safetensors", "state/latest.safetensors"):
        ours, theirs = (load_file(run / name) for run in (whole, cut))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    before, after = load_file(tiny), load_file(whole / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[k], after[k]) for k in before if "noise_const" not in k)
    p = [v for k, v in load_file(whole / "state/latest.safetensors").items() if k.endswith("ada.p")]
    assert len(p) == 1 and p[0] > 0  # the critic was shown something else than pictures as they are
    assert RunFolder(whole).history()[-1]["ada_p"] > 0
    plain = fsgen.adapt(
        drawings, out=tmp_path / "plain", source=tiny, method="finetune", steps=6, device="cpu"
    )
    assert not torch.equal(
        load_file(plain / "model.safetensors")["d.b4.out.weight"], after["d.b4.out.weight"]
    )
