"""Several methods at once: views composed in order, terms added."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fsgen import registry
from fsgen.errors import FsgenError
from fsgen.interfaces import (
    Family,
    ImageKind,
    Inputs,
    Method,
    MethodContext,
    NetworkName,
    Spec,
    StepContext,
    TrainingState,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Stack:
    """The methods of one run, in the order given."""

    def __init__(self, methods: Sequence[Method] = ()) -> None:
        self.methods = tuple(methods)

    @classmethod
    def parse(cls, names: str, options: dict[str, dict[str, Any]]) -> Stack:
        """``"ewc,diffaugment"`` and, by method, the options that differ from the defaults.

        Raises:
            FsgenError: an unknown or repeated method, an unknown option; the near miss is named.
        """
        parts = [part.strip() for part in names.split(",") if part.strip()]
        if not parts:
            raise FsgenError("no method given", hint=f"known: {', '.join(registry.METHODS)}")
        if repeated := next((part for part in parts if parts.count(part) > 1), None):
            raise FsgenError(f"method '{repeated}' is given twice in '{names}'")
        if unused := next((name for name in options if name not in parts), None):
            raise FsgenError(
                f"options of '{unused}' are given, but the method is '{names}'",
                hint=f"use --method {','.join([*parts, unused])}",
            )
        return cls([_make(registry.method(part), options.get(part, {})) for part in parts])

    @property
    def name(self) -> str:
        return ",".join(method.name for method in self.methods)

    def check(self, family: Family, *, scratch: bool = False) -> None:
        """Refuse, before any work, a method that needs what ``family`` does not have, or a source."""
        for method in self.methods:
            if scratch and method.adapts:
                raise FsgenError(
                    f"{method.name} needs a source to start from", hint="fsgen adapt --source NAME"
                )
            if method.conditions and len(self.methods) > 1:
                raise FsgenError(f"{method.name} trains nothing, so it goes with no other method")
            if not self.adversarial and "discriminator" in method.needs:
                alone = next(other.name for other in self.methods if not other.adversarial)
                raise FsgenError(f"{method.name} works on the critic, and {alone} trains without one")
            for other in self.methods[: self.methods.index(method)]:
                if both := sorted(method.claims & other.claims):
                    raise FsgenError(f"{other.name} and {method.name} both decide {both[0]}",
                                     hint="use one of them")  # fmt: skip
            if missing := sorted(method.needs - family.traits):
                raise FsgenError(f"{method.name} needs {missing[0]}; the family {family.name} has none")

    @property
    def conditions(self) -> bool:
        """Whether nothing is trained."""
        return any(method.conditions for method in self.methods)

    @property
    def adversarial(self) -> bool:
        return all(method.adversarial for method in self.methods)

    @property
    def redraws(self) -> bool:
        """Whether pictures are made, and no model."""
        return any(method.redraws for method in self.methods)

    @property
    def at_rest(self) -> bool:
        return any(method.at_rest for method in self.methods)

    def recipe(self, family: Family, spec: Spec, shots: int) -> dict[str, Any]:
        return {key: value for m in self.methods for key, value in m.recipe(family, spec, shots).items()}

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        for method in self.methods:
            method.fit(g, d)

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """What a method has added is trained; a weight with another parametrisation goes by its old name."""
        name = re.sub(r"\.parametrizations\.(\w+)\.original\d*$", r".\1", name)
        if ".parametrizations." in name or name.split(".")[0] in {method.name for method in self.methods}:
            return True
        return all(method.trains(family, spec, network, name) for method in self.methods)

    @property
    def starts(self) -> Literal["g", "g_ema"]:
        """The average, where one of the methods keeps the source's pictures and so wants its best."""
        return "g_ema" if any(method.starts == "g_ema" for method in self.methods) else "g"

    def enter(self, context: MethodContext) -> None:
        for method in self.methods:
            method.enter(context)

    def before(self, state: TrainingState) -> None:
        for method in self.methods:
            method.before(state)

    def draw(self, g: nn.Module, inputs: Inputs, rng: torch.Generator, shown: bool) -> Inputs:
        for method in self.methods:
            inputs = method.draw(g, inputs, rng, shown)
        return inputs

    def discriminator(self, d: nn.Module) -> Callable[..., Tensor]:
        for method in self.methods:
            d = method.discriminator(d)
        return d

    def view(self, images: Tensor, who: ImageKind, rng: Callable[[str], torch.Generator]) -> Tensor:
        for method in self.methods:
            images = method.view(images, who, rng(f"{method.name} {who}"))
        return images

    def judged(self, real_logits: Tensor) -> None:
        for method in self.methods:
            method.judged(real_logits.detach())

    def objective(self, context: StepContext) -> dict[str, Tensor]:
        return {name: value for method in self.methods for name, value in method.objective(context).items()}

    def terms(self, context: StepContext) -> dict[str, Tensor]:
        return {name: value for method in self.methods for name, value in method.terms(context).items()}

    def meters(self) -> dict[str, Tensor]:
        return {name: value for method in self.methods for name, value in method.meters().items()}

    def hold(self, network: NetworkName, net: nn.Module) -> None:
        for method in self.methods:
            method.hold(network, net)

    def leave(self, net: nn.Module) -> dict[str, Tensor]:
        """What is stored beside the source's keys, as ``METHOD.name``; the last fitted leaves first."""
        _part(net)
        return {f"{m.name}.{k}": v for m in reversed(self.methods) for k, v in m.leave(net).items()}

    def state(self) -> dict[str, Tensor]:
        return {f"{m.name}.{key}": value for m in self.methods for key, value in m.state().items()}

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        for method in self.methods:
            prefix = f"{method.name}."
            mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            try:
                method.restore(mine, context)
            except KeyError as missing:
                raise FsgenError(
                    f"the saved state does not fit this version of {method.name}: there is no {missing}",
                    hint="go on with the version of fsgen that began it, or start a new run",
                ) from missing

    def options(self) -> dict[str, dict[str, Any]]:
        """Every option of every method as it stands, with ``auto`` replaced by what it came to."""
        values = {m.name: {**vars(m.options), **m.chosen()} for m in self.methods}
        # A field named like a Python keyword ends in an underscore; its option does not.
        return {name: {key.rstrip("_"): v for key, v in some.items()} for name, some in values.items()}


def _part(net: nn.Module) -> None:
    """Give each module with another parametrisation a class of its own: removing one takes a property from
    the class, which deep copies share."""
    from torch.nn.utils import parametrize

    for module in net.modules():
        if parametrize.is_parametrized(module):
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


def _make(kind: type[Method], values: dict[str, Any]) -> Method:
    from fsgen import config

    return kind(config.options(kind.Options, values, where=f"method {kind.name}"))
