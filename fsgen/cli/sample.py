"""``fsgen sample``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsgen.cli import common
from fsgen.errors import Code, FsgenError


def sample(
    model: Annotated[str, typer.Argument(help="A run folder, a file, or a name.")],
    out: Annotated[
        Path,
        typer.Option(
            help="A .png for one sheet, a folder for single files, .gif/.webp/.mp4 for an animation."
        ),
    ],
    n: Annotated[int | None, typer.Option("--n", help="Number of images. (default: 16)")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, as in 0-63 or 1,5,9.")] = None,
    truncation: Annotated[float, typer.Option(help="Truncation psi; 1: none.")] = 1.0,
    noise: Annotated[str, typer.Option(help="Noise inputs: const (stored), random or none.")] = "const",
    label: Annotated[
        str | None, typer.Option("--class", help="Class of all images, by number or name.")
    ] = None,
    instance: Annotated[
        Path | None,
        typer.Option(help="Condition on these instances: an image, a folder or a zip (IC-GAN)."),
    ] = None,
    features: Annotated[
        str, typer.Option(help="Network of the instance features. (default: the model's own)")
    ] = "",
    weights_dir: common.WeightsDir = None,
    content: Annotated[
        Path | None,
        typer.Option(
            help="Translate these images, resized to the model's resolution: one, a folder or a zip."
        ),
    ] = None,
    candidates: Annotated[
        int, typer.Option(help="Latents per image; the image nearest to its instance is kept.")
    ] = 1,
    grid: Annotated[str | None, typer.Option(help="Columns x rows of the sheet, as in 8x8.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="A model whose images are shown above, from the same z.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="An animation through the seeds, to .gif, .webp or .mp4.")
    ] = False,
    frames: Annotated[int, typer.Option(help="Frames from seed to seed.")] = 24,
    strength: Annotated[
        float | None, typer.Option(help="Interpolate weights between the source (0) and this model (1).")
    ] = None,
    swap_above: Annotated[
        int | None, typer.Option(help="Take layers above this resolution from the other model.")
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(help="The other model of --strength and --swap-above. (default: the source)"),
    ] = None,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Draw images from a MODEL. A seed determines an image, whatever the batch.

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
        raise FsgenError("--n is at least 1", code=Code.OUT_OF_RANGE, where="--n")
    if seeds is not None and n is not None:
        raise FsgenError("--n and --seeds exclude each other", where="--n", hint="use one of them")
    chosen = parse_seeds(seeds) if seeds is not None else list(range(seed, seed + count))
    if grid and len(chosen) > columns * rows:
        raise FsgenError(
            f"{len(chosen)} images do not fit a grid of {grid}",
            code=Code.OUT_OF_RANGE, where="--grid", hint="give a larger grid or fewer images",
        )  # fmt: skip
    request = sheets.SampleRequest(
        model=model, out=out, seeds=chosen, truncation=truncation, noise=noise, label=label,
        instance=instance, features=features, weights_dir=weights_dir, content=content, candidates=candidates,
        columns=columns if grid else None, compare=compare, strength=strength, swap_above=swap_above,
        other=other, device=device,
    )  # fmt: skip
    with common.terminal_callbacks() as callbacks:
        made = (
            sheets.write_animation(request, frames, callbacks)
            if interpolate
            else sheets.write(request, callbacks)
        )
    if as_json:
        common.emit({"files": [str(path) for path in made], "seeds": chosen})
    else:
        what = f"animation of {len(chosen)} seeds" if interpolate else f"{len(chosen)} images"
        common.stdout().print(f"{what}: {common.path_text(out)}", soft_wrap=True)


def _grid(text: str | None) -> tuple[int, int]:
    if text is None:
        return 8, 1
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and int(columns) and int(rows)):
        raise FsgenError(
            f"'{text}' is not a grid",
            code=Code.OUT_OF_RANGE, where="--grid", hint="columns x rows, as in --grid 8x8",
        )  # fmt: skip
    return int(columns), int(rows)
