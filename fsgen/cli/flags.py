"""Flags made from dataclasses: ``--ewc-lambda`` from the field ``lambda_`` of EWC's options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer

from fsgen import registry

Command = Callable[..., Any]


def with_method_options(command: Command) -> Command:
    """Give ``command`` (which takes ``**flags``) one flag for each option of each method."""
    made = [
        _parameter(name, field)
        for name in registry.METHODS
        for field in dataclasses.fields(registry.method(name).Options)
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *made])
    command.__annotations__ = {p.name: p.annotation for p in [*own, *made]}
    return command


def by_method(flags: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"ewc__lambda_": "5e8"}`` -> ``{"ewc": {"lambda_": "5e8"}}``; flags not given are left out."""
    out: dict[str, dict[str, Any]] = {}
    for flag, value in flags.items():
        if value is not None:
            method, name = flag.split("__", 1)
            out.setdefault(method, {})[name] = value
    return out


def _parameter(method: str, field: dataclasses.Field) -> inspect.Parameter:
    kind = type(field.default)
    text = field.metadata["help"]
    if choices := field.metadata.get("choices"):
        text += f" One of {', '.join(choices)}."
    flag = f"--{method}-{field.name.rstrip('_').replace('_', '-')}"
    option = typer.Option(flag, help=f"{text} (default: {field.default})", rich_help_panel=f"Method {method}")
    return inspect.Parameter(
        f"{method}__{field.name}", inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[Optional[kind], option],  # noqa: UP045 (built at run time)
    )  # fmt: skip
