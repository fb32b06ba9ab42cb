"""``fsgen info``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from fsgen.cli import common

if TYPE_CHECKING:
    from fsgen.models.model import Model


def info(
    what: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            help="A file, a run folder, a name, methods, metrics; nothing: all there is.", show_default=False
        ),
    ] = None,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """What there is to work with, or what is in a file."""
    common.setup(debug)
    if what is None:
        _everything(as_json)
        return
    if what in ("methods", "metrics"):
        _methods(as_json) if what == "methods" else _metrics(as_json)
        return
    from fsgen.models import model as models

    show(models.load(what), str(models.find(what)), as_json)


def show(model: Model, path: str, as_json: bool) -> None:
    """One model: family, resolution, parameters, provenance, licence."""
    facts: dict[str, Any] = {
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


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            rows.append((prefix + key, value))
    return rows


def _everything(as_json: bool) -> None:
    from fsgen import registry
    from fsgen.io.cache_folders import sources_dir
    from fsgen.io.catalog import catalog

    here = {path.stem for path in sources_dir().glob("*.safetensors")}
    entries = catalog()
    here |= {name for name, entry in entries.items() if entry.url.startswith("bundled:")}
    sources = [
        {"name": name, "here": name in here, "resolution": e.resolution, "subject": e.subject,
         "licence": e.licence, "commercial": e.commercial}
        for name, e in entries.items()
    ]  # fmt: skip
    sources += [{"name": name, "here": True} for name in sorted(here - set(entries))]
    methods = [
        {"name": name, "summary": m.summary, "paper": m.paper}
        for name, m in registry.loadable_methods().items()
    ]
    if as_json:
        common.emit({"sources": sources, "families": list(registry.families()), "methods": methods})
        return
    _tables(sources, list(registry.families()), methods)


def _tables(sources: list[dict[str, Any]], families: list[str], methods: list[dict[str, str]]) -> None:
    from rich.table import Table

    out = common.stdout()
    table = Table("source", "here", "px", "subject", "commercial use", box=None)
    for s in sources:
        allowed = {True: "yes", False: "no", None: "unknown"}[s.get("commercial")]
        table.add_row(
            s["name"], "yes" if s["here"] else "", str(s.get("resolution", "")), s.get("subject", ""), allowed
        )
    out.print(table)
    out.print(f"\nfamilies: {', '.join(families)}\n")
    table = Table("method", "what it does", "paper", box=None)
    for m in methods:
        table.add_row(m["name"], m["summary"], m["paper"])
    out.print(table)


def _methods(as_json: bool) -> None:
    """What each method does, needs and goes with. A family's traits are asked for, so torch is imported."""
    from fsgen import registry

    traits = {name: kind.traits for name, kind in registry.loadable_families().items()}
    methods = [
        {"name": name, "summary": m.summary, "paper": m.paper, "trains": m.trained, "needs": sorted(m.needs),
         "families": [family for family, has in traits.items() if m.needs <= has],
         "claims": sorted(getattr(m, "claims", ())), "source": m.adapts, "licence": m.licence}
        for name, m in registry.loadable_methods().items()
    ]  # fmt: skip
    if as_json:
        common.emit({"methods": methods})
        return
    out = common.stdout()
    for m in methods:
        out.print(f"[bold]{m['name']}[/bold]: {common.escape(m['summary'])}", soft_wrap=True)
        needs = ", ".join([*m["needs"], *(["a source"] if m["source"] else [])]) or "nothing in particular"
        lines = {"paper": m["paper"], "trains": m["trains"], "needs": needs,
                 "families": ", ".join(m["families"]), "decides": ", ".join(m["claims"]),
                 "published code": m["licence"]}  # fmt: skip
        for key, value in lines.items():
            if value:
                out.print(f"  [dim]{key}[/dim] {common.escape(value)}", soft_wrap=True)
    out.print("\ntwo methods that decide the same go in no stack; no published code is in fsgen")


def _metrics(as_json: bool) -> None:
    """What can be measured, and the networks that measure it."""
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
    table = Table("metric", "what it says", "better", "network", box=None)
    for m in MEASURES.values():
        table.add_row(m.name, common.escape(m.summary), m.better, m.space)
    out.print(table)
    out.print("")
    table = Table("network", "file", "MB", "here", "for", box=None)
    table.columns[1].overflow = "fold"
    for file in files:
        here = "yes" if file["path"] else ""
        table.add_row(file["name"], file["file"], str(file["megabytes"]), here, file["used_by"])
    out.print(table)
    out.print("\nfsgen pull metrics fetches inception, alexnet and vgg16; with names those, --everything all")
