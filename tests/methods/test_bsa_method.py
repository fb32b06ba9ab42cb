"""Batch statistics adaptation by itself: what is trained, its terms, its rates, what it leaves, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stand_ins import vgg16_home  # noqa: F401
from tiny import SPECS, draw_images, make_source
from torch import nn

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.data.images import load_images
from fsgen.errors import FsgenError, Interrupted
from fsgen.families.biggan.layers import ConditionalNorm
from fsgen.interfaces import Inputs
from fsgen.io.run_folder import RunFolder
from fsgen.methods.bsa import BSA, LAYERS, NOISE, drift, earth_mover, perceptual
from fsgen.models import model as models
from fsgen.nn.layers import ModulatedConv
from fsgen.sampling.conditioning import conditioning_of
from fsgen.training.adapt import resume
from fsgen.training.batches import real_batches

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = ("stylegan2", "biggan", "dcgan", "fastgan")
STEPS = 4


@pytest.fixture(scope="module", params=FAMILIES)
def source(request, tmp_path_factory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / f"{request.param}.safetensors", name=request.param)


def adapt(out: Path, source: Path, images: Path, **options: object) -> Path:
    given = {"steps": STEPS, "method": "bsa", "device": "cpu", **options}
    return fsgen.adapt(images, out=out, source=source, **given)


# ---- what is trained -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.families())
def test_scales_are_those_of_the_layers_that_scale(name):
    family = registry.family(name)()
    with torch.device("meta"):
        g = family.build(SPECS[name]).g
    wanted = set()
    for path, module in g.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and name != "biggan":
            wanted |= {f"{path}.weight", f"{path}.bias"}
        elif isinstance(module, ConditionalNorm):
            wanted |= {f"{path}.gain.weight", f"{path}.shift.weight"}
        elif isinstance(module, ModulatedConv):
            wanted |= {f"{path}.affine.weight", f"{path}.affine.bias"}
    wanted |= {"linear.bias"} if name == "biggan" else set()
    found = {key for key, _ in g.named_parameters() if family.scales(key)}
    assert found == wanted and bool(found) == ("scales" in family.traits) == (name in FAMILIES)
    trained = {(who, key) for who in "gd" for key in found if BSA().trains(family, SPECS[name], who, key)}
    assert trained == {("g", key) for key in found}


def test_a_run_moves_scales_and_shifts_and_nothing_else(tmp_path, source, drawings):
    run = adapt(tmp_path / "run", source, drawings)
    before, after = load_file(source), load_file(run / "model.safetensors")
    family = models.load(source).family
    extra = {key for key in after if key.startswith("extra.")}
    classes = models.load(source).spec.get("c_dim", 0)
    assert extra == {"extra.bsa.z", "extra.bsa.temperature", *(["extra.bsa.y"] if classes else [])}
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items() if k not in extra}
    start = {key.removeprefix("g_ema."): value for key, value in before.items() if key.startswith("g_ema.")}
    scales = {key for key, _ in models.load(source).generator().named_parameters() if family.scales(key)}
    for network in ("g", "g_ema"):  # both begin as the average, whose filters stay
        moved = {key for key, value in start.items() if not torch.equal(value, after[f"{network}.{key}"])}
        # statistics, noise and singular vectors stay as well: the keys are those of buffers too
        assert moved <= scales and len(moved) >= 0.8 * len(scales)
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("d."))
    assert after["extra.bsa.z"].shape == (5, 6) and after["extra.bsa.z"].abs().min() > 0


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, source, drawings):
    asked = []
    with pytest.raises(Interrupted):
        adapt(
            tmp_path / "a",
            source,
            drawings,
            callbacks=Callbacks(stop=lambda: asked.append(0) or len(asked) == 2),
        )
    assert RunFolder.open(tmp_path / "a").step == 2
    resume(tmp_path / "a")
    adapt(tmp_path / "b", source, drawings)
    names = ("model.safetensors", "state/latest.safetensors")
    for ours, theirs in (map(load_file, (tmp_path / "a" / name, tmp_path / "b" / name)) for name in names):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_it_learns_to_rebuild_the_images(tmp_path, tiny, drawings, real_plots):
    run = adapt(tmp_path / "run", tiny, drawings, steps=40)
    history = RunFolder(run).history()
    assert history[-1]["l1"] < 0.8 * history[0]["l1"]
    assert set(history[0]) == {"step", "l1", "emd", "drift"}
    assert history[0]["drift"] == 0 < history[-1]["drift"]
    assert len(Image.open(run / "plots" / "losses.png").convert("L").getcolors(256)) > 10


# ---- its terms -------------------------------------------------------------------------------------------


def test_terms_are_their_definitions():
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(3, 5)), rng.normal(size=(7, 5))
    squared = [[sum((a - b) ** 2) for b in t] for a in z]
    there = sum(min(squared[i][j] for i in range(3)) for j in range(7)) / 7
    back = sum(min(row) for row in squared) / 3
    found = earth_mover(torch.tensor(z), torch.tensor(t))
    assert found.item() == pytest.approx(there + back, rel=1e-12)
    maps = [{"a": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([4.0])} for _ in range(2)]
    maps[1] = {"a": torch.tensor([[0.0, 1.0]]), "b": torch.tensor([1.0])}
    assert perceptual(*maps) == (1 + 3) / 2 + 3
    assert drift(maps[0], maps[1]) == (1 + 9) / 2 + 9


def ready(shots: int = 5, classes: int = 0, family: str = "dcgan", steps: int = 10) -> tuple[BSA, nn.Module]:
    """The method before its first step, and the network it was fitted into."""
    kind, method = registry.family(family)(), BSA(BSA.Options(perceptual="0"))
    g = nn.Linear(1, 1)
    spec = {"z_dim": 4, "c_dim": classes, "w_dim": 16}
    method.setup(SimpleNamespace(
        source=g, family=kind, spec=spec, shots=shots, steps=steps, say=lambda line: None
    ))  # fmt: skip
    method.add_modules(g, None)
    return method, g


def test_every_image_is_shown_as_often_as_any_other_with_its_own_latent(drawings):
    method, g = ready(family="biggan")
    g.bsa["z"].data = torch.arange(5.0)[:, None].expand(-1, 4).clone()
    rng = torch.Generator().manual_seed(0)
    drawn = method.draw(g, Inputs(z=torch.zeros(1003, 4)), rng, shown=True)
    counts = drawn.rows.bincount(minlength=5)
    assert counts.sum() == 1003 and counts.max() - counts.min() <= 1
    assert all(len(part.unique()) == 5 for part in drawn.rows.split(5)[:-1])
    noise = drawn.z - 100 * drawn.rows[:, None]  # latents are stored a hundred times smaller
    assert noise.std().item() == pytest.approx(NOISE, rel=0.05) and noise.abs().max() < 6 * NOISE
    images = load_images(drawings, 16)
    belonging = real_batches(images, torch.device("cpu"), mirror=False)(1003, rng, drawn)
    assert torch.equal(belonging, images.floats(drawn.rows))
    all_of_them = method.draw(g, Inputs(z=torch.zeros(5, 4)), rng, shown=True)
    assert all_of_them.rows.tolist() == [0, 1, 2, 3, 4]
    given = Inputs(z=torch.zeros(3, 4), rows=torch.tensor([4, 4, 0]))  # as of instances' neighbours
    assert torch.equal(method.draw(g, given, rng, shown=True).rows, given.rows)


def test_rates_fall_to_a_fifth_after_each_three_tenths_of_the_steps():
    method, g = ready(steps=10_000)
    optimiser = torch.optim.Adam(g.parameters(), lr=0.03)
    for step in (0, 2999, 3000, 5999, 6000, 9000, 9999, 3000):  # the last: as after a resume
        method.before_step(SimpleNamespace(opt_g=optimiser, step=step))
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.03 * 0.2 ** (step // 3000))


@pytest.mark.parametrize(
    ("family", "rate", "latents"),
    [("fastgan", 0.03, 0.03), ("biggan", 0.0005, 0.05), ("stylegan2", 0.0005 * 16**0.5, 0.05)],
)
def test_adam_moves_scales_and_latents_by_their_published_rates(family, rate, latents):
    method, g = ready(family=family)
    spec = {"z_dim": 4, "w_dim": 16}
    recipe, few = (method.recipe(registry.family(family)(), spec, shots) for shots in (100, 10))
    assert recipe["lr"] == rate and (recipe["batch"], few["batch"]) == (25, 10)
    optimiser = torch.optim.Adam(g.bsa.parameters(), lr=rate)
    drawn = [method.draw(g, Inputs(z=torch.zeros(5, 4)), torch.Generator().manual_seed(0), True).z]
    drawn[0].sum().backward()
    optimiser.step()
    drawn.append(method.draw(g, Inputs(z=torch.zeros(5, 4)), torch.Generator().manual_seed(0), True).z)
    torch.testing.assert_close(drawn[0] - drawn[1], torch.full((5, 4), latents), rtol=1e-4, atol=0)


# ---- VGG16 -----------------------------------------------------------------------------------------------


def test_vgg16_is_looked_through_where_it_is_here(tmp_path, tiny, drawings, vgg16_home, monkeypatch):  # noqa: F811
    said = []
    plain = adapt(tmp_path / "a", tiny, drawings, callbacks=Callbacks(say=said.append))
    why = "VGG16's weights are not on this machine (fsgen pull metrics)"
    assert f"bsa compares pixels alone: {why}" in said
    assert RunFolder.open(plain).config()["method"]["bsa"]["perceptual"] == "0.0"
    with pytest.raises(FsgenError, match="VGG16's weights are not on this machine") as caught:
        adapt(tmp_path / "b", tiny, drawings, options={"bsa": {"perceptual": "0.001"}})
    assert caught.value.hint == "fsgen pull metrics" and caught.value.exit_code == 2
    assert not any((tmp_path / "b").iterdir())
    monkeypatch.setenv("FSGEN_HOME", str(vgg16_home))
    seen = adapt(tmp_path / "b", tiny, drawings)
    assert RunFolder.open(seen).config()["method"]["bsa"]["perceptual"] == "0.001"
    first = RunFolder(seen).history()[0]
    assert 0 < first["perceptual"] < math.inf and first["l1"] == pytest.approx(
        RunFolder(plain).history()[0]["l1"]
    )
    assert models.load(seen).hash != models.load(plain).hash
    more = adapt(tmp_path / "c", tiny, drawings, options={"bsa": {"perceptual": "0.002"}})
    assert RunFolder(more).history()[0]["perceptual"] == pytest.approx(2 * first["perceptual"], rel=1e-4)


def test_vgg16_looks_at_all_images_once_and_at_a_part_of_them_anew():
    method, _ = ready()
    looks, real_images = [], torch.arange(5.0)
    method.vgg = lambda images: looks.append(images) or {"conv1_1": 2 * images}
    first, again = method._maps(real_images, [0, 1, 2, 3, 4]), method._maps(real_images, [0, 1, 2, 3, 4])
    assert len(looks) == 1 and first["conv1_1"] is again["conv1_1"]
    assert (
        torch.equal(method._maps(real_images[[3, 1]], [3, 1])["conv1_1"], 2 * real_images[[3, 1]])
        and len(looks) == 2
    )


def test_its_ten_layers_are_those_of_the_paper():
    assert len(LAYERS) == 10 and LAYERS[0] == "conv1_1" and LAYERS[-1] == "conv4_3"


# ---- the finished model ----------------------------------------------------------------------------------


def test_latents_are_drawn_with_the_temperature(tmp_path, source, drawings):
    cold = adapt(tmp_path / "a", source, drawings, options={"bsa": {"temperature": 0.3}})
    warm = adapt(tmp_path / "b", source, drawings, options={"bsa": {"temperature": 1.0}})
    few, many = (
        conditioning_of(model).inputs(model.generator(), range(4), "cpu").z
        for model in map(models.load, (cold, warm))
    )
    torch.testing.assert_close(few, 0.3 * many)
    shown = json.loads((cold / "report.json").read_text())["run"]["method"]["bsa"]
    assert shown["temperature"] == 0.3 and len(fsgen.load(cold, device="cpu").sample(2)) == 2


def test_a_source_with_classes_gets_one_label_for_all(tmp_path, drawings):
    source = make_source(tmp_path / "biggan.safetensors", name="biggan")
    run = adapt(tmp_path / "run", source, drawings)
    label = load_file(run / "model.safetensors")["extra.bsa.y"]
    assert label.shape == (3,) and not torch.equal(label, torch.full((3,), 1 / 3))
    torch.testing.assert_close(label, torch.full((3,), 1 / 3), rtol=0, atol=STEPS * 0.001 * 1.01)
    loaded = fsgen.load(run, device="cpu")
    assert torch.equal(loaded.sample(2, label=0), loaded.sample(2, label=2))


def test_what_is_trained_is_said_plainly(tmp_path, source, drawings):
    said = []
    adapt(tmp_path / "run", source, drawings, steps=1, callbacks=Callbacks(say=said.append))
    line = next(line for line in said if line.startswith("bsa trains"))
    family = models.load(source).family.name
    plainly = {
        "stylegan2": "the style affines (the family stylegan2 has no normalisation)",
        "biggan": "the layers that make the scales and shifts of normalisations",
    }
    assert line.startswith(f"bsa trains {plainly.get(family, 'the scales and shifts of normalisations')}, ")
    trained = json.loads((tmp_path / "run" / "report.json").read_text())["run"]["trained_parameters"]
    own = sum(v.numel() for k, v in models.load(tmp_path / "run").extra.items() if k != "bsa.temperature")
    assert f" {trained - own:,} of " in line


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "method", "message"),
    [
        ("cgan", "bsa", "bsa needs scales; the family cgan has none"),
        ("funit", "bsa", "bsa needs latent; the family funit has none"),
        ("dcgan", "bsa,diffaugment", "diffaugment works on the critic, and bsa trains without one"),
        ("dcgan", "minegan,bsa", "minegan works on the critic, and bsa trains without one"),
    ],
)
def test_what_does_not_go_with_it(tmp_path, drawings, family, method, message):
    source = make_source(tmp_path / "source.safetensors", name=family)
    with pytest.raises(FsgenError, match=message):
        adapt(tmp_path / "run", source, drawings, method=method)
    assert not (tmp_path / "run").exists()


def test_images_are_not_shown_flipped(tmp_path, tiny, drawings):
    with pytest.raises(FsgenError, match="bsa rebuilds each image as it is"):
        adapt(tmp_path / "run", tiny, drawings, mirror=True)


@pytest.mark.parametrize("weight", ["much", "-1", "nan", "inf"])
def test_weights_that_are_none(weight):
    with pytest.raises(FsgenError, match="is not a"):
        BSA(BSA.Options(perceptual=weight))


def test_one_image_is_enough(tmp_path, tiny):
    run = adapt(tmp_path / "run", tiny, draw_images(tmp_path / "one", 1), steps=2)
    assert RunFolder.open(run).config()["recipe"]["batch"] == 1
    assert load_file(run / "model.safetensors")["extra.bsa.z"].shape == (1, 6)
