"""DiffAugment's operators against loops over pixels, their draws' ranges, and their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from fsgen.data.augment import OPERATORS, POLICIES, diff_augment, draw_arguments, operators
from fsgen.errors import Code


def images(n=3, channels=3, height=9, width=6, seed=0):
    return (
        torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    )


def naive(operator, x, draws, size=None):
    """One pixel at a time, as the paper's text has it."""
    out = torch.zeros_like(x)
    n, channels, height, width = x.shape
    tall, wide = size or (int(height / 2 + 0.5), int(width / 2 + 0.5))
    for b in range(n):
        own = {name: values[b].item() for name, values in draws.items()}
        mean = sum(x[b].flatten().tolist()) / x[b].numel()
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    value = x[b, c, i, j]
                    if operator == "brightness":
                        value = value + own["add"]
                    elif operator == "saturation":
                        grey = sum(x[b, :, i, j].tolist()) / channels
                        value = grey + own["factor"] * (value - grey)
                    elif operator == "contrast":
                        value = mean + own["factor"] * (value - mean)
                    elif operator == "translation":
                        k, m = i + own["rows"], j + own["cols"]
                        value = x[b, c, k, m] if 0 <= k < height and 0 <= m < width else 0.0
                    elif operator == "cutout":
                        first_i, first_j = own["rows"] - tall // 2, own["cols"] - wide // 2
                        inside = first_i <= i < first_i + tall and first_j <= j < first_j + wide
                        value = 0.0 if inside else value
                    out[b, c, i, j] = value
    return out


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 999),
)
def test_operators_equal_a_loop_over_pixels(operator, height, width, channels, seed):
    x = images(2, channels, height, width, seed)
    draws = draw_arguments(operator, x.shape, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(OPERATORS[operator](x, **draws), naive(operator, x, draws))


def test_translation_and_cutout_beyond_the_drawn_range():
    x = images()
    far = {"rows": torch.tensor([9, -9, 100]), "cols": torch.tensor([0, 0, 0])}
    assert not OPERATORS["translation"](x, **far).any()
    x = images(n=2)
    draws = {"rows": torch.tensor([0, 8]), "cols": torch.tensor([2, 5])}
    torch.testing.assert_close(
        OPERATORS["cutout"](x, **draws, size=(3, 2)), naive("cutout", x, draws, (3, 2))
    )


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_and_gradients_of_gradients(operator):
    x = images(n=2, height=5, width=4).requires_grad_()
    draws = {
        k: v.double() for k, v in draw_arguments(operator, x.shape, torch.Generator().manual_seed(1)).items()
    }

    def curved(x):  # the operators are linear: something must bend for the second derivative not to vanish
        return OPERATORS[operator](x.tanh(), **draws).square()

    assert torch.autograd.gradcheck(curved, (x,))
    assert torch.autograd.gradgradcheck(curved, (x,))


RANGES = {
    ("brightness", "add"): (-0.5, 0.5),
    ("saturation", "factor"): (0, 2),
    ("contrast", "factor"): (0.5, 1.5),
    ("translation", "rows"): (-3, 3),  # int(20 / 8 + 0.5)
    ("translation", "cols"): (-4, 4),  # int(29 / 8 + 0.5)
    ("cutout", "rows"): (0, 20),  # ten rows: one place more than there are pixels
    ("cutout", "cols"): (0, 28),  # 15 columns: as many places as pixels
}


@pytest.mark.parametrize("operator, name", RANGES)
def test_draws_reach_the_ends_of_their_ranges_and_no_further(operator, name):
    low, high = RANGES[operator, name]
    values = draw_arguments(operator, (20000, 3, 20, 29), torch.Generator().manual_seed(0))[name]
    assert values.shape == (20000,)
    if values.is_floating_point():
        assert low <= values.min() < low + 0.001 * (high - low)
        assert high - 0.001 * (high - low) < values.max() < high
    else:
        counts = torch.bincount(values - low)
        assert (values.min(), values.max()) == (low, high)
        assert counts.min() > 0.7 * counts.max()  # all alike


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_changes_every_image_in_its_own_way(policy):
    x = images(n=8, height=32, width=16)[:1].repeat(8, 1, 1, 1)
    out = diff_augment(x, [policy], torch.Generator().manual_seed(3))
    assert out.shape == x.shape and out.dtype == x.dtype
    assert not any(torch.equal(one, x[0]) for one in out)
    assert len({one.numpy().tobytes() for one in out}) > 6


def test_augment_is_its_operators_in_the_order_named():
    x = images(height=16, width=16).float()
    for policy in (["color", "translation", "cutout"], ["cutout", "color"]):
        rng = torch.Generator().manual_seed(5)
        expected = x
        for operator in operators(policy):
            expected = OPERATORS[operator](expected, **draw_arguments(operator, x.shape, rng))
        assert torch.equal(diff_augment(x, policy, torch.Generator().manual_seed(5)), expected)
    assert operators(["color"]) == ["brightness", "saturation", "contrast"]
    assert torch.equal(diff_augment(x, [], torch.Generator()), x)


def test_unknown_names_suggest_the_nearest():
    with refused(Code.UNKNOWN_NAME, "'colour'", "'color'"):
        diff_augment(images(), ["colour"], torch.Generator())
    with refused(Code.UNKNOWN_NAME, "'cutouts'", "'cutout'"):
        draw_arguments("cutouts", (1, 3, 8, 8), torch.Generator())
