"""FUNIT's networks against a plain construction of other shapes, its architectures, its checkpoint files."""

from __future__ import annotations

from pathlib import Path

import published_funit as published
import pytest
import torch
from published_funit import Shape
from refusals import refused

from fsgen import registry
from fsgen.errors import Code
from fsgen.families.funit import convert
from fsgen.families.funit.family import FUNIT
from fsgen.importers.pull import import_file, pull
from fsgen.interfaces import Foreign, Inputs, Networks
from fsgen.models.model import load_model

FAMILY = FUNIT()
SHAPES = {
    "as published": Shape(),
    "grey, shallow": Shape(
        nf=4, blocks=1, mlp=2, downs_content=1, downs_class=1, channels=1, d_widths=(4, 8)
    ),
    "deep": Shape(nf=2, blocks=3, mlp=4, downs_content=2, downs_class=5, d_widths=(2, 4, 8, 16), classes=7),
    "at the cap": Shape(d_widths=(3, 6, 6, 6), classes=2),  # wide stages whose shortcuts are identities
}


@pytest.fixture(params=SHAPES, scope="module")
def shape(request) -> Shape:
    return SHAPES[request.param]


def file_of(shape: Shape, seed: int = 0) -> dict[str, published.State]:
    return {"gen": published.generator(shape, seed), "gen_test": published.generator(shape, seed + 1)}


def ours(shape: Shape) -> Networks:
    """In float64, with the weights of ``gen_test`` and of ``dis``."""
    tensors = file_of(shape) | {"dis": published.discriminator(shape, 2)}
    converted = FAMILY.convert(Foreign("torch", tensors))
    nets = FAMILY.build(converted.spec)
    nets.g.load_state_dict(converted.g_ema), nets.d.load_state_dict(converted.d)
    # What is stored is float32; to compare in float64 both must have the same values.
    return Networks(nets.g.double(), nets.d.double())


def rounded(state: published.State) -> published.State:
    return {key: value.float().double() for key, value in state.items()}


def pictures(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


# ---- networks --------------------------------------------------------------------------------------------


def test_translations_are_those_of_the_plain_construction(shape):
    state, g = rounded(published.generator(shape, 1)), ours(shape).g
    content, style = pictures(2, shape.channels, 32, 48), pictures(2, 3, shape.channels, 40, 32, seed=4)
    found = g(Inputs(content=content, style=style))
    for i in range(2):
        one, code = content[i : i + 1], published.class_code(state, shape, style[i])
        expected = published.decode(state, shape, published.content_code(state, shape, one), code)
        assert expected.shape == one.shape
        torch.testing.assert_close(found[i : i + 1], expected)
        torch.testing.assert_close(g(Inputs(content=one, h=code)), expected)


def test_logits_and_their_gradients_are_those_of_activations_in_place(shape):
    state, d = rounded(published.discriminator(shape, 2)), ours(shape).d
    images = pictures(3, shape.channels, 24, 32).requires_grad_()
    y = torch.eye(shape.classes, dtype=torch.float64)[[0, shape.classes - 1, 1]]
    logits, features = published.judge(state, shape, images)
    expected = torch.stack([logits[i, k] for i, k in enumerate(y.argmax(dim=1))]).flatten(1)
    found = d(images, Inputs(y=y))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(d.last_features(images), features)
    for a, b in ((found, expected), (d.last_features(images), features)):
        weights = pictures(*a.shape, seed=5)
        torch.testing.assert_close(
            *(torch.autograd.grad((x * weights).sum(), images, retain_graph=True)[0] for x in (a, b))
        )


def test_features_come_fine_to_coarse_and_end_where_the_head_looks():
    d = ours(SHAPES["deep"]).d
    maps = d.features(pictures(1, 3, 32, 32))
    assert [list(m.shape[1:]) for m in maps] == [[4, 32, 32], [8, 16, 16], [16, 8, 8]]
    assert torch.equal(maps[-1], d.last_features(pictures(1, 3, 32, 32)))


def test_the_class_code_is_a_mean_and_one_code_serves_many_contents():
    g = ours(SHAPES["as published"]).g
    content, style = pictures(3, 3, 32, 32), pictures(1, 5, 3, 32, 32, seed=6)
    code = g.class_code(Inputs(style=style))
    torch.testing.assert_close(code, g.style(style[0]).mean(dim=0, keepdim=True))
    together = g(Inputs(content=content, h=code))
    assert not torch.allclose(together[0], together[1])  # contents differ
    for i in range(3):
        order = style[:, [4, 2, 0, 1, 3]]
        torch.testing.assert_close(together[i : i + 1], g(Inputs(content=content[i : i + 1], style=order)))
    other = g(Inputs(content=content, h=2 * code))
    assert not torch.allclose(other, together)


def test_there_is_no_prior_to_draw_from():
    with refused(Code.USAGE, "funit"):
        FAMILY.build(FAMILY.fresh(32, 3, 2, width=2)).g.draw(4, torch.Generator())


# ---- architectures ---------------------------------------------------------------------------------------


def test_fresh_is_as_large_as_published():
    spec = FAMILY.fresh(128, classes=119)
    with torch.device("meta"):
        nets = FAMILY.build(spec)
    millions = [sum(p.numel() for p in net.parameters()) / 1e6 for net in nets]
    assert [round(x, 1) for x in millions] == [29.9, 54.3]
    assert spec["d_widths"] == [64, 128, 256, 512, 1024, 1024]


@pytest.mark.parametrize("size, channels, patches", [(64, 3, 4), (128, 1, 8), (40, 3, 3), (32, 1, 2)])
def test_fresh_of_other_sizes(size, channels, patches):
    spec = FAMILY.fresh(size, channels, 3, width=2)
    g, d = FAMILY.build(spec)
    content = torch.rand(2, channels, size, size) * 2 - 1
    inputs = Inputs(content=content, style=content[:, None], y=torch.eye(3)[:2])
    images = g(inputs)
    assert images.shape == content.shape and images.abs().max() <= 1
    assert d(images, inputs).shape == (2, patches**2)


@pytest.mark.parametrize(
    "asked, code, named",
    [
        ({"size": 100, "classes": 3}, Code.OUT_OF_RANGE, "--size 100"),
        ({"size": 16, "classes": 3}, Code.OUT_OF_RANGE, "--size 16"),
        ({"size": 64, "classes": 1}, Code.TOO_FEW, "there are 1"),
        ({"size": 64}, Code.TOO_FEW, "there are 0"),
        ({"size": 64, "channels": 4, "classes": 3}, Code.OUT_OF_RANGE, "4 channels"),
        ({"size": 64, "classes": 3, "width": 0}, Code.OUT_OF_RANGE, "--width 0"),
    ],
)
def test_unavailable_architectures_are_refused(asked, code, named):
    with refused(code, named) as caught:
        FAMILY.fresh(**asked)
    assert caught.value.hint


def test_layers_hold_each_parameter_once_in_the_order_of_the_data():
    spec = FAMILY.fresh(64, classes=2, width=2)
    layers = FAMILY.layers(spec)
    listed = [key for keys in layers.values() for key in keys]
    assert sorted(listed) == sorted(dict(FAMILY.build(spec).g.named_parameters()))
    assert list(layers)[:5] == [
        "content.stem", "content.down.0", "content.down.1", "content.down.2", "content.blocks.0"
    ]  # fmt: skip
    assert len(layers["decoder.blocks.1"]) == 4 and list(layers)[-1] == "decoder.out"


# ---- files -----------------------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(registry.families(), "funit", "fsgen.families.funit.family:FUNIT")


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_the_published_file(tmp_path, known, shape, legacy):
    file = saved(tmp_path / "gen_00000007.pt", file_of(shape), _use_new_zipfile_serialization=not legacy)
    model, notes = import_file(file, title="cats")
    assert model.family.name == "funit" and model.networks.keys() == {"g", "g_ema"}
    assert (model.start, model.best) == ("g", "g_ema")
    assert any("no discriminator" in note for note in notes)
    assert any("128 px, as published" in note for note in notes) and model.spec["resolution"] == 128
    model.save(tmp_path / "native.safetensors")
    again = load_model(tmp_path / "native.safetensors")
    assert again.hash == model.hash and again.spec == model.spec
    content = pictures(1, shape.channels, 32, 32).float()
    inputs = Inputs(content=content, style=content[:, None])
    state = file_of(shape)["gen_test"]
    expected = published.decode(
        state, shape, published.content_code(state, shape, content.double()),
        published.class_code(state, shape, content.double()),
    )  # fmt: skip
    torch.testing.assert_close(again.generator()(inputs), expected.float(), rtol=1e-4, atol=1e-4)


def test_the_published_files_are_pulled_together(tmp_path, known, monkeypatch):
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    shape = SHAPES["deep"]
    file = saved(tmp_path / "gen_00100000.pt", file_of(shape))
    saved(tmp_path / "dis_00100000.pt", {"dis": published.discriminator(shape)})
    pulled = pull(str(file))
    assert pulled.model.networks.keys() == {"g", "g_ema", "d"} and pulled.model.spec["c_dim"] == 7
    assert pulled.notes[0] == "read: gen_00100000.pt, dis_00100000.pt"
    assert not any("no discriminator" in note for note in pulled.notes)
    whole = saved(tmp_path / "whole.pt", file_of(shape) | {"dis": published.discriminator(shape)})
    assert pulled.model.hash == import_file(whole, title="whole")[0].hash
    downloaded, _ = import_file(file, title="alone", beside=False)  # what lies there is of other models
    assert "d" not in downloaded.networks


def test_both_halves_in_one_file_under_whatever_names_stand_before(tmp_path, known):
    shape = SHAPES["deep"]
    parts = file_of(shape) | {"dis": published.discriminator(shape)}
    nested = {name: {f"module.{key}": value for key, value in part.items()} for name, part in parts.items()}
    flat = {f"{name}.module.{key}": value for name, part in parts.items() for key, value in part.items()}
    plain, _ = import_file(saved(tmp_path / "plain.pt", parts), title="plain")
    assert plain.networks.keys() == {"g", "g_ema", "d"} and plain.spec["c_dim"] == 7
    assert plain.spec["d_widths"] == [2, 4, 8, 16]
    for name, content in (("nested.pt", nested), ("flat.pt", flat)):
        other, _ = import_file(saved(tmp_path / name, content), title=name)
        assert (other.hash, other.spec) == (plain.hash, plain.spec)


def test_a_bare_generator_is_taken_for_the_average(tmp_path, known):
    shape = SHAPES["as published"]
    model, notes = import_file(saved(tmp_path / "g.pt", published.generator(shape)), title="bare")
    assert model.networks.keys() == {"g_ema"}
    assert model.spec["d_widths"] == convert.d_widths(shape.nf)  # a fresh one goes with G
    others, notes = import_file(
        saved(tmp_path / "more.pt", file_of(shape) | {"vgg": {"conv.weight": torch.zeros(2)}}), title="more"
    )
    assert any("'vgg'" in note for note in notes) and others.networks.keys() == {"g", "g_ema"}


SPOILED = {  # network, tensor, and what it becomes: None takes it away
    "missing": ("gen_test", "dec.model.0.model.1.model.0.conv.bias", None),
    "stem": ("gen_test", "dec.model.7.conv.weight", None),
    "stray": ("gen_test", "enc_content.model.9.model.0.gamma", torch.zeros(2)),
    "twice": ("gen_test", "dec.model.3.conv.weight", torch.zeros(2)),
    "mlp": ("gen_test", "mlp.model.2.fc.weight", torch.zeros(7, 5)),  # of another decoder
    "unequal": ("gen_test", "dec.model.8.conv.weight", torch.zeros(2)),
    "code": ("gen_test", "enc_class_model.model.6.weight", None),
    "flat": ("gen_test", "enc_content.model.0.conv.weight", torch.zeros([])),
    "point": ("gen", "enc_class_model.model.6.weight", torch.zeros([])),
    "live": ("gen", "mlp.model.0.fc.bias", None),
    "stage": ("dis", "cnn_f.3.conv_0.conv.weight", torch.zeros(2)),
    "deeper": ("dis", "cnn_f.17.conv_0.conv.weight", torch.zeros(2)),
    "shortcut": ("dis", "cnn_f.1.conv_s.conv.weight", torch.zeros(3, 3, 1, 1)),
    "colour": ("dis", "cnn_f.0.conv.weight", torch.zeros(3, 1, 7, 7)),
    "two": ("ema", "enc_content.model.0.conv.bias", torch.zeros(3)),
}


def spoiled(change: str) -> dict[str, published.State]:
    shape = SHAPES["as published"]
    parts = file_of(shape) | {"dis": published.discriminator(shape)}
    network, key, value = SPOILED[change]
    parts.setdefault(network, dict(parts["gen"]))
    if value is None:
        del parts[network][key]
    else:
        parts[network][key] = value
    return parts


@pytest.mark.parametrize(
    "change, code, named",
    [
        ("missing", Code.DAMAGED, "'gen_test' without 'decoder.blocks.1.0.bias'"),
        ("stem", Code.DAMAGED, "'gen_test' without 'decoder.out.weight'"),
        ("stray", Code.UNSUPPORTED, "'enc_content.model.9.model.0.gamma'"),
        ("twice", Code.UNSUPPORTED, "two tensors 'decoder.out.weight'"),
        ("mlp", Code.UNSUPPORTED, "'mlp.4.weight' is [7, 5], expected [192, 5]"),
        ("unequal", Code.UNSUPPORTED, "3 downsampling and 4 upsampling"),
        ("code", Code.DAMAGED, "'style.out.weight'"),
        ("flat", Code.DAMAGED, "too few axes"),
        ("point", Code.DAMAGED, "too few axes"),
        ("live", Code.DAMAGED, "'gen' without 'mlp.0.bias'"),
        ("stage", Code.UNSUPPORTED, "'stages.0.2.conv0.weight'"),
        ("deeper", Code.UNSUPPORTED, "'stages.4.0.conv0.weight'"),
        ("shortcut", Code.UNSUPPORTED, "'stages.0.0.skip.weight'"),
        ("two", Code.UNSUPPORTED, "'gen_test', 'ema'"),
        ("colour", Code.UNSUPPORTED, "'stem.weight' is [3, 1, 7, 7], expected [3, 3, 7, 7]"),
    ],
)
def test_files_of_no_funit_are_refused(tmp_path, known, change, code, named):
    file = saved(tmp_path / "spoiled.pt", spoiled(change))
    with refused(code, file, named):
        import_file(file, title="spoiled")


def test_a_discriminator_alone_is_refused(tmp_path, known):
    file = saved(tmp_path / "dis_00000007.pt", {"dis": published.discriminator(Shape())})
    with refused(Code.UNSUPPORTED, file, "generator"):
        import_file(file, title="half")
