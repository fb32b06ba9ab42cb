"""Batch statistics adaptation: trained parameters, loss terms, learning rates, finished models, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file
from stand_ins import vgg16_home  # noqa: F401
from tiny import SPECS, draw_images, make_source
from torch import nn

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.data.images import load_images
from fsgen.errors import Code, Interrupted
from fsgen.families.biggan.layers import ConditionalNorm
from fsgen.interfaces import Inputs, StepContext
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


def test_a_run_trains_scales_and_shifts_and_nothing_else(tmp_path, source, drawings):
    run = adapt(tmp_path / "run", source, drawings)
    before, after = load_file(source), load_file(run / "model.safetensors")
    family = models.load_model(source).family
    extra = {key for key in after if key.startswith("extra.")}
    classes = models.load_model(source).spec.get("c_dim", 0)
    assert extra == {"extra.bsa.z", "extra.bsa.temperature", *(["extra.bsa.y"] if classes else [])}
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items() if k not in extra}
    start = {key.removeprefix("g_ema."): value for key, value in before.items() if key.startswith("g_ema.")}
    scales = {
        key for key, _ in models.load_model(source).generator().named_parameters() if family.scales(key)
    }
    for network in ("g", "g_ema"):  # both start as the moving average
        moved = {key for key, value in start.items() if not torch.equal(value, after[f"{network}.{key}"])}
        # the keys include buffers, so statistics, noise and singular vectors are unchanged too
        assert moved <= scales and len(moved) >= 0.8 * len(scales)
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("d."))
    assert after["extra.bsa.z"].shape == (5, 6) and after["extra.bsa.z"].abs().min() > 0


def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, source, drawings):
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


# ---- loss terms ------------------------------------------------------------------------------------------


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
    assert perceptual(*maps, "l2") == (1 + 9) / 2 + 9
    assert drift(maps[0], maps[1]) == (1 + 9) / 2 + 9


class Images(nn.Module):
    """A generator whose parameters are its images, [2, 3, 2, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.images[inputs.rows]


@pytest.mark.parametrize("normalize", [False, True])
def test_a_normalised_pixel_loss_is_1_and_its_gradient_divided_by_the_loss(normalize):
    g = Images()
    method, _ = set_up(shots=2, g=g, normalize_l1=normalize)
    inputs = Inputs(z=g.bsa["z"], rows=torch.tensor([0, 1]))
    context = StepContext(g, None, None, torch.full((2, 3, 2, 2), 0.3), inputs, None, None,
                          lambda purpose: torch.Generator(), {})  # fmt: skip
    l1 = (g.images - 0.3).abs().mean().item()
    term = method.loss_terms(context)["l1"]
    assert term.item() == pytest.approx(1 if normalize else l1)
    (grad,) = torch.autograd.grad(term, g.images)
    torch.testing.assert_close(grad, (g.images - 0.3).sign() / 24 / (l1 if normalize else 1))


def test_published_variants_are_options_of_a_run(tmp_path, tiny, drawings, vgg16_home, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FSGEN_HOME", str(vgg16_home))
    first = {}
    for name, options in {
        "plain": {}, "l2": {"perceptual_type": "l2"}, "normalised": {"normalize_l1": True},
    }.items():  # fmt: skip
        run = adapt(tmp_path / name, tiny, drawings, options={"bsa": options}, steps=2)
        assert RunFolder.open(run).config()["method"]["bsa"].items() >= options.items()
        first[name] = RunFolder(run).history()[0]
        assert (first[name]["l1"] == 1) == (name == "normalised")
    assert first["l2"]["perceptual"] != pytest.approx(first["plain"]["perceptual"], rel=1e-3)
    assert first["normalised"]["perceptual"] == pytest.approx(first["plain"]["perceptual"])
    with refused(Code.OUT_OF_RANGE, "perceptual_type", "l3"):
        adapt(tmp_path / "none", tiny, drawings, options={"bsa": {"perceptual_type": "l3"}})


def set_up(
    shots: int = 5, classes: int = 0, family: str = "dcgan", steps: int = 10, g: nn.Module | None = None,
    **options: object,
) -> tuple[BSA, nn.Module]:  # fmt: skip
    """The method before its first step, and the network that it has been added to."""
    kind, method = registry.family(family)(), BSA(BSA.Options(perceptual="0", **options))
    g = g or nn.Linear(1, 1)
    spec = {"z_dim": 4, "c_dim": classes, "w_dim": 16}
    method.setup(SimpleNamespace(
        source=g, family=kind, spec=spec, shots=shots, steps=steps, say=lambda line: None
    ))  # fmt: skip
    method.add_modules(g, None)
    return method, g


def test_all_images_are_drawn_equally_often_each_with_its_own_latent(drawings):
    method, g = set_up(family="biggan")
    g.bsa["z"].data = torch.arange(5.0)[:, None].expand(-1, 4).clone()
    rng = torch.Generator().manual_seed(0)
    drawn = method.transform_inputs(Inputs(z=torch.zeros(1003, 4)), g, rng, True)
    counts = drawn.rows.bincount(minlength=5)
    assert counts.sum() == 1003 and counts.max() - counts.min() <= 1
    assert all(len(part.unique()) == 5 for part in drawn.rows.split(5)[:-1])
    noise = drawn.z - 100 * drawn.rows[:, None]  # latents are stored a hundred times smaller
    assert noise.std().item() == pytest.approx(NOISE, rel=0.05) and noise.abs().max() < 6 * NOISE
    images = load_images(drawings, 16)
    belonging = real_batches(images, torch.device("cpu"), mirror=False)(1003, rng, drawn)
    assert torch.equal(belonging, images.floats(drawn.rows))
    all_of_them = method.transform_inputs(Inputs(z=torch.zeros(5, 4)), g, rng, True)
    assert all_of_them.rows.tolist() == [0, 1, 2, 3, 4]
    given = Inputs(z=torch.zeros(3, 4), rows=torch.tensor([4, 4, 0]))  # as of instances' neighbours
    assert torch.equal(method.transform_inputs(given, g, rng, True).rows, given.rows)


def test_rates_fall_to_a_fifth_after_each_three_tenths_of_the_steps():
    method, g = set_up(steps=10_000)
    optimiser = torch.optim.Adam(g.parameters(), lr=0.03)
    for step in (0, 2999, 3000, 5999, 6000, 9000, 9999, 3000):  # the last: as after a resume
        method.before_step(SimpleNamespace(opt_g=optimiser, step=step))
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.03 * 0.2 ** (step // 3000))


@pytest.mark.parametrize(
    ("family", "rate", "latents"),
    [("fastgan", 0.03, 0.03), ("biggan", 0.0005, 0.05), ("stylegan2", 0.0005 * 16**0.5, 0.05)],
)
def test_adam_moves_scales_and_latents_by_their_published_rates(family, rate, latents):
    method, g = set_up(family=family)
    spec = {"z_dim": 4, "w_dim": 16}
    recipe, few = (method.recipe(registry.family(family)(), spec, shots) for shots in (100, 10))
    assert recipe["lr"] == rate and (recipe["batch"], few["batch"]) == (25, 10)
    optimiser = torch.optim.Adam(g.bsa.parameters(), lr=rate)

    def drawn() -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        return method.transform_inputs(Inputs(z=torch.zeros(5, 4)), g, rng, True).z

    before = drawn()
    before.sum().backward()
    optimiser.step()
    torch.testing.assert_close(before - drawn(), torch.full((5, 4), latents), rtol=1e-4, atol=0)


# ---- VGG16 -----------------------------------------------------------------------------------------------


def test_vgg16_is_used_where_its_weights_are_here(tmp_path, tiny, drawings, vgg16_home, monkeypatch):  # noqa: F811
    said = []
    plain = adapt(tmp_path / "a", tiny, drawings, callbacks=Callbacks(say=said.append))
    assert any(line.startswith("bsa compares pixels alone") and "fsgen pull metrics" in line for line in said)
    assert RunFolder.open(plain).config()["method"]["bsa"]["perceptual"] == "0.0"
    with refused(Code.MISSING_WEIGHTS, "vgg16") as caught:
        adapt(tmp_path / "b", tiny, drawings, options={"bsa": {"perceptual": "0.001"}})
    assert caught.value.hint == "fsgen pull metrics" and caught.value.exit_code == 2
    assert not any((tmp_path / "b").iterdir())
    monkeypatch.setenv("FSGEN_HOME", str(vgg16_home))
    compared = adapt(tmp_path / "b", tiny, drawings)
    assert RunFolder.open(compared).config()["method"]["bsa"]["perceptual"] == "0.001"
    first = RunFolder(compared).history()[0]
    assert 0 < first["perceptual"] < math.inf and first["l1"] == pytest.approx(
        RunFolder(plain).history()[0]["l1"]
    )
    assert models.load_model(compared).hash != models.load_model(plain).hash
    more = adapt(tmp_path / "c", tiny, drawings, options={"bsa": {"perceptual": "0.002"}})
    assert RunFolder(more).history()[0]["perceptual"] == pytest.approx(2 * first["perceptual"], rel=1e-4)


def test_vgg16s_maps_of_all_images_are_computed_once_and_those_of_a_part_each_time():
    method, _ = set_up()
    calls, real_images = [], torch.arange(5.0)
    method.vgg = lambda images: calls.append(images) or {"conv1_1": 2 * images}
    first, again = method._maps(real_images, [0, 1, 2, 3, 4]), method._maps(real_images, [0, 1, 2, 3, 4])
    assert len(calls) == 1 and first["conv1_1"] is again["conv1_1"]
    assert (
        torch.equal(method._maps(real_images[[3, 1]], [3, 1])["conv1_1"], 2 * real_images[[3, 1]])
        and len(calls) == 2
    )


def test_its_ten_layers_are_those_of_the_paper():
    assert len(LAYERS) == 10 and LAYERS[0] == "conv1_1" and LAYERS[-1] == "conv4_3"


# ---- the finished model ----------------------------------------------------------------------------------


def test_latents_are_drawn_with_the_temperature(tmp_path, source, drawings):
    cold = adapt(tmp_path / "a", source, drawings, options={"bsa": {"temperature": 0.3}})
    warm = adapt(tmp_path / "b", source, drawings, options={"bsa": {"temperature": 1.0}})
    few, many = (
        conditioning_of(model).inputs(model.generator(), range(4), "cpu").z
        for model in map(models.load_model, (cold, warm))
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


def test_messages_say_what_is_trained(tmp_path, source, drawings):
    said = []
    adapt(tmp_path / "run", source, drawings, steps=1, callbacks=Callbacks(say=said.append))
    line = next(line for line in said if line.startswith("bsa trains"))
    family = models.load_model(source).family.name
    trains = {
        "stylegan2": "the style affines (the family stylegan2 has no normalisation)",
        "biggan": "the layers that compute the scales and shifts of normalisations",
    }
    assert line.startswith(f"bsa trains {trains.get(family, 'the scales and shifts of normalisations')}, ")
    trained = json.loads((tmp_path / "run" / "report.json").read_text())["run"]["trained_parameters"]
    own = sum(
        v.numel() for k, v in models.load_model(tmp_path / "run").extra.items() if k != "bsa.temperature"
    )
    assert f" {trained - own:,} of " in line


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "method", "named"),
    [
        ("cgan", "bsa", ["bsa needs scales", "cgan"]),
        ("funit", "bsa", ["bsa needs latent", "funit"]),
        ("dcgan", "bsa,diffaugment", ["diffaugment needs a discriminator", "bsa"]),
        ("dcgan", "minegan,bsa", ["minegan needs a discriminator", "bsa"]),
    ],
)
def test_families_and_methods_that_do_not_fit_are_refused(tmp_path, drawings, family, method, named):
    source = make_source(tmp_path / "source.safetensors", name=family)
    with refused(Code.INCOMPATIBLE, *named):
        adapt(tmp_path / "run", source, drawings, method=method)
    assert not (tmp_path / "run").exists()


def test_flipped_images_are_refused(tmp_path, tiny, drawings):
    with refused(Code.INCOMPATIBLE, "--mirror", "bsa"):
        adapt(tmp_path / "run", tiny, drawings, mirror=True)


@pytest.mark.parametrize("weight", ["much", "-1", "nan", "inf"])
def test_weights_that_are_no_numbers_of_at_least_0_are_refused(weight):
    with refused(Code.OUT_OF_RANGE, f"--bsa-perceptual {weight}"):
        BSA(BSA.Options(perceptual=weight))


def test_one_image_will_do(tmp_path, tiny):
    run = adapt(tmp_path / "run", tiny, draw_images(tmp_path / "one", 1), steps=2)
    assert RunFolder.open(run).config()["recipe"]["batch"] == 1
    assert load_file(run / "model.safetensors")["extra.bsa.z"].shape == (1, 6)
