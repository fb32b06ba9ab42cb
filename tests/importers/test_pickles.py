"""Foreign checkpoints: what is in them comes out bit for bit, and what they ask to run never runs."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import shutil
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from golden_cases import WEIGHTS, cases
from nvidia_files import Network, Persistent, nvidia  # noqa: F401 (a fixture)
from refusals import refused
from safetensors.torch import save_file

from fsgen.errors import Code, FsgenError
from fsgen.importers.pickles import read_nvidia, read_torch
from fsgen.importers.readers import read_foreign

GOLDEN_FILES = [
    pytest.param(case.folder / file, case, id=f"{case.label}/{file}")
    for case in cases("nvidia-pkl", "nvidia-pkl-torch2", "nvidia-pkl-sg3", "rosinality-sg2")
    for file in case.files
]


# ---- what is in them comes out ----------------------------------------------------------------------------


@pytest.mark.parametrize("path, case", GOLDEN_FILES)
def test_golden_tensors_bit_for_bit(path, case):
    if not (case.folder / WEIGHTS).is_file():
        pytest.skip("the case leaves out the plain weights")
    foreign = read_foreign(path)
    compared = dict.fromkeys(foreign.tensors, 0)
    for name, expected in case.tensors(WEIGHTS).items():
        network, _, key = name.partition(".")
        if network in foreign.tensors:
            # The golden files hold scalars as [1].
            found = foreign.tensors[network][key].reshape(expected.shape)
            assert found.dtype == expected.dtype and torch.equal(found, expected), name
            compared[network] += 1
    assert sum(compared.values())
    for network, count in compared.items():
        assert count in (0, len(foreign.tensors[network])), network


@pytest.mark.parametrize("path, case", [p for p in GOLDEN_FILES if p.id.endswith(".pkl")])
def test_golden_settings_tell_the_architecture(path, case):
    config = case.info["config"]
    foreign = read_foreign(path)
    assert foreign.layout == "nvidia-pkl"
    assert {"G_ema"} <= set(foreign.tensors) <= {"G", "D", "G_ema"}  # some cases leave networks out
    assert set(foreign.tensors) == {"G", "D", "G_ema"} or "left_out" in case.info
    g, d = foreign.settings["G_ema"], foreign.settings.get("D")
    size = config["resolution"]
    assert g["class_name"] == "Generator" and g["img_resolution"] == size
    assert g["c_dim"] == config["c_dim"]
    assert g[f"synthesis.b{size}.conv0.conv_clamp"] == config["conv_clamp"]
    assert g[f"synthesis.b{size}.architecture"] == config["generator_architecture"]
    if d is not None:
        assert d["class_name"] == "Discriminator" and d["img_resolution"] == size
        assert d[f"b{size}.architecture"] == config["discriminator_architecture"]
        assert d["b4.mbstd.group_size"] == config["mbstd_group_size"]
    assert g["mapping.fc0.bias_gain"] == pytest.approx(config["mapping_lr_multiplier"])
    assert not any("module_src" in key for key in g)


def test_parameters_and_buffers_are_merged(nvidia, tmp_path):  # noqa: F811
    weight, frozen = torch.randn(3, 4), torch.randn(5).double()
    layer = Persistent("Layer", _parameters={"weight": torch.nn.Parameter(weight), "bias": None}, clamp=None)
    root = Persistent("Net", modules={"fc": layer}, _buffers={"w_avg": frozen}, size=64, long=[0] * 999)
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps({"G_ema": root, "D": None}, 4))
    foreign = read_foreign(path)
    assert set(foreign.tensors) == {"G_ema"}
    assert torch.equal(foreign.tensors["G_ema"]["fc.weight"], weight)
    assert torch.equal(foreign.tensors["G_ema"]["w_avg"], frozen)
    assert len(foreign.tensors["G_ema"]) == 2
    assert foreign.settings["G_ema"] == {
        "class_name": "Net",
        "size": 64,
        "fc.class_name": "Layer",
        "fc.clamp": None,
    }


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8"])
def test_tensorflow_era(nvidia, tmp_path, order, dtype):  # noqa: F811
    kernel = np.asarray(np.arange(24).reshape(2, 3, 4), dtype=dtype, order=order)
    mapping = Network(
        static_kwargs={}, components={}, variables=[("Dense0/weight", kernel)], build_module_src="x=1"
    )
    g = Network(
        static_kwargs={"resolution": 8, "func": [[1]]},
        components={"mapping": mapping},
        variables=[("lod", np.float32(0.5)), ("dlatent_avg", np.ones(4, np.float32))],
    )
    path = tmp_path / "tf.pkl"
    path.write_bytes(pickle.dumps((g, g, g), 4))
    foreign = read_foreign(path)
    assert set(foreign.tensors) == {"G", "D", "G_ema"}
    tensors = foreign.tensors["G_ema"]
    assert set(tensors) == {"mapping/Dense0/weight", "lod", "dlatent_avg"}
    assert np.array_equal(tensors["mapping/Dense0/weight"].numpy(), kernel)
    assert tensors["lod"].item() == 0.5
    assert foreign.settings["G"]["era"] == "tensorflow"
    assert foreign.settings["G"]["static_kwargs.resolution"] == 8


def state():
    rng = torch.Generator().manual_seed(0)
    return OrderedDict(
        weight=torch.randn(4, 3, generator=rng),
        turned=torch.randn(4, 3, generator=rng).t(),
        half=torch.randn(5, generator=rng).half(),
        bf=torch.randn(5, generator=rng).bfloat16(),
        steps=torch.tensor(7),
        none=torch.empty(0, 3),
        wide=torch.randn(1, generator=rng).expand(6),
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, zipped):
    layer = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    adam.step()
    saved = {
        "g": state(),
        "d": layer.state_dict(),
        "g_optim": adam.state_dict(),
        "args": argparse.Namespace(size=64, mixing=0.9),
        "latent_avg": torch.ones(4),
        "iter": 12,
        "fid": np.float64(3.5),
    }
    path = tmp_path / "a.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    foreign = read_foreign(path)
    assert foreign.layout == "torch"
    assert set(foreign.tensors) == {"g", "d"}
    assert list(foreign.tensors["g"]) == list(saved["g"])
    for key, tensor in saved["g"].items():
        found = foreign.tensors["g"][key]
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), key
    assert torch.equal(foreign.extras.pop("latent_avg"), saved["latent_avg"])
    assert foreign.extras == {"args": {"size": 64, "mixing": 0.9}, "iter": 12, "fid": 3.5}


def test_flat_state_dict_and_tied_weights(tmp_path):
    weight = torch.randn(300, 300)
    path = tmp_path / "a.pth"
    torch.save({"a": weight, "b": weight, "row": weight[7]}, path)
    tensors = read_torch(path).tensors[""]
    assert torch.equal(tensors["b"], weight) and torch.equal(tensors["row"], weight[7])


def test_safetensors_networks(tmp_path):
    path = tmp_path / "a.bin"
    save_file(
        {"g_ema.a.b": torch.ones(2), "d.c": torch.zeros(1), "latent_avg": torch.ones(3)}, path, {"k": "v"}
    )
    foreign = read_foreign(path)
    assert {n: list(t) for n, t in foreign.tensors.items()} == {"g_ema": ["a.b"], "d": ["c"]}
    assert foreign.extras["metadata"] == {"k": "v"} and foreign.extras["latent_avg"].shape == (3,)
    save_file({"g.a": torch.ones(2), "style.1.weight": torch.ones(1)}, path)
    assert set(read_foreign(path).tensors[""]) == {"g.a", "style.1.weight"}


# ---- what they ask to run never runs ----------------------------------------------------------------------


class Evil:
    """Pickles as a call."""

    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def refuse(tmp_path):
    """Reads bytes as a file: refused with ``code``, naming the file and ``named``; nothing may run."""

    def check(content, code, *named):
        path = tmp_path / "evil.pkl"
        path.write_bytes(content)
        with refused(code, "evil.pkl", *named) as caught:
            read_foreign(path)
        assert not (tmp_path / "canary").exists()
        assert caught.value.exit_code == 2
        return caught.value.message

    return check


def evils(tmp_path):
    canary = tmp_path / "canary"
    return {
        f"{os.system.__module__}.system": Evil(os.system, f"touch {canary}"),  # posix.system, nt.system
        "builtins.eval": Evil(eval, f"open({str(canary)!r}, 'w')"),
        "shutil.copyfile": Evil(shutil.copyfile, __file__, str(canary)),
        "pathlib": canary,
    }


def saved(thing, how):
    if how.startswith("pickle"):
        return pickle.dumps(thing, int(how[-1]))
    file = io.BytesIO()
    torch.save(thing, file, _use_new_zipfile_serialization=how == "zip")
    return file.getvalue()


@pytest.mark.parametrize("how", ["pickle3", "pickle4", "pickle5", "zip", "legacy"])
@pytest.mark.parametrize("deep", [False, True])
def test_calls_are_refused(refuse, tmp_path, how, deep):
    for name, evil in evils(tmp_path).items():
        thing = {"g": {"weight": torch.ones(1), "x": {"y": [(1, {"z": evil})]}}} if deep else evil
        refuse(saved(thing, how), Code.UNSAFE, name)


def test_hostile_payload_inside_a_storage(refuse, tmp_path):
    for name, evil in evils(tmp_path).items():
        for how in ("legacy", "zip", "pickle2"):
            nested = Evil(torch.storage._load_from_bytes, saved(evil, how))
            expected = (Code.DAMAGED,) if how == "zip" else (Code.UNSAFE, name)
            refuse(pickle.dumps({"G": {"w": nested}}, 4), *expected)


def test_module_source_is_never_run(nvidia, tmp_path):  # noqa: F811
    canary = tmp_path / "canary"
    source = f"open({str(canary)!r}, 'w').write('x')"
    path = tmp_path / "g.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Persistent("G", source, _buffers={"w": torch.ones(2)})}))
    foreign = read_nvidia(path)
    assert not canary.exists()
    assert source not in repr(foreign)
    assert not hasattr(sys.modules["torch_utils"], "canary")


def named(module, name, body=b")R", protocol=4):
    """A pickle that names a global, then does ``body`` with it: REDUCE with no arguments by default."""
    text = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name))
    return b"\x80" + bytes([protocol]) + text + b"\x93" + body + b"."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_parameter.__globals__"),
        ("torch", "_utils._rebuild_tensor_v2"),
        ("collections", "OrderedDict.fromkeys"),
        ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"),
        ("copyreg", "add_extension"),
        ("torch.hub", "load"),
        ("torch", "load"),
        ("numpy", "load"),
        ("builtins", "getattr"),
        ("", ""),
        ("dnnlib\x1b[31m", "util"),
    ],
)
def test_other_names_are_refused(refuse, module, name):
    shown = "".join(c if c.isprintable() else "?" for c in f"{module}.{name}")
    assert refuse(named(module, name), Code.UNSAFE, shown).isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"}b",  # BUILD on a function, with a dict
        b"N}\x8c\x0c__defaults__K\x01s\x86b",  # ... with slots, which setattr would set
        b"}\x8c\x09__class__K\x01sb",
        b"}R",
        b"K\x01R",
        b"]R",
        b"))\x81b",
    ],
)
@pytest.mark.parametrize("name", ["_rebuild_tensor_v2", "_rebuild_parameter"])
def test_tricks_on_allowed_names(refuse, name, body):
    before = vars(torch._utils)[name].__defaults__
    refuse(named("torch._utils", name, body), Code.DAMAGED)
    assert vars(torch._utils)[name].__defaults__ == before


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\x01.",  # EXT1
        b"\x83\x01\x00.",  # EXT2
        b"\x84\x01\x00\x00\x00.",  # EXT4
        b"(S'touch canary'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch canary'\no.",  # OBJ
        b"Pos.system\n.",  # PERSID
        b"K\x01Q.",  # BINPERSID
        b"\x97.",  # NEXT_BUFFER
        b"0.",  # POP of nothing
        b"t.",  # TUPLE without MARK
        b"j\xff\xff\xff\xff.",  # GET of nothing
        b"(\x90.",
        b"K\x01K\x02a.",  # APPEND to a number
        b"}]K\x01s.",  # a list as a key
    ],
)
def test_odd_opcodes(refuse, body):
    forbidden = body[:1] in b"\x82\x83\x84oP\x97" or b"os\n" in body
    refuse(b"\x80\x05" + body, Code.UNSAFE if forbidden else Code.DAMAGED)


def test_bombs_end_quickly(refuse, nvidia, tmp_path):  # noqa: F811
    # A memo index of four thousand million, for which Python's unpickler would allocate 32 GB.
    refuse(b"\x80\x04Nr\xff\xff\xff\xff.", Code.UNSUPPORTED)
    # 2**64 leaves when hashed, compared or shown: as a key, in a set, as a name, as a call's argument.
    nested = b"K\x01" + b"2\x86" * 64
    refuse(b"\x80\x04\x8f(" + nested + b"\x90.", Code.UNSUPPORTED)  # a set is read as an empty list
    for body in (b"}" + nested + b"K\x01s.", nested + b"2\x93.", nested + b"2R."):
        refuse(b"\x80\x04" + body, Code.DAMAGED)
    # Claims of bytes that are not there.
    refuse(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", Code.DAMAGED)
    refuse(b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"x.", Code.DAMAGED)
    # A tree of modules that doubles with every level.
    tree = Persistent("M", _buffers={"w": torch.ones(1)})
    for _ in range(40):
        tree = Persistent("M", modules={"a": tree, "b": tree})
    refuse(pickle.dumps({"G": tree}, 4), Code.DAMAGED)
    # Many views of the same numbers.
    big = torch.ones(1_000_000)
    refuse(saved({f"w{i}": big for i in range(40)}, "zip"), Code.DAMAGED)
    refuse(saved({"w": torch.ones(1).expand(1_000_000_000)}, "zip"), Code.DAMAGED)


def test_zip_bomb(refuse):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/data/0", bytes(2**25))
    refuse(file.getvalue(), Code.UNSAFE, f"{2**25 + 4:,}")


def altered(content, change):
    """A zipped torch file with its ``data.pkl`` changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return file.getvalue()


def test_tensors_that_lie_about_their_size(refuse, tmp_path):
    content = saved({"w": torch.ones(4)}, "zip")
    honest = tmp_path / "honest"
    honest.write_bytes(altered(content, lambda data: data))
    assert read_foreign(honest).tensors[""]["w"].tolist() == [1] * 4
    for old, new in (
        (b"K\x04\x85", b"K\x05\x85"),  # the shape (4,) becomes (5,), beyond the storage
        (b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),  # it becomes (-1,)
        (b"K\x04t", b"K\x05t"),  # the storage's count
    ):
        lie = altered(content, lambda data, old=old, new=new: data.replace(old, new))
        assert lie != honest.read_bytes()
        refuse(lie, Code.DAMAGED)


def contents():
    root = Persistent(
        "G", modules={"fc": Persistent("L", _parameters={"w": torch.nn.Parameter(torch.ones(9))})}
    )
    file = io.BytesIO()
    torch.save({"g": state(), "args": argparse.Namespace(a=1)}, file, _use_new_zipfile_serialization=False)
    return {
        "nvidia3": pickle.dumps({"G": root}, 3),
        "nvidia4": pickle.dumps({"G": root, "x": np.float64(1)}, 4),
        "legacy": file.getvalue(),
        "zip": saved({"g": state()}, "zip"),
    }


@pytest.mark.parametrize("kind", ["nvidia3", "nvidia4", "legacy", "zip"])
def test_truncated_and_damaged_files(nvidia, refuse, tmp_path, kind):  # noqa: F811
    content = contents()[kind]
    path = tmp_path / "damaged"
    path.write_bytes(content)
    assert read_foreign(path).tensors
    cuts = {1, 2, 20, len(content) // 2, len(content) - 1, *range(0, len(content), len(content) // 40)}
    for cut in sorted(cuts):
        recognised = cut not in ((1, 2) if kind == "zip" else (1,))
        refuse(content[:cut], Code.DAMAGED if recognised else Code.UNSUPPORTED)
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:  # a changed weight cannot be noticed in a pickle; anything but an FsgenError is a fault
            read_foreign(path)
        except FsgenError as error:
            assert error.exit_code == 2


def test_not_a_checkpoint(refuse, tmp_path):
    refuse(b"", Code.DAMAGED)
    refuse(b"\n<!DOCTYPE html><html>", Code.UNSUPPORTED, "web page")
    refuse(b"\x93NUMPY" + b"garbage" * 9, Code.UNSUPPORTED)
    refuse(b"\x10\x00\x00\x00\x00\x00\x00\x00{broken}.........", Code.DAMAGED)
    refuse(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", Code.UNSUPPORTED)
    refuse(pickle.dumps({"a": 1, "name": "x"}), Code.UNSUPPORTED, "a, name")
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").writestr("a.txt", "x" * 99)
    refuse(file.getvalue(), Code.UNSUPPORTED)
    with refused(Code.NOT_FOUND, tmp_path / "absent.pt"):
        read_foreign(tmp_path / "absent.pt")
    with refused(Code.UNSUPPORTED, tmp_path):
        read_torch(tmp_path)


def test_torchscript_and_whole_modules(refuse):
    file = io.BytesIO(saved({"w": torch.ones(1)}, "zip"))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(archive.namelist()[0].split("/")[0] + "/constants.pkl", b"")
    refuse(file.getvalue(), Code.UNSAFE, "TorchScript")
    refuse(saved(torch.nn.Linear(2, 2), "zip"), Code.UNSAFE, "torch.nn.modules.linear.Linear")
