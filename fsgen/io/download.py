"""Downloads that resume, are verified (``ledger``), and end as a whole file or not at all.

This module imports no torch; the clients of the Hugging Face Hub and of Google Drive are imported when used,
since importing them takes a while and the latter is an extra.
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
from fsgen.errors import Code, FsgenError
from fsgen.io.cache_folders import make_folder
from fsgen.io.checksums import (
    accept,
    discard,
    disk_error,
    disk_errors,
    disk_full,
    is_downloaded,
    note_path,
    part_path,
    verify,
)

Progress = Callable[[int, "int | None"], None]
"""Called with (bytes so far, bytes in all, or None where the server doesn't say)."""

Say = Callable[[str], None]
"""Called with a line for the person at the terminal."""

CHUNK = 1 << 20  # bytes between two calls of the progress callback
TIMEOUT = 30.0  # seconds without a byte
TRIES = 4  # connections lost in a row, without a byte gained, before giving up
PAUSE = 1.0  # seconds before the second try; doubled for each one after it
BROWSER = "it may ask to log in or to accept terms: fetch it in a browser, then give the file's path"


def fetch(
    url: str,
    dest: Path | str,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """The file at ``url``, as ``dest``; nothing is transferred where ``dest`` is known to be that file.

    Args:
        url: https, or http to this machine itself.
        dest: where to put it; its folder is created. An interrupted download stays beside it and is resumed.
        sha256: hex digest it must have, or its leading digits; without all of it the first download's is
            recorded and held to.

    Raises:
        FsgenError: code 2 where the address or the file is refused (404, 403, a web page, another checksum),
            code 1 where the network or the disk gave out.
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
    """A file of the Hugging Face Hub, ``hf://owner/repo/file[@revision]``, in the Hub's own cache.

    Raises:
        FsgenError: code 2 where the address or the file is refused (absent, gated, another checksum), code 1
            where the network gave out or ``HF_HUB_OFFLINE=1`` keeps off it.
    """
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)/([^@]+?)(?:@([^@]+))?", address)
    if match is None:
        raise FsgenError(
            f"{address} is no file of the Hub", hint="write hf://owner/repo/file or .../file@revision"
        )
    repo, file, revision = match.groups()
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {"library_name": "fsgen", "library_version": fsgen.__version__}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = _bar(progress or _ignore)
    if say:
        say(f"{file} from huggingface.co/{repo}")
    try:
        path = Path(hf_hub_download(repo, file, revision=revision, **options))
    except hub.GatedRepoError as error:
        hint = f"accept them at https://huggingface.co/{repo}, then log in: hf auth login"
        raise FsgenError(f"{address} asks to accept its terms first", hint=hint) from error
    except hub.RevisionNotFoundError as error:
        raise FsgenError(f"huggingface.co/{repo} has no revision '{revision or 'main'}'") from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
        raise _no_hub(address) from error
    except (hub.RepositoryNotFoundError, hub.EntryNotFoundError, hub.HFValidationError) as error:
        hint = "check the address; a private repository needs: hf auth login"
        raise FsgenError(f"the Hub has no file {address}", hint=hint) from error
    except (hub.HfHubHTTPError, OSError) as error:
        raise disk_error(error, Path(getattr(error, "filename", None) or file)) or _no_hub(address) from error
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
    """A file of Google Drive, by id or link, as ``dest``; through gdown, an extra.

    Raises:
        FsgenError: code 2 where gdown is absent, the address is none of Drive's, or the file has another
            checksum; code 1 where Drive would not send it.
    """
    key = drive_id(address)
    if key is None:
        raise FsgenError(f"{address} is no Google Drive id or link")
    dest = Path(dest)
    if is_downloaded(f"drive:{key}", dest, sha256):
        return dest
    link = f"https://drive.google.com/file/d/{key}/view"
    try:
        import gdown
    except ImportError as error:
        hint = f"pip install fsgen[drive], or fetch {link} in a browser and give the file's path"
        raise FsgenError(f"{dest.name} is on Google Drive ({link}), which needs gdown", hint=hint) from error
    part = part_path(dest)
    make_folder(dest.parent)
    if say:
        say(f"{dest.name} from {link}")
    wanted = {"quiet": True, "resume": True, "use_cookies": False, "progress": progress, "timeout": TIMEOUT}
    known = inspect.signature(gdown.download).parameters
    try:
        gdown.download(id=key, output=str(part), **{k: v for k, v in wanted.items() if k in known})
    except Exception as error:  # gdown lets requests' errors through, besides its own
        raise disk_error(error, part) or _no_drive(dest, link, error) from error
    if not part.is_file():
        raise _no_drive(dest, link, "no file came")
    return accept(f"drive:{key}", part, dest, sha256)


def fetch_any(
    address: str,
    dest: Path | str,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """Whatever ``address`` is: ``hf://...`` (left in the Hub's cache), a Drive id or link, or https."""
    if address.startswith("hf://"):
        return fetch_hub(address, sha256=sha256, progress=progress, say=say)
    how = fetch_drive if drive_id(address) else fetch
    return how(address, dest, sha256=sha256, progress=progress, say=say)


def drive_id(address: str) -> str | None:
    """The id in a Google Drive link, ``drive:ID`` or bare id; None where ``address`` is none of these."""
    if "://" in address:
        if urlsplit(address).hostname not in (
            "drive.google.com",
            "docs.google.com",
            "drive.usercontent.google.com",
        ):
            return None
        match = re.search(r"(?:/d/|[?&]id=)([\w-]{20,})", address)
    else:
        match = re.fullmatch(r"drive:([\w-]{20,})|((?:1[\w-]{32})|(?:0B[\w-]{26}))", address)
    return match and next(filter(None, match.groups()))


def _no_hub(address: str) -> FsgenError:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    why = "and HF_HUB_OFFLINE keeps fsgen off the network" if offline else "and the Hub cannot be reached"
    hint = "unset HF_HUB_OFFLINE" if offline else "check the connection and try again"
    return FsgenError(f"{address} is not on this machine, {why}", hint=hint, code=Code.DOWNLOAD)


def _no_drive(dest: Path, link: str, reason: object) -> FsgenError:
    # What requests raises is an OSError and long; gdown's own errors are not, and worth reading.
    why = "it cannot be reached" if isinstance(reason, OSError) else " ".join(str(reason).split())[:200]
    hint = f"Drive limits popular files: try later, or fetch {link} in a browser and give the file's path"
    return FsgenError(f"Google Drive would not send {dest.name} ({why})", hint=hint, code=Code.DOWNLOAD)


def _bar(progress: Progress) -> type:
    """The Hub's progress bar, silent, handing its numbers on."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress(int(self.n), None if self.total is None else int(self.total))

    return Bar


def _ignore(done: int, total: int | None) -> None:
    """No one watches the progress."""


# ---- the transfer -----------------------------------------------------------------------------------------


class _Lost(Exception):
    """The connection or the server failed in a way that a later try may not."""


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
        raise FsgenError(f"{url} is no https address", hint="fsgen downloads over https only")


def _transfer(url: str, part: Path, progress: Progress, say: Say) -> None:
    """All bytes of ``url`` into ``part``, whatever number of connections it takes."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part, progress, say)
        except _Lost as lost:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= TRIES:
                raise FsgenError(
                    f"{url} could not be downloaded: {lost}",
                    hint="check the connection and try again: the download goes on where it stopped",
                    code=Code.DOWNLOAD,
                ) from lost
            pause = PAUSE * 2 ** (failures - 1)
            say(f"{part.name.removesuffix('.part')}: {lost}; trying again in {pause:g} s")
            time.sleep(pause)


def _receive(url: str, part: Path, progress: Progress, say: Say) -> None:
    """One connection: what is missing of ``part``, or all of it where the server offers no more than that."""
    have, validator = _resumable(url, part)
    headers = {"User-Agent": f"fsgen/{fsgen.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = build_opener(_Redirects).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it was here already
            raise _refused(url, error.code, part) from error
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from error
    with response:
        start = _start(response, have, part)
        if start:
            say(f"{part.name.removesuffix('.part')}: going on at {start / 1e6:.1f} MB")
        else:
            _begin(url, response, part)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        _check_room(part, total, start)
        done = _copy(response, part, start, total, progress)
    if total is not None and done < total:
        raise _Lost(f"the connection broke off at {done / 1e6:.1f} of {total / 1e6:.1f} MB")


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """(bytes we hold, the server's name for the version they belong to), or (0, "")."""
    with suppress(OSError, ValueError, KeyError):
        note = json.loads(note_path(part).read_text("utf-8"))
        if note["url"] == url and note["validator"]:
            return _size(part), note["validator"]
    return 0, ""


def _start(response: HTTPResponse, have: int, part: Path) -> int:
    """Where in the file the response begins: at ``have``, or at 0 where the server sends all of it."""
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise FsgenError(
            f"{response.url} sent a web page instead of a file",
            hint=BROWSER,
        )
    if response.status != 206:
        return 0
    if not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
        discard(part)
        raise _Lost("the server sent another part than asked for")
    return have


def _begin(url: str, response: HTTPResponse, part: Path) -> None:
    """Start over, noting the version: a strong ETag, or the date. Without either there is no resuming."""
    etag = response.headers.get("ETag") or ""
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
    with disk_errors(part):
        discard(part)
        note_path(part).write_text(json.dumps({"url": url, "validator": validator}), "utf-8")


def _check_room(part: Path, total: int | None, start: int) -> None:
    need = (total or 0) - start
    if need > shutil.disk_usage(part.parent).free:
        raise disk_full(part, f", {need / 1e6:.0f} MB more")


def _copy(response: HTTPResponse, part: Path, done: int, total: int | None, progress: Progress) -> int:
    """The response's body, appended to ``part``; the size reached."""
    with disk_errors(part):
        file = part.open("ab")
    with file:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, HTTPException) as error:
                raise _Lost("the connection broke off") from error
            if not chunk:
                return done
            with disk_errors(part):
                file.write(chunk)
                file.flush()
            done += len(chunk)
            progress(done, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _refused(url: str, status: int, part: Path) -> Exception:
    """What an HTTP status means, in words."""
    if status == 416:
        discard(part)
        return _Lost("the server cannot go on where the download stopped")
    if status in (408, 425, 429) or status >= 500:
        return _Lost(f"the server answers {status}")
    if status in (404, 410):
        return FsgenError(f"there is no file at {url} ({status})", hint="check the address")
    if status in (401, 403):
        return FsgenError(
            f"{url} refuses the download ({status})",
            hint=BROWSER,
        )
    return FsgenError(f"{url} answers {status} instead of sending the file", hint="check the address")


def _unreachable(url: str, error: Exception) -> Exception:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return FsgenError(
            f"{url} cannot be trusted: {reason.verify_message}",
            hint="check the address and this machine's clock and certificates",
            code=Code.DOWNLOAD,
        )
    return _Lost(f"{urlsplit(url).hostname} cannot be reached ({reason})")
