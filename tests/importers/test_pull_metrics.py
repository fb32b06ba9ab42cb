"""``pull_metrics``: weight files come once, whole, and stay what they were."""

from __future__ import annotations

import hashlib
import json

import pytest
from refusals import refused
from weight_server import weight_server  # noqa: F401

from fsgen.callbacks import Callbacks
from fsgen.errors import Code, FsgenError
from fsgen.features.weight_files import BASE, CATALOGUE
from fsgen.importers.pull import pull_metrics
from fsgen.io import download
from fsgen.io.cache_folders import weights_dir
from fsgen.io.checksums import ledger_path


@pytest.fixture
def server(weight_server):  # noqa: F811
    return weight_server


def sha(body):
    return hashlib.sha256(body).hexdigest()


def stored():
    return sorted(path.name for path in weights_dir().iterdir())


@pytest.mark.parametrize(("everything", "names"), [(False, BASE), (True, tuple(CATALOGUE))])
def test_what_is_absent_is_fetched_once(server, everything, names):
    shown = []
    callbacks = Callbacks(progress=lambda *args: shown.append(args))
    pulled = pull_metrics(everything=everything, callbacks=callbacks)
    assert tuple(one.name for one in pulled) == names and all(one.fetched for one in pulled)
    assert stored() == sorted(CATALOGUE[name].file for name in names)
    for one in pulled:
        body = server.bodies[one.name]
        assert one.path == weights_dir() / CATALOGUE[one.name].file and one.path.read_bytes() == body
        assert (one.bytes, one.sha256) == (len(body), sha(body))
        assert json.loads(ledger_path().read_text())[CATALOGUE[one.name].url]["sha256"] == sha(body)
        assert (one.path.name, len(body), len(body)) in shown
    assert server.asked == [(name, 0) for name in names]

    again = pull_metrics(everything=everything)
    assert [(one.path, one.sha256) for one in again] == [(one.path, one.sha256) for one in pulled]
    assert not any(one.fetched for one in again) and len(server.asked) == len(names)


def test_a_download_that_broke_off_goes_on(server, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 1)
    server.breaks["alexnet"] = 3000
    with pytest.raises(FsgenError) as caught:
        pull_metrics()
    assert caught.value.exit_code == 1 and "alexnet" in caught.value.message
    part = CATALOGUE["alexnet"].file + ".part"
    others = [CATALOGUE["inception"].file, CATALOGUE["vgg16"].file]
    assert stored() == sorted([part, part + ".json", *others]), "one failed, the others are here"
    server.asked.clear()
    pulled = {one.name: one.fetched for one in pull_metrics()}
    assert pulled == {"inception": False, "alexnet": True, "vgg16": False}
    assert server.asked == [("alexnet", 3000)]


def test_a_wrong_file_is_refused_and_the_right_one_taken_later(server):
    right, server.bodies["vgg16"] = server.bodies["vgg16"], b"something else"
    with pytest.raises(FsgenError) as caught:
        pull_metrics()
    assert CATALOGUE["vgg16"].sha256 in caught.value.hint and caught.value.exit_code == 1
    assert CATALOGUE["vgg16"].file not in stored() and len(stored()) == 2
    server.bodies["vgg16"] = right
    assert pull_metrics()[2].sha256 == sha(right)


def test_a_file_that_changed_at_its_address_is_refused(server):
    pulled = pull_metrics()
    pulled[0].path.unlink()
    server.bodies["inception"] = b"something else"  # its name holds no digits: the first download counts
    with pytest.raises(FsgenError) as caught:
        pull_metrics()
    assert sha(b"something else") in caught.value.hint and not pulled[0].path.exists()


@pytest.mark.parametrize("name", ["inception", "vgg16"])
def test_a_file_that_was_damaged_here_is_named(server, name):
    path = next(one.path for one in pull_metrics() if one.name == name)
    path.write_bytes(path.read_bytes()[:-1])
    with refused(Code.CHANGED, path) as caught:
        pull_metrics()
    assert str(path) in caught.value.hint and caught.value.exit_code == 2
    path.unlink()
    assert pull_metrics()


def test_files_of_other_tools_are_used_where_they_are(server, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / CATALOGUE["alexnet"].file).write_bytes(server.bodies["alexnet"])
    pulled = {one.name: one for one in pull_metrics()}
    assert pulled["alexnet"].path.parent == folder and not pulled["alexnet"].fetched
    assert [name for name, _ in server.asked] == ["inception", "vgg16"]


def test_only_those_that_are_named(server):
    pulled = pull_metrics(["swav", "alexnet"])
    assert [one.name for one in pulled] == ["swav", "alexnet"]
    assert stored() == sorted(CATALOGUE[name].file for name in ("swav", "alexnet"))
    with pytest.raises(FsgenError) as caught:
        pull_metrics(["resnet50", "resnet5"])
    assert "'resnet5'" in caught.value.message and "'resnet50'" in caught.value.hint
    assert len(server.asked) == 2  # not even the first of them


def test_timms_are_fetched_from_the_hub(server, tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "fetch_hub", lambda address: asked.append(address) or file)
    asked = []
    (one,) = pull_metrics(["timm:resnet18.tv_in1k"])
    assert asked == ["hf://timm/resnet18.tv_in1k/model.safetensors"] and one.fetched
    assert (one.path, one.sha256) == (file, sha(b"weights")) and "timm:resnet18" in one.used_by
    with pytest.raises(FsgenError) as caught:
        pull_metrics(["timm:resnet81"])
    assert "'resnet81'" in caught.value.message
    folder = tmp_path / "hub" / "models--timm--resnet18.tv_in1k"
    for name, content in (("refs/main", b"abc"), ("snapshots/abc/model.safetensors", b"weights")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(content)
    (again,) = pull_metrics(["timm:resnet18.tv_in1k"])
    assert not again.fetched and len(asked) == 1
