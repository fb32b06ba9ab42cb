"""FastGAN: sizes, noise, files of both public layouts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import published_fastgan as published
import pytest
import torch
from refusals import refused
from tiny import SPECS

from fsgen.errors import Code
from fsgen.families.fastgan import convert, networks
from fsgen.families.fastgan.family import SIZES, FastGAN
from fsgen.importers.pull import import_file
from fsgen.interfaces import Foreign, Inputs, Networks, Spec
from fsgen.models.model import load_model

FAMILY = FastGAN()
TINY: Spec = SPECS["fastgan"]


def nets(spec: Spec = TINY, seed: int = 0) -> Networks:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILY.build(spec)


# ---- architecture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, *SIZES])
def test_both_sizes_of_a_picture_come_out_and_go_in(size):
    widths = convert.g_widths(size, 8) | convert.d_widths(size, 8)
    with torch.device("meta"):
        g, d = FAMILY.build({"resolution": size, "channels": 1, "z_dim": 5, "sle": True} | widths)
        big, small = g.both_sizes(Inputs(z=torch.zeros(2, 5)), "none", None)
        encoded = d.encode((big, small))
        assert g(Inputs(z=torch.zeros(2, 5))).shape == big.shape == (2, 1, size, size)
        assert small.shape == (2, 1, min(128, size // 2), min(128, size // 2))
        assert d(big).shape == d((big, small)).shape == (2, 50)
        assert [x.shape for x in d.reconstruct(encoded, 3)] == [small.shape] * 3
    sides = [x.shape[-1] for x in d.features(big)]
    assert sides == [min(256, size) >> k for k in range(len(sides))] and sides[-1] == 8
    gated = {size for size in (64, 128, 256, 512) if size <= g.resolution}
    assert {int(key[4:]) for key, _ in g.named_children() if key.startswith("gate")} == gated


def test_published_sizes():
    spec = FAMILY.fresh(256)
    assert spec["g_widths"] == dict(
        zip(map(str, networks.sides(4, 256)), (1024, 512, 256, 128, 128, 64, 32), strict=True)
    )
    assert spec["d_widths"]["256"] == 16 and spec["d_widths"]["8"] == 512
    with torch.device("meta"):
        g = FAMILY.build(spec).g
    assert sum(p.numel() for p in g.parameters()) == sum(
        p.numel() for p in published.Generator(256, 64, 256).parameters()
    )


def test_a_narrow_one_is_a_quarter_of_the_published():
    narrow, wide = FAMILY.fresh(64, width=16), FAMILY.fresh(64)
    for part in ("g_widths", "d_widths"):
        assert {side: 4 * width for side, width in narrow[part].items()} == wide[part]
    assert {key for key in wide if narrow[key] != wide[key]} == {"g_widths", "d_widths"}


@pytest.mark.parametrize(
    "arguments, code, named",
    [
        ((96,), Code.OUT_OF_RANGE, "--size 96"),
        ((64, 4), Code.OUT_OF_RANGE, "4 channels"),
        ((64, 3, 10), Code.INCOMPATIBLE, "--classes"),
    ],
)
def test_unavailable_architectures_are_refused(arguments, code, named):
    with refused(code, named) as caught:
        FAMILY.fresh(*arguments)
    assert caught.value.hint


def test_without_skip_layer_excitation_no_gate_is_left():
    g, d = nets(TINY | {"sle": False})
    assert not any("gate" in key for net in (g, d) for key, _ in net.named_parameters())
    assert d(g(g.draw(2, torch.Generator()))).shape == (2, 50)


def test_a_gate_weighs_channels_by_the_coarse_map_alone():
    gate = networks.SkipLayerExcitation(3, 5)
    coarse, x = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 16, 16)
    weights = gate(coarse, torch.ones(2, 5, 16, 16))
    assert (weights == weights[:, :, :1, :1]).all() and ((weights > 0) & (weights < 1)).all()
    torch.testing.assert_close(gate.eval()(coarse, x), x * gate(coarse, torch.ones_like(x)))


def test_quadrants_put_together_are_the_picture():
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    top = torch.cat([networks.quadrant(x, 0), networks.quadrant(x, 1)], dim=3)
    bottom = torch.cat([networks.quadrant(x, 2), networks.quadrant(x, 3)], dim=3)
    assert torch.equal(torch.cat([top, bottom], dim=2), x)


def test_noise_const_random_and_none():
    g = nets().g.eval()
    for module in g.modules():
        if isinstance(module, networks.ConvGLU) and module.noisy:
            module.noise_strength.data.fill_(0.5)
    inputs = g.draw(3, torch.Generator().manual_seed(0))
    make = partial(g, inputs)
    assert torch.equal(make(), make()) and not torch.equal(make(), make(noise="none"))
    drawn = [make(noise="random", rng=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    torch.testing.assert_close(g(inputs[1:2]), make()[1:2])  # a picture does not depend on its batch
    assert not torch.equal(make(truncation=0.5), make())
    torch.testing.assert_close(make(truncation=0.0)[0], make(truncation=0.0)[2])


def test_layers_and_resolutions():
    layers = list(FAMILY.layers(TINY))
    assert layers[:3] == ["b4", "b8.0", "b8.1"] and layers[-3:] == ["b64.0", "gate64", "rgb64"]
    known = {key: FAMILY.resolution_of(key) for key in nets().g.state_dict()}
    assert known["b8.1.conv.u"] == 8 and known["gate64.squeeze.weight"] == 64 and known["rgb32.weight"] == 32
    assert None not in known.values()


# ---- files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> tuple[published.Generator, published.Discriminator]:
    torch.manual_seed(0)
    pair = published.Generator(512, 4, 5), published.Discriminator(512, 4)
    return tuple(published.perturbed(net, seed).eval() for seed, net in enumerate(pair))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def quiet(g: torch.nn.Module) -> torch.nn.Module:
    """``g`` with the noise switched off, as far as its own parameters go."""
    for module in g.modules():
        if isinstance(module, published.Noise):
            module.weight.data.zero_()
    return g


@pytest.mark.parametrize("size, width", [(256, 4), (512, 4), (1024, 8)])
def test_networks_are_those_of_the_plain_construction(size, width):
    torch.manual_seed(1)
    g, d = published.Generator(size, width, 3), published.Discriminator(size, width)
    foreign = Foreign(
        "torch", {"g": published.perturbed(g).state_dict(), "d": published.perturbed(d).state_dict()}
    )
    converted = FAMILY.convert(foreign)
    assert converted.spec["d_widths"] == convert.d_widths(size, width)["d_widths"]
    ours = FAMILY.build(converted.spec)
    ours.g.load_state_dict(converted.g_ema), ours.d.load_state_dict(converted.d)
    z = torch.randn(1, 3)
    with torch.no_grad():
        big, small = ours.g.eval().both_sizes(Inputs(z=z), "none", None)
        for a, b in zip((big, small), quiet(g).eval()(z), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        encoded = ours.d.eval().encode((big, small))
        for part in (0, 3):
            logits, rebuilt = d.eval()(big, small, part)
            torch.testing.assert_close(ours.d.logits(encoded).flatten(), logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                ours.d.reconstruct(encoded, part), tuple(rebuilt), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_published_files(tmp_path, theirs, prefix):
    g, d = ({prefix + key: value for key, value in net.state_dict().items()} for net in theirs)
    averages = [p.detach() * 0.9 for p in theirs[0].parameters()]
    adam = torch.optim.Adam(theirs[0].parameters()).state_dict()
    short = saved(tmp_path / "7.pth", {"g": g, "d": d})
    long = saved(tmp_path / "all_7.pth", {"g": g, "d": d, "g_ema": averages, "opt_g": adam, "opt_d": adam})
    one, notes = import_file(short, title="short")
    assert one.networks.keys() == {"g_ema", "d"} and any("averaged" in note for note in notes)
    other, _ = import_file(long, title="long")
    assert other.networks.keys() == {"g", "g_ema", "d"} and other.start == "g"
    assert torch.equal(other.networks["g"]["b8.0.conv.weight"], one.networks["g_ema"]["b8.0.conv.weight"])
    for key, value in other.networks["g_ema"].items():
        shrunk = not key.endswith((".u", ".v", "running_mean", "running_var", "tracked", "noise_const"))
        torch.testing.assert_close(value, other.networks["g"][key] * (0.9 if shrunk else 1))
    assert (one.family.name, one.spec) == ("fastgan", other.spec)
    other.save(tmp_path / "native.safetensors")
    assert load_model(tmp_path / "native.safetensors").hash == other.hash


def test_a_bare_generator_and_one_from_the_hub(tmp_path):
    torch.manual_seed(2)
    state = published.perturbed(published.Generator(1024, 8, 6)).state_dict()
    plain, notes = import_file(saved(tmp_path / "g.pth", state), title="plain")
    hub, _ = import_file(saved(tmp_path / "pytorch_model.bin", published.hub(state)), title="hub")
    assert plain.spec == hub.spec and plain.spec["resolution"] == 1024 and plain.spec["z_dim"] == 6
    assert plain.hash == hub.hash and plain.networks.keys() == {"g_ema"}
    assert any("no discriminator" in note for note in notes)
    assert plain.spec["d_widths"] == convert.d_widths(1024, 8)["d_widths"]  # a fresh one goes with G
    assert plain.generator()(Inputs(z=torch.zeros(1, 6))).shape == (1, 3, 1024, 1024)


def test_imported_noise_is_the_same_every_time(theirs):
    foreign = Foreign("torch", {"g": theirs[0].state_dict()})
    first, second = FAMILY.convert(foreign).g_ema, FAMILY.convert(foreign).g_ema
    noises = [key for key in first if key.endswith("noise_const")]
    assert len(noises) == 2 * 4 and all(torch.equal(first[key], second[key]) for key in noises)


def spoiled(theirs: tuple, change: str) -> dict:
    g, d = (dict(net.state_dict()) for net in theirs)
    averages = [p.detach() for p in theirs[0].parameters()]
    if change == "missing":
        del g["feat_16.1.weight_u"]
    elif change == "level":
        g = {key: value for key, value in g.items() if not key.startswith("feat_32.")}
    elif change == "no_sides":
        g = {key: value for key, value in g.items() if not key.endswith(".1.weight_orig")}
    elif change == "flat":
        g["feat_8.1.weight_orig"] = torch.zeros([])
    elif change == "zero":
        g["feat_0.1.weight_orig"] = torch.zeros(2, 2, 3, 3)
    elif change == "stray":
        g["feat_2048.1.weight_orig"] = torch.zeros(2, 2, 3, 3)
    elif change == "stray_d":
        d["down_4.main.2.weight"] = torch.zeros(2)
    elif change == "half_d":
        d = {key: value for key, value in d.items() if not key.startswith("rf_big")}
    elif change == "other_d":
        d = published.Discriminator(256, 4).state_dict()
    elif change == "shape":
        g["se_64.main.3.weight_orig"] = torch.zeros(8, 7, 1, 1)
    elif change == "averages":
        return {"g": g, "d": d, "g_ema": averages[:-1]}
    return {"g": g, "d": d}


@pytest.mark.parametrize(
    "change, code, named",
    [
        ("missing", Code.DAMAGED, "without 'b16.0.conv.u'"),
        ("level", Code.UNSUPPORTED, "[8, 16, 64"),
        ("stray", Code.UNSUPPORTED, "2048]"),
        ("no_sides", Code.UNSUPPORTED, "[]"),
        ("flat", Code.DAMAGED, "too few axes"),
        ("zero", Code.UNSUPPORTED, "'feat_0.1.weight_orig'"),
        ("stray_d", Code.UNSUPPORTED, "'down_4.main.2.weight'"),
        ("half_d", Code.DAMAGED, "'head.0.conv.weight'"),
        ("other_d", Code.INCOMPATIBLE, "512 px"),
        ("shape", Code.UNSUPPORTED, "'gate64.excite.weight' is [8, 7, 1, 1], expected [8, 8, 1, 1]"),
        ("averages", Code.DAMAGED, "'g_ema' has 53 tensors that do not fit the 54 parameters of its 'g'"),
    ],
)
def test_files_of_no_fastgan_are_refused(tmp_path, theirs, change, code, named):
    file = saved(tmp_path / "spoiled.pth", spoiled(theirs, change))
    with refused(code, file, named):
        import_file(file, title="spoiled")
