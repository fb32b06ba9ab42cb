"""StyleGAN2 as a family: pictures, recipe, regularisers, layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sg2_files import FAMILY, nets, spec_of
from torch import Tensor
from torch.nn import functional as F

from fsgen.interfaces import Inputs, StepContext
from fsgen.nn import fir, losses
from fsgen.nn.layers import minibatch_std, normalise

RECIPE = FAMILY.recipe(spec_of())


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- pictures ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_picture_does_not_depend_on_its_batch():
    g = nets(spec_of()).g
    inputs = g.draw(5, rng())
    torch.testing.assert_close(g(inputs)[2:3], g(inputs[2:3]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_draws_are_fixed_by_the_generator_and_label_where_there_are_classes():
    g = nets(spec_of(c_dim=3)).g
    one, two, other = g.draw(64, rng(1)), g.draw(64, rng(1)), g.draw(64, rng(2))
    assert torch.equal(one.z, two.z) and torch.equal(one.y, two.y)
    assert not torch.equal(one.z, other.z)
    assert torch.equal(one.y.sum(dim=1), torch.ones(64))
    assert (one.y.sum(dim=0) > 0).all() and set(one.y.unique().tolist()) == {0.0, 1.0}
    assert nets(spec_of()).g.draw(2, rng()).y is None


@torch.no_grad()
def test_labels_change_the_picture_and_the_logit():
    g, d = nets(spec_of(c_dim=3))
    z = torch.randn(1, 5, generator=rng()).expand(3, -1)
    pictures = g(Inputs(z=z, y=torch.eye(3)))
    assert not torch.allclose(pictures[0], pictures[1])
    logits = d(pictures[:1].expand(3, -1, -1, -1), Inputs(y=torch.eye(3)))
    assert len(logits.unique()) == 3


@torch.no_grad()
def test_truncation_pulls_to_the_mean_latent():
    g = nets(spec_of()).g
    inputs = g.draw(3, rng())
    plain = g.map(inputs)
    assert plain.shape == (3, g.num_ws, 6)
    assert torch.equal(g.map(inputs, 1.0), plain)
    assert torch.equal(g.map(inputs, 0.0), g.mapping.w_avg.expand(3, 6, 6))
    half = g.map(inputs, 0.5)
    torch.testing.assert_close(half, (plain + g.mapping.w_avg) / 2)
    part = g.map(inputs, 0.5, cutoff=2)
    assert torch.equal(part[:, :2], half[:, :2]) and torch.equal(part[:, 2:], plain[:, 2:])
    assert torch.equal(g.map(inputs, 0.5, cutoff=g.num_ws), half)
    torch.testing.assert_close(g(inputs, truncation=0.0)[0], g(inputs, truncation=0.0)[1])


@torch.no_grad()
def test_noise_is_stored_or_drawn_or_absent():
    g = nets(spec_of()).g
    inputs = g.draw(2, rng())
    const, none = g(inputs), g(inputs, noise="none")
    assert torch.equal(const, g(inputs, noise="const"))
    one, two = (g(inputs, noise="random", rng=rng(3)) for _ in range(2))
    assert torch.equal(one, two)
    for a, b in ((const, none), (const, one), (none, one), (one, g(inputs, noise="random", rng=rng(4)))):
        assert not torch.allclose(a, b)
    for module in g.modules():
        if hasattr(module, "noise_strength"):
            module.noise_strength.zero_()
    torch.testing.assert_close(g(inputs), none)


@torch.no_grad()
def test_every_clamp_bites():
    spec = spec_of()
    g, d = nets(spec)
    inputs = g.draw(4, rng())
    images = g(inputs)
    for name, net, call in (
        ("g_clamp", "g", lambda net: net(inputs)),
        ("d_clamp", "d", lambda net: net(images)),
    ):
        plain = {"g": g, "d": d}[net]
        for clamp, equal in ((0.1, False), (1e6, True)):
            clamped = getattr(FAMILY.build(spec | {name: clamp}), net)
            clamped.load_state_dict(plain.state_dict())
            assert torch.equal(call(clamped), call(plain)) == equal
    low = FAMILY.build(spec | {"g_clamp": 0.1}).g
    low.load_state_dict(g.state_dict())
    taps = low.synthesis(low.map(inputs), "const", None)[1]
    # In float32 0.1 is not exactly 0.1
    assert all(x.abs().max() <= 0.1 + 1e-6 for x, _ in taps)
    assert taps[0][1].abs().max() <= 0.1 + 1e-6  # the first toRGB alone


@torch.no_grad()
def test_taps_and_features_go_from_coarse_to_fine_and_back():
    g, d = nets(spec_of())
    picture, taps = g.synthesis(g.map(g.draw(2, rng())), "const", None)
    assert [tuple(x.shape) for x, _ in taps] == [(2, 8, 4, 4), (2, 8, 8, 8), (2, 4, 16, 16)]
    assert [tuple(so_far.shape[1:]) for _, so_far in taps] == [(3, 4, 4), (3, 8, 8), (3, 16, 16)]
    assert torch.equal(taps[-1][1], picture)
    assert [tuple(x.shape) for x in d.features(picture)] == [(2, 8, 8, 8), (2, 8, 4, 4)]


def plain_d(state: dict[str, Tensor], spec: dict, images: Tensor, y: Tensor | None) -> Tensor:
    """D once more, as figure 7 of the paper draws it, from the tensors alone."""
    kind = spec["d_architecture"]

    def act(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2) * 2**0.5

    def conv(x: Tensor, name: str, down: bool = False) -> Tensor:
        weight = state[f"{name}.weight"]
        weight = weight / weight[0].numel() ** 0.5
        size = weight.shape[-1]
        if down:
            x = F.conv2d(fir.blur(x, (2, 2) if size == 3 else (1, 1)), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=size // 2)
        bias = state.get(f"{name}.bias")
        return x if bias is None else act(x + bias[:, None, None])

    def dense(x: Tensor, name: str, lr_mul: float = 1.0) -> Tensor:
        weight = state[f"{name}.weight"]
        return x @ weight.T * lr_mul / weight.shape[1] ** 0.5 + state[f"{name}.bias"] * lr_mul

    resolution = spec["resolution"]
    x = conv(images, f"b{resolution}.fromrgb")
    while resolution > 4:
        block = f"b{resolution}"
        main = conv(conv(x, f"{block}.conv0"), f"{block}.conv1", down=True)
        x = (main + conv(x, f"{block}.skip", down=True)) / 2**0.5 if kind == "resnet" else main
        resolution //= 2
        if kind == "skip":  # every block sees the picture at its own resolution
            images = fir.downsample(images)
            x = x + conv(images, f"b{resolution}.fromrgb")
    x = conv(minibatch_std(x, spec["d_group"]), "b4.conv").flatten(1)
    x = dense(act(dense(x, "b4.fc")), "b4.out")
    if y is None:
        return x
    c = normalise(dense(y, "mapping.embed"))
    for i in range(spec["d_mapping_layers"]):
        c = act(dense(c, f"mapping.fc{i}", lr_mul=0.01))
    return (x * c).sum(dim=1, keepdim=True) / c.shape[1] ** 0.5


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("c_dim", [0, 3])
@torch.no_grad()
def test_d_is_wired_as_the_paper_draws_it(architecture, c_dim):
    spec = spec_of(d_architecture=architecture, c_dim=c_dim)
    d = nets(spec).d
    for parameter in d.parameters():  # labels weigh too little at the mapping's small learning rate
        parameter.mul_(3)
    images, y = torch.randn(4, 3, 16, 16, generator=rng()), torch.eye(3)[[0, 2, 1, 1]] if c_dim else None
    ours = d(images, Inputs(y=y))
    expected = plain_d(d.state_dict(), spec, images, y)
    assert expected.abs().min() > 1e-6
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# ---- layers and recipe -------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"c_dim": 3}, {"mapping_layers": 8}])
def test_layers_cover_every_parameter_once_in_order(changes):
    spec = spec_of(**changes)
    layers = FAMILY.layers(spec)
    listed = [key for keys in layers.values() for key in keys]
    parameters = [key for key, _ in FAMILY.build(spec).g.named_parameters()]
    assert sorted(listed) == sorted(parameters)
    assert len(set(listed)) == len(listed)
    names = list(layers)
    assert names[0].startswith("mapping.") and names[-1] == "b16.torgb"
    assert [n for n in names if "torgb" in n] == ["b4.torgb", "b8.torgb", "b16.torgb"]
    assert ("mapping.embed" in names) == bool(spec["c_dim"])


def test_layers_know_their_resolution():
    for key, _ in FAMILY.build(spec_of()).g.named_parameters():
        expected = int(key.split(".")[1][1:]) if key.startswith("synthesis.") else None
        assert FAMILY.resolution_of(key) == expected


def test_recipe_scales_r1_with_the_pixels():
    gammas = {r: FAMILY.recipe(spec_of(resolution=r)).r1_gamma for r in (64, 128, 256, 512)}
    assert gammas[256] == 10
    assert all(gammas[r] == pytest.approx(10 * r * r / 256**2) for r in gammas)
    steps = {r: FAMILY.recipe(spec_of(resolution=r)).lr for r in (16, 64, 256, 1024)}
    assert steps == pytest.approx({16: 0.004, 64: 0.002 * 2**0.5, 256: 0.002, 1024: 0.002})
    small, published = FAMILY.recipe(spec_of(resolution=64)), FAMILY.recipe(spec_of(resolution=256))
    assert replace(small, r1_gamma=published.r1_gamma, lr=published.lr) == published


def test_losses_are_the_papers():
    real, fake = torch.randn(4, 1, generator=rng()), torch.randn(4, 1, generator=rng(1))
    assert torch.equal(FAMILY.loss_d(real, fake), losses.logistic_d(real, fake))
    assert torch.equal(FAMILY.loss_g(fake), losses.nonsaturating_g(fake))
    torch.testing.assert_close(FAMILY.log_likelihood(fake), fake.sigmoid().log().flatten())


# ---- training ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_training_pictures_have_random_noise_and_mixed_styles():
    g = nets(spec_of()).g
    inputs = g.draw(4, rng())
    never, always = replace(RECIPE, mixing=0.0), replace(RECIPE, mixing=1.0)
    one = FAMILY.fakes(g, inputs, never, rng(3))
    assert torch.equal(one, FAMILY.fakes(g, inputs, never, rng(3)))
    assert not torch.allclose(one, g(inputs))  # noise
    assert not torch.allclose(one, FAMILY.fakes(g, inputs, never, rng(4)))
    for module in g.modules():
        if hasattr(module, "noise_strength"):
            module.noise_strength.zero_()
    torch.testing.assert_close(FAMILY.fakes(g, inputs, never, rng(3)), g(inputs))
    assert not torch.allclose(FAMILY.fakes(g, inputs, always, rng(3)), g(inputs))


def test_mixing_keeps_the_first_styles_and_happens_as_often_as_the_recipe_says():
    g = nets(spec_of()).g
    inputs = g.draw(1, rng())
    plain = g.map(inputs)[0]
    cuts = []
    with torch.no_grad():
        for seed in range(200):
            ws = FAMILY._mixed(g, inputs, replace(RECIPE, mixing=0.75), rng(seed))[0]
            same = (ws == plain).all(dim=1)
            cuts.append(int(same.sum()))
            assert same[: cuts[-1]].all()  # a first part of the layers, and nothing after it
    mixed = [cut for cut in cuts if cut < g.num_ws]
    assert set(mixed) == set(range(1, g.num_ws))  # the cut falls on every layer but never before the first
    assert 0.6 < len(mixed) / len(cuts) < 0.9


def context(c_dim: int = 0, **recipe) -> StepContext:
    g, d = nets(spec_of(c_dim=c_dim))
    real_images = torch.randn(4, 3, 16, 16, generator=rng(5))
    return StepContext(
        g=g, d=d, recipe=replace(RECIPE, **recipe), real_images=real_images, inputs=g.draw(4, rng(6)),
        draw=g.draw, augment=lambda images, who: images, rng=lambda purpose: rng(7), scalars={},
    )  # fmt: skip


@pytest.mark.parametrize("c_dim", [0, 3])
def test_r1_is_due_every_so_often_and_weighted_for_it(c_dim):
    p = context(c_dim, r1_gamma=3.0, r1_every=8)
    assert {step for step in range(33) if FAMILY.regularise(p, "d", step)} == {0, 8, 16, 24, 32}
    real_images = p.real_images.clone().requires_grad_()
    expected = losses.r1(p.d(real_images, p.inputs), real_images) * 3 / 2 * 8
    found = FAMILY.regularise(p, "d", 8)
    assert found.keys() == {"r1"}
    torch.testing.assert_close(found["r1"], expected)
    found["r1"].backward()
    assert p.d.b4.conv.weight.grad.any()
    assert FAMILY.regularise(context(r1_gamma=0.0), "d", 0) == {}
    assert FAMILY.regularise(context(r1_every=0), "d", 0) == {}


def test_r1_is_computed_on_augmented_real_images():
    p = context()
    seen = []

    def augment(images: Tensor, who: str) -> Tensor:
        seen.append(who)
        return images * 0.5

    plain = FAMILY.regularise(p, "d", 0)["r1"]
    p.augment = augment
    assert FAMILY.regularise(p, "d", 0)["r1"] != plain
    assert seen == ["real"]


def test_path_length_is_due_every_so_often_and_remembers_its_mean():
    p = context(path_every=4, path_weight=2.0)
    due = {step for step in range(9) if FAMILY.regularise(p, "g", step)}
    assert due == {0, 4, 8}
    assert FAMILY.regularise(context(path_every=0), "g", 0) == {}
    p.scalars.clear()
    found = FAMILY.regularise(p, "g", 0)
    assert found.keys() == {"path"} and found["path"] > 0
    first = p.scalars["path_mean"].item()
    FAMILY.regularise(p, "g", 4)  # the same draw, so the same lengths l: 0.01 l, then 0.01 l + 0.99 * 0.01 l
    assert p.scalars["path_mean"].item() == pytest.approx(1.99 * first, rel=1e-5)
    assert not p.scalars["path_mean"].requires_grad
    found["path"].backward()
    assert p.g.synthesis.b4.conv1.weight.grad.any()


def test_path_length_weight_and_batch():
    one = FAMILY.regularise(context(path_every=4, path_weight=2.0), "g", 0)["path"]
    two = FAMILY.regularise(context(path_every=2, path_weight=2.0), "g", 0)["path"]
    three = FAMILY.regularise(context(path_every=4, path_weight=1.0), "g", 0)["path"]
    torch.testing.assert_close(one, 2 * two)
    torch.testing.assert_close(one, 2 * three)
    p = context(path_shrink=4)
    sizes = []
    hook = p.g.mapping.register_forward_hook(lambda _, args, out: sizes.append(len(out)))
    FAMILY.regularise(p, "g", 0)
    hook.remove()
    assert set(sizes) == {1}


def test_refresh_statistics_recomputes_the_mean_latent():
    g = nets(spec_of(c_dim=2)).g
    with torch.no_grad():
        g.mapping.w_avg.fill_(99.0)
        FAMILY.refresh_statistics(g, g.draw)
        first = g.mapping.w_avg.clone()
        inputs = g.draw(20_000, rng(9))
        w = g.mapping(inputs.z, inputs.y)
        assert ((first - w.mean(dim=0)).abs() < 0.1 * w.std(dim=0) + 1e-5).all()
        FAMILY.refresh_statistics(g, g.draw)
    assert torch.equal(g.mapping.w_avg, first)
