"""``--stop auto``: when the run ends, what that leaves, and that it does so after a break as well."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from stops import STEPS, After, adapt, outcome
from tiny import draw_images, make_source

import fsgen
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.data.images import load_images
from fsgen.errors import FsgenError, Interrupted
from fsgen.features.discriminator_features import embed
from fsgen.io import checkpoint
from fsgen.io.run_folder import RunFolder
from fsgen.metrics.diversity import mean_pairwise
from fsgen.models import model as models
from fsgen.sampling.conditioning import conditioning_of
from fsgen.training import early_stopping
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def away(monkeypatch):
    """How far samples are found to be: the source's 10, then those of each step, by its number."""
    monkeypatch.setattr(early_stopping, "EVERY", 1)
    monkeypatch.setattr(early_stopping, "SAMPLES", 2)

    def scripted(*found: float) -> None:
        monkeypatch.setattr(early_stopping.EarlyStopping, "start", 10.0)
        monkeypatch.setattr(early_stopping.EarlyStopping, "look", lambda self, state: found[state.step - 1])

    return scripted


def weights(run):
    return checkpoint.hash_tensors(load_file(run / "model.safetensors"))


def told(run):
    return json.loads((run / "report.json").read_text())["run"]


NEARER = (6, 3, 1.6, 1.5, 1, 0.5)


# ---- when it ends --------------------------------------------------------------------------------------


def test_a_run_ends_with_the_step_that_is_near_enough(tmp_path, tiny, drawings, away):
    away(*NEARER)
    said = []
    run = adapt(drawings, tmp_path / "auto", tiny, stop="auto", callbacks=Callbacks(say=said.append))
    assert said[-1] == "ended at step 4: samples are 15% as far from the images as the source's"
    assert told(run)["steps"] == 4 and told(run)["ended_by_itself"] is True
    assert [line["distance"] for line in RunFolder(run).history() if "distance" in line] == [6, 3, 1.6, 1.5]
    longer = adapt(drawings, tmp_path / "four", tiny, steps=4, recipe={"ema_rampup": 0.5})
    assert weights(run) == weights(longer)
    assert weights(run) != weights(adapt(drawings, tmp_path / "usual", tiny, steps=4))


def test_the_average_is_as_long_as_asked_for(tmp_path, tiny, drawings, away):
    away(*NEARER)
    run = adapt(drawings, tmp_path / "auto", tiny, stop="auto", recipe={"ema_rampup": 0.25})
    assert weights(run) == weights(adapt(drawings, tmp_path / "four", tiny, steps=4))


def test_it_goes_no_further_than_its_steps(tmp_path, tiny, drawings, away):
    away(*[9.0] * STEPS)
    said = []
    run = adapt(drawings, tmp_path / "auto", tiny, stop="auto", callbacks=Callbacks(say=said.append))
    assert said[-1].startswith(
        "all 6 steps done: samples are 90% as far from the images as the source's; 15%"
    )
    assert told(run)["steps"] == STEPS and told(run)["ended_by_itself"] is False
    assert weights(run) == weights(adapt(drawings, tmp_path / "steps", tiny, recipe=early_stopping.RECIPE))


def test_images_as_the_source_draws_them_end_nothing(tmp_path, tiny, drawings, away, monkeypatch):
    away(*[0.01] * STEPS)
    monkeypatch.setattr(early_stopping.EarlyStopping, "start", -0.02)  # the distance is unbiased
    assert told(adapt(drawings, tmp_path / "run", tiny, stop="auto"))["steps"] == STEPS


def test_without_it_nobody_looks(tmp_path, tiny, drawings, away):
    away(*[0.0] * STEPS)
    run = adapt(drawings, tmp_path / "run", tiny)
    assert told(run)["steps"] == STEPS and not any("distance" in line for line in RunFolder(run).history())


def test_over_is_over(tmp_path, tiny, drawings, away):
    away(*NEARER)
    run = adapt(drawings, tmp_path / "run", tiny, stop="auto")
    before = weights(run)
    for steps in (None, 12):
        said = []
        resume(run, steps=steps, callbacks=Callbacks(say=said.append))
        assert weights(run) == before and told(run)["steps"] == 4 and told(run)["ended_by_itself"] is True
        assert "the run has ended by itself at step 4; without --stop auto it goes further" in said


@pytest.mark.parametrize(("step", "die"), [(2, False), (4, False), (3, True)])
def test_after_a_break_it_ends_the_same(tmp_path, tiny, drawings, away, step, die):
    away(*NEARER)
    expected = outcome(adapt(drawings, tmp_path / "whole", tiny, stop="auto"))
    try:
        adapt(drawings, tmp_path / "run", tiny, stop="auto", callbacks=After(step, die).callbacks)
    except (Interrupted, KeyboardInterrupt):
        resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == expected


# ---- what it looks at ----------------------------------------------------------------------------------


def test_the_distance_is_that_of_the_model_it_would_leave(tmp_path, tiny, drawings, monkeypatch):
    monkeypatch.setattr(early_stopping, "SAMPLES", 40)
    monkeypatch.setattr(early_stopping, "EVERY", STEPS)
    monkeypatch.setattr(early_stopping, "BUDGET", 0)
    run = adapt(drawings, tmp_path / "run", tiny, stop="auto")
    (line,) = [line for line in RunFolder(run).history() if "distance" in line]

    source, shots = models.load(tiny), load_images(drawings, 16)
    assert line["distance"] == pytest.approx(distance(source, models.load(run), shots.floats()), abs=1e-4)
    stopping = early_stopping.EarlyStopping(source, shots, SimpleNamespace(), torch.device("cpu"))
    assert stopping.start == pytest.approx(distance(source, source, shots.floats()), abs=1e-4)
    monkeypatch.setattr(early_stopping, "BUDGET", 0.5)
    assert stopping.enough(stopping.start * 0.49) and not stopping.enough(stopping.start * 0.51)


@torch.no_grad()
def distance(source, model, shots):
    """2 E|x - y| - E|x - x'| - E|y - y'|, as the source's critic sees 40 samples and the shots."""
    cpu = torch.device("cpu")
    discriminator, g = source.discriminator(cpu), model.generator(device=cpu)
    rng, draw = random.generator(0, "stop"), conditioning_of(model).prior(g)
    drawn = torch.cat([embed(discriminator, g(draw(n, rng))) for n in (32, 8)])
    theirs = embed(discriminator, shots)
    return 2 * torch.cdist(drawn, theirs).mean().item() - mean_pairwise(drawn) - mean_pairwise(theirs)


def test_what_methods_add_is_looked_at_as_they_leave_it(tmp_path, tiny, drawings, monkeypatch):
    monkeypatch.setattr(early_stopping, "EVERY", 2)
    monkeypatch.setattr(early_stopping, "SAMPLES", 4)
    monkeypatch.setattr(early_stopping, "BUDGET", 99)
    options = {"method": "minegan", "options": {"minegan": {"frozen": 0.3}}, "device": "cpu", "source": tiny}
    run = fsgen.adapt(drawings, out=tmp_path / "auto", steps=STEPS, stop="auto", **options)
    assert told(run)["steps"] == 2
    assert any(key.startswith("extra.") for key in load_file(run / "model.safetensors"))
    assert fsgen.load(run, device="cpu").sample(2).shape == (2, 3, 16, 16)


# ---- where it cannot ------------------------------------------------------------------------------------


def refused(tmp_path, images, source, **options):
    with pytest.raises(FsgenError) as caught:
        fsgen.adapt(images, out=tmp_path / "run", source=source, steps=2, device="cpu", **options)
    assert caught.value.exit_code == 2 and not (tmp_path / "run").exists()
    return str(caught.value)


def test_a_single_image(tmp_path, tiny):
    images = draw_images(tmp_path / "one", 1)
    assert "there is only one" in refused(tmp_path, images, tiny, method="finetune", stop="auto")


def test_a_source_without_a_critic(tmp_path, drawings):
    source = make_source(tmp_path / "source.safetensors")
    tensors, header = checkpoint.read_file(source)
    checkpoint.write_file(source, {key: t for key, t in tensors.items() if not key.startswith("d.")}, header)
    message = refused(tmp_path, drawings, source, method="finetune", stop="auto")
    assert "looks through the source's discriminator" in message


def test_what_trains_nothing_or_draws_nothing():
    def told(conditions, traits):
        model = SimpleNamespace(
            about={"title": "cats"}, family=SimpleNamespace(traits=traits), networks={"d": {}}
        )
        with pytest.raises(FsgenError) as caught:
            early_stopping.check(model, SimpleNamespace(name="classcode", conditions=conditions), [0, 1])
        return caught.value.message

    assert (
        told(True, {"translation"}) == "classcode trains nothing, so --stop auto has nothing to choose from"
    )
    assert told(False, {"translation"}) == (
        "--stop auto looks at samples, and cats draws none by itself: it translates"
    )


def test_another_word(tmp_path, tiny, drawings):
    assert "there is no stop 'best'" in refused(tmp_path, drawings, tiny, stop="best")
