"""``fsgen fisher``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsgen.cli import common

if TYPE_CHECKING:
    from fsgen.models.fisher_cache import Fisher


def fisher(
    source: Annotated[str, typer.Argument(help="A run folder, a file, or a name.")] = "peeps64",
    samples: Annotated[int, typer.Option(help="Samples to average over.")] = 1000,
    proxy: Annotated[
        str, typer.Option(help="For the log-likelihood: adversarial, reconstruction or perceptual.")
    ] = "adversarial",
    out: Annotated[Path | None, typer.Option(help="Also write it here (.safetensors).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the mean per layer as a plot (.png).")] = None,
    weights_dir: common.WeightsDir = None,
    dry_run: common.DryRun = False,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Estimate the diagonal Fisher information of a SOURCE generator."""
    common.setup(debug)
    from fsgen.training import fisher as engine
    from fsgen.training import plots

    if plot is not None:
        plots.check_file(plot)
    with common.terminal_callbacks() as callbacks:
        result = engine.fisher(
            source, samples=samples, proxy=proxy, seed=seed, device=device, weights_dir=weights_dir,
            dry_run=dry_run, progress=lambda done, total: callbacks.progress("Fisher", done, total),
        )  # fmt: skip
    if isinstance(result, dict):
        common.show_config(result, as_json)
        return
    if out is not None:
        engine.write(result, out)
    if plot is not None:
        plots.by_layer(result.by_layer(), plot, "mean Fisher information", log=True)
    if as_json:
        common.emit({**result.about, "layers": result.by_layer(), "trace": result.trace})
    else:
        _table(result)


def _table(result: Fisher) -> None:
    from rich.table import Table

    table = Table("layer", "parameters", "mean Fisher", box=None, title_justify="left")
    table.columns[1].justify = table.columns[2].justify = "right"
    for layer, mean in result.by_layer().items():
        count = sum(result.diagonal[name].numel() for name in result.layers[layer])
        table.add_row(layer, f"{count:,}", f"{mean:.3g}")
    common.stdout().print(table)
    about = result.about
    common.stdout().print(
        f"{about['samples']} samples, proxy {about['proxy']}, network {about['network']}; "
        f"trace {result.trace:.4g}; {about['convention']}"
    )
