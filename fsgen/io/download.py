"""Resumable, verified, atomic downloads from https, the Hugging Face Hub and Google Drive. No torch.

The Hub's and Drive's clients are imported on use: the first is slow to import, the second an extra.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import fsgen
from fsgen.atomic import disk_error, explain_errors
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.io.cache_folders import make_folder
from fsgen.io.checksums import accept, discard, is_downloaded, note_path, part_path, verify

Progress = Callable[[int, int | None], None]
"""Callback: (bytes so far, total bytes or None if unknown)."""

Say = Callable[[str], None]
"""Callback: one line for the terminal."""

CHUNK = 1 << 20  # bytes between two progress calls
DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
TIMEOUT = 30.0  # seconds without a byte
TRIES = 4  # consecutive connections without a new byte before giving up
PAUSE = 1.0  # seconds before the second try; doubled for each further one
BROWSER = "it may require a login or acceptance of terms: download it in a browser, then pass the file's path"


def fetch(
    url: str,
    dest: Path | str,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """Download ``url`` to ``dest``, unless ``dest`` has the known checksum already.

    Args:
        url: https, or http on this machine.
        dest: destination; its folder is created. An interrupted download is kept beside it and resumed.
        sha256: required hex digest, or its leading digits; without a full digest, that of the first download
            is recorded and required later.

    Raises:
        FsgenError: refused address or file (exit code 2: 404, 403, a web page, a wrong checksum); failed
            network or disk (1).
    """
    _check_scheme(url)
    dest = Path(dest)
    if is_downloaded(url, dest, sha256):
        return dest
    make_folder(dest.parent)
    part = part_path(dest)
    _transfer(url, part, progress or _ignore, say or (lambda line: None))
    return accept(url, part, dest, sha256)


def fetch_hub(
    address: str, *, sha256: str | None = None, progress: Progress | None = None, say: Say | None = None
) -> Path:
    """Download ``hf://owner/repo/file[@revision]`` from the Hugging Face Hub to the Hub's own cache.

    Raises:
        FsgenError: refused address or file (exit code 2: absent, gated, a wrong checksum); failed network or
            ``HF_HUB_OFFLINE=1`` (1).
    """
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)/([^@]+?)(?:@([^@]+))?", address)
    if match is None:
        message, hint = f"{address} is not a file of the Hub", "use hf://owner/repo/file or .../file@revision"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=address, hint=hint)
    repo, file, revision = match.groups()
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    options: PlainDict = {"library_name": "fsgen", "library_version": fsgen.__version__}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = _bar(progress or _ignore)
    if say:
        say(f"downloading {file} from huggingface.co/{repo}")
    try:
        path = Path(hf_hub_download(repo, file, revision=revision, **options))
    except hub.GatedRepoError as error:
        message = f"{address} requires acceptance of its terms"
        hint = f"accept them at https://huggingface.co/{repo}, then log in: hf auth login"
        raise FsgenError(message, code=Code.DECLINED, where=address, hint=hint) from error
    except hub.RevisionNotFoundError as error:
        message = f"huggingface.co/{repo} has no revision '{revision or 'main'}'"
        raise FsgenError(message, code=Code.NOT_FOUND, where=address) from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
        raise _hub_failure(address) from error
    except (hub.RepositoryNotFoundError, hub.EntryNotFoundError, hub.HFValidationError) as error:
        message = f"the Hub has no file {address}"
        hint = "check the address; a private repository needs: hf auth login"
        raise FsgenError(message, code=Code.NOT_FOUND, where=address, hint=hint) from error
    except (hub.HfHubHTTPError, OSError) as error:
        written = Path(getattr(error, "filename", None) or file)
        raise disk_error(error, written) or _hub_failure(address) from error
    verify(address, path, sha256)
    return path


def fetch_drive(
    address: str,
    dest: Path | str,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """Download a Google Drive id or link to ``dest`` with gdown, an extra.

    Raises:
        FsgenError: gdown missing, not a Drive address, wrong checksum (exit code 2); Drive did not send the
            file (1).
    """
    key = drive_id(address)
    if key is None:
        message = f"{address} is not a Google Drive id or link"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=address)
    dest = Path(dest)
    if is_downloaded(f"drive:{key}", dest, sha256):
        return dest
    link = f"https://drive.google.com/file/d/{key}/view"
    try:
        import gdown
    except ImportError as error:
        message = f"{dest.name} is on Google Drive ({link}), which needs gdown"
        hint = f"pip install fsgen[drive], or download {link} in a browser and pass the file's path"
        raise FsgenError(message, code=Code.MISSING_PACKAGE, where="gdown", hint=hint) from error
    part = part_path(dest)
    make_folder(dest.parent)
    if say:
        say(f"downloading {dest.name} from {link}")
    wanted = {"quiet": True, "resume": True, "use_cookies": False, "progress": progress, "timeout": TIMEOUT}
    known = inspect.signature(gdown.download).parameters
    try:
        gdown.download(id=key, output=str(part), **{k: v for k, v in wanted.items() if k in known})
    except Exception as error:  # gdown raises requests' errors besides its own
        raise disk_error(error, part) or _drive_failure(dest, link, error) from error
    if not part.is_file():
        raise _drive_failure(dest, link, "no file arrived")
    return accept(f"drive:{key}", part, dest, sha256)


def fetch_any(
    address: str,
    dest: Path | str,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """Download ``hf://...`` (to the Hub's cache), a Drive id or link, or https to ``dest``."""
    if address.startswith("hf://"):
        return fetch_hub(address, sha256=sha256, progress=progress, say=say)
    download = fetch_drive if drive_id(address) else fetch
    return download(address, dest, sha256=sha256, progress=progress, say=say)


def drive_id(address: str) -> str | None:
    """Extract the id from a Google Drive link, ``drive:ID`` or bare id; None for other addresses."""
    if "://" in address:
        if urlsplit(address).hostname not in DRIVE_HOSTS:
            return None
        match = re.search(r"(?:/d/|[?&]id=)([\w-]{20,})", address)
    else:
        match = re.fullmatch(r"drive:([\w-]{20,})|((?:1[\w-]{32})|(?:0B[\w-]{26}))", address)
    return match and next(filter(None, match.groups()))


def _hub_failure(address: str) -> FsgenError:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    why = "HF_HUB_OFFLINE disables the network" if offline else "the Hub cannot be reached"
    hint = "unset HF_HUB_OFFLINE" if offline else "check the connection and try again"
    message = f"{address} is not on this machine, and {why}"
    return FsgenError(message, code=Code.DOWNLOAD, where=address, hint=hint)


def _drive_failure(dest: Path, link: str, reason: object) -> FsgenError:
    # requests raises OSErrors with long texts; gdown's own errors are informative.
    why = "it cannot be reached" if isinstance(reason, OSError) else " ".join(str(reason).split())[:200]
    message = f"Google Drive did not send {dest.name} ({why})"
    hint = f"Drive limits popular files: try later, or download {link} in a browser and pass the file's path"
    return FsgenError(message, code=Code.DOWNLOAD, where=link, hint=hint)


def _bar(progress: Progress) -> type:
    """Silent version of the Hub's progress bar that calls ``progress``."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress(int(self.n), None if self.total is None else int(self.total))

    return Bar


def _ignore(done: int, total: int | None) -> None:
    """Default progress callback: do nothing."""


# ---- transfer ---------------------------------------------------------------------------------------------


class _Lost(Exception):
    """Temporary failure of the connection or the server, worth another try."""


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        message, hint = f"{url} is not an https address", "fsgen downloads over https only"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=url, hint=hint)


def _transfer(url: str, part: Path, progress: Progress, say: Say) -> None:
    """Download all of ``url`` into ``part``, reconnecting where necessary."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part, progress, say)
        except _Lost as lost:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= TRIES:
                message = f"{url} could not be downloaded: {lost}"
                hint = "check the connection and try again: the download resumes where it stopped"
                raise FsgenError(message, code=Code.DOWNLOAD, where=url, hint=hint) from lost
            pause = PAUSE * 2 ** (failures - 1)
            say(f"{part.stem}: {lost}; trying again in {pause:g} s")
            time.sleep(pause)


def _receive(url: str, part: Path, progress: Progress, say: Say) -> None:
    """Download the rest of ``part`` over one connection, or all of it if the server supports no ranges."""
    done, validator = _resumable(url, part)
    headers = {"User-Agent": f"fsgen/{fsgen.__version__}", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    try:
        response = build_opener(_Redirects).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{done}":
                return  # the part is complete
            raise _status_error(url, error.code, part) from error
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from error
    with response:
        start = _start(response, done, part)
        if start:
            say(f"{part.stem}: resuming at {start / 1e6:.1f} MB")
        else:
            _begin(url, response, part)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        _check_room(part, total, start)
        done = _copy(response, part, start, total, progress)
    if total is not None and done < total:
        raise _Lost(f"the connection broke off at {done / 1e6:.1f} of {total / 1e6:.1f} MB")


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """Size of the partial download and the server's validator of its version; (0, "") if none."""
    with suppress(OSError, ValueError, KeyError):
        note = json.loads(note_path(part).read_text("utf-8"))
        if note["url"] == url and note["validator"]:
            return _size(part), note["validator"]
    return 0, ""


def _start(response: HTTPResponse, done: int, part: Path) -> int:
    """Offset of the response in the file: ``done``, or 0 if the server sends all of it."""
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        message = f"{response.url} sent a web page instead of a file"
        raise FsgenError(message, code=Code.UNSUPPORTED, where=response.url, hint=BROWSER)
    if response.status != 206:
        return 0
    if not (response.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
        discard(part)
        raise _Lost("the server sent a different part than requested")
    return done


def _begin(url: str, response: HTTPResponse, part: Path) -> None:
    """Start over and record the version (strong ETag, or date), without which nothing can be resumed."""
    etag = response.headers.get("ETag") or ""
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
    with explain_errors(part):
        discard(part)
        note_path(part).write_text(json.dumps({"url": url, "validator": validator}), "utf-8")


def _check_room(part: Path, total: int | None, start: int) -> None:
    need = (total or 0) - start
    if need > shutil.disk_usage(part.parent).free:
        message = f"the disk is full: {part.parent} has no room for {need / 1e6:.0f} MB more of {part.stem}"
        raise FsgenError(message, code=Code.SYSTEM, where=part.parent, hint="free some space and try again")


def _copy(response: HTTPResponse, part: Path, done: int, total: int | None, progress: Progress) -> int:
    """Append the response's body to ``part``; return the size reached."""
    with explain_errors(part):
        file = part.open("ab")
    with file:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, HTTPException) as error:
                raise _Lost("the connection broke off") from error
            if not chunk:
                return done
            with explain_errors(part):
                file.write(chunk)
                file.flush()
            done += len(chunk)
            progress(done, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _status_error(url: str, status: int, part: Path) -> Exception:
    """Convert an HTTP status to an exception."""
    if status == 416:
        discard(part)
        return _Lost("the server cannot resume the download")
    if status in (408, 425, 429) or status >= 500:
        return _Lost(f"the server answers {status}")
    code, hint = Code.UNSUPPORTED, BROWSER if status in (401, 403) else "check the address"
    if status in (404, 410):
        code = Code.NOT_FOUND
    return FsgenError(f"the server refuses to send {url} ({status})", code=code, where=url, hint=hint)


def _unreachable(url: str, error: Exception) -> Exception:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        message = f"{url} has no valid certificate: {reason.verify_message}"
        hint = "check the address and this machine's clock and certificates"
        return FsgenError(message, code=Code.DOWNLOAD, where=url, hint=hint)
    return _Lost(f"{urlsplit(url).hostname} cannot be reached ({reason})")
