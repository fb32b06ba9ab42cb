"""``sample``: a seed determines an image, mixtures are exact at their ends, files record their origin."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file
from tiny import LABELS, make_source

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.data.image_output import to_uint8
from fsgen.errors import Code
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import latents, sheets
from fsgen.sampling import sampler as engine
from fsgen.sampling.conditioning import conditioning_of


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny, drawings):
    """The tiny source adapted for a few steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe = {"lr": 0.05, "ema_half_life": 0.1}
    return fsgen.adapt(
        drawings, out=out, source=tiny, method="finetune", steps=3, recipe=recipe, device="cpu"
    )


def pictures(model, chosen=range(4), **options):
    """uint8 [n, C, H, W]"""
    return torch.cat([to_uint8(x) for x in engine.ready(model, "cpu").images(chosen, **options)])


def write(out, model, chosen=(0, 1, 2), frames=None, **options):
    job = sheets.SampleRequest(model=str(model), out=out, seeds=list(chosen), device="cpu", **options)
    return (
        sheets.write(job, Callbacks()) if frames is None else sheets.write_animation(job, frames, Callbacks())
    )


def tile(sheet, column, row, gap_above=0):
    left, top = column * 18, row * 18 + gap_above
    return np.asarray(sheet.crop((left, top, left + 16, top + 16)).convert("RGB"))


# ---- seeds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", engine.NOISES)
@pytest.mark.parametrize("labels", [{}, LABELS], ids=["plain", "conditional"])
def test_a_seed_determines_an_image_whatever_the_batch(tmp_path, labels, noise):
    loaded = models.load_model(make_source(tmp_path / "s.safetensors", **labels))
    chosen = [7, 3, 11, 0, 5]
    whole = pictures(loaded, chosen, noise=noise, batch=5).int()
    for batch in (1, 2, 3):
        assert (pictures(loaded, chosen, noise=noise, batch=batch).int() - whole).abs().max() <= 1
    for i, seed in enumerate(chosen):
        assert (pictures(loaded, [seed], noise=noise).int() - whole[i]).abs().max() <= 1
    assert len(torch.unique(whole.flatten(1), dim=0)) == 5


def test_the_function_and_the_loaded_model_agree(tiny):
    ours = fsgen.load(tiny, device="cpu").sample(n=2, seed=5)
    assert ours.shape == (2, 3, 16, 16) and ours.dtype == torch.uint8
    assert torch.equal(ours, fsgen.sample(tiny, 2, seed=5, device="cpu"))
    assert torch.equal(ours, pictures(models.load_model(tiny), [5, 6]))


def test_pictures_come_from_the_average(tmp_path, tiny):
    whole = models.load_model(tiny)
    average = Model(whole.family, whole.spec, {"g_ema": whole.networks["g_ema"]}, {})
    other = Model(whole.family, whole.spec, {"g": whole.networks["g"]}, {})
    assert torch.equal(pictures(whole), pictures(average))
    assert not torch.equal(pictures(whole), pictures(other))


def test_truncation(run):
    loaded = models.load_model(run)
    mean = pictures(loaded, truncation=0.0).int()
    assert (mean - mean[0]).abs().max() <= 1
    g = loaded.generator()
    with torch.no_grad():
        ws = g.mapping.w_avg.expand(1, g.num_ws, -1)
        expected = to_uint8(g.synthesis(ws, "const", None)[0]).int()
    assert (mean[:1] - expected).abs().max() <= 1
    spread = [pictures(loaded, range(16), truncation=t).float().std(dim=0).mean() for t in (0.0, 0.5, 1.0)]
    assert spread[0] < spread[1] < spread[2]


# ---- mixtures ----------------------------------------------------------------------------------------


def test_strength_is_exact_at_both_ends(run, tiny):
    source, adapted = models.load_model(tiny), models.load_model(run)
    assert engine.source_of(adapted).hash == source.hash
    ends = [engine.blend(source, adapted, strength).networks["g_ema"] for strength in (0.0, 1.0)]
    for mixed, exact in zip(ends, (source, adapted), strict=True):
        assert all(torch.equal(value, exact.networks["g_ema"][key]) for key, value in mixed.items())
    half = engine.blend(source, adapted, 0.5).networks["g_ema"]
    for key, value in half.items():
        torch.testing.assert_close(value, (ends[0][key] + ends[1][key]) / 2)
    assert torch.equal(pictures(engine.blend(source, adapted, 0.0)), pictures(source))
    assert torch.equal(pictures(engine.blend(source, adapted, 1.0)), pictures(adapted))


def test_swapping_takes_the_layers_above(run, tiny):
    ours, theirs = models.load_model(run), models.load_model(tiny)
    mixed = engine.swap_above(ours, theirs, 8).networks["g_ema"]
    for key, value in mixed.items():
        wanted = theirs if key.startswith("synthesis.b16") else ours
        assert torch.equal(value, wanted.networks["g_ema"][key]), key
    assert not torch.equal(
        mixed["synthesis.b16.conv0.weight"], ours.networks["g_ema"]["synthesis.b16.conv0.weight"]
    )
    four = engine.swap_above(ours, theirs, 4).networks["g_ema"]
    assert torch.equal(
        four["synthesis.b8.conv0.weight"], theirs.networks["g_ema"]["synthesis.b8.conv0.weight"]
    )
    assert torch.equal(four["mapping.fc0.weight"], ours.networks["g_ema"]["mapping.fc0.weight"])


def test_models_that_cannot_be_mixed(tmp_path, run, tiny):
    source, adapted = models.load_model(tiny), models.load_model(run)
    for strength in (-0.1, 1.1, float("nan")):
        with refused(Code.OUT_OF_RANGE, "--strength", strength):
            engine.blend(source, adapted, strength)
    for resolution in (16, 7, 0):
        with refused(Code.OUT_OF_RANGE, "--swap-above", f"{resolution} px", "4, 8"):
            engine.swap_above(source, adapted, resolution)
    narrow = models.load_model(make_source(tmp_path / "narrow.safetensors", w_dim=5))
    with refused(Code.INCOMPATIBLE, "--other"):
        engine.blend(narrow, adapted, 0.5)
    with refused(Code.NOT_FOUND, "source", "--other SOURCE"):
        engine.source_of(source)


def test_a_source_that_is_gone_or_changed(tmp_path, tiny, drawings):
    source = tmp_path / "source.safetensors"
    source.write_bytes(tiny.read_bytes())
    run = fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="finetune", steps=1, device="cpu")
    make_source(source, z_dim=5)
    with refused(Code.CHANGED, source, "--other SOURCE"):
        write(tmp_path / "a.png", run, strength=0.5)
    source.unlink()
    with refused(Code.NOT_FOUND, source, "--other SOURCE"):
        write(tmp_path / "a.png", run, strength=0.5)
    assert write(tmp_path / "a.png", run, strength=0.5, other=str(tiny))


# ---- walks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [{}, LABELS], ids=["plain", "conditional"])
def test_a_walk_passes_its_seeds_and_closes_its_loop(tmp_path, labels):
    loaded = engine.load(make_source(tmp_path / "s.safetensors", **labels), device="cpu")
    stops = conditioning_of(loaded.model).inputs(loaded.g, [4, 9, 2], "cpu")
    steps = list(latents.walk(loaded, [4, 9, 2], 5))
    assert len(steps) == 15
    for i, inputs in enumerate(steps[::5]):
        torch.testing.assert_close(inputs.z, stops.z[i : i + 1], atol=1e-5, rtol=0)
    lengths = torch.stack([inputs.z.norm() for inputs in steps])
    assert lengths.min() > 0.9 * stops.z.norm(dim=1).min()  # a straight line would pass nearer to 0
    # The step from the last frame back to the first is as long as the others of its leg.
    z = torch.cat([inputs.z for inputs in steps])
    jumps = (z - z.roll(-1, dims=0)).norm(dim=1)
    torch.testing.assert_close(jumps[-1], jumps[-2], rtol=0.3, atol=0)
    if labels:
        assert torch.equal(steps[5].y, stops.y[1:2]) and steps[3].y.sum() == 1


def test_a_walk_from_a_seed_to_itself_is_constant(tiny):
    loaded = engine.load(tiny, device="cpu")
    steps = [inputs.z for inputs in latents.walk(loaded, [3, 3], 2)]
    for z in steps:
        torch.testing.assert_close(z, steps[0], atol=1e-4, rtol=1e-4)
    with refused(Code.TOO_FEW, "--seeds", "2 seeds"):
        list(latents.walk(loaded, [3], 2))


def test_a_walk_in_a_cube_goes_straight(tmp_path):
    loaded = engine.load(make_source(tmp_path / "s.safetensors", name="cgan"), device="cpu")
    z = [inputs.z for inputs in latents.walk(loaded, [4, 9], 4)]
    torch.testing.assert_close(z[2], (z[0] + z[4]) / 2)
    assert all(((step >= 0) & (step <= 1)).all() for step in z)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations(tmp_path, run, suffix):
    (path,) = write(tmp_path / "new" / f"walk{suffix}", run, [0, 1], frames=3)
    film = Image.open(path)
    assert film.n_frames == 6 and film.size == (16, 16)


# ---- files ---------------------------------------------------------------------------------------------


def test_single_files_record_their_origin(tmp_path, run):
    made = write(tmp_path / "deep" / "folder", run, [3, 12])
    assert [path.name for path in made] == ["seed00003.png", "seed00012.png"]
    expected = pictures(models.load_model(run), [3, 12])
    for path, picture, seed in zip(made, expected, ("3", "12"), strict=True):
        image = Image.open(path)
        assert np.array_equal(np.asarray(image), picture.permute(1, 2, 0).numpy())
        assert image.text == {
            "Software": f"fsgen {fsgen.__version__}", "model": models.load_model(run).hash,
            "licence": "CC0-1.0", "seed": seed, "truncation": "1.0",
        }  # fmt: skip


def test_a_sheet(tmp_path, run):
    (path,) = write(tmp_path / "new" / "sheet.png", run, range(5), columns=2)
    sheet = Image.open(path)
    assert sheet.size == (2 * 18 - 2, 3 * 18 - 2) and sheet.text["seed"] == "0,1,2,3,4"
    expected = pictures(models.load_model(run), range(5)).permute(0, 2, 3, 1).numpy()
    for i in range(5):
        assert np.array_equal(tile(sheet, i % 2, i // 2), expected[i])
    assert (tile(sheet, 1, 2) == 255).all()


def test_pairs_from_the_same_latents(tmp_path, run, tiny):
    (path,) = write(tmp_path / "pairs.png", run, range(4), columns=2, compare=str(tiny))
    sheet = Image.open(path)
    for i in range(4):
        column, strip = i % 2, i // 2 * (2 * 18 + 4)
        for row, model in ((0, tiny), (1, run)):
            expected = pictures(models.load_model(model), range(4))[i].permute(1, 2, 0).numpy()
            assert np.array_equal(tile(sheet, column, row, strip), expected)


def test_mixtures_in_sheets(tmp_path, run, tiny):
    pictured = {}
    for name, options in {
        "source": {"strength": 0.0}, "half": {"strength": 0.5}, "adapted": {"strength": 1.0},
        "swapped": {"swap_above": 8}, "both": {"strength": 0.5, "swap_above": 8},
        "from": {"swap_above": 4, "other": str(tiny)},
    }.items():  # fmt: skip
        (path,) = write(tmp_path / f"{name}.png", run, **options)
        pictured[name] = Image.open(path).tobytes()
    assert len(set(pictured.values())) == 6
    (plain,) = write(tmp_path / "plain.png", tiny)
    assert Image.open(plain).tobytes() == pictured["source"]


@pytest.mark.parametrize(
    ("name", "options", "code", "named"),
    [
        ("a.jpg", {}, Code.UNSUPPORTED, ["--out", "a.jpg"]),
        ("a.gif", {}, Code.USAGE, ["--out", "a.gif", "--interpolate"]),
        ("folder", {"columns": 2}, Code.USAGE, ["--grid", "--out"]),
        ("folder", {"compare": "SOURCE"}, Code.USAGE, ["--compare", "--out"]),
        ("a.png", {"other": "SOURCE"}, Code.USAGE, ["--other", "--strength", "--swap-above"]),
        ("a.png", {"noise": "loud"}, Code.UNKNOWN_NAME, ["--noise", "'loud'", "const"]),
        ("a.png", {"truncation": 3.0}, Code.OUT_OF_RANGE, ["--truncation", "3.0"]),
        ("a.png", {"strength": 2.0}, Code.OUT_OF_RANGE, ["--strength", "2.0"]),
        ("a.png", {"compare": "nothing-there"}, Code.UNKNOWN_NAME, ["'nothing-there'"]),
        ("walk.png", {"frames": 2}, Code.UNSUPPORTED, ["walk.png", ".gif"]),
        ("walk.gif", {"frames": 0}, Code.OUT_OF_RANGE, ["--frames"]),
        ("walk.gif", {"frames": 2, "columns": 2}, Code.USAGE, ["--grid", "--compare"]),
        ("taken/a.png", {}, Code.UNWRITABLE, ["taken"]),
        ("taken", {}, Code.UNWRITABLE, ["taken"]),
    ],
)
def test_refusals_write_nothing(tmp_path, run, tiny, name, options, code, named):
    (tmp_path / "taken").write_text("")
    options = {key: str(tiny) if value == "SOURCE" else value for key, value in options.items()}
    with refused(code, *named) as caught:
        write(tmp_path / name, run, **options)
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_models_of_two_sizes_cannot_be_compared(tmp_path, run):
    widths = {"g_widths": {"4": 4, "8": 4}, "d_widths": {"4": 4, "8": 4}}
    small = make_source(tmp_path / "small.safetensors", resolution=8, **widths)
    with refused(Code.INCOMPATIBLE, "--compare", small, run):
        write(tmp_path / "a.png", run, compare=str(small))


# ---- names and files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"), [("0-3,8", [0, 1, 2, 3, 8]), ("5", [5]), (" 2 - 3 , 2", None), ("2-2", [2])]
)
def test_seeds(text, expected):
    assert latents.parse_seeds(text) == (expected or [2, 3, 2])


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "3-1", "1.5", "²", "0x3"])
def test_texts_that_are_no_seeds(text):
    with refused(Code.OUT_OF_RANGE, "--seeds", text):
        latents.parse_seeds(text)


def test_models_by_name(tmp_path, tiny, run, monkeypatch):
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "sources").mkdir(parents=True)
    (tmp_path / "home" / "sources" / "mine.safetensors").write_bytes(tiny.read_bytes())
    assert models.load_model("mine").hash == models.load_model(tiny).hash != models.load_model(run).hash
    (tmp_path / "mine").mkdir()  # a folder that happens to be called like it
    assert models.load_model("mine").hash == models.load_model(tiny).hash
    for name, code, named in (
        ("mime", Code.UNKNOWN_NAME, "did you mean 'mine'"),
        ("ffhq", Code.NOT_FOUND, "fsgen pull ffhq"),
        ("runs/absent", Code.NOT_FOUND, "run folder"),
        ("absent.safetensors", Code.NOT_FOUND, "file"),
        ("home", Code.NOT_FOUND, "model.safetensors"),
    ):
        with refused(code, name, named):
            models.load_model(name)


def test_files_that_are_no_models(tmp_path, tiny, run):
    truncated = tmp_path / "short.safetensors"
    truncated.write_bytes(tiny.read_bytes()[:-50])
    with refused(Code.DAMAGED, truncated, "copy it again"):
        models.load_model(truncated)
    (tmp_path / "theirs.pkl").write_bytes(b"\x80\x04N.")
    with refused(Code.DAMAGED, f"fsgen pull {tmp_path / 'theirs.pkl'}"):
        models.load_model(tmp_path / "theirs.pkl")
    with refused(Code.UNSUPPORTED, run / "state" / "latest.safetensors", "'state'"):
        models.load_model(run / "state" / "latest.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with refused(Code.DAMAGED, tmp_path / "text.safetensors"):
        models.load_model(tmp_path / "text.safetensors")


def with_header(tiny, path, change):
    """A copy of a native file with its header changed, at the same length."""
    data = tiny.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["fsgen"] = change(header["__metadata__"]["fsgen"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return path


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (
            lambda text: text.replace("stylegan2", "stylegan9"), Code.UNKNOWN_NAME,
            ["x.safetensors", "'stylegan9'"],
        ),
        (lambda text: text.replace("fsgen/1", "fsgen/7"), Code.UNSUPPORTED, ["x.safetensors", "fsgen/7"]),
        (lambda text: text[:-5], Code.DAMAGED, ["x.safetensors", "header"]),
        (lambda text: "3", Code.DAMAGED, ["x.safetensors", "header"]),
        (lambda text: text.replace('"z_dim": 6', '"z_dim": 7'), Code.DAMAGED, ["'g_ema'", "fc0"]),
    ],
)  # fmt: skip
def test_headers_of_another_kind(tmp_path, tiny, change, code, named):
    path = with_header(tiny, tmp_path / "x.safetensors", change)
    with refused(code, *named) as caught:
        fsgen.load(path, device="cpu")
    assert caught.value.exit_code == 2
    assert len(load_file(path)) > 10  # the tensors themselves are all right
