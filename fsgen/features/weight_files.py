"""The feature networks' weight files: where they are published, and where on this machine. Loads no torch."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError, Interrupted, unknown_name

Download = Callable[[str, Path, "str | None"], Path]
"""(url, destination, leading hex digits of its SHA-256 or None) -> the downloaded and checked file."""


@dataclass(frozen=True)
class WeightFile:
    """A published weight file."""

    name: str
    file: str
    url: str
    megabytes: int  # approximate, 10^6 bytes
    used_by: str  # what needs it, for messages
    sha256: str = ""  # leading hex digits, where the file's own name gives them


CATALOGUE = {
    weights.name: weights
    for weights in (
        WeightFile(
            name="inception",
            file="inception-2015-12-05.pt",
            url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
            megabytes=96,
            used_by="FID, KID and other metrics in Inception's features",
        ),
        WeightFile(
            name="alexnet",
            file="alexnet-owt-7be5be79.pth",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            megabytes=244,
            used_by="LPIPS (alex)",
            sha256="7be5be79",
        ),
        WeightFile(
            name="vgg16",
            file="vgg16-397923af.pth",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            megabytes=553,
            used_by="LPIPS (vgg), and the methods bsa and nst",
            sha256="397923af",
        ),
        WeightFile(
            name="inception_pytorch",
            file="pt_inception-2015-12-05-6726825d.pth",
            url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
            megabytes=96,
            used_by="Inception's features in the mode legacy_pytorch",
            sha256="6726825d",
        ),
        WeightFile(
            name="inception_torchvision",
            file="inception_v3_google-0cc3c7bd.pth",
            url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
            megabytes=109,
            used_by="Inception's features in the mode torchvision",
            sha256="0cc3c7bd",
        ),
        WeightFile(
            name="clip",
            file="vit_base_patch32_clip_224.openai.safetensors",  # the Hub's own name is ambiguous
            url="https://huggingface.co/timm/vit_base_patch32_clip_224.openai/resolve/ab5b8ef490e86faa07d3523926b842c765de1de5/open_clip_model.safetensors",
            megabytes=605,
            used_by="CLIP-FID",
        ),
        WeightFile(
            name="dinov2",
            file="dinov2_vitl14_pretrain.pth",
            url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            megabytes=1218,
            used_by="FD-DINOv2",
        ),
        WeightFile(
            name="swav",
            file="swav_800ep_pretrain.pth.tar",
            url="https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
            megabytes=114,  # computed from its tensors
            used_by="instance features, trained without labels",
        ),
        WeightFile(
            name="resnet50",
            file="resnet50-0676ba61.pth",
            url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
            megabytes=103,
            used_by="instance features, trained as a classifier",
            sha256="0676ba61",
        ),
    )
}

BASE = ("inception", "alexnet", "vgg16")
"""Names of the files that the default metrics need."""

_OF_MODE = {"legacy_pytorch": "inception_pytorch", "torchvision": "inception_torchvision"}


def file_for(network: str, mode: str | None = None) -> str:
    """Return the name in ``CATALOGUE`` of the file ``network`` reads; ``mode`` matters for Inception only."""
    return _OF_MODE.get(mode or "", network) if network == "inception" else network


def list_files() -> list[PlainDict]:
    """List all files: name, file, url, megabytes, used_by, and path on this machine or None."""
    columns = ("name", "file", "url", "megabytes", "used_by")
    return [
        {column: getattr(weights, column) for column in columns} | {"path": _search(weights, None)}
        for weights in CATALOGUE.values()
    ]


def downloader(**callbacks: Callable) -> Download:
    """Make a ``Download`` of fsgen's own downloader and its ``progress`` and ``say`` callbacks."""
    from fsgen.io.download import fetch

    return lambda url, destination, sha256: fetch(url, destination, sha256=sha256, **callbacks)


def user_dir(path: str | Path | None) -> Path | None:
    """Resolve ``--weights-dir``, the user's folder of weight files; None where ``path`` is empty.

    Raises:
        FsgenError: no such folder.
    """
    if not path:
        return None
    if not Path(path).is_dir():
        raise FsgenError(
            f"--weights-dir: there is no folder {path}",
            code=Code.NOT_FOUND, where="--weights-dir", hint="name an existing folder, or omit the option",
        )  # fmt: skip
    return Path(path).resolve()


def locate_file(name: str, weights_dir: Path | None = None, download: Download | None = None) -> Path:
    """Locate one weight file: see ``locate_files``."""
    return locate_files([name], weights_dir, download)[name]


def locate_files(
    names: Iterable[str], weights_dir: Path | None = None, download: Download | None = None
) -> dict[str, Path]:
    """Locate weight files by name: in ``weights_dir``, fsgen's own folder, then other tools' caches.

    Args:
        names: keys of ``CATALOGUE``.
        weights_dir: a folder of the user's; downloads go there instead of to fsgen's own.
        download: fetches absent files (``downloader()``); None: no network access.

    Raises:
        FsgenError: unknown name; ``weights_dir`` is no folder; files are absent and not downloaded. The hint
            names each of them, its URL, and where to put it.
    """
    user_dir(weights_dir)
    found: dict[str, Path] = {}
    absent: dict[str, str] = {}  # name -> why it could not be downloaded, or ""
    for name, wanted in {name: _known(name) for name in names}.items():
        path = _search(wanted, weights_dir)
        if path is None and download is not None:
            path, absent[name] = _download(wanted, _home(weights_dir), download)
        if path is None:
            absent.setdefault(name, "")
        else:
            found[name] = path
            absent.pop(name, None)
    if absent:
        raise _missing(absent, _home(weights_dir))
    return found


def _known(name: str) -> WeightFile:
    if name not in CATALOGUE:
        raise unknown_name(f"there are no weights '{name}'", name, CATALOGUE)
    return CATALOGUE[name]


def _home(weights_dir: Path | None) -> Path:
    if weights_dir is not None:
        return weights_dir
    from fsgen.io.cache_folders import weights_dir as home

    return home()


def _torch_checkpoints() -> Path:
    """Return the folder of torchvision's (and lpips') downloads: torch.hub's rule without the import."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", str(Path(cache) / "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"


def _search(weights: WeightFile, weights_dir: Path | None) -> Path | None:
    folders = [] if weights_dir is None else [weights_dir]
    folders += [_home(None), _torch_checkpoints()]
    for folder in folders:
        if (folder / weights.file).is_file():
            return folder / weights.file
    if weights.name == "inception":
        return _clean_fid_copy(weights.file)
    return None


def _clean_fid_copy(file: str) -> Path | None:
    """Find clean-fid's own download, if this user owns it: anybody may put a file into its shared folder."""
    if platform.system() == "Windows":
        return None  # clean-fid uses the working folder there, and files have no owner
    for folder in dict.fromkeys((Path("/tmp"), Path(tempfile.gettempdir()))):
        path = folder / file
        if path.is_file() and path.lstat().st_uid == os.getuid():
            return path
    return None


def _download(weights: WeightFile, folder: Path, download: Download) -> tuple[Path | None, str]:
    """Return the downloaded file, or None and the reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return download(weights.url, folder / weights.file, weights.sha256 or None), ""
    except Interrupted:
        raise
    except FsgenError as error:
        return None, error.message
    except OSError as error:
        return None, str(error)


def _missing(absent: dict[str, str], folder: Path) -> FsgenError:
    by_hand = []
    for name, why in absent.items():
        weights = CATALOGUE[name]
        by_hand.append(f"get {weights.url} ({weights.megabytes} MB) and put it at {folder / weights.file}")
        if why:
            by_hand.append(f"  (the download failed: {why})")
    if any(absent.values()):
        lines = [*by_hand, "or try again: a download resumes where it stopped"]
    else:
        lines = [
            f"fetch them once: fsgen pull metrics {' '.join(absent)}",
            "or name a folder that has the files: --weights-dir",
            f"or {by_hand[0]}",
            *(f"and {line}" for line in by_hand[1:]),
        ]
    needed = "; ".join(f"{CATALOGUE[n].used_by}: {CATALOGUE[n].file}" for n in absent)
    return FsgenError(
        f"weights are not on this machine ({needed})",
        where=", ".join(CATALOGUE[n].file for n in absent),
        hint="\n".join(lines),
        code=Code.DOWNLOAD if any(absent.values()) else Code.MISSING_WEIGHTS,
    )
