"""Inputs, and the contract on networks as protocols: any ``torch.nn.Module`` with these functions will do.

``Generator`` and ``Discriminator`` are what every family builds; each of the others goes with the trait of a
family that is named beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Self = TypeVar("Self")


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


class Module(Protocol):
    """The functions of ``torch.nn.Module`` that fsgen uses, so that protocols can stand for networks."""

    training: bool

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def buffers(self, recurse: bool = True) -> Iterator[Tensor]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def children(self) -> Iterator[nn.Module]: ...
    def get_parameter(self, target: str) -> nn.Parameter: ...
    def get_submodule(self, target: str) -> nn.Module: ...
    def add_module(self, name: str, module: nn.Module | None) -> None: ...
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any: ...
    def eval(self: Self) -> Self: ...
    def train(self: Self, mode: bool = True) -> Self: ...
    def requires_grad_(self: Self, requires_grad: bool = True) -> Self: ...
    def to(self: Self, *args: Any, **kwargs: Any) -> Self: ...
    def to_empty(self: Self, *, device: torch.device | str) -> Self: ...


@runtime_checkable
class Generator(Module, Protocol):
    """Inputs to images."""

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """n inputs from the prior, on the device of ``rng``."""

    def __call__(
        self, inputs: Inputs, *, truncation: float = 1.0, noise: Any = "const",
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Images [n, C, H, W] in about [-1, 1].

        Args:
            inputs: n of them.
            truncation: 1 for none, smaller for more typical images.
            noise: "const" (stored), "random" (drawn from ``rng``) or "none"; of no effect without noise.
            rng: draws random noise.
        """


@runtime_checkable
class Discriminator(Module, Protocol):
    """Images to logits."""

    def __call__(self, images: Any, inputs: Inputs | None = None) -> Tensor:
        """Logits [n, k] of images [n, C, H, W] in [-1, 1], or of what ``Family.fakes`` returns."""

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """Feature maps [n, c, h, w] of images [n, C, H, W], from the image to the logit."""


@runtime_checkable
class TappedGenerator(Generator, Protocol):
    """Trait "taps"."""

    def taps(self, inputs: Inputs) -> Sequence[Tensor]:
        """The output of each layer, [n, c, h, w], from coarse to fine, with the stored noise."""


@runtime_checkable
class TappedDiscriminator(Discriminator, Protocol):
    """Trait "taps"."""

    def taps(self, images: Tensor) -> Iterable[Tensor]:
        """The output of each convolution, [n, c, h, w], from fine to coarse."""


@runtime_checkable
class LatentGenerator(Generator, Protocol):
    """Trait "latent"."""

    z_dim: int


@runtime_checkable
class StyleGenerator(LatentGenerator, Protocol):
    """Traits "w_space" and "constant": a mapping network and one style for each modulated layer."""

    w_dim: int
    num_slots: int  # modulated layers, convolutions and ToRGB, in the order in which they run
    constant: str  # name of the learned map that every image starts from

    def map(self, inputs: Inputs, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """w, [n, num_ws, w_dim]; ``truncation`` pulls it to its mean in the first ``cutoff`` rows, or all."""


@runtime_checkable
class Translator(Generator, Protocol):
    """Trait "translation"."""

    def class_code(self, inputs: Inputs) -> Tensor:
        """The code of the class of ``inputs.style``, the mean over its k images: [n, latent_dim]."""
