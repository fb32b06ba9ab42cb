"""ADA: updates of p, and runs. The augmentations: tests/data; the published ones: tests/parity."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.data import ada_augment
from fsgen.errors import Code, Interrupted
from fsgen.io.run_folder import RunFolder
from fsgen.methods import ada
from fsgen.methods.ada import ADA
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"interval": "1", "kimg": "0.02", "target": -0.9}  # p is 0.2 after one step of 4


def set_up(steps: int = 400, batch: int = 4, side: int = 32, pretrained: str = "gd", **options) -> ADA:
    method = ADA(ADA.Options(**options))
    method.setup(SimpleNamespace(
        spec={"resolution": side}, recipe=SimpleNamespace(batch=batch), steps=steps, device="cpu",
        pretrained=frozenset(pretrained),
    ))  # fmt: skip
    return method


def p_after(method: ADA, *batches: list[float]) -> list[float]:
    """p after each batch of logits."""
    found = []
    for step, logits in enumerate(batches, start=1):
        method.after_step(SimpleNamespace(real_logits=torch.tensor(logits)[:, None]))
        method.before_step(SimpleNamespace(step=step))
        found.append(method.buffers["p"].item())
    return found


def test_p_follows_the_mean_sign_of_its_interval():
    sure, unsure, even = [3.0, 0.1], [-1.0, -2.0], [1.0, -9.0]
    found = p_after(set_up(interval="2", kimg="0.04"), sure, sure, even, unsure, unsure, unsure, sure, sure)
    assert found == pytest.approx([0, 0.1, 0.1, 0, 0, 0, 0, 0.1])  # not below 0
    found = p_after(set_up(interval="1", kimg="0.004"), *[sure] * 3)
    assert found == pytest.approx([0.5, 1, 1.5])  # nor limited above, as published
    assert p_after(set_up(interval="1", kimg="0.004", rule="rosinality"), *[sure] * 3) == [0.5, 1, 1]
    at_target = {"interval": "1", "kimg": "0.02", "target": 0.0}
    assert p_after(set_up(**at_target), sure, even) == pytest.approx([0.1, 0.1])
    assert p_after(set_up(rule="rosinality", **at_target), sure, even) == pytest.approx([0.1, 0])
    slower = p_after(set_up(interval="1", kimg="0.02", rule="cdc"), sure)
    assert slower == pytest.approx([0.06])  # by the target of 0.6


def test_many_logits_an_image_count_as_one():
    method = set_up(interval="1", kimg="0.02")
    logits = torch.tensor([[1.0, 1.0, 1.0, -1.0], [2.0, 2.0, 2.0, 2.0]])
    assert method.after_step(SimpleNamespace(real_logits=logits)) == {"ada_p": 0}
    assert method.buffers["seen"].tolist() == [1.5, 2]
    method.after_step(SimpleNamespace(real_logits=None))  # a step without D changes nothing
    assert method.buffers["seen"].tolist() == [1.5, 2]


def test_the_published_speed_and_when_a_run_is_too_short_for_it():
    assert set_up(steps=5000).kimg == 100 == set_up(steps=50000).kimg
    assert set_up(steps=400).kimg == 8  # p can get to 0.2, as it can in 5,000 steps
    assert set_up(steps=50000, pretrained="").kimg == 500
    assert set_up(steps=400, rule="cdc").kimg == 500 == set_up(steps=400, rule="rosinality").kimg
    assert [set_up(rule=rule).interval for rule in ada.RULES] == [4, 256, 64]
    assert set_up(rule="cdc", batch=8).interval == 32
    assert (ADA().options.interval, ADA().options.kimg) == ("auto", "auto")
    assert (set_up().options.interval, set_up().options.kimg) == ("4", "8.0")
    given = set_up(interval="7", kimg="3").options
    assert (given.interval, float(given.kimg)) == ("7", 3)


def test_at_p_0_images_are_unchanged_and_later_equal_for_equal_draws():
    x, method = torch.randn(4, 3, 24, 24), set_up()
    assert method.augment(x, "real", lambda purpose: torch.Generator()) is x
    method.buffers["p"] = torch.tensor(0.9)
    purposes = []

    def rng(purpose: str) -> torch.Generator:
        purposes.append(purpose)
        return torch.Generator().manual_seed(1)

    once, again = (method.augment(x, kind, rng) for kind in ("real", "fake_d"))
    assert torch.equal(once, again) and not torch.equal(once, x)
    assert purposes == ["ada real", "ada fake_d"]  # results depend on these


def test_policies_are_the_pipes():
    assert list(ada.POLICIES) == list(ada_augment.POLICIES)


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"interval": "0"}, Code.OUT_OF_RANGE, ["--ada-interval 0"]),
        ({"interval": "1.5"}, Code.OUT_OF_RANGE, ["--ada-interval 1.5"]),
        ({"kimg": "none"}, Code.OUT_OF_RANGE, ["--ada-kimg none"]),
        ({"target": 1.5}, Code.OUT_OF_RANGE, ["--ada-target 1.5"]),
        ({"policy": "bgcf", "side": 16}, Code.INCOMPATIBLE, ["--ada-policy", "21 px", "16"]),
    ],
)
def test_refusals(options, code, named):
    with refused(code, *named):
        set_up(**options)


def adapt(drawings, out, source, **more):
    return fsgen.adapt(
        drawings, out=out, source=source, method="ada", options={"ada": QUICK}, steps=6, save_every=2,
        device="cpu", **more,
    )  # fmt: skip


def test_a_run_augments_trains_everything_and_resumes_exactly(tmp_path, tiny, drawings):
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
    assert len(p) == 1 and p[0] > 0  # D has seen augmented images
    assert RunFolder(whole).history()[-1]["ada_p"] > 0
    plain = fsgen.adapt(
        drawings, out=tmp_path / "plain", source=tiny, method="finetune", steps=6, device="cpu"
    )
    assert not torch.equal(
        load_file(plain / "model.safetensors")["d.b4.out.weight"], after["d.b4.out.weight"]
    )
