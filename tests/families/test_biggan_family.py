"""BigGAN and IC-GAN: sizes, any architecture's files against a plain construction, training."""

from __future__ import annotations

import copy
from dataclasses import replace

import published_biggan as published
import pytest
import torch
from refusals import refused
from tiny import SPECS, draw_images

import fsgen
from fsgen import rng as random
from fsgen.errors import Code
from fsgen.families.biggan.family import BigGAN, Recipe
from fsgen.families.biggan.layers import (
    ConditionalNorm,
    SNConv,
    SNEmbedding,
    SNLayer,
    SNLinear,
    truncated_normal,
)
from fsgen.interfaces import Inputs, Networks, Spec, StepContext
from fsgen.models import model as models
from fsgen.nn import per_sample_fisher
from fsgen.training.train import train

FAMILY = BigGAN()
TINY: Spec = SPECS["biggan"]
PLAIN = TINY | {"c_dim": 0, "g_embed_dim": 0}
ICGAN = PLAIN | {"h_dim": 10, "h_embed_dim": 5}
BOTH = TINY | {"h_dim": 10, "h_embed_dim": 5}
FORMS = {"plain": PLAIN, "classes": TINY, "instances": ICGAN, "both": BOTH}


def nets(spec: Spec = TINY, seed: int = 0) -> Networks:
    """Untrained ones, but for attention and biases, which begin at nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = FAMILY.build(spec)
        with torch.no_grad():
            for net in built:
                for name, value in net.named_parameters():
                    if name.endswith((".gamma", ".bias")):
                        value.add_(torch.randn(value.shape) / 2)
    return built


# ---- architecture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes, h_dim", [(0, 0), (7, 0), (0, 9), (7, 9)])
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_pictures_of_each_size_come_out_and_go_in(size, classes, h_dim):
    spec = FAMILY.fresh(size, 1, classes, width=2, h_dim=h_dim)
    with torch.device("meta"):
        g, d = FAMILY.build(spec)
        inputs = Inputs(z=torch.zeros(2, spec["z_dim"]), y=torch.zeros(2, 7), h=torch.zeros(2, 9))
        images = g(inputs)
        assert images.shape == (2, 1, size, size) and d(images, inputs).shape == (2, 1)
        sides = [x.shape[-1] for x in d.features(images)]
    assert sides[-1] == (8 if size == 32 else 4)
    attended = {32: [], 64: [32], 128: [64], 256: [64]}[size]
    assert [8 << i for i in spec["g_attention"]] == [sides[i] for i in spec["d_attention"]] == attended


def test_as_many_parameters_as_the_public_biggan_of_imagenet():
    with torch.device("meta"):
        g, d = FAMILY.build(FAMILY.fresh(128, classes=1000))
    assert sum(p.numel() for p in g.parameters()) == 70_433_988
    assert sum(p.numel() for p in d.parameters()) == 87_982_370


@pytest.mark.parametrize(
    "size, options, named",
    [
        (16, {}, "--size 16"),
        (64, {"channels": 2}, "2 channels"),
        (64, {"width": 0}, "--width 0"),
    ],
)
def test_unavailable_architectures_are_refused(size, options, named):
    with refused(Code.OUT_OF_RANGE, named):
        FAMILY.fresh(size, **options)


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_in_the_order_of_the_data(form):
    told = {"plain": [], "classes": ["embed"], "instances": ["embed_h"], "both": ["embed", "embed_h"]}[form]
    assert list(FAMILY.layers(FORMS[form])) == [*told, "b4", "b8", "b16", "rgb"]
    assert FAMILY.layers(FORMS[form])["b8"][-1].startswith("attention.0.")


def test_weights_begin_orthogonal():
    g, d = FAMILY.build(TINY | {"d_widths": [40, 40, 40]})
    for module in (*g.modules(), *d.modules()):
        if isinstance(module, SNLayer):
            w = module.matrix
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)


# ---- spectral norm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [SNConv(3, 5, 3), SNLinear(7, 4), SNEmbedding(6, 9)])
def test_the_norm_converges_on_the_largest_singular_value(layer):
    layer = copy.deepcopy(layer)
    torch.nn.init.normal_(layer.weight)
    largest = torch.linalg.matrix_norm(layer.matrix, 2)
    assert layer.step()[1] < 0.999 * largest  # of a random vector
    layer.iterate(500)
    torch.testing.assert_close(layer.step()[1], largest)
    torch.testing.assert_close(layer.scaled(), layer.weight / largest)


def test_evaluation_iterates_as_well_and_only_training_stores_u():
    g = nets().g
    inputs = published.inputs(TINY, 3)
    start = copy.deepcopy(g.state_dict())
    g.eval()
    first = g(inputs)
    assert torch.equal(g(inputs), first)
    assert all(torch.equal(value, start[key]) for key, value in g.state_dict().items())
    g.train()(inputs)
    moved = {key for key, value in g.state_dict().items() if not torch.equal(value, start[key])}
    spectral = {f"{name}.u" for name, m in g.named_modules() if isinstance(m, SNLayer)}
    norms = [name for name, m in g.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    counted = {f"{name}.{what}" for name in norms for what in ("running_mean", "running_var")}
    assert moved == spectral | counted | {f"{name}.num_batches_tracked" for name in norms}


def test_frozen_scales_leave_their_statistics():
    norm = ConditionalNorm(4, 3)
    x, c = torch.randn(2, 4, 5, 5), torch.randn(2, 3)
    before = norm.running_mean.clone()
    norm.train()
    norm.gain.eval(), norm.shift.eval()  # as the loop leaves modules whose weights are frozen
    frozen = norm(x, c)
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(frozen, norm.eval()(x, c))


# ---- drawing ---------------------------------------------------------------------------------------------


def test_draws_are_normal_and_of_every_class():
    g = nets(BOTH).g
    inputs = g.draw(3000, torch.Generator().manual_seed(0))
    assert inputs.z.shape == (3000, 6) and inputs.h is None
    assert abs(inputs.z.mean()) < 0.05 and abs(inputs.z.std() - 1) < 0.05
    assert (inputs.y.sum(dim=0) / 3000 - 1 / 3).abs().max() < 0.05 and (inputs.y.sum(dim=1) == 1).all()
    assert nets(PLAIN).g.draw(2, torch.Generator()).y is None
    with refused(Code.INCOMPATIBLE, "'h'"):
        g(inputs)


@pytest.mark.parametrize("form", FORMS)
def test_each_part_of_the_input_changes_the_picture_and_the_logit(form):
    g, d = (net.eval() for net in nets(FORMS[form]))
    inputs, others = (published.inputs(FORMS[form], 2, seed) for seed in (0, 1))
    image = g(inputs)
    for name in inputs.parts():
        other = replace(inputs, **{name: getattr(others, name)})
        assert (g(other) - image).abs().max() > 1e-3, name
        if name != "z":
            assert (d(image, other) - d(image, inputs)).abs().max() > 1e-4, name
    for i in range(3):  # each part of z has its own place
        z = inputs.z.clone()
        z[:, 2 * i] += 1
        assert (g(replace(inputs, z=z)) - image).abs().max() > 1e-3


def test_truncation_draws_from_the_middle():
    g = nets(PLAIN).g.eval()
    inputs = g.draw(4, torch.Generator().manual_seed(0))
    inputs = replace(inputs, z=inputs.z * 3)
    assert torch.equal(g(inputs, truncation=1.0), g(inputs))
    expected = g(replace(inputs, z=0.4 * truncated_normal(inputs.z)))
    torch.testing.assert_close(g(inputs, truncation=0.4), expected)
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    cut = truncated_normal(z)
    assert cut.abs().max() <= 2 and (cut[z.argsort()].diff() >= 0).all()
    inside = z[z.abs() < 2]  # the same distribution as of those that are resampled
    levels = torch.linspace(0.01, 0.99, 25)
    torch.testing.assert_close(cut.quantile(levels), inside.quantile(levels), atol=0.02, rtol=0)


# ---- training --------------------------------------------------------------------------------------------


def context(d: torch.nn.Module, inputs: Inputs) -> StepContext:
    real_images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return StepContext(
        g=None, d=d, recipe=Recipe(), real_images=real_images, inputs=inputs, draw=None,
        augment=lambda images, who: images * (2 if who == "real" else 0.5),
        rng=lambda purpose: random.generator(0, purpose), scalars={},
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_generated_and_real_images_take_one_power_iteration(form):
    d = nets(FORMS[form]).d.train()
    inputs = published.inputs(FORMS[form], 3)
    now = context(d, inputs)
    fakes = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    frozen = copy.deepcopy(d).eval()
    fake, real = frozen(0.5 * fakes, inputs), frozen(2 * now.real_images, inputs)
    expected = (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
    terms = FAMILY.discriminator_loss(now, fakes)
    assert terms.keys() == {"d"}
    torch.testing.assert_close(terms["d"], expected)
    for (name, module), old in zip(d.named_modules(), frozen.modules(), strict=True):
        if isinstance(module, SNLayer):
            torch.testing.assert_close(module.u, old.step()[0], msg=name)  # one step, not two


def test_the_generator_loss_is_the_negative_logit():
    d = nets().d.eval()
    inputs, fakes = published.inputs(TINY, 3), torch.randn(3, 3, 16, 16)
    terms = FAMILY.generator_loss(context(d, inputs), fakes)
    torch.testing.assert_close(terms, {"g": -d(0.5 * fakes, inputs).mean()})


def test_each_player_has_its_rate_and_adam_its_epsilon():
    for size, rate in ((32, 1e-4), (64, 1e-4), (128, 4e-5), (256, 4e-5)):
        recipe = FAMILY.recipe({"resolution": size})
        weights = [torch.nn.Parameter(torch.zeros(2))]
        g, d = (FAMILY.optimiser(weights, recipe, who) for who in ("g", "d"))
        assert (g.defaults["lr"], d.defaults["lr"]) == (rate, 1e-4)
        assert g.defaults["eps"] == 1e-6 and g.defaults["betas"] == (0.0, 0.999)


@pytest.mark.parametrize("form", FORMS)
def test_refreshed_singular_vectors_and_statistics_fit_the_weights(form):
    g, spec = nets(FORMS[form]).g.eval(), FORMS[form]

    def draw(n: int, rng: torch.Generator) -> Inputs:
        return published.inputs(spec, n, int(torch.randint(1000, [], generator=rng)))

    FAMILY.refresh_statistics(g, draw)
    assert not any(module.training for module in g.modules())
    for name, module in g.named_modules():
        if isinstance(module, SNLayer) and min(module.matrix.shape) > 1:
            _, sigma = module.step()
            assert sigma <= 1.001 * torch.linalg.matrix_norm(module.matrix, 2), name
    seen = []
    g.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        g(draw(512, torch.Generator().manual_seed(5)))
    mean = seen[0].mean(dim=(0, 2, 3))
    assert (g.norm.running_mean - mean).abs().max() < 0.15 * seen[0].std()


@pytest.mark.parametrize("form", ["plain", "classes"])
def test_the_fisher_of_many_samples_at_once_is_the_definition(form):
    g, d = (net.eval() for net in nets(FORMS[form]))
    d.requires_grad_(False)
    batches = [(published.inputs(FORMS[form], 3), None)]

    def score(images, one, draw):
        return FAMILY.log_likelihood(d(images, one)).sum()

    found, wanted = (
        per_sample_fisher.diagonal(g, score, batches),
        per_sample_fisher.diagonal_by_loop(g, score, batches),
    )
    assert found.keys() == wanted.keys() == {name for name, _ in g.named_parameters()}
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-6 * float(value.max()), msg=key)


@pytest.mark.parametrize("folders", [False, True])
def test_a_small_one_is_trained_from_nothing(tmp_path, folders):
    images = tmp_path / "images"
    for name in ("cats", "dogs") if folders else ("",):
        draw_images(images / name, 3)
    run = train(images, out=tmp_path / "run", family="biggan", size=32, width=2, steps=2, device="cpu",
                recipe={"batch": 4}, classes=folders)  # fmt: skip
    model = models.load_model(run)
    assert model.spec["c_dim"] == (2 if folders else 0)
    assert any(not torch.equal(x, model.networks["g_ema"][key]) for key, x in model.networks["g"].items())
    assert len(fsgen.load(run, device="cpu").sample(2)) == 2
