"""Flags made from dataclasses: the options of a run and of each method.

The field ``lambda_`` of the method ``ewc`` becomes ``--ewc-lambda``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from fsgen import registry
from fsgen.config import PlainDict
from fsgen.training.run_options import RunOptions, option_fields

Command = Callable[..., Any]

COMMON = ("device", "seed")  # of all commands
HELP_ALL = "--help-all"


class MethodCommand(TyperCommand):
    """A command whose --help lists the flags of the chosen methods; --help-all those of all methods."""

    default_method = ""

    def parse_args(  # type: ignore[override]  # the parent's Context has no public name
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        if HELP_ALL not in args and any(flag in args for flag in ("--help", "-h")):
            chosen = _value(args, "--method") or self.default_method
            for param in self.params:
                method = (param.name or "").partition("__")[0]
                if hasattr(param, "hidden") and "__" in (param.name or ""):
                    param.hidden = method not in chosen.split(",")
        return super().parse_args(ctx, ["--help" if arg == HELP_ALL else arg for arg in args])


class AdaptCommand(MethodCommand):
    default_method = "ewc"


def with_options(kind: type[RunOptions], *, scratch: bool = False) -> Callable[[Command], Command]:
    """Give a command that takes ``**flags`` one flag for each option of ``kind`` and of each method.

    ``scratch``: only of methods that need no source.
    """

    def derive(command: Command) -> Command:
        hints = get_type_hints(kind)
        made = [_run_flag(field, hints[field.name]) for field in option_fields(kind)]
        for name, method in registry.loadable_methods().items():
            if not (scratch and method.adapts):
                made += [_method_flag(name, field) for field in dataclasses.fields(method.Options)]
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        own += [p for p in made if p.name not in {q.name for q in own}]
        command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]  # read by inspect
        command.__annotations__ = {p.name: p.annotation for p in own}
        return command

    return derive


def run_values(flags: PlainDict) -> PlainDict:
    """The run's options among ``flags``, without those not given."""
    return {name: value for name, value in flags.items() if "__" not in name and value is not None}


def by_method(flags: PlainDict) -> dict[str, PlainDict]:
    """``{"ewc__lambda_": "5e8"}`` -> ``{"ewc": {"lambda_": "5e8"}}``; flags not given are left out."""
    out: dict[str, PlainDict] = {}
    for flag, value in flags.items():
        if value is not None and "__" in flag:
            method, name = flag.split("__", 1)
            out.setdefault(method, {})[name] = value
    return out


def _run_flag(field: dataclasses.Field, hint: Any) -> inspect.Parameter:
    """A flag whose default is None, so that a configuration file can fill it in."""
    name = field.name.replace("_", "-")
    flag = f"--{name}/--no-{name}" if hint in (bool, bool | None) else f"--{name}"
    default = field.metadata["shown"] or (field.default if field.default not in ("", False, None) else "")
    text = field.metadata["help"] + (f" (default: {default})" if default != "" else "")
    panel = "Common" if field.name in COMMON else None
    return _parameter(field.name, hint, typer.Option(flag, help=text, rich_help_panel=panel))


def _method_flag(method: str, field: dataclasses.Field) -> inspect.Parameter:
    text = field.metadata["help"]
    if choices := field.metadata.get("choices"):
        text += f" One of {', '.join(choices)}."
    flag = f"--{method}-{field.name.rstrip('_').replace('_', '-')}"
    option = typer.Option(flag, help=f"{text} (default: {field.default})", rich_help_panel=f"Method {method}")
    return _parameter(f"{method}__{field.name}", type(field.default), option)


def _parameter(name: str, hint: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint | None, option]
    )


def _value(args: Sequence[str], flag: str) -> str:
    """The value of ``flag`` among ``args``, given as ``flag value`` or ``flag=value``."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if arg == flag:
            return following
        if arg.startswith(f"{flag}="):
            return arg.removeprefix(f"{flag}=")
    return ""
