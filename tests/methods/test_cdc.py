"""Cross-domain correspondence: divergences, patches, anchors, finished models."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from tiny import draw_images, make_source
from torch import Tensor

import fsgen
from fsgen import registry
from fsgen import rng as random
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, Interrupted
from fsgen.interfaces import Inputs, MethodContext
from fsgen.io import checkpoint
from fsgen.io.run_folder import RunFolder
from fsgen.methods.cdc import CDC, SIDE, divergence, patch_features, relations
from fsgen.models import model as models
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")


def adapt(out: Path, source: Path, images: Path, **options: object) -> Path:
    given = {"steps": 5, "recipe": {"batch": 4}, "method": "cdc", "device": "cpu", **options}
    return fsgen.adapt(images, out=out, source=source, **given)


def make_context(
    source: torch.nn.Module, shots: int = 3, seed: int = 0, spec: dict | None = None
) -> MethodContext:
    """The context of a run, as far as the method uses it."""
    return MethodContext(
        family=None, spec=spec or {}, source=source, recipe=None, steps=1, shots=shots,
        device=torch.device("cpu"), seed=seed, fisher=None, trial_run=None, information=None,
        frozen_network=None, say=None,
    )  # fmt: skip


# ---- the term ------------------------------------------------------------------------------------------


def distributions(maps: list[Tensor]) -> list[list[list[float]]]:
    """[layer][sample][other sample], as the paper has them, by loops in float64."""
    out = []
    for x in maps:
        rows = x.double().flatten(1).tolist()
        layer = []
        for i, a in enumerate(rows):
            others = [b for j, b in enumerate(rows) if j != i]
            norm = math.hypot(*a)
            cosines = [
                math.fsum(p * q for p, q in zip(a, b, strict=True)) / norm / math.hypot(*b) for b in others
            ]
            powers = [math.exp(c) for c in cosines]
            layer.append([p / math.fsum(powers) for p in powers])
        out.append(layer)
    return out


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_both_divergences_are_their_definitions(n):
    rng = torch.Generator().manual_seed(n)
    shapes = [(n, 3, 2, 2), (n, 2, 4, 4), (n, 5, 1, 1)]
    ours, source = (
        [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes] for _ in "ab"
    )
    p, q = distributions(ours), distributions(source)
    torch.testing.assert_close(relations(ours).exp(), torch.tensor(p, dtype=torch.float64))
    paper = math.fsum(kl(p[layer][i], q[layer][i]) for layer in range(3) for i in range(n))
    layers = torch.randint(3, (n,), generator=rng)
    published = (
        math.fsum(kl(q[layer][i], p[layer][i]) for i, layer in enumerate(layers.tolist())) / n / (n - 1)
    )
    logs = relations(ours), relations(source)
    assert divergence(*logs).item() == pytest.approx(paper, rel=1e-9, abs=1e-15)
    assert divergence(*logs, layers).item() == pytest.approx(published, rel=1e-9, abs=1e-15)
    assert n == 2 or paper != pytest.approx(published * n * (n - 1), rel=1e-3)  # direction and layers matter


def test_hand_made_features():
    """Three samples at 0, 90 and 180 degrees in the source; G has made the first two alike."""
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[:, :, None, None]
    ours = torch.tensor([[2.0, 0.0], [5.0, 0.0], [-1.0, 0.0]])[:, :, None, None]  # lengths do not matter
    e = math.e
    p = [[e / (e + 1 / e), 1 / e / (e + 1 / e)]] * 2 + [[0.5, 0.5]]
    q = [[e / (1 + e), 1 / (1 + e)], [0.5, 0.5], [1 / (1 + e), e / (1 + e)]]
    expected = sum(kl(a, b) for a, b in zip(p, q, strict=True))
    assert divergence(relations([ours]), relations([source])).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(relations([3 * source]), relations([source])).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", ["paper", "published"])
@pytest.mark.parametrize("family", ["stylegan2", "dcgan"])
def test_the_term_is_zero_at_the_source_and_grows_away_from_it(tmp_path, family, kind):
    model = models.load_model(make_source(tmp_path / "s.safetensors", name=family))
    method = CDC(CDC.Options(divergence=kind))
    method.setup(make_context(model.generator("g")))
    g = model.generator("g").train()
    context = SimpleNamespace(g=g, draw=g.draw, rng=lambda purpose: random.generator(0, purpose))
    buffers = {name: value.clone() for name, value in g.named_buffers()}
    assert method.loss_terms(context)["cdc"].item() == 0
    with torch.no_grad():
        for parameter in g.parameters():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
    term = method.loss_terms(context)["cdc"]
    assert term.item() > 1e-3
    term.backward()
    assert all(torch.equal(value, buffers[name]) for name, value in g.named_buffers())
    assert all(module.training for module in g.modules()), "the mode has changed"
    assert not any(parameter.grad is not None for parameter in method.source.parameters())


def test_the_map_of_4_px_is_not_compared(tiny):
    model = models.load_model(tiny)
    g = model.generator("g")
    method = CDC()
    method.setup(make_context(model.generator("g").requires_grad_(False)))
    with torch.no_grad():  # changes the first image, but nothing that the other maps are computed from
        g.synthesis.b4.torgb.weight.mul_(3)
    context = SimpleNamespace(g=g, draw=g.draw, rng=lambda purpose: random.generator(0, purpose))
    assert method.loss_terms(context)["cdc"].item() == 0  # nor is to-RGB a feature
    first, *others = g.taps(g.draw(2, torch.Generator()))
    assert first.shape[2] == 4 and [x.shape[2] for x in others] == [8, 8, 16, 16]


# ---- anchors -------------------------------------------------------------------------------------------


def test_every_fourth_step_draws_near_the_seeds_anchors(tiny):
    source = models.load_model(tiny).generator("g")
    methods = [CDC(CDC.Options(spread=0.01)) for _ in range(3)]
    for method, seed in zip(methods, (7, 7, 8), strict=True):
        method.setup(make_context(source, shots=3, seed=seed))
    assert torch.equal(methods[0].anchors, methods[1].anchors)
    assert not torch.equal(methods[0].anchors, methods[2].anchors)
    method, free = methods[0], source.draw(64, torch.Generator().manual_seed(0))
    for step in range(9):
        method.before_step(SimpleNamespace(step=step))
        drawn = method.transform_inputs(free, source, random.generator(0, "latents", step), True)
        beside = method.transform_inputs(free, source, random.generator(0, "path", step), False)
        assert beside is free  # a regulariser's latents are drawn freely in every step
        if step % 4:
            assert drawn is free
            continue
        distance, nearest = torch.cdist(drawn.z, method.anchors).min(dim=1)
        assert distance.max() < 0.01 * 6 and set(nearest.tolist()) == {0, 1, 2}
        assert drawn.mix is drawn.z
        torch.testing.assert_close(
            (drawn.z - method.anchors[nearest]).std(), torch.tensor(0.01), rtol=0.2, atol=0
        )


def test_anchors_are_not_mixed_with_other_styles(tiny):
    model = models.load_model(tiny)
    g, recipe = model.generator("g"), model.family.recipe(model.spec)
    z = g.draw(4, torch.Generator().manual_seed(0)).z
    for seed in range(5):
        ws = model.family._mixed(g, Inputs(z=z, mix=z), recipe, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ws, g.map(Inputs(z=z)))


# ---- patches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "px", "patch"),
    [("stylegan2", 16, 5), ("stylegan2", 32, 5), ("stylegan2", 64, 12), ("stylegan2", 128, 30),
     ("stylegan2", 256, 66), ("dcgan", 28, 8), ("dcgan", 64, 8), ("dcgan", 128, 18)],
)  # fmt: skip
def test_a_patch_is_a_part_of_the_image(family, px, patch):
    """The receptive field of a logit, in pixels a side: 26 % of the side at 256 px, never all of it."""
    kind = registry.family(family)()
    spec = kind.fresh(px, width=16 if family == "stylegan2" else 4)
    d = kind.build(spec).d.eval()
    method = CDC()
    method.setup(make_context(SimpleNamespace(draw=lambda n, rng: Inputs(z=torch.zeros(n, 1))), spec=spec))
    method.add_modules(None, d)
    method.before_step(SimpleNamespace(step=1))
    for parameter in d.parameters():
        parameter.data.fill_(0.01)
    images = torch.ones(1, 3, px, px, requires_grad=True)
    logits = method.discriminator(d)(images, Inputs())
    side = logits.shape[2]
    assert logits.shape == (1, 1, side, side) and side <= SIDE
    (grad,) = torch.autograd.grad(logits[0, 0, side // 2, side // 2], images)
    assert (grad[0].abs().sum(dim=0) > 0).any(dim=1).sum() == patch < px


def test_whole_images_at_anchors_and_patches_elsewhere(tiny):
    model = models.load_model(tiny)
    d = model.discriminator()
    plain = model.discriminator()
    method = CDC()
    method.setup(make_context(model.generator("g"), spec=model.spec))
    method.add_modules(None, d)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method.before_step(SimpleNamespace(step=0))
    assert torch.equal(method.discriminator(d)(images, None), plain(images))
    method.before_step(SimpleNamespace(step=1))
    patches = method.discriminator(d)(images, None)
    torch.testing.assert_close(patches, d.cdc(patch_features(plain, images)))
    (patches.sum() + 0 * d.cdc.weight.sum()).backward()
    deep = [
        name for name, p in d.named_parameters() if p.grad is not None and not name.startswith(("b16", "cdc"))
    ]
    assert not deep, "patch logits depend on D's other blocks"


def test_r1_of_patches_is_that_of_their_mean():
    from fsgen.families.stylegan2.family import StyleGAN2

    recipe = SimpleNamespace(r1_gamma=2.0, r1_every=1)
    weight = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    context = SimpleNamespace(
        recipe=recipe, real_images=torch.randn(2, 3, 4, 4), inputs=None, augment=lambda images, kind: images,
        d=lambda images, inputs: torch.nn.functional.conv2d(images, weight, stride=2),
    )  # fmt: skip
    found = StyleGAN2().regularise(context, "d", 0)["r1"]
    # each of the 4 patches is a quarter of the mean: |grad|^2 = 4 |weight / 4|^2
    torch.testing.assert_close(found, weight.square().sum() / 4)


# ---- runs ----------------------------------------------------------------------------------------------


def test_a_run_keeps_the_sources_keys_and_resumes_exactly(tmp_path, tiny, drawings):
    whole = adapt(tmp_path / "whole", tiny, drawings)
    before, after = load_file(tiny), load_file(whole / "model.safetensors")
    assert {key: value.shape for key, value in before.items()} == {
        key: value.shape for key, value in after.items()
    }
    g_and_d = {key for key in before if key[:2] in ("g.", "d.") and "noise_const" not in key}
    assert all(not torch.equal(before[key], after[key]) for key in g_and_d)
    state = load_file(whole / "state" / "latest.safetensors")
    assert {"d.cdc.weight", "d.cdc.bias"} <= state.keys()
    assert any(line.get("cdc", 0) > 0 for line in RunFolder(whole).history())
    for stop in (1, 3):
        left = iter([*[False] * (stop - 1), True])
        with pytest.raises(Interrupted):
            adapt(tmp_path / f"{stop}", tiny, drawings, callbacks=Callbacks(stop=lambda it=left: next(it)))
        resume(tmp_path / f"{stop}")
        for name in ("model.safetensors", "state/latest.safetensors"):
            same = [checkpoint.hash_tensors(load_file(run / name)) for run in (whole, tmp_path / f"{stop}")]
            assert same[0] == same[1], name


@pytest.mark.parametrize("family", ["cgan", "fastgan", "funit", "biggan"])
def test_families_without_feature_maps_or_latents_are_refused(tmp_path, family):
    source = make_source(tmp_path / "s.safetensors", name=family)
    with refused(Code.INCOMPATIBLE, "cdc needs " + ("latent" if family == "funit" else "taps"), family):
        adapt(tmp_path / "run", source, draw_images(tmp_path / "images", 2))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"every": 0}, {"weight": -1.0}, {"spread": float("nan")}])
def test_options_out_of_range_are_refused(options):
    with refused(Code.OUT_OF_RANGE, *(f"--cdc-{name}" for name in options)):
        CDC(CDC.Options(**options))
