"""``pull``: other people's files become sources; names, terms, refusals; nothing in a file is run."""

from __future__ import annotations

import io
import os
import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from golden_cases import cases
from refusals import refused
from safetensors.torch import load_file, save_file

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, FsgenError
from fsgen.importers.pull import pull
from fsgen.io.catalog import catalog
from fsgen.io.checksums import hash_file
from fsgen.models import model as models

KINDS = ("nvidia-pkl", "nvidia-pkl-torch2", "nvidia-pkl-sg3", "rosinality-sg2")
FILES = [
    pytest.param(case.folder / file, id=f"{case.label}/{file}")
    for case in cases(*KINDS)
    for file in case.files
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "home"


@pytest.fixture
def theirs(tmp_path, tiny):
    """The tiny source's average as a bare state dict of somebody else's."""
    state = models.load_model(tiny).networks["g_ema"]
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "theirs.safetensors")
    return tmp_path / "theirs.safetensors"


def stored(home):
    return sorted(path.name for path in home.rglob("*") if path.is_file())


# ---- what comes in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES)
def test_published_checkpoints_become_sources(home, path):
    said = []
    pulled = pull(str(path), name="mine", callbacks=Callbacks(say=said.append))
    assert pulled.path == home / "sources" / "mine.safetensors" and f"reading {path}" in said
    model = models.load_model("mine")
    assert model.hash == pulled.model.hash and {"g_ema"} <= set(model.networks) <= {"g", "g_ema", "d"}
    provenance = model.about["provenance"]
    assert provenance["sha256"] == hash_file(path) and provenance["file"] == path.name
    assert provenance["notes"] == list(pulled.notes)
    assert any("no discriminator" in note for note in pulled.notes) == ("d" not in model.networks)
    pictures = fsgen.load("mine", device="cpu").sample(2)
    assert pictures.shape == (2, model.spec["channels"], *[model.spec["resolution"]] * 2)
    assert not torch.equal(pictures[0], pictures[1])


def test_a_bare_state_dict(home, theirs, tiny):
    pulled = pull(str(theirs))
    assert pulled.name == "theirs" and set(pulled.model.networks) == {"g_ema"}
    ours = fsgen.load("theirs", device="cpu").sample(3).int()
    assert (ours - fsgen.load(tiny, device="cpu").sample(3).int()).abs().max() <= 1
    assert pulled.model.about["licence"].startswith("unknown")


def test_networks_that_share_their_tensors_become_two(tmp_path, tiny):
    state = models.load_model(tiny).networks["g"]
    torch.save({"g": state, "g_ema": state}, tmp_path / "tied.pt")
    model = models.load_model(pull(str(tmp_path / "tied.pt")).path)
    assert all(torch.equal(value, model.networks["g_ema"][key]) for key, value in model.networks["g"].items())


def test_a_native_file_keeps_what_it_says(tiny):
    pulled = pull(str(tiny), name="copy")
    assert pulled.model.hash == models.load_model(tiny).hash
    assert (
        models.load_model("copy").about["licence"] == "CC0-1.0"
        and models.load_model("copy").about["title"] == "tiny"
    )
    assert load_file(pulled.path).keys() == load_file(tiny).keys()


def test_bundled_sources_are_here_already(home):
    pulled = pull("peeps64")
    assert pulled.path == models.bundled()["peeps64"] and not home.exists()


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a b.v2.pt", "a-b.v2"),
        ("me@work.pt", "me-work"),
        ("x?y.pt", "x-y"),
        ("ünï.pt", "n"),
        (".hid.pt", "hid"),
    ],
)
def test_the_name_is_the_files(tmp_path, theirs, file, name):
    (tmp_path / "at@home").mkdir()
    path = tmp_path / "at@home" / file
    path.write_bytes(theirs.read_bytes())
    assert pull(str(path)).name == name


def test_names_that_are_taken_or_none(home, theirs, tiny):
    pull(str(theirs), name="one")
    before = (home / "sources" / "one.safetensors").read_bytes()
    with refused(Code.EXISTS, "one", "--force"):
        pull(str(tiny), name="one")
    assert (home / "sources" / "one.safetensors").read_bytes() == before
    pull(str(tiny), name="one", force=True)
    assert models.load_model("one").hash == models.load_model(tiny).hash
    for force in (False, True):
        with refused(Code.EXISTS, "peeps64", "--name"):
            pull(str(tiny), name="peeps64", force=force)
    with refused(Code.OUT_OF_RANGE, "..."):
        pull(str(tiny), name="...")


@pytest.mark.parametrize(
    ("source", "code", "named"),
    [
        ("fffhq", Code.UNKNOWN_NAME, "'ffhq'"),
        ("absent.pkl", Code.NOT_FOUND, "absent.pkl"),
        ("some/where", Code.NOT_FOUND, "some/where"),
        ("FOLDER", Code.UNSUPPORTED, "G_ema.pth"),
        ("ftp://x.org/a.pkl", Code.UNSUPPORTED, "ftp://x.org/a.pkl"),
        ("http://x.org/a.pkl", Code.UNSUPPORTED, "http://x.org/a.pkl"),
        ("hf://owner", Code.UNSUPPORTED, "hf://owner"),
    ],
)
def test_nothing_of_that_name(tmp_path, home, source, code, named):
    source = str(tmp_path) if source == "FOLDER" else source
    with refused(code, Path(source).name, named) as caught:
        pull(source)
    assert caught.value.exit_code == 2 and stored(home) == []


# ---- terms and downloads -----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A server of the files in ``tmp_path/www``."""
    (tmp_path / "www").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "www")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def published(monkeypatch, server, tmp_path, theirs):
    """A catalogue entry "ours", for no commercial use, whose file is on the server."""
    from dataclasses import replace

    (tmp_path / "www" / "net.safetensors").write_bytes(theirs.read_bytes())
    entry = replace(catalog()["ffhq"], name="ours", url=f"{server}/net.safetensors", subject="blocks")
    monkeypatch.setattr("fsgen.importers.pull.catalog", lambda: {**catalog(), "ours": entry})
    return entry


def test_terms_are_asked_for_before_anything_is_fetched(home, published):
    asked = []
    with refused(Code.DECLINED, "ours", published.licence, "fsgen pull ours --yes"):
        pull("ours", consent=lambda entry: asked.append(entry))
    assert asked == [published]
    assert stored(home) == []
    shown = []
    callbacks = Callbacks(progress=lambda *args: shown.append(args))
    pulled = pull("ours", consent=lambda entry: True, callbacks=callbacks)
    about = pulled.model.about
    assert about["licence"] == published.licence and about["commercial"] is False
    assert about["subject"] == "blocks" and about["provenance"]["url"] == published.url
    assert shown[-1][0] == "download" and shown[-1][1] == shown[-1][2] > 0


def test_a_file_that_changed_is_refused(home, tmp_path, server, theirs, tiny):
    (tmp_path / "www" / "net.safetensors").write_bytes(theirs.read_bytes())
    assert pull(f"{server}/net.safetensors").name == "net"
    before = (home / "sources" / "net.safetensors").read_bytes()
    (home / "downloads" / "net.safetensors").unlink()
    state = {key: value + 1 for key, value in load_file(theirs).items()}
    save_file(state, tmp_path / "www" / "net.safetensors")
    with refused(Code.CHANGED, f"{server}/net.safetensors") as caught:
        pull(f"{server}/net.safetensors", force=True)
    assert caught.value.exit_code == 2
    assert (home / "sources" / "net.safetensors").read_bytes() == before


def test_a_catalogue_entry_of_another_family(monkeypatch, published):
    from dataclasses import replace

    monkeypatch.setattr(
        "fsgen.importers.pull.catalog",
        lambda: {"ours": replace(published, family="fastgan", commercial=True)},
    )
    with refused(Code.INCOMPATIBLE, "ours.safetensors", "stylegan2", "fastgan"):
        pull("ours")


# ---- refused ---------------------------------------------------------------------------------------------


class Evil:
    """Leaves a file behind if anything in it is called."""

    def __init__(self, call, args):
        self.reduced = (call, args)

    def __reduce__(self):
        return self.reduced


def hostile(mark):
    """Files that would run something, by what they try."""
    touch = f"open({str(mark)!r}, 'w').close()"
    nested = io.BytesIO()
    torch.save({"g_ema": Evil(os.system, (f"touch {mark}",))}, nested)
    return {
        "os.system": pickle.dumps({"G_ema": Evil(os.system, (f"touch {mark}",))}),
        "builtins.eval": pickle.dumps({"G_ema": Evil(eval, (touch,))}),
        "nested": nested.getvalue(),
        "deep": pickle.dumps({"G_ema": [{"x": (1, Evil(exec, (touch,)))}], "D": None}),
        "other": pickle.dumps({"G_ema": Evil(Path, ("x",))}),
    }


@pytest.mark.parametrize("what", ["os.system", "builtins.eval", "nested", "deep", "other"])
def test_hostile_files_are_refused_and_run_nothing(tmp_path, home, what):
    mark = tmp_path / "ran"
    path = tmp_path / "gift.pkl"
    path.write_bytes(hostile(mark)[what])
    with refused(Code.UNSAFE, "gift.pkl") as caught:
        pull(str(path))
    assert caught.value.exit_code == 2
    assert not mark.exists() and stored(home) == []


@pytest.mark.parametrize("cut", [0, 5, 100, -5])
def test_truncated_files(tmp_path, home, theirs, tiny, cut):
    for whole in (theirs, tiny):
        path = tmp_path / f"cut-{whole.name}"
        path.write_bytes(whole.read_bytes()[:cut])
        with refused(Code.DAMAGED if cut in (0, -5) else Code.UNSUPPORTED, path.name) as caught:
            pull(str(path))
        assert caught.value.exit_code == 2 and stored(home) == []


def test_networks_of_no_known_family(tmp_path, home):
    save_file({"conv.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(4)}, tmp_path / "resnet.safetensors")
    with refused(Code.UNSUPPORTED, tmp_path / "resnet.safetensors", "stylegan2"):
        pull(str(tmp_path / "resnet.safetensors"))
    assert stored(home) == []


def test_a_fisher_file_is_not_a_source(tmp_path, home, tiny):
    from fsgen.training import fisher

    fisher.write(
        fisher.fisher(tiny, samples=1, proxy="reconstruction", device="cpu"), tmp_path / "f.safetensors"
    )
    with pytest.raises(FsgenError) as caught:
        pull(str(tmp_path / "f.safetensors"))
    assert "f.safetensors" in caught.value.message


def test_sources_that_come_in_can_be_adapted(tmp_path, home, theirs, drawings):
    pull(str(theirs), name="mine")
    run = fsgen.adapt(drawings, out=tmp_path / "run", source="mine", method="finetune", steps=1, device="cpu")
    assert models.load_model(run).about["source"]["name"] == "mine"  # a name stays a name
