"""``fsgen adapt``"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fsgen.cli import common, flags
from fsgen.errors import FsgenError


@flags.with_method_options
def adapt(
    ctx: typer.Context,
    images: Annotated[
        Optional[Path], typer.Argument(help="A folder, a zip or one image.", show_default=False)  # noqa: UP045
    ] = None,
    out: common.Out = None,
    source: Annotated[str, typer.Option(help="A run folder, a file, or a name (fsgen info).")] = "peeps64",
    new_class: Annotated[
        str, typer.Option(help="The images are a class of this name, new to a source with classes.")
    ] = "",
    features: Annotated[
        str, typer.Option(help="Of the images, for a source that draws after them. (default: its own)")
    ] = "",
    weights_dir: common.WeightsDir = None,
    method: Annotated[str, typer.Option(help="One or several, joined by commas: ewc,diffaugment.")] = "ewc",
    steps: Annotated[Optional[int], typer.Option(help="Generator steps. (default: 400)")] = None,  # noqa: UP045
    batch: common.Batch = None,
    lr: common.Rate = None,
    fit: common.Fit = "crop",
    mirror: Annotated[bool, typer.Option("--mirror", help="Also show the images flipped.")] = False,
    sample_every: common.SampleEvery = 100,
    save_every: common.SaveEvery = 100,
    stop: Annotated[
        str, typer.Option(help="steps, or auto: before, once samples are near enough to the images.")
    ] = "steps",
    resume: common.Resume = None,
    force: common.Force = False,
    dry_run: common.DryRun = False,
    device: common.Device = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    debug: common.Debug = False,
    **method_flags: Any,
) -> None:
    """Pull a source generator to the domain of a few IMAGES.

    [dim]fsgen adapt ./ten_sketches --out runs/sketches[/dim]
    """
    common.setup(debug)
    from fsgen.training import adapt as engine

    with interruptible() as asked, common.watching(asked) as callbacks:
        if resume is not None:
            only_resume(ctx)
            run = engine.resume(resume, steps=steps, callbacks=callbacks)
        else:
            if images is None or out is None:
                raise FsgenError(
                    "IMAGES and --out are needed", hint="fsgen adapt ./ten_images --out runs/first"
                )
            run = engine.adapt(
                images, out=out, source=source, new_class=new_class, features=features,
                weights_dir=weights_dir, method=method, options=flags.by_method(method_flags),
                recipe={"batch": batch, "lr": lr}, steps=engine.STEPS if steps is None else steps,
                seed=seed, device=device, fit=fit, mirror=mirror, sample_every=sample_every,
                save_every=save_every, stop=stop, force=force, dry_run=dry_run, callbacks=callbacks,
            )  # fmt: skip
    if dry_run:
        common.show_config(run, as_json)
    else:
        show_result(run, as_json)


def only_resume(ctx: typer.Context) -> None:
    """Refuse what would be ignored: a run goes on as it was begun, but for its length."""
    given = [p for p in ctx.command.params if ctx.get_parameter_source(p.name).name == "COMMANDLINE"]
    allowed = ("resume", "steps", "as_json", "debug")
    if other := next((p.opts[0] for p in given if p.name not in allowed), None):
        raise FsgenError(
            f"--resume goes on with what the run was begun with, so it takes no {other}",
            hint=f"fsgen {ctx.command.name} --resume RUN, with --steps to go on for longer",
        )


def show_result(run: Path, as_json: bool) -> None:
    import json

    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    if as_json:
        common.emit({"path": str(run), **report})
        return
    where = common.path_text(run)
    out = common.stdout()
    seconds = report["run"]["cost"]["seconds"]
    if drawn := report["run"].get("pictures"):
        folder = common.path_text(run / drawn["folder"])
        out.print(f"{drawn['count']} pictures redrawn in {seconds:.0f} s: {folder}", soft_wrap=True)
        out.print(f"  look:   {common.path_text(run / report['run']['grid'])}", soft_wrap=True)
        out.print(f"  judge:  fsgen eval {folder} --real IMAGES", soft_wrap=True)
        return
    done = "trained" if report["run"]["source"] is None else "adapted"
    out.print(f"{done} in {seconds:.0f} s: {where}", soft_wrap=True)
    out.print(f"  look:   {common.path_text(run / report['run']['grid'])}", soft_wrap=True)
    out.print(f"  sample: fsgen sample {where} --grid 8x8 --out grid.png", soft_wrap=True)


@contextmanager
def interruptible() -> Iterator[Any]:
    """The first Ctrl-C asks the loop to finish its step; the second is an ordinary one."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        common.say("finishing this step and saving; Ctrl-C again to give up at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
