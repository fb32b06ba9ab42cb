"""``--stop auto``: the step at which a run ends, its files, and the same after an interruption."""

from __future__ import annotations

import json

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from stops import STEPS, After, adapt, outcome
from tiny import draw_images, make_source

import fsgen
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.data.images import load_images
from fsgen.errors import Code, Interrupted
from fsgen.features.discriminator_features import embed
from fsgen.io import checkpoint
from fsgen.io.run_folder import RunFolder
from fsgen.methods.stack import Stack
from fsgen.metrics.diversity import mean_pairwise
from fsgen.models import model as models
from fsgen.sampling.conditioning import conditioning_of
from fsgen.training import early_stopping
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def away(monkeypatch):
    """Script the measured distances: 10 for the source, then one for each step."""
    monkeypatch.setattr(early_stopping, "EVERY", 1)
    monkeypatch.setattr(early_stopping, "SAMPLES", 2)

    def scripted(*found: float) -> None:
        monkeypatch.setattr(early_stopping.EarlyStopping, "start", 10.0)
        monkeypatch.setattr(
            early_stopping.EarlyStopping, "distance", lambda self, state: found[state.step - 1]
        )

    return scripted


def weights(run):
    return checkpoint.hash_tensors(load_file(run / "model.safetensors"))


def told(run):
    return json.loads((run / "report.json").read_text())["run"]


NEARER = (6, 3, 1.6, 1.5, 1, 0.5)


# ---- when it ends --------------------------------------------------------------------------------------


def test_a_run_ends_with_the_first_step_within_the_budget(tmp_path, tiny, drawings, away):
    away(*NEARER)
    said = []
    run = adapt(drawings, tmp_path / "auto", tiny, stop="auto", callbacks=Callbacks(say=said.append))
    assert "step 4" in said[-1] and "15%" in said[-1]
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
    assert "6 steps" in said[-1] and "90%" in said[-1] and "15%" in said[-1]
    assert told(run)["steps"] == STEPS and told(run)["ended_by_itself"] is False
    assert weights(run) == weights(adapt(drawings, tmp_path / "steps", tiny, recipe=early_stopping.RECIPE))


def test_images_like_the_sources_samples_do_not_end_the_run(tmp_path, tiny, drawings, away, monkeypatch):
    away(*[0.01] * STEPS)
    monkeypatch.setattr(early_stopping.EarlyStopping, "start", -0.02)  # the distance is unbiased
    assert told(adapt(drawings, tmp_path / "run", tiny, stop="auto"))["steps"] == STEPS


def test_without_it_nothing_is_measured(tmp_path, tiny, drawings, away):
    away(*[0.0] * STEPS)
    run = adapt(drawings, tmp_path / "run", tiny)
    assert told(run)["steps"] == STEPS and not any("distance" in line for line in RunFolder(run).history())


def test_a_run_that_has_ended_is_not_continued(tmp_path, tiny, drawings, away):
    away(*NEARER)
    run = adapt(drawings, tmp_path / "run", tiny, stop="auto")
    before = weights(run)
    for steps in (None, 12):
        said = []
        resume(run, steps=steps, callbacks=Callbacks(say=said.append))
        assert weights(run) == before and told(run)["steps"] == 4 and told(run)["ended_by_itself"] is True
        assert any("step 4" in line and "--stop auto" in line for line in said)


@pytest.mark.parametrize(("step", "die"), [(2, False), (4, False), (3, True)])
def test_after_an_interruption_it_ends_the_same(tmp_path, tiny, drawings, away, step, die):
    away(*NEARER)
    expected = outcome(adapt(drawings, tmp_path / "whole", tiny, stop="auto"))
    try:
        adapt(drawings, tmp_path / "run", tiny, stop="auto", callbacks=After(step, die).callbacks)
    except (Interrupted, KeyboardInterrupt):
        resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == expected


# ---- the measurement -------------------------------------------------------------------------------------


def test_the_distance_is_that_of_the_model_if_the_run_ended(tmp_path, tiny, drawings, monkeypatch):
    monkeypatch.setattr(early_stopping, "SAMPLES", 40)
    monkeypatch.setattr(early_stopping, "EVERY", STEPS)
    monkeypatch.setattr(early_stopping, "BUDGET", 0)
    run = adapt(drawings, tmp_path / "run", tiny, stop="auto")
    (line,) = [line for line in RunFolder(run).history() if "distance" in line]

    source, shots = models.load_model(tiny), load_images(drawings, 16)
    assert line["distance"] == pytest.approx(
        distance(source, models.load_model(run), shots.floats()), abs=1e-4
    )
    stopping = early_stopping.EarlyStopping(source, shots, Stack(), torch.device("cpu"))
    assert stopping.start == pytest.approx(distance(source, source, shots.floats()), abs=1e-4)
    monkeypatch.setattr(early_stopping, "BUDGET", 0.5)
    assert stopping.is_close(stopping.start * 0.49) and not stopping.is_close(stopping.start * 0.51)


@torch.no_grad()
def distance(source, model, shots):
    """2 E|x - y| - E|x - x'| - E|y - y'| of 40 samples and the shots, in the source's D's features."""
    cpu = torch.device("cpu")
    discriminator, g = source.discriminator(cpu), model.generator(device=cpu)
    rng, draw = random.generator(0, "stop"), conditioning_of(model).prior(g)
    drawn = torch.cat([embed(discriminator, g(draw(n, rng))) for n in (32, 8)])
    theirs = embed(discriminator, shots)
    return 2 * torch.cdist(drawn, theirs).mean().item() - mean_pairwise(drawn) - mean_pairwise(theirs)


def test_modules_that_methods_add_are_exported_before_the_measurement(tmp_path, tiny, drawings, monkeypatch):
    monkeypatch.setattr(early_stopping, "EVERY", 2)
    monkeypatch.setattr(early_stopping, "SAMPLES", 4)
    monkeypatch.setattr(early_stopping, "BUDGET", 99)
    options = {"method": "minegan", "options": {"minegan": {"frozen": 0.3}}, "device": "cpu", "source": tiny}
    run = fsgen.adapt(drawings, out=tmp_path / "auto", steps=STEPS, stop="auto", **options)
    assert told(run)["steps"] == 2
    assert any(key.startswith("extra.") for key in load_file(run / "model.safetensors"))
    assert fsgen.load(run, device="cpu").sample(2).shape == (2, 3, 16, 16)


# ---- refused ---------------------------------------------------------------------------------------------


def refused_at_once(tmp_path, code, named, images, source, **options):
    with refused(code, *named) as caught:
        fsgen.adapt(images, out=tmp_path / "run", source=source, steps=2, device="cpu", **options)
    assert caught.value.exit_code == 2 and not (tmp_path / "run").exists()


def test_a_single_image(tmp_path, tiny):
    images = draw_images(tmp_path / "one", 1)
    named = "--stop", "only one"
    refused_at_once(tmp_path, Code.INCOMPATIBLE, named, images, tiny, method="finetune", stop="auto")


def test_a_source_without_a_discriminator(tmp_path, drawings):
    source = make_source(tmp_path / "source.safetensors")
    tensors, header = checkpoint.read_file(source)
    checkpoint.write_file(source, {key: t for key, t in tensors.items() if not key.startswith("d.")}, header)
    named = "--stop", "discriminator", "tiny"
    refused_at_once(tmp_path, Code.INCOMPATIBLE, named, drawings, source, method="finetune", stop="auto")


def test_techniques_that_train_nothing_and_models_that_translate(tmp_path, drawings):
    funit = make_source(tmp_path / "funit.safetensors", name="funit")
    for method in ("classcode", "finetune"):
        named = "--stop", "classcode" if method == "classcode" else "translates"
        pets = tmp_path / "pets"
        for name in "012":  # the classes of the source
            draw_images(pets / name, 1)
        refused_at_once(tmp_path, Code.INCOMPATIBLE, named, pets, funit, method=method, stop="auto")


def test_another_word(tmp_path, tiny, drawings):
    refused_at_once(tmp_path, Code.UNKNOWN_NAME, ("--stop", "'best'", "auto"), drawings, tiny, stop="best")
