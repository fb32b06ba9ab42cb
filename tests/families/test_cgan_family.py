"""Mirza & Osindero's perceptrons: shapes of the paper, maxout, labels, dropout that a resumed run repeats."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from refusals import refused
from tiny import SPECS
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.errors import Code
from fsgen.families.cgan import CGAN, SIZES, Maxout, Recipe, drop
from fsgen.interfaces import Foreign, Inputs, StepContext
from fsgen.methods.stack import Stack
from fsgen.nn.per_sample_fisher import diagonal, diagonal_by_loop
from fsgen.training import loop

FAMILY = CGAN()
SPEC = SPECS["cgan"]
PLAIN = SPEC | {"c_dim": 0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nets(spec=SPEC):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILY.build(spec)


def test_fresh_networks_have_the_sizes_of_the_paper():
    g, d = nets(FAMILY.fresh(28, 1, 10))
    assert [(layer.in_features, layer.out_features) for layer in (g.z, g.y, g.joint, g.out)] == [
        (100, 200), (10, 1000), (1200, 1200), (1200, 784),
    ]  # fmt: skip
    assert [(layer.linear.in_features, *layer.shape) for layer in (d.x, d.y, d.joint)] == [
        (784, 240, 5), (10, 50, 5), (290, 240, 4),
    ]  # fmt: skip
    g, d = nets(FAMILY.fresh(28, 1))
    assert not hasattr(g, "y") and not hasattr(d, "y")
    assert g.joint.in_features == 200 and d.joint.linear.in_features == 240
    for size in SIZES:
        g, d = nets(FAMILY.fresh(size, 3, 2))
        inputs = g.draw(3, rng())
        assert g(inputs).shape == (3, 3, size, size) and d(g(inputs), inputs).shape == (3, 1)
    with refused(Code.OUT_OF_RANGE, "--size 64"):
        FAMILY.fresh(64)
    half = FAMILY.fresh(28, 1, 10, width=600)
    assert half["g_widths"] == {"z": 100, "y": 500, "joint": 600}
    assert half["d_widths"] == {"x": 120, "y": 25, "joint": 120}
    assert min(FAMILY.fresh(28, width=24)["d_widths"].values()) == 1
    with refused(Code.OUT_OF_RANGE, "--width 23"):
        FAMILY.fresh(28, width=23)
    assert FAMILY.recipe(SPEC).batch == 100 and FAMILY.recipe(SPEC).dropout == 0.5


def test_no_file_is_taken_for_it():
    foreign = Foreign("torch", {"": nets().g.state_dict()})
    assert not FAMILY.recognise(foreign)
    with refused(Code.UNSUPPORTED, "cgan"):
        FAMILY.convert(foreign)


@torch.no_grad()
def test_maxout_is_the_largest_of_its_pieces():
    layer, x = Maxout(4, 3, 5), torch.randn(6, 4, generator=rng())
    affine = x @ layer.linear.weight.T + layer.linear.bias
    expected = [[max(affine[n, 5 * unit + i] for i in range(5)) for unit in range(3)] for n in range(6)]
    torch.testing.assert_close(layer(x), torch.tensor(expected))


@torch.no_grad()
def test_pictures_are_the_sigmoids_of_the_paper():
    g, d = nets()
    inputs = g.draw(4, rng())
    centred = (inputs.z - 0.5) * 12**0.5
    hidden = torch.cat([g.z(centred).relu(), g.y(inputs.y).relu()], dim=1)
    expected = g.out(g.joint(hidden).relu()).sigmoid().reshape(4, 3, 16, 16)
    images = g(inputs)
    torch.testing.assert_close((images + 1) / 2, expected)
    hidden = torch.cat([d.x(expected.flatten(1)), d.y(inputs.y)], dim=1)
    torch.testing.assert_close(d(images, inputs), d.out(d.joint(hidden)))
    torch.testing.assert_close(d.features(images)[0][:, :, 0, 0], d.x(expected.flatten(1)))


@torch.no_grad()
def test_draws_are_uniform_and_labelled():
    g, _ = nets()
    one, two, other = (g.draw(2000, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.z, two.z) and torch.equal(one.y, two.y) and not torch.equal(one.z, other.z)
    assert one.z.min() >= 0 and one.z.max() <= 1
    assert one.z.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert one.y.mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.05)
    assert nets(PLAIN).g.draw(2, rng()).y is None


@torch.no_grad()
def test_labels_change_the_picture_and_the_logit():
    g, d = nets()
    pictures = g(Inputs(z=g.draw(1, rng()).z.expand(3, -1), y=torch.eye(3)))
    assert not torch.allclose(pictures[0], pictures[1])
    assert len(d(pictures[:1].expand(3, -1, -1, -1), Inputs(y=torch.eye(3))).unique()) == 3


@torch.no_grad()
def test_truncation_pulls_to_the_middle():
    g, _ = nets(PLAIN)
    inputs = g.draw(3, rng())
    middle = g(Inputs(z=torch.full((1, g.z_dim), 0.5)))
    torch.testing.assert_close(g(inputs, truncation=0.0, noise="none"), middle.expand(3, -1, -1, -1))
    torch.testing.assert_close(g(inputs, truncation=0.5), g(Inputs(z=(inputs.z + 0.5) / 2)))


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = torch.ones(200, 100)
    dropped = drop(x, 0.25, rng())
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(dropped, drop(x, 0.25, rng())) and not torch.equal(dropped, drop(x, 0.25, rng(1)))
    assert drop(x, 0.25, None) is x and drop(x, 0.0, rng()) is x


def context_of(g: nn.Module, d: nn.Module, step: int = 0, **recipe: float) -> StepContext:
    return StepContext(
        g, d, Recipe(**recipe),
        real_images=torch.rand(5, 3, 16, 16, generator=rng()) * 2 - 1, inputs=g.draw(5, rng(1)), draw=g.draw,
        augment=lambda images, kind: images, rng=lambda purpose: random.generator(0, purpose, step),
        scalars={},
    )  # fmt: skip


def test_both_players_lose_units_in_training_and_nowhere_else():
    g, d = nets()
    with_, without = context_of(g, d), context_of(g, d, dropout=0.0)
    fakes = FAMILY.fakes(g, without.inputs, without.recipe, rng(3))
    assert torch.equal(fakes, g(without.inputs))
    assert not torch.allclose(FAMILY.fakes(g, with_.inputs, with_.recipe, rng(3)), fakes)
    for loss, expected in (
        (
            FAMILY.discriminator_loss,
            FAMILY.loss_d(d(with_.real_images, with_.inputs), d(fakes, with_.inputs)),
        ),
        (FAMILY.generator_loss, FAMILY.loss_g(d(fakes, with_.inputs))),
    ):
        (plain,), (dropped,) = loss(without, fakes).values(), loss(with_, fakes).values()
        torch.testing.assert_close(plain, expected)
        assert dropped != plain
        assert torch.equal(dropped, *loss(context_of(g, d), fakes).values())
        assert dropped != next(iter(loss(context_of(g, d, step=1), fakes).values()))


def weights(state: loop.TrainingState) -> list[Tensor]:
    nets = (state.g, state.d, state.g_ema)
    return [value.clone() for net in nets for value in net.state_dict().values()]


def test_training_that_stops_and_goes_on_equals_training_at_one_go():
    """The global stream of random numbers is moved in between: nothing may come from there."""
    recipe = Recipe(batch=4)
    pictures = torch.rand(8, 3, 16, 16, generator=rng()) * 2 - 1

    def real_images(n: int, source: torch.Generator, inputs: Inputs) -> Tensor:
        return pictures[torch.randint(8, (n,), generator=source)]

    train = partial(
        loop.train_steps, family=FAMILY, methods=Stack(), real_batches=real_images, recipe=recipe, seed=3
    )  # fmt: skip
    whole, parts = loop.begin(FAMILY, *nets(), recipe), loop.begin(FAMILY, *nets(), recipe)
    start = weights(whole)
    train(whole, steps=4)
    train(parts, steps=2)
    torch.manual_seed(9)
    train(copy.deepcopy(parts), steps=3)  # neither may a run beside it
    train(parts, steps=4)
    assert all(map(torch.equal, weights(whole), weights(parts)))
    assert not any(map(torch.equal, start, weights(whole)))


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["labels", "plain"])
def test_the_fisher_is_that_of_the_loop(spec):
    g, d = (net.double().eval() for net in nets(spec))
    drawn = g.draw(5, rng())
    inputs = Inputs(z=drawn.z.double(), y=None if drawn.y is None else drawn.y.double())

    def score(image: Tensor, one: Inputs, draw: None) -> Tensor:
        return FAMILY.log_likelihood(d(image, one)).sum()

    fast, slow = (estimate(g, score, [(inputs, None)]) for estimate in (diagonal, diagonal_by_loop))
    for key in slow:
        torch.testing.assert_close(fast[key], slow[key])
        assert slow[key].max() > 0
    assert list(FAMILY.layers(spec)) == ["z", *(["y"] if spec["c_dim"] else []), "joint", "out"]
