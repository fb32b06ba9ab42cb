"""Read a foreign checkpoint: the first row of ``READERS`` that recognises it. Nothing in it is executed.

The result goes to ``Family.recognise``, then ``Family.convert``; see ``pull.import_file``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fsgen.errors import Code, FsgenError
from fsgen.importers import archives, pickles
from fsgen.interfaces import Foreign

HEAD = 262  # bytes that a sniffer gets: up to the end of a tar archive's signature
_ARCHIVE = re.compile(rb"\x1f\x8b|.{257}ustar", re.DOTALL)  # gzip, tar
_TORCH = re.compile(  # a zip, or the first pickle of a file from before torch 1.6
    rb"PK\x03\x04|\x80.\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\.", re.DOTALL
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


class Reader(NamedTuple):
    sniff: Callable[[Path, bytes], object]  # (path, its first HEAD bytes; none of a folder) -> true or false
    read: Callable[[Path], Foreign]


def _is_safetensors(path: Path, head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


PAIR = Reader(archives.is_pair, archives.read_pair)  # FUNIT's gen_N.pt with dis_N.pt beside it
READERS = (
    Reader(lambda path, head: path.is_dir(), archives.read_folder),
    Reader(lambda path, head: _ARCHIVE.match(head), archives.read_archive),
    PAIR,
    Reader(lambda path, head: _TORCH.match(head), pickles.read_torch),
    Reader(lambda path, head: _PICKLE.match(head), pickles.read_nvidia),
    Reader(_is_safetensors, pickles.read_safetensors),
)


def read_foreign(path: str | Path, *, beside: bool = False) -> Foreign:
    """Read a checkpoint file, a folder of them or an archive; content decides the format, not the name.

    Args:
        beside: also read FUNIT's discriminator ``dis_N.pt`` beside ``gen_N.pt``.

    Raises:
        FsgenError: no such file, not a checkpoint, damaged, unsafe, or a file that asks to run something.
    """
    path, head = Path(path), b""
    with pickles.explain_damage(path):
        if not path.is_dir():
            with path.open("rb") as file:
                head = file.read(HEAD)
        for reader in READERS:
            if (beside or reader is not PAIR) and reader.sniff(path, head):
                return reader.read(path)
    what = "a web page" if re.match(rb"\s*<[!?a-zA-Z]", head) else "not a checkpoint" if head else "empty"
    raise FsgenError(
        f"{path.name} is {what}: fsgen reads PyTorch .pt and .pth files, NVIDIA .pkl files and .safetensors",
        code=Code.UNSUPPORTED if head else Code.DAMAGED,
        where=path,
        hint=pickles.AGAIN,
    )
