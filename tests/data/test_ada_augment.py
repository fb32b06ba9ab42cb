"""The augmentation pipe against closed forms, in float64 where it can be; the published one: tests/parity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fsgen.data import ada_augment, ada_warp

N = 64  # px


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy(n: int = 2, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randn(n, channels, side, side, generator=rng(), dtype=torch.float64)


def smooth(turned: int = 0) -> Tensor:
    """[1, 3, N, N] of slow waves, without a symmetry, ``turned`` so many quarters to the left."""
    y, x = torch.meshgrid(*[torch.arange(N, dtype=torch.float64) / N] * 2, indexing="ij")
    waves = [torch.sin(7 * x + 3 * y * y), torch.cos(5 * y - 2 * x), torch.sin(4 * x * y) - x]
    return torch.stack(waves)[None].rot90(turned, (2, 3))


def one(name: str, *values: float, n: int = 1) -> ada_augment.Parameters:
    return {name: torch.tensor([values] * n, dtype=torch.float64)}


# ---- geometry ------------------------------------------------------------------------------------------


def test_whole_shifts_are_exact_and_what_comes_in_is_a_reflection():
    x, near = noisy(), {"atol": 1e-5, "rtol": 0}  # the published taps are orthogonal to six digits
    torch.testing.assert_close(ada_augment.transform(x, one("xint", 0, 0, n=2)), x, **near)
    out = ada_augment.transform(x, one("xint", 3, -2, n=2))  # right and up
    torch.testing.assert_close(out[:, :, :-2, 3:], x[:, :, 2:, :-3], **near)
    torch.testing.assert_close(out[:, :, :-2, :3], x[:, :, 2:, 1:4].flip(3), **near)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_go_to_the_left(turns):
    out = ada_augment.transform(smooth(), one("rotate90", turns))
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(out[inside], smooth(turns)[inside], atol=0.03, rtol=0)
    angle = ada_augment.transform(smooth(), one("rotate_pre", turns * math.pi / 2))
    torch.testing.assert_close(angle, out)


def test_flips_scales_and_shifts_go_the_right_way():
    inside = slice(8, -8)
    near = {"atol": 0.03, "rtol": 0}
    out = ada_augment.transform(smooth(), one("xflip", 1))
    torch.testing.assert_close(out[..., inside, inside], smooth().flip(3)[..., inside, inside], **near)
    half = ada_augment.transform(smooth(), one("xfrac", 4.5, 0))
    expected = (smooth().roll(4, 3) + smooth().roll(5, 3)) / 2
    torch.testing.assert_close(half[..., inside, inside], expected[..., inside, inside], **near)
    twice = ada_augment.transform(smooth(), one("scale", 2))  # each pixel of the middle as four
    middle = smooth()[..., N // 4 : -N // 4, N // 4 : -N // 4]
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(twice, 2), middle, **near)
    wide = ada_augment.transform(smooth(), one("aniso", 2))  # wider by two, lower by two
    columns = torch.nn.functional.avg_pool2d(wide, (1, 2))[..., N // 4 + 4 : -N // 4 - 4, :]
    rows = torch.nn.functional.avg_pool2d(smooth(), (2, 1))[..., 4:-4, N // 4 : -N // 4]
    torch.testing.assert_close(columns, rows, **near)


def test_all_geometry_is_one_product_in_the_published_order():
    drawn = one("xfrac", 1.5, -0.5) | one("rotate_post", 0.3) | one("aniso", 1.2) | one("rotate_pre", -1.0)
    drawn |= one("scale", 0.8) | one("xflip", 1)
    expected = torch.eye(3, dtype=torch.float64)
    for name in ("xflip", "scale", "rotate_pre", "aniso", "rotate_post", "xfrac"):
        expected = expected @ ada_augment.geometry({name: drawn[name]})[0]
    torch.testing.assert_close(ada_augment.geometry(drawn)[0], expected)


def test_gradients_of_gradients_pass():
    x = noisy(1, 2, 6).requires_grad_()
    m = ada_augment.geometry(one("rotate_pre", 0.4) | one("scale", 1.3))
    assert torch.autograd.gradcheck(lambda x: ada_warp.warp(x, m), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: ada_warp.warp(x, m) ** 3, x, fast_mode=True)


# ---- colours -------------------------------------------------------------------------------------------


def test_colours_are_the_papers():
    x = noisy()
    mean = x.mean(dim=1, keepdim=True)
    for name, value, expected in [
        ("brightness", 0.3, x + 0.3),
        ("contrast", 1.5, x * 1.5),
        ("lumaflip", 1, x - 2 * mean),
        ("lumaflip", 0, x),
        ("saturation", 0.0, mean.expand_as(x)),
        ("saturation", 2.0, 2 * x - mean),
        ("hue", 2 * math.pi / 3, x[:, [2, 0, 1]]),  # red to green to blue
        ("hue", math.pi, 2 * mean - x),
    ]:
        torch.testing.assert_close(ada_augment.transform(x, one(name, value, n=2)), expected)


def test_colours_come_one_after_another_and_grey_pictures_have_their_grey():
    drawn = one("saturation", 0.5, n=2) | one("lumaflip", 1, n=2) | one("contrast", 1.3, n=2)
    drawn |= one("hue", 1.0, n=2) | one("brightness", 0.2, n=2)
    x = noisy()
    expected = x
    for name in ada_augment.COLOR:
        expected = ada_augment.transform(expected, {name: drawn[name]})
    torch.testing.assert_close(ada_augment.transform(x, drawn), expected)
    grey = noisy(channels=1)
    torch.testing.assert_close(
        ada_augment.transform(grey, drawn), ada_augment.transform(grey.expand(2, 3, 16, 16), drawn)[:, :1]
    )


# ---- what comes after ----------------------------------------------------------------------------------


def test_bands_add_up_and_are_amplified_at_the_power_of_pictures():
    bands = ada_warp._bands(torch.zeros(0, dtype=torch.float64))
    impulse = torch.zeros(43, dtype=torch.float64)
    impulse[21] = 1
    torch.testing.assert_close(bands.sum(dim=0), impulse)
    torch.testing.assert_close(bands, bands.flip(1))
    x = noisy(side=24)
    torch.testing.assert_close(ada_warp.amplify(x, torch.ones(2, 4).double()), x)
    flat = torch.ones(1, 1, 24, 24).double()  # the coarsest band of both axes
    loud = ada_warp.amplify(flat, torch.tensor([[2.0, 1, 1, 1]]).double())
    torch.testing.assert_close(loud, 4 / ((10 * 4 + 3) / 13) * flat)
    wave = torch.tensor([1.0, -1]).double().repeat(12).expand(1, 1, 24, 24)  # fastest along rows, flat else
    soft = ada_warp.amplify(wave, torch.tensor([[1.0, 1, 1, 0.5]]).double())
    inner = slice(None), slice(None), slice(None), slice(1, -1)  # reflected at a pixel, the wave goes on
    norm = math.sqrt((12 + 0.25) / 13)
    torch.testing.assert_close(soft[inner], wave[inner] * 0.5 / norm / norm)


def test_a_hole_is_half_as_wide_and_noise_as_strong_as_it_says():
    x = torch.ones(1, 1, 8, 16)
    out = ada_augment.transform(x, {"cutout": torch.tensor([[0.25, 1.0]])})  # left half, lowest rows
    expected = torch.ones(1, 1, 8, 16)
    expected[:, :, 6:, :8] = 0
    assert torch.equal(out, expected)
    drawn = ada_augment.draw_parameters(("noise",), (4000, 1, 4, 4), 1.0, rng())["noise"]
    assert drawn.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.05)
    assert drawn.flatten(1).std(dim=1).quantile(0.5).item() == pytest.approx(0.0674, rel=0.1)  # median of |n|


# ---- draws ---------------------------------------------------------------------------------------------


def test_each_is_on_with_its_probability():
    n, p, names = 8000, 0.3, ada_augment.POLICIES["bgcfnc"]
    drawn = ada_augment.draw_parameters(names, (n, 1, 16, 16), p, rng())
    assert set(drawn) == set(ada_augment.OPERATORS)
    unmoved = {"xflip": 1 / 2, "rotate90": 1 / 4, "lumaflip": 1 / 2, "xint": 1 / 4 * 1 / 4}  # though on
    for name, values in drawn.items():
        still = ada_augment.OPERATORS[name].neutral
        share = (values.flatten(1)[:, :2] != still).any(dim=1).double().mean().item()
        expected = ada_augment.chance(name, p) * (1 - unmoved.get(name, 0))
        if name == "imgfilter":
            expected = 1 - (1 - p) ** 2  # of the first two bands, each with a gate of its own
        assert share == pytest.approx(expected, abs=0.02), name
    turned = (drawn["rotate_pre"] != 0) | (drawn["rotate_post"] != 0)
    assert turned.double().mean().item() == pytest.approx(p, abs=0.02)
    assert all(
        (v == ada_augment.OPERATORS[k].neutral).all()
        for k, v in ada_augment.draw_parameters(ada_augment.BGC, (9, 3, 4, 4), 0, rng()).items()
    )
    always = ada_augment.draw_parameters(("scale", "rotate_pre"), (99, 3, 4, 4), 1.2, rng())
    assert (always["scale"] != 1).all() and (always["rotate_pre"] != 0).all()


def test_draws_have_the_papers_ranges():
    drawn = ada_augment.draw_parameters(ada_augment.BGC, (20000, 3, 64, 32), 1.0, rng())
    for name, ends in {"xflip": (0, 1), "rotate90": (0, 3), "lumaflip": (0, 1)}.items():
        assert (drawn[name].min(), drawn[name].max()) == ends
    assert drawn["xint"].abs().amax(dim=0).tolist() == [4, 8]  # an eighth of the width, of the height
    for name, deviation in {"scale": 0.2, "aniso": 0.2, "contrast": 0.5, "saturation": 1.0}.items():
        assert drawn[name].log2().std().item() == pytest.approx(deviation, rel=0.03)
    assert drawn["xfrac"].std(dim=0).tolist() == pytest.approx([4, 8], rel=0.03)
    assert drawn["brightness"].std().item() == pytest.approx(0.2, rel=0.03)
    for name in ("rotate_pre", "rotate_post", "hue"):
        assert drawn[name].abs().max() <= math.pi and drawn[name].abs().mean().item() == pytest.approx(
            math.pi / 2, rel=0.03
        )


def test_draws_hang_on_the_generator_alone_and_not_on_the_size():
    a, b = (
        ada_augment.draw_parameters(ada_augment.BGC, (5, 3, side, side), 0.7, rng(3)) for side in (32, 64)
    )
    for name in ada_augment.BGC:
        factor = 2 if name == "xfrac" else 1
        if name != "xint":  # whole pixels
            torch.testing.assert_close(a[name] * factor, b[name])
    x = torch.randn(5, 3, 24, 24, generator=rng())
    out = ada_augment.adaptive_augment(x, ada_augment.POLICIES["bgcfnc"], 0.7, rng(3))
    assert torch.equal(out, ada_augment.adaptive_augment(x, ada_augment.POLICIES["bgcfnc"], 0.7, rng(3)))
    assert not torch.allclose(
        out, ada_augment.adaptive_augment(x, ada_augment.POLICIES["bgcfnc"], 0.7, rng(4))
    )
