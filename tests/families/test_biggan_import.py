"""BigGAN and IC-GAN: any architecture's files against a plain construction, and files of none."""

from __future__ import annotations

from dataclasses import replace

import published_biggan as published
import pytest
import torch
from published_biggan import Shape
from refusals import refused

from fsgen.errors import Code
from fsgen.families.biggan.family import BigGAN
from fsgen.families.biggan.networks import PUBLISHED
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Foreign

FAMILY = BigGAN()

SHAPES = {
    "64 px, instances": Shape(
        (24, 16, 16, 8, 8), (8, 8, 16, 24, 32), (True,) * 4 + (False,), (2,), (0,), features=11, instance=7
    ),
    "32 px, both, attention twice, D's last two as they are": Shape(
        (16, 16, 8, 8), (8, 8, 8, 8), (True, True, False, False), (0, 2), (0, 3), classes=4, features=9,
        label=5, instance=6,
    ),
    "16 px, classes, grey, narrow D": Shape(
        (8, 8, 8), (8, 16, 16), (True, True, False), (), (1,), classes=6, label=4, channels=1, wide=False
    ),
    "32 px, classes, z in one piece": Shape(
        (16, 8, 8, 8), (8, 8, 8, 8), (True, True, False, False), (1,), (), classes=5, label=6, part=4,
        hier=False,
    ),
    "16 px, both, z in one piece": Shape(
        (8, 8, 4), (4, 8, 8), (True, True, False), classes=3, features=7, label=4, instance=5, hier=False
    ),
    "24 px from 3, neither": Shape(
        (9, 8, 10, 4), (6, 8, 8, 12), (True,) * 3 + (False,), (1,), (), bottom=3, part=2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_any_architecture_is_converted_and_equals_the_plain_construction(name):
    shape = SHAPES[name]
    g, d = published.g_state(shape), published.d_state(shape)
    foreign = Foreign("torch", {"G_ema": g, "D": {f"module.{key}": value for key, value in d.items()}})
    assert FAMILY.recognise(foreign)
    converted = FAMILY.convert(foreign)
    spec = converted.spec
    assert (spec["resolution"], spec["channels"]) == (shape.resolution, shape.channels)
    assert (spec["c_dim"], spec["h_dim"], spec["z_dim"]) == (shape.classes, shape.features, shape.z_dim)
    assert (spec["g_widths"], spec["d_widths"]) == (list(shape.g), list(shape.d))
    assert (spec["d_halves"], spec["d_wide"]) == (list(shape.halves), shape.wide)
    ours_g, ours_d = (net.eval() for net in FAMILY.build(spec))
    ours_g.load_state_dict(converted.g_ema), ours_d.load_state_dict(converted.d)
    inputs = published.inputs(spec, 3)
    with torch.no_grad():
        images = ours_g(inputs)
        logits = ours_d(images, inputs)
    theirs = published.picture(shape, g, inputs.z, inputs.y, inputs.h)
    torch.testing.assert_close(images.double(), theirs, atol=2e-4, rtol=1e-4)
    reference = published.logit(shape, d, images, inputs.y, inputs.h)
    atol = 1e-4 * float(reference.abs().max())
    torch.testing.assert_close(logits.double(), reference, rtol=1e-4, atol=atol)


def test_a_single_generator_is_the_average_and_gets_a_fresh_discriminator(tmp_path):
    shape = SHAPES["64 px, instances"]
    torch.save({f"module.{k}": v for k, v in published.g_state(shape).items()}, tmp_path / "G.pth")
    converted = FAMILY.convert(read_foreign(tmp_path / "G.pth"))
    assert converted.g is None and converted.d is None
    assert converted.notes == (
        "a single generator in the file: taken for the averaged one, as it is published",
        "no discriminator in the file: adapt starts a fresh one",
    )
    g, d = FAMILY.build(converted.spec)
    inputs = published.inputs(converted.spec, 2)
    assert d(g(inputs), inputs).shape == (2, 1)
    assert d.features(g(inputs))[converted.spec["d_attention"][0]].shape[-1] == 32  # as G's attention


def alike(classes: int = 4) -> Shape:
    """Classes and instances that G makes as many numbers of."""
    return Shape((8, 8, 8), (8, 8, 16), (True, True, False), classes=classes, label=6)


def carrying(g: dict, features: int = 9) -> dict:
    """``g`` with a layer for instances that no block is told."""
    make = published.Maker(5)
    make.spectral("shared_feat", 6, features)
    return g | make.state


def test_conditions_follow_from_tensors_then_from_the_discriminator_or_settings():
    shape = alike()
    g, d = carrying(published.g_state(shape)), published.d_state(shape)
    by_d = FAMILY.convert(Foreign("torch", {"G_ema": g, "D": d}))
    settings = {"G": {"class_cond": True, "instance_cond": False}}
    by_settings = FAMILY.convert(Foreign("folder", {"G_ema": g}, settings))
    guessed = FAMILY.convert(Foreign("torch", {"G_ema": g}))
    for found in (by_d, by_settings):
        assert (found.spec["c_dim"], found.spec["h_dim"]) == (4, 0)
        assert not any("taken to be told instances" in note for note in found.notes)
        assert not any(key.startswith("embed_h") for key in found.g_ema)
    assert (guessed.spec["c_dim"], guessed.spec["h_dim"]) == (0, 9)
    assert "embed.weight" not in guessed.g_ema
    assert all(word in guessed.notes[-1] for word in ("instances", "classes"))


def as_long_as_z() -> Shape:
    """z in one piece, and a class embedding of its length, as the published programs have it by default."""
    return Shape((8, 8, 8), (8, 8, 16), (True, True, False), classes=4, label=6, part=6, hier=False)


def test_z_in_one_piece_is_recognised_where_the_class_embedding_is_as_long():
    shape = as_long_as_z()
    g, d = published.g_state(shape), published.d_state(shape)
    alone = FAMILY.convert(Foreign("torch", {"G_ema": g}))
    with_d = FAMILY.convert(Foreign("torch", {"G_ema": g, "D": d}))
    configured = FAMILY.convert(Foreign("folder", {"G_ema": g}, {"G": {"hier": False}}))
    one_file = FAMILY.convert(Foreign("torch", {"G_ema": g}, extras={"config": {"hier": False}}))
    assert one_file.notes == configured.notes
    for found in (alone, with_d, configured, one_file):
        assert (found.spec["hier"], found.spec["z_dim"], found.spec["c_dim"]) == (False, 6, 4)
    assert len(alone.notes) == len(configured.notes) + 1 == len(with_d.notes) + 2  # ambiguous; without a D
    ours = FAMILY.build(alone.spec).g.eval()
    ours.load_state_dict(alone.g_ema)
    inputs = published.inputs(alone.spec, 3)
    with torch.no_grad():
        images = ours(inputs)
    theirs = published.picture(shape, g, inputs.z, inputs.y, None)
    torch.testing.assert_close(images.double(), theirs, atol=2e-4, rtol=1e-4)


def test_z_in_chunks_is_taken_where_the_settings_say_so():
    g = published.g_state(as_long_as_z())
    found = FAMILY.convert(Foreign("folder", {"G_ema": g}, {"G": {"hier": True}}))
    assert (found.spec["z_dim"], found.spec["c_dim"]) == (18, 0) and "hier" not in found.spec
    assert "embed.weight" not in found.g_ema


def planned(size: int, width: int, attention: tuple[int, ...] = ()) -> dict:
    """G of the published widths in units of ``width``, without conditions."""
    return published.g_state(Shape(tuple(width * k for k in PUBLISHED[size].g), (), (), attention, part=2))


# px -> D's widths in units of D_ch, which blocks halve, where attention follows by default
PUBLISHED_D = {
    32: ((4, 4, 4, 4), (True, True, False, False), ()),
    64: ((1, 2, 4, 8, 16), (True,) * 4 + (False,), (0,)),
    128: ((1, 2, 4, 8, 16, 16), (True,) * 5 + (False,), (0,)),
    256: ((1, 2, 4, 8, 8, 16, 16), (True,) * 6 + (False,), (1,)),
}


@pytest.mark.parametrize("size", PUBLISHED_D)
@pytest.mark.parametrize("g_ch, settings", [(8, {}), (2, {"D_ch": 8, "D_wide": True})])
def test_a_generator_alone_gets_the_published_discriminator(size, g_ch, settings):
    times, halves, attention = PUBLISHED_D[size]
    g = planned(size, g_ch, tuple(PUBLISHED[size].g_attention) if g_ch == 8 else ())
    spec = FAMILY.convert(Foreign("folder", {"G": g}, {"G": settings})).spec
    attention = attention if g_ch == 8 else ()
    assert spec["d_widths"] == [8 * k for k in times] and spec["d_halves"] == list(halves)
    assert spec["d_attention"] == list(attention) and spec["d_wide"]
    with torch.device("meta"):
        d = FAMILY.build(spec).d
    count = published.d_parameters(tuple(spec["d_widths"]), halves, attention=attention)
    assert sum(p.numel() for p in d.parameters()) == count


def test_as_many_parameters_as_the_public_discriminators_of_64_channels():
    for size, count in ((64, 20_571_842), (128, 39_448_258), (256, 44_445_890)):
        times, halves, attention = PUBLISHED_D[size]
        widths = tuple(64 * k for k in times)
        assert published.d_parameters(widths, halves, attention=attention, classes=1000) == count


@pytest.mark.parametrize(
    "size, named, blocks",
    [
        (64, "0", []), (64, "64", []), (64, "8_32", [0, 2]), (64, 16, [1]), (64, "4", [3, 4]),
        (128, "64", [0]), (256, "64", [1]), (32, "16", [0, 1, 2, 3]), (32, "8", []),
    ],
)  # fmt: skip
def test_attention_of_a_fresh_discriminator_follows_the_settings(size, named, blocks):
    settings = {"G": {"D_attn": named, "D_wide": False}}
    spec = FAMILY.convert(Foreign("folder", {"G": planned(size, 1)}, settings)).spec
    assert (spec["d_attention"], spec["d_wide"]) == (blocks, False)


@pytest.mark.parametrize(
    "name, value, code",
    [("D_ch", 0, Code.OUT_OF_RANGE), ("D_ch", 10**6, Code.OUT_OF_RANGE), ("D_ch", "64", Code.OUT_OF_RANGE),
     ("D_attn", "many", Code.DAMAGED), ("D_attn", [64], Code.DAMAGED)],
)  # fmt: skip
def test_settings_of_no_biggan_are_refused(name, value, code):
    with refused(code, name, value):
        FAMILY.convert(Foreign("folder", {"G": planned(64, 1)}, {"G": {name: value}}))


def without(state: dict, key: str) -> dict:
    return {name: value for name, value in state.items() if name != key}


SMALL = SHAPES["16 px, classes, grey, narrow D"]
G, D = published.g_state(SMALL), published.d_state(SMALL)
REFUSED = {
    "a discriminator alone": ({"D": D}, Code.UNSUPPORTED, "D"),
    "two averages": ({"a_ema": G, "b_ema": G}, Code.UNSUPPORTED, "'a_ema', 'b_ema'"),
    "a convolution less": (
        {"G": without(G, "blocks.1.0.conv1.weight")}, Code.DAMAGED,
        "'g_ema' without 'blocks.1.conv1.weight'",
    ),
    "no last layer": ({"G": without(G, "output_layer.2.weight")}, Code.DAMAGED, "'rgb.weight'"),
    "a tensor more": (
        {"G": G | {"blocks.0.0.conv2.u1": torch.zeros(1, 8)}}, Code.UNSUPPORTED, "'blocks.0.conv2.u1'",
    ),
    "another shape": (
        {"G": G | {"output_layer.0.bias": torch.zeros(5)}}, Code.UNSUPPORTED,
        "'norm.bias' is [5], expected [8]",
    ),
    "weights without axes": ({"G": G | {"linear.weight": torch.zeros(5)}}, Code.DAMAGED, "too few axes"),
    "another condition": (
        {"G": published.g_state(replace(SMALL, label=3)) | {"shared.weight": torch.zeros(6, 4)}},
        Code.UNSUPPORTED, "6 numbers",
    ),
    "a discriminator of other classes": (
        {"G": G, "D": published.d_state(replace(SMALL, classes=5))}, Code.UNSUPPORTED,
        "'d' where 'embed.weight' is [16, 5], expected [16, 6]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_no_biggan_are_refused(name):
    tensors, code, named = REFUSED[name]
    foreign = Foreign("torch", tensors)
    assert FAMILY.recognise(foreign)
    with refused(code, named):
        FAMILY.convert(foreign)


def test_networks_of_other_families_are_not_recognised():
    deep = published.g_state(SMALL) | {"blocks.0.0.conv3.weight": torch.ones(1)}
    for state in (deep, {"main.0.weight": torch.ones(1)}, {}):
        assert not FAMILY.recognise(Foreign("torch", {"": state}))
