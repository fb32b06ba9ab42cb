"""WeditGAN: closed forms of its losses, what a run trains and writes, its adapter, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from tiny import make_source
from torch import Tensor

import fsgen
from fsgen import registry
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, Interrupted
from fsgen.interfaces import Inputs
from fsgen.io import checkpoint
from fsgen.io.run_folder import RunFolder
from fsgen.methods.weditgan import WeditGAN, contrastive, perpendicular
from fsgen.models import model as models
from fsgen.models.adapter import Adapter
from fsgen.nn.layers import ModulatedConv
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 4
LOSSES = {"perpendicular": 1e-4, "contrastive": 0.5}  # their published weights


def adapt(out: Path, source: Path, images: Path, **options: object) -> Path:
    given = {"steps": STEPS, "recipe": {"batch": 4}, "method": "weditgan", "device": "cpu", **options}
    return fsgen.adapt(images, out=out, source=source, **given)


def set_up(source: Path, **options: float) -> tuple[WeditGAN, torch.nn.Module]:
    """The method before its first step, and the generator with its offsets."""
    method, g = WeditGAN(WeditGAN.Options(**options)), models.load_model(source).generator()
    method.setup(SimpleNamespace(seed=0))
    method.add_modules(g.requires_grad_(False), None)
    return method, g


def latents(g: torch.nn.Module, n: int = 3) -> Inputs:
    return g.draw(n, torch.Generator().manual_seed(0))


# ---- the offsets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("px", [16, 64, 256])
def test_there_is_an_offset_for_each_convolution_and_to_rgb(px):
    family = registry.family("stylegan2")()
    with torch.device("meta"):
        g = family.build(family.fresh(px, width=4), discriminator=False).g
    layers = [module for module in g.modules() if isinstance(module, ModulatedConv)]
    assert g.num_slots == len(layers) == 3 * math.log2(px) - 4
    assert px != 256 or g.num_slots == 20


def test_each_offset_reaches_its_own_layer(tiny):
    """Slot l shifts the input of the l-th affine layer, in the order in which they run, and of no other."""
    g = models.load_model(tiny).generator()
    layers = [module.affine for module in g.modules() if isinstance(module, ModulatedConv)]
    styles: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda m, given, out: styles.append(given[0])) for layer in layers]
    inputs = latents(g)
    g(inputs)
    plain, shift = list(styles), torch.randn(3, g.num_slots, g.w_dim, generator=torch.Generator())
    styles.clear()
    g(Inputs(z=inputs.z, w_shift=shift))
    assert len(plain) == len(styles) == g.num_slots
    for slot, (before, after) in enumerate(zip(plain, styles, strict=True)):
        assert torch.equal(after, before + shift[:, slot])
    for hook in hooks:
        hook.remove()


def test_a_shift_of_zero_is_the_source(tiny):
    method, g = set_up(tiny, init=0.0)
    inputs = latents(g)
    shifted = method.transform_inputs(inputs, g, torch.Generator(), True)
    assert shifted.w_shift.shape == (3, g.num_slots, g.w_dim) and not shifted.w_shift.any()
    assert torch.equal(g(shifted), g(inputs))
    for one, other in zip(g.taps(shifted), g.taps(inputs), strict=True):
        assert torch.equal(one, other)


def test_offsets_start_normal_by_the_seed_and_are_the_same_for_all_images(tiny):
    method, g = set_up(tiny)
    offsets = g.weditgan["offsets"]
    assert torch.equal(offsets, set_up(tiny)[1].weditgan["offsets"]) and offsets.std().item() > 0.5
    torch.testing.assert_close(set_up(tiny, init=0.1)[1].weditgan["offsets"], 0.1 * offsets)
    shifted = method.transform_inputs(latents(g), g, torch.Generator(), False)
    assert all(torch.equal(row, offsets[0]) for row in shifted.w_shift)


# ---- losses ----------------------------------------------------------------------------------------------


def test_the_perpendicular_loss_by_hand():
    w = torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]])
    for offset, loss, gradient in (([1.0, 0.0], 4, [8.0, 0.0]), ([0.0, 1.0], 0, [0.0, 0.0])):
        offsets = torch.tensor([[offset]], requires_grad=True)
        found = perpendicular(w, offsets)
        assert found.item() == loss
        found.backward()
        assert offsets.grad.flatten().tolist() == gradient


def test_the_perpendicular_loss_by_loops():
    rng = torch.Generator().manual_seed(0)
    w, offsets = (torch.randn(n, 4, 5, generator=rng, dtype=torch.float64) for n in (3, 1))
    total = 0.0
    for i in range(3):
        for slot in range(4):
            total += float((w[i, slot] - w[(i + 1) % 3, slot]) @ offsets[0, slot]) ** 2 / 3
    assert perpendicular(w, offsets).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("n", [2, 5])
def test_the_contrastive_loss_of_identical_features(n):
    features = torch.ones(n, 3, 2, 2, dtype=torch.float64)
    assert contrastive(features, 2 * features).item() == pytest.approx(math.log(n), rel=1e-12)


def test_the_contrastive_loss_of_orthogonal_features():
    features = torch.eye(2, dtype=torch.float64).reshape(2, 2, 1, 1)
    found = contrastive(features, features).item()
    assert found == pytest.approx(math.log1p(math.exp(-1 / 0.07)), rel=1e-6)
    assert found == pytest.approx(6.25e-7, rel=1e-3)


def test_negatives_of_the_contrastive_loss_are_the_sources_other_images():
    rng = torch.Generator().manual_seed(0)
    source, target = (torch.randn(3, 2, 2, 2, generator=rng, dtype=torch.float64) for _ in "st")
    total = 0.0
    for i in range(3):
        rows = [
            math.exp(torch.cosine_similarity(target[i].flatten(), source[j].flatten(), dim=0) / 0.07)
            for j in range(3)
        ]
        total -= math.log(rows[i] / sum(rows)) / 3
    assert contrastive(source, target).item() == pytest.approx(total, rel=1e-9)


def test_terms_are_weighted_losses_of_w_and_of_one_map_a_resolution(tiny):
    method, g = set_up(tiny, perpendicular=0.25, contrastive=0.5)
    inputs = latents(g)
    shifted = method.transform_inputs(inputs, g, torch.Generator(), True)
    terms = method.loss_terms(SimpleNamespace(g=g, inputs=shifted))
    ws = g.map(inputs)[:, :1].expand(-1, g.num_slots, -1)
    torch.testing.assert_close(terms["perpendicular"], 0.25 * perpendicular(ws, g.weditgan["offsets"]))
    pairs = [(a, b) for a, b in zip(g.taps(inputs), g.taps(shifted), strict=True)]
    last = {a.shape[2]: contrastive(a, b) for a, b in pairs}
    assert list(last) == [4, 8, 16]
    torch.testing.assert_close(terms["contrastive"], 0.5 * sum(last.values()))
    for term in terms.values():
        (grad,) = torch.autograd.grad(term, g.weditgan["offsets"], retain_graph=True)
        assert grad.any()
    assert not WeditGAN().loss_terms(SimpleNamespace(g=g, inputs=shifted))  # by default


def test_regularisers_take_shifted_inputs(tiny):
    """Path lengths depend on the offsets; R1 on the real images alone."""
    model = models.load_model(tiny)
    method, g = set_up(tiny)
    recipe, noise = model.family.recipe(model.spec), torch.zeros(4, 3, 16, 16)

    def regularise(network: str) -> Tensor:
        context = SimpleNamespace(
            g=g, d=model.discriminator(), recipe=recipe, real_images=noise, inputs=latents(g, 4), scalars={},
            augment=lambda images, kind: images, rng=lambda purpose: random.generator(0, purpose),
            draw=lambda n, rng: method.transform_inputs(g.draw(n, rng), g, rng, False),
        )  # fmt: skip
        (found,) = model.family.regularise(context, network, 0).values()
        return found

    path, r1 = regularise("g"), regularise("d")
    (grad,) = torch.autograd.grad(path, g.weditgan["offsets"])
    assert grad.isfinite().all() and grad.any()
    with torch.no_grad():
        g.weditgan["offsets"].mul_(3)
    assert regularise("g").item() != pytest.approx(path.item(), rel=1e-3)
    assert regularise("d").item() == r1.item() > 0


# ---- runs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny, drawings) -> Path:
    recipe = {"batch": 4, "path_every": 1, "r1_every": 1, "path_weight": 2.0}
    return adapt(tmp_path_factory.mktemp("runs") / "run", tiny, drawings, recipe=recipe,
                 options={"weditgan": LOSSES})  # fmt: skip


def test_a_run_trains_the_offsets_and_d_alone(run, tiny):
    before, after = load_file(tiny), load_file(run / "model.safetensors")
    offsets = after.pop("extra.weditgan.offsets")
    assert before.keys() == after.keys()
    for key, value in after.items():
        network, _, name = key.partition(".")
        if network == "d":
            assert not torch.equal(value, before[key]), key
        else:  # both are the network that the source's images are drawn with
            assert torch.equal(value, before[f"g_ema.{name}"]), key
    g = models.load_model(tiny).generator()
    assert offsets.shape == (1, g.num_slots, g.w_dim)
    assert not torch.equal(offsets, set_up(tiny)[1].weditgan["offsets"])
    history = RunFolder(run).history()
    assert {"g", "d", "r1", "path", *LOSSES} <= set(history[0])
    assert all(math.isfinite(value) for line in history for value in line.values())


def test_the_models_images_are_the_shifted_sources(run, tiny):
    model, g = models.load_model(run), models.load_model(tiny).generator()
    z = torch.cat([g.draw(1, random.generator(seed, "picture")).z for seed in range(3)])
    shift = model.extra["weditgan.offsets"].expand(3, -1, -1)
    with torch.no_grad():
        images = g(Inputs(z=z, w_shift=shift))
    found = torch.cat(list(fsgen.load(run, device="cpu").images(range(3))))
    torch.testing.assert_close(found, images)
    assert not torch.allclose(found, g(Inputs(z=z)))


def test_the_adapter_holds_the_offsets_and_where_they_belong(run, tiny):
    source, adapter = models.load_model(tiny), Adapter.load(run / "adapter.safetensors")
    assert adapter.tensors.keys() == {"weditgan.offsets"}
    assert torch.equal(adapter.tensors["weditgan.offsets"], models.load_model(run).extra["weditgan.offsets"])
    assert adapter.about["method"] == "weditgan" and adapter.about["licence"] == "CC0-1.0"
    assert adapter.about["base"] == {"title": "tiny", "hash": source.hash}
    assert (run / "adapter.safetensors").stat().st_size < (run / "model.safetensors").stat().st_size / 5


def test_the_adapter_on_its_base_draws_the_runs_images(run, tiny, tmp_path):
    alone = (run / "adapter.safetensors").rename(tmp_path / "alone.safetensors")
    try:
        found = fsgen.load(tiny, adapter=alone, device="cpu").sample(4)
    finally:
        alone.rename(run / "adapter.safetensors")
    assert torch.equal(found, fsgen.load(run, device="cpu").sample(4))
    assert not torch.equal(found, fsgen.load(tiny, device="cpu").sample(4))


def test_another_base_is_refused(run, tiny, tmp_path):
    other = make_source(tmp_path / "other.safetensors", networks=("g",))
    with refused(Code.CHANGED, "tiny", models.load_model(tiny).hash):
        fsgen.load(other, adapter=run / "adapter.safetensors", device="cpu")
    with refused(Code.CHANGED, "tiny adapted with weditgan"):  # the adapted model holds the offsets already
        fsgen.load(run, adapter=run / "adapter.safetensors", device="cpu")


def test_a_model_is_no_adapter_and_an_adapter_no_model(run, tiny):
    with refused(Code.UNSUPPORTED, run / "model.safetensors"):
        Adapter.load(run / "model.safetensors")
    with refused(Code.UNSUPPORTED, run / "adapter.safetensors"):
        fsgen.load(run / "adapter.safetensors", device="cpu")


def test_only_methods_that_train_nothing_but_what_they_add_write_an_adapter(tmp_path, tiny, drawings):
    names = ("weditgan,diffaugment", "finetune", "minegan")
    runs = {name: adapt(tmp_path / name, tiny, drawings, method=name, steps=1) for name in names}
    assert [(runs[name] / "adapter.safetensors").exists() for name in names] == [True, False, False]
    adapter = Adapter.load(runs["weditgan,diffaugment"] / "adapter.safetensors")
    assert adapter.about["method"] == "weditgan,diffaugment"


def test_a_source_of_a_generator_alone(tmp_path, drawings):
    source = make_source(tmp_path / "source.safetensors", networks=("g",))
    run = adapt(tmp_path / "run", source, drawings, steps=1)
    before, after = load_file(source), load_file(run / "model.safetensors")
    assert all(torch.equal(after[key], before[key]) for key in before)
    found = fsgen.load(source, adapter=run / "adapter.safetensors", device="cpu").sample(2)
    assert torch.equal(found, fsgen.load(run, device="cpu").sample(2))


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, tiny, drawings, stop):
    options = {"weditgan": LOSSES}
    whole = adapt(tmp_path / "whole", tiny, drawings, options=options)
    left = iter([*[False] * (stop - 1), True])
    with pytest.raises(Interrupted):
        adapt(tmp_path / "cut", tiny, drawings, options=options, callbacks=Callbacks(stop=lambda: next(left)))
    cut = resume(tmp_path / "cut")
    for name in ("model.safetensors", "adapter.safetensors", "state/latest.safetensors"):
        one, other = (checkpoint.hash_tensors(load_file(run / name)) for run in (whole, cut))
        assert one == other, name


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["dcgan", "biggan", "funit"])
def test_families_without_w_are_refused(tmp_path, drawings, family):
    source = make_source(tmp_path / "source.safetensors", name=family)
    with refused(Code.INCOMPATIBLE, "weditgan needs", family):
        adapt(tmp_path / "run", source, drawings)
    assert not (tmp_path / "run").exists()


def test_options_and_methods_that_do_not_fit_are_refused(tmp_path, tiny, drawings):
    for name in ("init", "perpendicular", "contrastive"):
        for value in (-1.0, math.nan, math.inf):
            with refused(Code.OUT_OF_RANGE, f"--weditgan-{name} {value:g}"):
                WeditGAN(WeditGAN.Options(**{name: value}))
    with refused(Code.INCOMPATIBLE, "freezeg and weditgan"):
        adapt(tmp_path / "run", tiny, drawings, method="freezeg,weditgan")
    run = adapt(tmp_path / "first", tiny, drawings, steps=1)
    with refused(Code.INCOMPATIBLE, "weditgan"):  # its offsets would be lost
        adapt(tmp_path / "second", run, drawings)
