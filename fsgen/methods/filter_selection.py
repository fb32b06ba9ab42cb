"""The common part of AdAM and RICK, which select among the filters of both networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Claim, Family, Filters, Method, MethodContext, NetworkName, Spec, Trait

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor

OptionsT = TypeVar("OptionsT", bound="DataclassInstance")


class FilterSelection(Method[OptionsT]):
    """Decides something for each filter and keeps it in ``decisions``, on the CPU."""

    needs = frozenset({Trait.LATENT, Trait.DISCRIMINATOR, Trait.FILTERS})
    claims = frozenset({Claim.FREEZING, Claim.WEIGHTS_G, Claim.WEIGHTS_D})
    adapts = True
    licence = "MIT"

    def __init__(self, options: OptionsT | None = None) -> None:
        super().__init__(options)
        self.decisions: dict[NetworkName, dict[str, Tensor]] = {"g": {}, "d": {}}  # by weight: [filters]
        self.lengths: dict[str, int] = {}  # of phases, by option, once known
        self._filters: Filters | None = None

    def filters(self, family: Family, spec: Spec) -> Filters:
        """The family's filters, computed once."""
        if self._filters is None:
            self._filters = family.filters(spec)
        return self._filters

    def setup(self, context: MethodContext) -> None:
        """Store the context; take the decisions of a saved run.

        Raises:
            FsgenError: the source has no discriminator.
        """
        if "d" not in context.pretrained:
            raise FsgenError(
                f"{self.name} needs the source's discriminator, and this source has none",
                code=Code.INCOMPATIBLE, where=self.name,
            )  # fmt: skip
        self.context = context
        self.layers = self.filters(context.family, context.spec).layers
        networks: tuple[NetworkName, ...] = ("g", "d")
        for network in networks:
            saved = {key[2:]: value for key, value in self.buffers.items() if key.startswith(f"{network}.")}
            self.decide(network, {key: value.cpu() for key, value in saved.items()})

    def decide(self, network: NetworkName, decisions: dict[str, Tensor]) -> None:
        """Replace the decisions on one network's filters."""
        self.decisions[network] = decisions
        self.buffers |= {f"{network}.{key}": value for key, value in decisions.items()}

    def has_filters(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Tell whether ``name`` is a weight with filters, or goes with one."""
        layers = self.filters(family, spec).layers[network]
        return any(name == layer.weight or name in layer.also for layer in layers)

    def parse_length(self, option: str, least: int = 1) -> None:
        """Check the length that an option gives.

        Raises:
            FsgenError: neither ``auto`` nor a whole number of at least ``least``.
        """
        text, flag = getattr(self.options, option), f"--{self.name}-{option}"
        if text != "auto" and (not text.isdecimal() or int(text) < least):
            raise FsgenError(
                f"{flag} {text} is neither auto nor a whole number of at least {least}",
                code=Code.OUT_OF_RANGE, where=flag,
            )  # fmt: skip
        if text != "auto":
            self.lengths[option] = int(text)

    def resolve_length(self, option: str, published: int, of: int, steps: int) -> int:
        """The length given, or ``published`` of a run of ``of`` steps, the same share of a shorter one."""
        length = self.lengths.setdefault(option, max(1, min(published, round(published * steps / of))))
        self.options = replace(self.options, **{option: str(length)})
        return length
