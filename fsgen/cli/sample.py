"""``fsgen sample``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fsgen.cli import common
from fsgen.errors import FsgenError


def sample(
    model: Annotated[str, typer.Argument(help="A run folder, a file, or a name.")],
    out: Annotated[
        Path, typer.Option(help="A .png for one sheet, a folder for single files, .gif/.webp/.mp4 to move.")
    ],
    n: Annotated[Optional[int], typer.Option("--n", help="How many pictures. (default: 16)")] = None,  # noqa: UP045
    seeds: Annotated[Optional[str], typer.Option(help="Which, as in 0-63 or 1,5,9.")] = None,  # noqa: UP045
    truncation: Annotated[float, typer.Option(help="1: as trained; below: nearer to the mean.")] = 1.0,
    noise: Annotated[str, typer.Option(help="const (stored), random or none.")] = "const",
    label: Annotated[
        Optional[str], typer.Option("--class", help="Of one class, by number or name.")  # noqa: UP045
    ] = None,
    instance: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw after these images: a picture, a folder or a zip (models of instances)."),
    ] = None,
    features: Annotated[
        str, typer.Option(help="The network that looks at them. (default: the model's own)")
    ] = "",
    weights_dir: common.WeightsDir = None,
    content: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Translate these pictures, brought to the model's size: one, a folder or a zip."),
    ] = None,
    candidates: Annotated[
        int, typer.Option(help="Latents tried for each picture; the nearest to its image is kept.")
    ] = 1,
    grid: Annotated[Optional[str], typer.Option(help="Columns x rows of one sheet, as in 8x8.")] = None,  # noqa: UP045
    compare: Annotated[
        Optional[str], typer.Option(help="A model to show above each picture, from the same z.")  # noqa: UP045
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="A film through the seeds, to .gif, .webp or .mp4.")
    ] = False,
    frames: Annotated[int, typer.Option(help="Frames from seed to seed.")] = 24,
    strength: Annotated[
        Optional[float], typer.Option(help="Weights between the source (0) and this model (1).")  # noqa: UP045
    ] = None,
    swap_above: Annotated[
        Optional[int], typer.Option(help="Layers above this resolution from the other model.")  # noqa: UP045
    ] = None,
    other: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The other model of --strength and --swap-above. (default: its source)"),
    ] = None,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Make pictures with a MODEL. A seed names one picture, whatever the batch.

    [dim]fsgen sample runs/sketches --grid 8x8 --compare peeps64 --out grid.png[/dim]
    """
    common.setup(debug)
    from fsgen.data.files import find_images
    from fsgen.sampling import sheets
    from fsgen.sampling.latents import parse_seeds

    columns, rows = _grid(grid)
    usual = columns * rows if grid else len(find_images(content)) if content else 16
    count = n if n is not None else usual
    if count < 1:
        raise FsgenError("--n is at least 1")
    if seeds is not None and n is not None:
        raise FsgenError("--n and --seeds say the same thing twice", hint="use one of them")
    chosen = parse_seeds(seeds) if seeds is not None else list(range(seed, seed + count))
    if grid and len(chosen) > columns * rows:
        raise FsgenError(
            f"{len(chosen)} pictures do not fit a grid of {grid}", hint="a larger grid, or fewer pictures"
        )
    request = sheets.SampleRequest(
        model=model, out=out, seeds=chosen, truncation=truncation, noise=noise, label=label,
        instance=instance, features=features, weights_dir=weights_dir, content=content, candidates=candidates,
        columns=columns if grid else None, compare=compare, strength=strength, swap_above=swap_above,
        other=other, device=device,
    )  # fmt: skip
    with common.watching() as callbacks:
        made = (
            sheets.write_animation(request, frames, callbacks)
            if interpolate
            else sheets.write(request, callbacks)
        )
    if as_json:
        common.emit({"files": [str(path) for path in made], "seeds": chosen})
    else:
        what = f"a film through {len(chosen)} seeds" if interpolate else f"{len(chosen)} pictures"
        common.stdout().print(f"{what}: {common.path_text(out)}", soft_wrap=True)


def _grid(text: str | None) -> tuple[int, int]:
    if text is None:
        return 8, 1
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and int(columns) and int(rows)):
        raise FsgenError(f"'{text}' is not a grid", hint="columns x rows, as in --grid 8x8")
    return int(columns), int(rows)
