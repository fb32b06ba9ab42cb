"""``fsgen info``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli import common

if TYPE_CHECKING:
    from fsgen.models.model import Model


def info(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A file, a run folder, a name, methods or metrics; without it: everything.",
            show_default=False,
        ),
    ] = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """List sources, families and methods, or describe one model."""
    common.setup(debug)
    if what is None:
        _everything(as_json)
        return
    if what in ("methods", "metrics"):
        _methods(as_json) if what == "methods" else _metrics(as_json)
        return
    from fsgen.models import model as models

    show(models.load_model(what), str(models.find(what)), as_json)


def show(model: Model, path: str, as_json: bool) -> None:
    """Print one model: family, resolution, parameters, provenance, licence."""
    facts: dict[str, object] = {
        "file": path,
        **{key: model.about.get(key) for key in ("title", "subject", "licence", "commercial")},
        "family": model.family.name,
        "resolution": model.spec["resolution"],
        "parameters": model.parameters(),
        "hash": model.hash,
    }
    facts |= {key: value for key, value in model.about.items() if key not in facts} | {"spec": model.spec}
    if as_json:
        common.emit(facts)
        return
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for key, value in _flat(facts):
        table.add_row(f"[dim]{key}[/dim]", common.escape(f"{value:,}" if type(value) is int else str(value)))
    common.stdout().print(table)


def _flat(facts: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            rows.append((prefix + key, value))
    return rows


def _everything(as_json: bool) -> None:
    """Print all sources, families and methods."""
    from fsgen import registry
    from fsgen.io.cache_folders import sources_dir
    from fsgen.io.catalog import catalog

    here = {path.stem for path in sources_dir().glob("*.safetensors")}
    entries = catalog()
    here |= {name for name, entry in entries.items() if entry.url.startswith("bundled:")}
    sources: list[dict[str, object]] = [
        {"name": name, "here": name in here, "resolution": e.resolution, "subject": e.subject,
         "licence": e.licence, "commercial": e.commercial}
        for name, e in entries.items()
    ]  # fmt: skip
    others = sorted(here - set(entries))
    sources += [{"name": name, "here": True} for name in others]
    methods = registry.loadable_methods()
    if as_json:
        told = [{"name": name, "summary": m.summary, "paper": m.paper} for name, m in methods.items()]
        common.emit({"sources": sources, "families": list(registry.families()), "methods": told})
        return
    from rich.table import Table

    out = common.stdout()
    table = Table("source", "on this machine", "px", "subject", "commercial use", box=None)
    for e in entries.values():
        allowed = "yes" if e.commercial else "no"
        table.add_row(e.name, "yes" if e.name in here else "", str(e.resolution), e.subject, allowed)
    for name in others:
        table.add_row(name, "yes", "", "", "unknown")
    out.print(table)
    out.print(f"\nfamilies: {', '.join(registry.families())}\n")
    table = Table("method", "what it does", "paper", box=None)
    for name, m in methods.items():
        table.add_row(name, m.summary, m.paper)
    out.print(table)


def _methods(as_json: bool) -> None:
    """Print what each method does, needs and claims. Imports torch for the families' traits."""
    from fsgen import registry

    traits = {name: kind.traits for name, kind in registry.loadable_families().items()}
    methods = registry.loadable_methods()
    families = {n: [f for f, has in traits.items() if m.needs <= has] for n, m in methods.items()}
    claims = {name: sorted(getattr(m, "claims", ())) for name, m in methods.items()}
    if as_json:
        common.emit({"methods": [
            {"name": name, "summary": m.summary, "paper": m.paper, "trains": m.trained,
             "needs": sorted(m.needs), "families": families[name], "claims": claims[name],
             "source": m.adapts, "licence": m.licence} for name, m in methods.items()
        ]})  # fmt: skip
        return
    out = common.stdout()
    for name, m in methods.items():
        out.print(f"[bold]{name}[/bold]: {common.escape(m.summary)}", soft_wrap=True)
        needs = [*sorted(m.needs), *(["a source"] if m.adapts else [])]
        lines = {"paper": m.paper, "trains": m.trained, "needs": ", ".join(needs),
                 "families": ", ".join(families[name]), "claims": ", ".join(claims[name]),
                 "published code": m.licence}  # fmt: skip
        for key, value in lines.items():
            if value:
                out.print(f"  [dim]{key}[/dim] {common.escape(value)}", soft_wrap=True)
    out.print("\nmethods with a claim in common cannot be stacked; fsgen contains no published code")


def _metrics(as_json: bool) -> None:
    """Print the metrics and their feature networks."""
    from fsgen.features import weight_files
    from fsgen.measures import MEASURES

    files = weight_files.list_files()
    if as_json:
        metrics = [
            {"name": m.name, "title": m.title, "better": m.better, "network": m.space, "summary": m.summary}
            for m in MEASURES.values()
        ]
        common.emit({"metrics": metrics, "networks": files})
        return
    from rich.table import Table

    out = common.stdout()
    table = Table("metric", "meaning", "better", "network", box=None)
    for m in MEASURES.values():
        table.add_row(m.name, common.escape(m.summary), m.better, m.space)
    out.print(table)
    out.print("")
    table = Table("network", "file", "MB", "on this machine", "for", box=None)
    table.columns[1].overflow = "fold"
    for file in files:
        here = "yes" if file["path"] else ""
        table.add_row(file["name"], file["file"], str(file["megabytes"]), here, file["used_by"])
    out.print(table)
    out.print(
        "\nfsgen pull metrics fetches inception, alexnet and vgg16; give names for others, or --everything"
    )
