"""Other people's StyleGAN2 checkpoints: what is in them is kept, what is not is inferred or refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from refusals import refused
from sg2_files import FAMILY, nets, nvidia, rosinality, rosinality_d, shuffled, spec_of

from fsgen.errors import Code
from fsgen.interfaces import Converted, Foreign, Inputs, Networks


def drawn(spec, n: int = 3) -> Inputs:
    rng = torch.Generator().manual_seed(1)
    y = torch.rand(n, spec["c_dim"], generator=rng) if spec["c_dim"] else None
    return Inputs(z=torch.randn(n, spec["z_dim"], generator=rng), y=y)


def rebuilt(converted: Converted) -> Networks:
    built = FAMILY.build(converted.spec)
    built.g.load_state_dict(converted.g_ema if converted.g_ema is not None else converted.g)
    if converted.d is not None:
        built.d.load_state_dict(converted.d)
    return built


@torch.no_grad()
def assert_same(ours: Networks, source: Networks, spec, *, truncation: float = 0.7) -> None:
    """The same pictures and logits, bit for bit."""
    inputs = drawn(spec)
    pictures = source.g(inputs, truncation=truncation)
    assert torch.equal(ours.g(inputs, truncation=truncation), pictures)
    assert pictures.std() > 0.01
    if ours.d is not None:
        assert torch.equal(ours.d(pictures, inputs), source.d(pictures, inputs))


SHAPES = {
    "plain": {},
    "half channels": {"g_widths": {"4": 4, "8": 4, "16": 2}, "d_widths": {"4": 4, "8": 4, "16": 2}},
    "odd channels": {"g_widths": {"4": 3, "8": 7, "16": 5}, "d_widths": {"4": 9, "8": 2, "16": 6}},
    "2 mapping layers": {"mapping_layers": 2},
    "1 mapping layer": {"mapping_layers": 1},
    "8 px": {"resolution": 8, "g_widths": {"4": 4, "8": 3}, "d_widths": {"4": 4, "8": 3}},
    "32 px": {
        "resolution": 32,
        "g_widths": {"4": 4, "8": 4, "16": 4, "32": 2},
        "d_widths": {"4": 4, "8": 4, "16": 4, "32": 2},
    },
    "grey": {"channels": 1},
}
LABELS = {
    "1 class": {"c_dim": 1},
    "3 classes": {"c_dim": 3},
    "deep cmap": {"c_dim": 2, "d_cmap_dim": 5, "d_embed_dim": 3, "d_mapping_layers": 4},
    "wide embedding": {"c_dim": 4, "g_embed_dim": 11},
}


@pytest.mark.parametrize("changes", [pytest.param(value, id=key) for key, value in SHAPES.items()])
def test_rosinality(changes):
    spec = spec_of(**changes)
    source = nets(spec)
    foreign = rosinality(source, latent_avg=source.g.mapping.w_avg[None])
    foreign = replace(foreign, tensors={name: shuffled(state) for name, state in foreign.tensors.items()})
    assert FAMILY.recognise(foreign)
    converted = FAMILY.convert(foreign)
    assert converted.spec == spec
    assert_same(rebuilt(converted), source, spec)


@pytest.mark.parametrize("changes", [pytest.param(value, id=key) for key, value in (SHAPES | LABELS).items()])
def test_nvidia(changes):
    """Freeze-D keeps weights as buffers; the reader merges both, so that its files have these keys too."""
    spec = spec_of(**changes)
    source = nets(spec)
    foreign = nvidia(source)
    foreign = replace(foreign, tensors={name: shuffled(state) for name, state in foreign.tensors.items()})
    assert FAMILY.recognise(foreign)
    converted = FAMILY.convert(foreign)
    assert converted.spec == spec
    assert converted.notes == ()
    assert converted.g.keys() == converted.g_ema.keys() == source.g.state_dict().keys()
    assert_same(rebuilt(converted), source, spec)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_architecture_of_d(architecture, c_dim):
    spec = spec_of(d_architecture=architecture, c_dim=c_dim)
    source = nets(spec)
    converted = FAMILY.convert(nvidia(source))
    assert converted.spec == spec
    assert_same(rebuilt(converted), source, spec)


def test_settings_that_no_tensor_shows():
    settings = {
        "G_ema": {"synthesis.b4.conv1.conv_clamp": 0.5, "mapping.fc0.bias_gain": 0.02},
        "D": {"b4.conv.conv_clamp": 0.25, "b4.mbstd.group_size": 2},
    }
    spec = spec_of(g_clamp=0.5, d_clamp=0.25, d_group=2, mapping_lr_mul=0.02)
    source = nets(spec)
    converted = FAMILY.convert(nvidia(source, settings))
    assert converted.spec == spec
    assert_same(rebuilt(converted), source, spec)
    plain = rebuilt(FAMILY.convert(nvidia(source)))
    with torch.no_grad():
        assert not torch.equal(plain.g(drawn(spec)), source.g(drawn(spec)))


def test_a_group_of_none_is_the_whole_batch():
    converted = FAMILY.convert(nvidia(nets(spec_of()), {"D": {"b4.mbstd.group_size": None}}))
    images = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = FAMILY.build(spec_of(d_group=7)).d
    whole.load_state_dict(converted.d)
    with torch.no_grad():
        assert torch.equal(rebuilt(converted).d(images), whole(images))


def test_d_without_minibatch_spread():
    spec = spec_of(d_group=0)
    source = nets(spec)
    converted = FAMILY.convert(nvidia(source))
    assert converted.spec == spec
    assert_same(rebuilt(converted), source, spec)


def test_without_stored_noise():
    """Files from before January 2020."""
    source = nets(spec_of())
    foreign = rosinality(source, latent_avg=source.g.mapping.w_avg)
    for which in ("g", "g_ema"):
        for key in [key for key in foreign.tensors[which] if key.startswith("noises.")]:
            del foreign.tensors[which][key]
    one, two = FAMILY.convert(foreign), FAMILY.convert(foreign)
    assert sum("noise" in note for note in one.notes) == 2
    noises = [key for key in one.g_ema if key.endswith("noise_const")]
    assert len(noises) == 5
    assert all(torch.equal(one.g_ema[key], two.g_ema[key]) for key in noises)
    assert all(0.5 < one.g_ema[key].std() < 1.5 for key in noises)
    inputs = drawn(spec_of())
    with torch.no_grad():
        assert torch.equal(rebuilt(one).g(inputs, noise="none"), source.g(inputs, noise="none"))


def test_without_d():
    source = nets(spec_of())
    foreign = rosinality(source, latent_avg=source.g.mapping.w_avg)
    del foreign.tensors["d"]
    converted = FAMILY.convert(foreign)
    assert converted.d is None
    assert any("discriminator" in note for note in converted.notes)
    with torch.no_grad():  # a fresh one can be built
        assert FAMILY.build(converted.spec).d(torch.zeros(2, 3, 16, 16)).shape == (2, 1)
        assert FAMILY.build(converted.spec, discriminator=False).d is None
    assert_same(rebuilt(converted)._replace(d=None), source, spec_of())


def test_without_d_but_with_labels():
    spec = spec_of(c_dim=3)
    foreign = nvidia(nets(spec))
    del foreign.tensors["D"]
    fresh = FAMILY.build(FAMILY.convert(foreign).spec).d
    with torch.no_grad():
        assert fresh(torch.zeros(2, 3, 16, 16), drawn(spec, 2)).shape == (2, 1)


def test_without_mean_latent():
    source = nets(spec_of())
    converted = FAMILY.convert(rosinality(source))
    assert sum("mean latent" in note for note in converted.notes) == 2
    with torch.no_grad():
        n = 40_000
        z = torch.randn(n, 5, generator=torch.Generator().manual_seed(5))
        w = source.g.mapping(z, None)
    error = (converted.g_ema["mapping.w_avg"] - w.mean(dim=0)).abs()
    assert (error < 5 * w.std(dim=0) * math.sqrt(1 / 8192 + 1 / n)).all()
    assert w.std(dim=0).min() > 1e-6


def test_mean_latent_of_the_file_is_kept():
    source = nets(spec_of())
    converted = FAMILY.convert(rosinality(source, latent_avg=torch.arange(6.0)[None]))
    assert torch.equal(converted.g_ema["mapping.w_avg"], torch.arange(6.0))


def test_averaged_weights_only():
    """What the reference's converter writes."""
    source = nets(spec_of())
    foreign = rosinality(source, latent_avg=source.g.mapping.w_avg)
    converted = FAMILY.convert(replace(foreign, tensors={"g_ema": foreign.tensors["g_ema"]}))
    assert converted.g is None and converted.d is None
    assert_same(rebuilt(converted)._replace(d=None), source, spec_of())


def test_training_weights_only():
    source = nets(spec_of())
    foreign = nvidia(source)
    converted = FAMILY.convert(replace(foreign, tensors={name: foreign.tensors[name] for name in ("G", "D")}))
    assert converted.g_ema is None and converted.g is not None
    assert_same(rebuilt(converted), source, spec_of())


def test_bare_state_dict_is_taken_for_averaged_weights():
    source = nets(spec_of())
    converted = FAMILY.convert(Foreign("torch", {"": nvidia(source).tensors["G"]}))
    assert converted.g is None and converted.d is None
    assert_same(rebuilt(converted)._replace(d=None), source, spec_of())


def test_half_precision_becomes_single():
    foreign = nvidia(nets(spec_of()))
    for state in foreign.tensors.values():
        state.update({key: value.half() for key, value in state.items()})
    converted = FAMILY.convert(foreign)
    for state in (converted.g, converted.g_ema, converted.d):
        assert {value.dtype for value in state.values()} == {torch.float32}
    rebuilt(converted)


def test_scalars_stored_as_vectors_of_one():
    """safetensors files made from rosinality's habit; the native checkpoint has them as scalars."""
    source = nets(spec_of())
    foreign = nvidia(source)
    for key, value in foreign.tensors["G_ema"].items():
        if key.endswith("noise_strength"):
            foreign.tensors["G_ema"][key] = value.reshape(1)
    converted = FAMILY.convert(foreign)
    assert all(v.ndim == 0 for k, v in converted.g_ema.items() if k.endswith("noise_strength"))
    assert_same(rebuilt(converted), source, spec_of())


@pytest.mark.parametrize("layout", [rosinality, nvidia])
@pytest.mark.parametrize("network", ["g", "d", "g_ema"])
def test_unknown_tensor_is_named(layout, network):
    foreign = layout(nets(spec_of()))
    name = next(n for n in foreign.tensors if n.lower() == network)
    foreign.tensors[name]["attention.query.weight"] = torch.zeros(2, 2)
    with refused(Code.UNSUPPORTED, "'attention.query.weight'"):
        FAMILY.convert(foreign)


@pytest.mark.parametrize(
    "network, key",
    [
        ("G_ema", "mapping.fc0.weight"),
        ("G_ema", "mapping.fc1.bias"),
        ("G_ema", "synthesis.b8.conv0.affine.weight"),
        ("G_ema", "synthesis.b4.conv1.affine.weight"),
        ("D", "b4.conv.weight"),
        ("D", "b8.conv1.bias"),
        ("G", "synthesis.b16.torgb.bias"),
    ],
)
def test_missing_tensor_is_named(network, key):
    foreign = nvidia(nets(spec_of()))
    del foreign.tensors[network][key]
    with refused(Code.DAMAGED, f"'{key}'"):
        FAMILY.convert(foreign)


@pytest.mark.parametrize("network, key", [("G_ema", "synthesis.b8.conv1.bias"), ("D", "b8.conv0.bias")])
def test_tensor_of_the_wrong_shape_is_named(network, key):
    foreign = nvidia(nets(spec_of()))
    foreign.tensors[network][key] = torch.zeros(77)
    with refused(Code.UNSUPPORTED, f"'{key}' is [77]"):
        FAMILY.convert(foreign)


def test_networks_of_different_resolutions():
    small = nets(spec_of(resolution=8, g_widths={"4": 8, "8": 8}, d_widths={"4": 8, "8": 8}))
    foreign = nvidia(nets(spec_of()))
    with refused(Code.INCOMPATIBLE, "16 px", "[8]"):
        FAMILY.convert(replace(foreign, tensors=foreign.tensors | {"D": nvidia(small).tensors["D"]}))
    with refused(Code.INCOMPATIBLE, "16 px", "[8]"):
        FAMILY.convert(replace(foreign, tensors=foreign.tensors | {"D": rosinality_d(small.d.state_dict())}))
    with refused(Code.DAMAGED, "'g'", "synthesis.b16"):
        FAMILY.convert(replace(foreign, tensors=foreign.tensors | {"G": nvidia(small).tensors["G"]}))


def test_a_gap_in_the_resolutions():
    foreign = nvidia(nets(spec_of()))
    for which in ("G", "G_ema"):
        for key in [key for key in foreign.tensors[which] if key.startswith("synthesis.b8.")]:
            del foreign.tensors[which][key]
    with refused(Code.UNSUPPORTED, "[4, 16]"):
        FAMILY.convert(foreign)


def test_generators_without_skip_connections_are_refused():
    foreign = nvidia(nets(spec_of()))
    for which in ("G", "G_ema"):
        for key in [key for key in foreign.tensors[which] if "torgb" in key and "b16" not in key]:
            del foreign.tensors[which][key]
    with refused(Code.UNSUPPORTED, "'skip'"):
        FAMILY.convert(foreign)


def test_several_spread_channels_are_refused():
    foreign = nvidia(nets(spec_of()))
    foreign.tensors["D"]["b4.conv.weight"] = torch.zeros(8, 11, 3, 3)
    with refused(Code.UNSUPPORTED, "3 channels", "b4.conv.weight"):
        FAMILY.convert(foreign)


def test_a_d_of_something_else_is_refused():
    foreign = nvidia(nets(spec_of()))
    foreign.tensors["D"] = {"main.0.weight": torch.zeros(4, 3, 4, 4)}
    with refused(Code.UNSUPPORTED, "'main.0.weight'"):
        FAMILY.convert(foreign)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"netG": {"main.0.weight": torch.zeros(1)}},
        {"d": rosinality_d(nets(spec_of()).d.state_dict())},
        {"g": {"mapping.w_avg": torch.zeros(3)}},
    ],
)
def test_other_files_are_not_recognised(tensors):
    assert not FAMILY.recognise(Foreign("torch", tensors))
