"""The native checkpoint: what is written is what is read."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes
from refusals import refused

from fsgen.errors import Code
from fsgen.io import checkpoint

NAMES = st.text("abc.0_", min_size=1, max_size=8)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int64])


@st.composite
def tensors(draw):
    shape = draw(array_shapes(min_dims=0, max_dims=3, max_side=4))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return (torch.randn(shape, generator=rng) * 10).to(draw(DTYPES))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, tensors(), max_size=4), st.dictionaries(NAMES, st.integers(), max_size=3))
def test_what_is_written_is_read(tmp_path_factory, values, header):
    path = tmp_path_factory.mktemp("c") / "x.safetensors"
    checkpoint.write_file(path, values, header)
    found, about = checkpoint.read_file(path)
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        name: (t.dtype, t.shape) for name, t in values.items()
    }
    assert all(torch.equal(found[name], value) for name, value in values.items())
    assert about == {"format": checkpoint.FORMAT, **header}
    assert checkpoint.hash_tensors(found) == checkpoint.hash_tensors(values)


def test_the_hash_depends_on_names_shapes_types_and_values_but_not_on_order():
    one = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    assert checkpoint.hash_tensors(dict(reversed(one.items()))) == checkpoint.hash_tensors(one)
    others = [
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.float64)},
        {"a": torch.zeros(2, 3), "b": -torch.ones(1)},
    ]
    digests = {checkpoint.hash_tensors(other) for other in others}
    assert len(digests) == 4 and checkpoint.hash_tensors(one) not in digests


def test_others_may_read_what_they_may_read_elsewhere(tmp_path):
    (tmp_path / "plain").touch()
    checkpoint.write_file(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("keep", [0, 4, 20, 100])
def test_a_truncated_file_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    checkpoint.write_file(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with refused(Code.DAMAGED, path):
        checkpoint.read_file(path)
