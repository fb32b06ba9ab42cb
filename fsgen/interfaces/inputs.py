"""One batch of generator inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """One batch of generator inputs; absent parts are None."""

    z: Tensor | None = None  # [n, z_dim] latents
    y: Tensor | None = None  # [n, classes] float: one-hot or soft labels
    h: Tensor | None = None  # [n, h_dim] instance features (IC-GAN), or a class code (FUNIT)
    content: Tensor | None = None  # [n, C, H, W] in [-1, 1], the images to translate (FUNIT)
    content_y: Tensor | None = None  # [n, classes] their labels, for training
    style: Tensor | None = None  # [n, k, C, H, W] in [-1, 1], k images of the class to translate to
    rows: Tensor | None = None  # [n] int64: indices of the real images that belong to the inputs
    mix: Tensor | None = None  # [n, z_dim] latents for style mixing in training; default: from the prior
    w_shift: Tensor | None = None  # [n, num_slots, w_dim], added to w for each modulated layer

    def __getitem__(self, rows: slice) -> Inputs:
        return self._each(lambda part: part[rows])

    def __len__(self) -> int:
        return len(next(iter(self.parts().values())))

    def to(self, device: torch.device | str) -> Inputs:
        return self._each(lambda part: part.to(device))

    def repeated(self, n: int, **changes: Tensor) -> Inputs:
        """A single input n times, except for ``changes`` of n rows each."""
        return replace(self._each(lambda part: part.expand(n, *part.shape[1:])), **changes)

    def parts(self) -> dict[str, Tensor]:
        """The parts that are present, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return Inputs(**{name: change(part) for name, part in self.parts().items()})
