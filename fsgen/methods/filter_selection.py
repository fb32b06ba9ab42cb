"""What methods have in common that choose among the filters of both networks: AdAM and RICK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsgen.errors import FsgenError
from fsgen.interfaces import Family, Filters, Method, MethodContext, NetworkName, Spec

if TYPE_CHECKING:
    from torch import Tensor


class Choosing(Method):
    """Decides something of each filter and keeps it, ``decisions``: [filters] by network and weight, on the
    CPU."""

    needs = frozenset({"latent", "discriminator", "filters"})
    claims = frozenset({"how weights are held", "which weights of G stay", "which weights of D stay"})
    adapts = True
    licence = "MIT"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.decisions: dict[NetworkName, dict[str, Tensor]] = {"g": {}, "d": {}}
        self.lengths: dict[str, int | None] = {}  # of stages, by option; None: not known yet
        self._filters: Filters | None = None

    def filters(self, family: Family, spec: Spec) -> Filters:
        """Those of the family, put together once."""
        if self._filters is None:
            self._filters = family.filters(spec)
        return self._filters

    def meet(self, context: MethodContext) -> None:
        """The first thing to do with a bench.

        Raises:
            FsgenError: the source has no discriminator.
        """
        if "d" not in context.pretrained:
            raise FsgenError(
                f"{self.name} keeps what the source's discriminator sees, and this source has none"
            )
        self.context = context
        self.layers = self.filters(context.family, context.spec).layers

    def has_filters(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Whether ``name`` is a weight that has filters, or shares their fate."""
        layers = self.filters(family, spec).layers[network]
        return any(name == layer.weight or name in layer.also for layer in layers)

    def asked(self, option: str, least: int = 1) -> None:
        """Note the length that an option asks for.

        Raises:
            FsgenError: neither ``auto`` nor a whole number of at least ``least``.
        """
        text = getattr(self.options, option)
        if text != "auto" and (not text.isdecimal() or int(text) < least):
            raise FsgenError(
                f"--{self.name}-{option} cannot be '{text}'",
                hint=f"auto, or a whole number of at least {least}",
            )
        self.lengths[option] = None if text == "auto" else int(text)

    def settle(self, option: str, published: int, of: int, steps: int) -> int:
        """The length asked for; else ``published`` steps of a run of ``of``, that share of one of fewer."""
        if self.lengths[option] is None:
            self.lengths[option] = max(1, min(published, round(published * steps / of)))
        return self.lengths[option]

    def chosen(self) -> dict[str, Any]:
        return {option: str(length) for option, length in self.lengths.items() if length is not None}

    def state(self) -> dict[str, Tensor]:
        return {f"{who}.{key}": value for who, some in self.decisions.items() for key, value in some.items()}

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        self.meet(context)
        for key, value in state.items():
            who, _, weight = key.partition(".")
            self.decisions[who][weight] = value.cpu()
