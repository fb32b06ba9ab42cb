"""Several methods at once; each hook is combined as ``Method`` declares it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fsgen import config as configs
from fsgen import registry
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Family, Method, MethodContext, NetworkName, Spec, Technique, Trait

if TYPE_CHECKING:
    from torch import Tensor, nn


def parse_methods(names: str, options: Mapping[str, Mapping[str, Any]]) -> list[Technique]:
    """The techniques in ``"ewc,diffaugment"`` with, by name, the options that differ from the defaults.

    Raises:
        FsgenError: an unknown or repeated name, an unknown option.
    """
    parts = [part.strip() for part in names.split(",") if part.strip()]
    if not parts:
        hint = f"known: {', '.join(registry.methods())}"
        raise FsgenError("no method given", where="--method", hint=hint)
    if repeated := next((part for part in parts if parts.count(part) > 1), None):
        raise FsgenError(f"method '{repeated}' is given twice in '{names}'", where="--method")
    if unused := next((name for name in options if name not in parts), None):
        raise FsgenError(
            f"options of '{unused}' are given, but the method is '{names}'",
            where="--method", hint=f"use --method {','.join([*parts, unused])}",
        )  # fmt: skip
    kinds = {part: registry.method(part) for part in parts}
    return [
        kind(configs.options(kind.Options, dict(options.get(part, {})), where=f"method {part}"))
        for part, kind in kinds.items()
    ]


class _Combined:
    """The hooks of ``Method``, each over all methods of a stack: filled in below."""

    methods: tuple[Method, ...]

    if TYPE_CHECKING:  # the generated hooks have the signatures of ``Method``

        def __getattr__(self, name: str) -> Any: ...


class Stack(_Combined):
    """The methods of one run, in the order given."""

    def __init__(self, methods: Sequence[Method] = ()) -> None:
        self.methods = tuple(methods)

    @property
    def name(self) -> str:
        return ",".join(method.name for method in self.methods)

    @property
    def adversarial(self) -> bool:
        """There is a discriminator in training."""
        return all(method.adversarial for method in self.methods)

    @property
    def frozen_statistics(self) -> bool:
        """G is trained in evaluation mode."""
        return any(method.frozen_statistics for method in self.methods)

    @property
    def starts(self) -> Literal["g", "g_ema"]:
        """The network theta_S is taken from: the moving average if one of the methods asks for it."""
        return "g_ema" if any(method.starts == "g_ema" for method in self.methods) else "g"

    def check(self, family: Family, *, scratch: bool = False) -> None:
        """Refuse, before any work, methods that do not fit one another, ``family``, or a missing source."""
        for method in self.methods:
            check_fits(method, family, scratch=scratch)
            if not self.adversarial and Trait.DISCRIMINATOR in method.needs:
                other = next(other for other in self.methods if not other.adversarial)
                raise FsgenError(
                    f"{method.name} needs a discriminator, and {other.name} trains without one",
                    code=Code.INCOMPATIBLE, where=method.name,
                )  # fmt: skip
            for other in self.methods[: self.methods.index(method)]:
                if both := sorted(method.claims & other.claims):
                    raise FsgenError(
                        f"{other.name} and {method.name} both decide {both[0]}",
                        code=Code.INCOMPATIBLE, where=method.name, hint="use one of them",
                    )  # fmt: skip

    def trains_parameter(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Tell whether ``name`` is trained. Added modules are; a parametrised weight has its old name."""
        name = re.sub(r"\.parametrizations\.(\w+)\.original\d*$", r".\1", name)
        if ".parametrizations." in name or name.split(".")[0] in {method.name for method in self.methods}:
            return True
        return self.trains(family, spec, network, name)

    def export_from(self, net: nn.Module) -> dict[str, Tensor]:
        """``export`` from ``net``, which may share its parametrised classes with deep copies of it."""
        _separate_classes(net)
        return self.export(net)

    def state(self) -> dict[str, Tensor]:
        """The buffers of all methods, as ``METHOD.name``."""
        return {f"{m.name}.{key}": value for m in self.methods for key, value in m.buffers.items()}

    def resume(self, state: Mapping[str, Tensor], context: MethodContext) -> None:
        """Fill the buffers of all methods from ``state`` and set them up.

        Raises:
            FsgenError: another version of a method has saved the state.
        """
        for method in self.methods:
            method.buffers = own_part(state, method.name)
            try:
                method.setup(context)
            except KeyError as missing:
                raise FsgenError(
                    f"the saved state does not fit this version of {method.name}: there is no {missing}",
                    code=Code.INCOMPATIBLE, where=method.name,
                    hint="resume with the version of fsgen that began the run, or start a new one",
                ) from missing  # fmt: skip

    def options(self) -> dict[str, PlainDict]:
        """The options of each method, ``auto`` replaced where it has been resolved."""
        return {method.name: plain_options(method) for method in self.methods}


def check_fits(technique: Technique, family: Family, *, scratch: bool = False) -> None:
    """Refuse a technique that needs a source where there is none, or traits that ``family`` lacks."""
    if scratch and technique.adapts:
        raise FsgenError(
            f"{technique.name} needs a source to start from",
            code=Code.INCOMPATIBLE, where=technique.name, hint="fsgen adapt --source NAME",
        )  # fmt: skip
    if missing := sorted(technique.needs - family.traits):
        raise FsgenError(
            f"{technique.name} needs {missing[0]}; the family {family.name} has none",
            code=Code.INCOMPATIBLE, where=technique.name,
        )  # fmt: skip


def plain_options(technique: Technique) -> PlainDict:
    """Option name -> value. A field named like a keyword ends in an underscore; its option does not."""
    return {key.rstrip("_"): value for key, value in vars(technique.options).items()}


def own_part(stored: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors stored as ``name.key``, by key."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}


def _combine(hook: str, how: str) -> Callable[..., Any]:
    """The hook of a stack; see ``interfaces.combined``."""

    def each(stack: Stack, *args: Any) -> None:
        for method in stack.methods:
            getattr(method, hook)(*args)

    def all_agree(stack: Stack, *args: Any) -> bool:
        return all(getattr(method, hook)(*args) for method in stack.methods)

    def merged(stack: Stack, *args: Any) -> PlainDict:
        return {key: value for m in stack.methods for key, value in getattr(m, hook)(*args).items()}

    def chained(stack: Stack, first: Any, *args: Any) -> Any:
        for method in stack.methods:
            first = getattr(method, hook)(first, *args)
        return first

    def stored(stack: Stack, *args: Any) -> PlainDict:
        return {f"{method.name}.{key}": value for method in reversed(stack.methods)
                for key, value in getattr(method, hook)(*args).items()}  # fmt: skip

    kinds = {"each": each, "all": all_agree, "merged": merged, "chained": chained, "stored": stored}
    return kinds[how]


for _name, _hook in vars(Method).items():
    if how := getattr(_hook, "combined", None):
        setattr(_Combined, _name, _combine(_name, how))


def _separate_classes(net: nn.Module) -> None:
    """Give each parametrised module a class of its own: removing a parametrisation removes a property from
    the class, which deep copies share."""
    from torch.nn.utils import parametrize

    for module in net.modules():
        if parametrize.is_parametrized(module):
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
