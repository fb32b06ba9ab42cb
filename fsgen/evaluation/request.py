"""What is asked of an evaluation, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fsgen import device as devices
from fsgen.errors import FsgenError
from fsgen.evaluation import protocols
from fsgen.evaluation.protocols import Protocol, Translations


@dataclass(frozen=True)
class Request:
    """What was asked of ``fsgen eval``, checked."""

    protocol: Protocol | Translations
    samples: int | None  # None: all images of a folder, the protocol's number of a model
    seeds: int
    seed: int
    truncation: float
    fit: str
    batch: int
    device: torch.device

    def pictures(self, turn: int = 0) -> range:
        """Seeds of the pictures of the ``turn``-th set: sets share none."""
        n = max(self.samples or self.protocol.samples, 2)
        return range(self.seed + turn * n, self.seed + (turn + 1) * n)


def checked(
    protocol: str | None, fid: str | None, samples: int | None, seeds: int, seed: int, truncation: float,
    fit: str, batch: int, device: str,
) -> Request:  # fmt: skip
    """The request for these arguments of ``evaluate``.

    Raises:
        FsgenError: one of them cannot be, or a protocol fixes it.
    """
    chosen = protocols.protocol(protocol)
    if fit not in ("crop", "pad"):
        raise FsgenError(f"there is no fit '{fit}'", hint="crop or pad")
    if samples is not None and samples < 2:
        raise FsgenError(f"--samples {samples} is too few", hint="2 are the least")
    if batch < 1:
        raise FsgenError("--batch is at least 1")
    if seeds < 1:
        raise FsgenError("--seeds is at least 1")
    if isinstance(chosen, Translations):
        if seeds != 1 or truncation != 1:
            raise FsgenError(f"the protocol {chosen.name} draws shots once, and nothing is truncated",
                             hint="leave --seeds and --truncation out; --seed draws others")  # fmt: skip
    elif chosen.name != protocols.DEFAULT and (samples is not None or fid is not None or truncation != 1):
        raise FsgenError(
            f"the protocol {chosen.name} fixes --samples ({chosen.samples}), --fid ({chosen.fid}) and "
            "--truncation (1)",
            hint="leave them out, or leave --protocol out",
        )
    if fid is not None:
        chosen = chosen.with_fid(fid)
    return Request(chosen, samples, seeds, seed, truncation, fit, batch, devices.pick(device))
