"""``--stop auto``: which step is kept, when the run ends, and that it does so after a break as well."""

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
from fsgen.engine import nearness, stopping
from fsgen.engine.adapt import resume
from fsgen.engine.run import Run
from fsgen.engine.seeds import prior
from fsgen.engine.stopping import Look
from fsgen.engine.watch import Watch
from fsgen.errors import FsgenError, Interrupted
from fsgen.io import checkpoint
from fsgen.metrics.diversity import mean_pairwise
from fsgen.models import model as models

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def looks(monkeypatch):
    """What the samples of each step are found to be: distance and spread; asked in order, step 1 first."""
    monkeypatch.setattr(stopping, "EVERY", 1)
    monkeypatch.setattr(stopping, "SAMPLES", 4)

    def scripted(*found: tuple[float, float]) -> None:
        def look(self, state):
            seen.append(state.step)
            return was(self, state)

        was, seen = stopping.Watchman.look, []
        monkeypatch.setattr(stopping.Watchman, "look", look)
        monkeypatch.setattr(stopping, "energy_distance", lambda *_: found[seen[-1] - 1][0])
        spread = stopping.mean_pairwise

        def mean_pairwise(points):  # of the images before the first step, then of samples
            return found[seen[-1] - 1][1] if len(points) == 4 else spread(points) * 0 + 1

        monkeypatch.setattr(stopping, "mean_pairwise", mean_pairwise)

    return scripted


def weights(run):
    return checkpoint.digest(load_file(run / "model.safetensors"))


def told(run):
    return json.loads((run / "report.json").read_text())["run"]


NEARER = ((6, 2), (5, 2), (4, 1.5), (3, 0.8), (2, 0.8), (1, 0.7))  # ever nearer, but less and less diverse


# ---- which step ----------------------------------------------------------------------------------------


def test_what_is_better():
    assert Look(2, 0.84, 1.0).better(Look(1, 1.0, 3.0)) and not Look(2, 0.86, 3.0).better(Look(1, 1.0, 3.0))
    assert not Look(2, 0.1, 0.89).better(Look(1, 1.0, 0.9)) and Look(2, 2.0, 0.9).better(Look(1, 1.0, 0.89))
    assert Look(2, 0.1, 0.5).better(Look(1, 0.2, 0.8))  # all alike: the nearest
    assert Look(2, -0.2, 2.0).better(Look(1, -0.1, 2.0)) and not Look(2, -0.11, 2.0).better(
        Look(1, -0.1, 2.0)
    )
    assert Look(1, 9.0, 0.1).better(None)


def test_a_run_leaves_the_networks_of_the_step_it_chose(tmp_path, tiny, drawings, looks):
    looks(*NEARER)
    said = []
    run = adapt(drawings, tmp_path / "auto", tiny, stop="auto", watch=Watch(say=said.append))
    assert weights(run) == weights(adapt(drawings, tmp_path / "three", tiny, steps=3))
    assert weights(run) != weights(adapt(drawings, tmp_path / "all", tiny))
    assert told(run)["steps"] == 3
    assert told(run)["stop"] == {"step": 3, "distance": 4, "spread": 1.5, "done": STEPS}
    assert said[-1] == f"kept step 3 of {STEPS} (energy distance to the images 4.00, diversity 1.50 x theirs)"
    assert told(run)["grid"] == "samples/000003.png" and (run / "samples" / "000003.png").exists()


def test_methods_that_add_to_the_networks_leave_them_too(tmp_path, tiny, drawings, looks):
    looks(*NEARER)
    options = {"method": "minegan", "options": {"minegan": {"frozen": 0.3}}, "device": "cpu", "source": tiny}
    run = fsgen.adapt(drawings, out=tmp_path / "auto", steps=STEPS, stop="auto", **options)
    assert told(run)["steps"] == 3 and any(
        key.startswith("extra.") for key in load_file(run / "model.safetensors")
    )
    assert fsgen.load(run, device="cpu").sample(2).shape == (2, 3, 16, 16)


def test_without_it_the_last_step_stays(tmp_path, tiny, drawings):
    run = adapt(drawings, tmp_path / "run", tiny)
    assert told(run)["steps"] == STEPS and told(run)["stop"] is None
    assert not any("spread" in line for line in Run(run).history())


# ---- what it looks at ----------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_model_it_would_leave(tmp_path, tiny, drawings, monkeypatch):
    monkeypatch.setattr(stopping, "SAMPLES", 40)
    run = adapt(drawings, tmp_path / "run", tiny, stop="auto")
    (line,) = [line for line in Run(run).history() if "spread" in line]  # the last step, though no 25th
    assert line["step"] == STEPS

    source, made, cpu = models.load(tiny), models.load(run), torch.device("cpu")
    critic, g = source.discriminator(cpu), made.generator(device=cpu)
    rng, draw = random.generator(0, "stop"), prior(made, g)
    with torch.no_grad():
        drawn = torch.cat([nearness.embed(critic, g(draw(n, rng))) for n in (32, 8)])
    theirs = nearness.embed(critic, load_shots(drawings))
    assert line["spread"] == pytest.approx(mean_pairwise(drawn) / mean_pairwise(theirs), rel=1e-4)
    away = torch.cdist(drawn, theirs).mean().item()
    expected = 2 * away - mean_pairwise(drawn) - mean_pairwise(theirs)
    assert line["distance"] == pytest.approx(expected, abs=1e-4)


def load_shots(folder):
    from fsgen.data.images import load_images

    return load_images(folder, 16).floats()


# ---- when it ends --------------------------------------------------------------------------------------


def test_it_ends_where_nothing_better_is_to_come(tmp_path, tiny, drawings, looks, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 2)
    looks(*NEARER)
    run = adapt(drawings, tmp_path / "run", tiny, stop="auto")
    assert told(run)["stop"]["step"] == 3 and told(run)["stop"]["done"] == 5
    assert Run(run).step == 5  # from here it would go on

    before = weights(run)
    for steps in (None, 12):  # over is over
        assert weights(resume(run, steps=steps)) == before
        assert told(run)["stop"]["done"] == 5


@pytest.mark.parametrize(("step", "die"), [(2, False), (4, False), (5, True)])
def test_after_a_break_it_chooses_the_same(tmp_path, tiny, drawings, looks, step, die):
    looks(*NEARER)
    expected = outcome(adapt(drawings, tmp_path / "whole", tiny, stop="auto"))
    with pytest.raises(KeyboardInterrupt if die else Interrupted):
        adapt(drawings, tmp_path / "run", tiny, stop="auto", watch=After(step, die).watch)
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == expected
    assert told(tmp_path / "run")["stop"] == told(tmp_path / "whole")["stop"]


# ---- where it cannot ------------------------------------------------------------------------------------


def refused(tmp_path, images, source, **options):
    with pytest.raises(FsgenError) as caught:
        fsgen.adapt(images, out=tmp_path / "run", source=source, steps=2, device="cpu", **options)
    assert caught.value.code == 2 and not (tmp_path / "run").exists()
    return str(caught.value)


def test_a_single_image(tmp_path, tiny):
    images = draw_images(tmp_path / "one", 1)
    assert "there is only one" in refused(tmp_path, images, tiny, method="finetune", stop="auto")


def test_a_source_without_a_critic(tmp_path, drawings):
    source = make_source(tmp_path / "source.safetensors")
    tensors, header = checkpoint.read(source)
    checkpoint.write(source, {key: t for key, t in tensors.items() if not key.startswith("d.")}, header)
    message = refused(tmp_path, drawings, source, method="finetune", stop="auto")
    assert "looks through the source's discriminator" in message


def test_what_trains_nothing_or_draws_nothing():
    def told(conditions, traits):
        model = SimpleNamespace(
            about={"title": "cats"}, family=SimpleNamespace(traits=traits), networks={"d": {}}
        )
        with pytest.raises(FsgenError) as caught:
            stopping.check(model, SimpleNamespace(name="classcode", conditions=conditions), [0, 1])
        return caught.value.message

    assert (
        told(True, {"translation"}) == "classcode trains nothing, so --stop auto has nothing to choose from"
    )
    assert told(False, {"translation"}) == (
        "--stop auto looks at samples, and cats draws none by itself: it translates"
    )


def test_another_word(tmp_path, tiny, drawings):
    assert "there is no stop 'best'" in refused(tmp_path, drawings, tiny, stop="best")
