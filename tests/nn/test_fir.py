"""The resampling filter against loops, and its adjointness."""

from __future__ import annotations

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsgen.nn import fir


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 4), (1, 2, 5, 3), (3, 1, 2, 7)])
def test_upsample(shape):
    x = noise(*shape)
    torch.testing.assert_close(fir.upsample(x), naive.upsample(x))


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3, 4, 4), (1, 2, 6, 10)])
def test_downsample(shape):
    x = noise(*shape)
    torch.testing.assert_close(fir.downsample(x), naive.downsample(x))


@pytest.mark.parametrize("pad", [(0, 0), (1, 1), (2, 2), (2, 1), (1, 2), (3, 0)])
@pytest.mark.parametrize("stride", [1, 2])
def test_blur(pad, stride):
    x = noise(2, 3, 6, 5)
    expected = naive.filtered(naive.pad(x, *pad), gain=4.0)[:, :, ::stride, ::stride]
    torch.testing.assert_close(fir.blur(x, pad, gain=4.0, stride=stride), expected)


def test_the_filter_has_sum_one_and_a_constant_keeps_its_level():
    x = torch.full((1, 2, 8, 8), 3.0)
    assert fir.binomial_kernel(x).sum() == 1
    assert fir.binomial_kernel(x, gain=4.0).sum() == 4
    for resampled in (fir.upsample(x), fir.downsample(x)):
        torch.testing.assert_close(
            resampled[:, :, 1:-1, 1:-1], torch.full_like(resampled, 3.0)[:, :, 1:-1, 1:-1]
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = noise(1, 1, 4, 4).to(dtype)
    assert {y.dtype for y in (fir.upsample(x), fir.downsample(x), fir.blur(x, (2, 1)))} == {dtype}


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 3), channels=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_down_is_a_quarter_of_the_adjoint_of_up(n, channels, height, width, seed):
    """<upsample(x), y> = 4 <x, downsample(y)>, for every size."""
    x = noise(n, channels, height, width, seed=seed)
    y = noise(n, channels, 2 * height, 2 * width, seed=seed + 1)
    torch.testing.assert_close(
        (fir.upsample(x) * y).sum(), 4 * (x * fir.downsample(y)).sum(), atol=1e-10, rtol=0
    )
