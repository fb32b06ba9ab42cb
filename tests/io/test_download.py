"""Downloads from a local server that breaks connections, changes files and sends wrong ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import types
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from refusals import refused

from fsgen.errors import Code
from fsgen.io import download
from fsgen.io.checksums import ledger_path
from fsgen.io.download import drive_id, fetch, fetch_any, fetch_drive, fetch_hub

BODY = bytes(range(256)) * 4000


def sha(body):
    return hashlib.sha256(body).hexdigest()


@dataclass
class File:
    body: bytes = BODY
    etag: str | None = '"one"'
    date: str | None = None
    ranges: bool = True
    kind: str = "application/octet-stream"
    breaks: list[int] = field(default_factory=list)  # bytes after which each next connection breaks off
    statuses: list[int] = field(default_factory=list)  # of the next answers, instead of the file
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)  # sent with every answer


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        self.server.asked.append((self.path, self.headers.get("Range")))
        file = self.server.files.get(self.path.split("?")[0], File(statuses=[404]))
        if file.location:
            return self.answer(302, Location=file.location)
        if file.statuses:
            return self.answer(file.statuses.pop(0), **file.headers)
        start = self.start(file)
        if start and start >= len(file.body):
            return self.answer(416, Content_Range=f"bytes */{len(file.body)}")
        part = file.body[start:]
        headers = {"ETag": file.etag, "Last-Modified": file.date, **file.headers}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(file.body) - 1}/{len(file.body)}"
        self.answer(206 if start else 200, len(part), Content_Type=file.kind, **headers)
        if body:
            self.wfile.write(part[: file.breaks.pop(0)] if file.breaks else part)

    def start(self, file):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not asked or not file.ranges or self.headers.get("If-Range") not in (None, file.etag, file.date):
            return 0
        return int(asked[1])

    def answer(self, status, length=0, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": length, **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(download, "CHUNK", 100_000)
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = {"/a.pkl": File()}, []
        server.handle_error = lambda *_: None  # of clients that hang up
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files(folder):
    return {path.name for path in folder.iterdir()} - {"home"}


# ---- what goes well ----------------------------------------------------------------------------------


def test_a_file_its_progress_and_its_record(server, tmp_path):
    seen = []
    dest = tmp_path / "new" / "a.pkl"
    assert fetch(f"{server.url}/a.pkl", dest, progress=lambda *at: seen.append(at)) == dest
    assert dest.read_bytes() == BODY and files(dest.parent) == {"a.pkl"}
    assert seen[-1] == (len(BODY), len(BODY)) and seen == sorted(seen) and len(seen) > 5
    assert json.loads(ledger_path().read_text())[f"{server.url}/a.pkl"]["sha256"] == sha(BODY)
    asked = len(server.asked)
    fetch(f"{server.url}/a.pkl", dest)
    assert len(server.asked) == asked, "fetched what was here"
    dest.write_bytes(b"something else")
    fetch(f"{server.url}/a.pkl", dest)
    assert dest.read_bytes() == BODY


def test_a_published_checksum_needs_no_record(server, tmp_path):
    for digest in (sha(BODY), sha(BODY).upper()):
        fetch(f"{server.url}/a.pkl", tmp_path / "a", sha256=digest)
    assert len(server.asked) == 1 and not ledger_path().exists()


@pytest.mark.parametrize(
    "validator", [{"etag": '"one"'}, {"etag": None, "date": "Mon, 01 Jan 2024 00:00:00 GMT"}]
)
def test_broken_connections_are_resumed(server, tmp_path, validator):
    server.files["/a.pkl"] = File(breaks=[300_000, 0, 200_000], **validator)
    said = []
    fetch(f"{server.url}/a.pkl", tmp_path / "a", say=said.append)
    assert (tmp_path / "a").read_bytes() == BODY
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]
    assert len([line for line in said if "0.3 MB" in line]) == 2 and any("0.5 MB" in line for line in said)


def interrupted(server, tmp_path, monkeypatch, **options):
    """A download that stopped at 300,000 bytes; the next one will not break."""
    server.files["/a.pkl"] = File(breaks=[300_000], **options)
    with monkeypatch.context() as patch:
        patch.setattr(download, "TRIES", 1)
        with refused(Code.DOWNLOAD, f"{server.url}/a.pkl", "0.3 of 1.0 MB") as caught:
            fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert caught.value.exit_code == 1
    assert files(tmp_path) == {"a.part", "a.part.json"}
    server.asked.clear()


def test_a_later_run_resumes(server, tmp_path, monkeypatch):
    interrupted(server, tmp_path, monkeypatch)
    fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert server.asked == [("/a.pkl", "bytes=300000-")]
    assert (tmp_path / "a").read_bytes() == BODY and files(tmp_path) == {"a"}


@pytest.mark.parametrize(
    "change",
    [
        {"etag": '"two"', "body": BODY[::-1]},  # changed meanwhile
        {"ranges": False},  # the server knows no ranges
        {"body": BODY[:1000]},  # shorter than what we hold: 416
    ],
)
def test_starting_over(server, tmp_path, monkeypatch, change):
    interrupted(server, tmp_path, monkeypatch)
    server.files["/a.pkl"] = File(**change)
    fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == change.get("body", BODY)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_no_resuming_what_cannot_be_told_apart(server, tmp_path, monkeypatch, etag):
    interrupted(server, tmp_path, monkeypatch, etag=etag)
    fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert server.asked == [("/a.pkl", None)]


def test_another_address_for_the_same_place_starts_over(server, tmp_path, monkeypatch):
    interrupted(server, tmp_path, monkeypatch)
    server.files["/b.pkl"] = File(body=BODY[::-1])
    fetch(f"{server.url}/b.pkl", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY[::-1]


def test_killed_between_the_last_byte_and_the_rename(server, tmp_path, monkeypatch):
    interrupted(server, tmp_path, monkeypatch)
    (tmp_path / "a.part").write_bytes(BODY)
    fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY and len(server.asked) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.files["/a.pkl"] = File(statuses=[503, 429])
    fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


# ---- what is refused ---------------------------------------------------------------------------------


def test_a_wrong_checksum(server, tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with refused(Code.CHANGED, f"{server.url}/a.pkl", sha(b"other"), sha(BODY)) as caught:
        fetch(f"{server.url}/a.pkl", tmp_path / "a", sha256=sha(b"other"))
    assert caught.value.exit_code == 2
    assert (tmp_path / "a").read_bytes() == b"mine" and files(tmp_path) == {"a"}


def test_a_later_change(server, tmp_path):
    fetch(f"{server.url}/a.pkl", tmp_path / "a")
    server.files["/a.pkl"] = File(body=b"new", etag='"two"')
    with refused(Code.CHANGED, f"{server.url}/a.pkl", ledger_path()):
        fetch(f"{server.url}/a.pkl", tmp_path / "b")
    assert files(tmp_path) == {"a"}
    ledger_path().unlink()
    assert fetch(f"{server.url}/a.pkl", tmp_path / "b").read_bytes() == b"new"


def test_a_damaged_record_is_not_ignored(server, tmp_path):
    fetch(f"{server.url}/a.pkl", tmp_path / "a")
    ledger_path().write_text("{")
    with refused(Code.DAMAGED, ledger_path()):
        fetch(f"{server.url}/a.pkl", tmp_path / "b")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, Code.NOT_FOUND),
        (410, Code.NOT_FOUND),
        (401, Code.UNSUPPORTED),
        (403, Code.UNSUPPORTED),
        (400, Code.UNSUPPORTED),
        (500, Code.DOWNLOAD),
    ],
)
def test_statuses(server, tmp_path, status, code):
    server.files["/a.pkl"] = File(statuses=[status] * 9)
    with refused(code, status, f"{server.url}/a.pkl") as caught:
        fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert caught.value.exit_code == (1 if status == 500 else 2)
    assert len(server.asked) == (download.TRIES if status == 500 else 1)
    assert not (tmp_path / "a").exists()


def test_a_web_page(server, tmp_path):
    server.files["/a.pkl"] = File(kind="text/html; charset=utf-8")
    with refused(Code.UNSUPPORTED, f"{server.url}/a.pkl", "web page", "browser"):
        fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert files(tmp_path) == set()


def test_only_https(server, tmp_path):
    for url in ("http://example.org/a", "ftp://example.org/a", (tmp_path / "x").as_uri(), "a.pkl"):
        with refused(Code.UNSUPPORTED, url, "https"):
            fetch(url, tmp_path / "a")
    for place, named in (("http://example.org/a", "http://example.org/a"), ("file:///etc/hostname", "302")):
        server.files["/away"] = File(location=place)
        with refused(Code.UNSUPPORTED, named):
            fetch(f"{server.url}/away", tmp_path / "a")
    server.files["/moved"] = File(location="/a.pkl")
    assert fetch(f"{server.url}/moved", tmp_path / "a").read_bytes() == BODY


def test_nobody_there(tmp_path):
    with refused(Code.DOWNLOAD, "http://127.0.0.1:9/a", "connection"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download, "_begin", lambda url, response, part: part.symlink_to("/dev/full"))
        with refused(Code.SYSTEM, tmp_path / "a"):
            fetch(f"{server.url}/a.pkl", tmp_path / "a")
    (tmp_path / "a.part").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
    with refused(Code.SYSTEM, tmp_path, "1 MB") as caught:
        fetch(f"{server.url}/a.pkl", tmp_path / "a")
    assert caught.value.exit_code == 1


def test_a_file_where_the_folder_should_be(server, tmp_path):
    (tmp_path / "file").write_text("x")
    with refused(Code.UNWRITABLE, tmp_path / "file"):
        fetch(f"{server.url}/a.pkl", tmp_path / "file" / "a")


# ---- Google Drive ------------------------------------------------------------------------------------

ID = "1" + "aB3_-xyz" * 4


@pytest.mark.parametrize(
    "address",
    [
        ID,
        f"drive:{ID}",
        f"https://drive.google.com/file/d/{ID}/view?usp=sharing",
        f"https://drive.google.com/uc?export=download&id={ID}",
        f"https://drive.usercontent.google.com/download?id={ID}&confirm=t",
    ],
)
def test_drive_addresses(address):
    assert drive_id(address) == ID


@pytest.mark.parametrize(
    "address", ["ffhq", "a-local-file-with-a-long-name-of-its-own", f"https://example.org/d/{ID}/"]
)
def test_other_addresses(address):
    assert drive_id(address) is None


def test_drive_without_gdown(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    link = f"https://drive.google.com/file/d/{ID}/view"
    with refused(Code.MISSING_PACKAGE, "gdown", "a.pt", link, "pip install fsgen[drive]"):
        fetch_any(ID, tmp_path / "a.pt")


def test_drive_with_gdown(tmp_path, monkeypatch):
    body, calls, seen = b"one", [], []

    def get(id, output, quiet=False, progress=None):
        calls.append(id)
        if body is None:
            raise RuntimeError("Too many users\n have viewed it")
        Path(output).write_bytes(body)
        if progress:
            progress(len(body), None)
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=get))
    dest = tmp_path / "new" / "a.pt"
    for _ in range(2):
        assert fetch_drive(ID, dest, progress=lambda *at: seen.append(at)).read_bytes() == b"one"
    assert calls == [ID] and seen == [(3, None)] and files(dest.parent) == {"a.pt"}
    body = b"two"
    with refused(Code.CHANGED, f"drive:{ID}", sha(b"one"), sha(b"two")):
        fetch_drive(f"drive:{ID}", tmp_path / "b.pt")
    with refused(Code.CHANGED, f"drive:{ID}", sha(b"one")):
        fetch_drive(ID, tmp_path / "c.pt", sha256=sha(b"one"))
    body = None
    with refused(Code.DOWNLOAD, "d.pt", "Too many users have viewed it"):
        fetch_drive(ID, tmp_path / "d.pt")
    assert files(tmp_path) == {"new"}


# ---- the Hugging Face Hub ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["hf://owner/file", "hf://owner", "hf://owner/repo/", "hf://o/r/f@", "https://x"]
)
def test_hub_addresses(address):
    with refused(Code.UNSUPPORTED, address, "hf://owner/repo/file"):
        fetch_hub(address)


HUB = """
import json, sys
from fsgen.errors import FsgenError
from fsgen.io.download import fetch_any
for address in sys.argv[1:]:
    seen = []
    try:
        path = fetch_any(address, "unused", progress=lambda *at: seen.append(at))
        print(json.dumps([open(path, "rb").read().decode(), seen[-1:]]))
    except FsgenError as error:
        print(json.dumps([error.code.value, str(error)]))
"""


def test_hub(server, tmp_path):
    """In a process of its own, since the client reads its environment when it is imported."""
    text, other = "weights" * 99, "1" * 40
    for revision, body in (("main", text), (other, "other")):
        commit = "0" * 40 if revision == "main" else revision
        server.files[f"/owner/repo/resolve/{revision}/dir/a.pt"] = File(
            body.encode(), f'"{sha(body.encode())}"', headers={"X-Repo-Commit": commit}
        )
    errors = {
        "owner/repo/none.pt": (404, "EntryNotFound", Code.NOT_FOUND, "owner/repo/none.pt"),
        "owner/repo/a.pt@old": (404, "RevisionNotFound", Code.NOT_FOUND, "'old'"),
        "owner/absent/a.pt": (404, "RepoNotFound", Code.NOT_FOUND, "owner/absent/a.pt"),
        "owner/gated/a.pt": (403, "GatedRepo", Code.DECLINED, "owner/gated/a.pt"),
    }
    for address, (status, code, *_) in errors.items():
        repo, file, revision = re.fullmatch(r"(\w+/\w+)/([\w.]+)@?(\w*)", address).groups()
        server.files[f"/{repo}/resolve/{revision or 'main'}/{file}"] = File(
            statuses=[status] * 9, headers={"X-Error-Code": code}
        )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}

    def run(*addresses, **more):
        done = subprocess.run(
            [sys.executable, "-c", HUB, *addresses],
            env={**env, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return [json.loads(line) for line in done.stdout.splitlines()]

    pinned = f"hf://owner/repo/dir/a.pt@{other}"
    there, older, *refusals = run("hf://owner/repo/dir/a.pt", pinned, *(f"hf://{e}" for e in errors))
    assert there == [text, [[len(text), len(text)]]]
    assert older[0] == "other"
    for (code, said), (_, _, expected, named) in zip(refusals, errors.values(), strict=True):
        assert code == expected.value and named in said
    recorded = json.loads(ledger_path().read_text())
    assert recorded["hf://owner/repo/dir/a.pt"]["sha256"] == sha(text.encode())
    here, away = run("hf://owner/repo/dir/a.pt", "hf://owner/repo/b.pt", HF_HUB_OFFLINE="1")
    assert here[0] == text
    assert away[0] == Code.DOWNLOAD.value and "HF_HUB_OFFLINE" in away[1] and "\n" in away[1]
