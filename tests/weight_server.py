"""An HTTP server of small stand-ins for weight files; it resumes, and breaks connections on demand."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fsgen.features import weight_files
from fsgen.features.weight_files import CATALOGUE
from fsgen.io import download


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, start = self.path[1:], int((self.headers.get("Range") or "=0-").split("=")[1][:-1])
        self.server.asked.append((name, start))
        body = self.server.bodies[name]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start : self.server.breaks.pop(name, None)])

    def log_message(self, *args):
        pass


@pytest.fixture
def weight_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serve every file of the catalogue; ``FSGEN_HOME`` and the caches of other tools are empty."""
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(weight_files, "_clean_fid_copy", lambda file: None)
    monkeypatch.setattr(download, "PAUSE", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.breaks = [], {}
        server.bodies = {name: name.encode() * 1000 for name in CATALOGUE}
        for name, entry in list(CATALOGUE.items()):
            digits = hashlib.sha256(server.bodies[name]).hexdigest()[: len(entry.sha256)]
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            monkeypatch.setitem(CATALOGUE, name, replace(entry, url=url, sha256=digits))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
