"""The files of a finished run: the adapted model, its adapter, grids, plots and report.json."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fsgen
from fsgen.atomic import write_text
from fsgen.config import PlainDict
from fsgen.data import image_output
from fsgen.interfaces import Generator, Inputs, Module, TrainingState
from fsgen.io import report_json
from fsgen.methods.stack import Stack
from fsgen.models.adapter import Adapter
from fsgen.models.model import Model
from fsgen.pages import report_page
from fsgen.pages.contents import PageContents
from fsgen.sampling.conditioning import TrainingInputs, conditioning_of, prepared
from fsgen.training import plots
from fsgen.training.job import TrainingJob
from fsgen.training.run_options import RunConfig

SHOTS = 20  # training images on the page of a run


class Preview:
    """A grid of the same inputs at every time: the contents or the source's images above, the run's below."""

    def __init__(self, data: TrainingInputs, job: TrainingJob) -> None:
        g = data.model.generator(device=job.device)
        self.model, self.methods = data.model, job.methods
        self.inputs = data.preview(g)
        self.above: Tensor | None = None
        if self.inputs.content is not None:
            self.above = self.inputs.content.cpu()
        elif job.config.fresh is None:
            self.above = _images(g, self.inputs)
        self.hash = data.model.hash

    def write(self, state: TrainingState, path: Path) -> Path:
        """Draw with the model as it would be if the run ended here."""
        model, g = model_if_ended(self.model, self.methods, state)
        return write_grid(self.above, _images(g, prepared(model, self.inputs)), path, state.step, self.hash)


def write_grid(above: Tensor | None, images: Tensor, path: Path, step: int, source_hash: str) -> Path:
    """Write eight images a row, each below the one it belongs to, if there are any."""
    sheet = image_output.grid(images, columns=8)
    if above is not None:
        sheet = image_output.pairs(above, images, columns=8)
    text = {"seeds": f"0-{len(images) - 1}", "step": str(step), "source": source_hash}
    image_output.save_png(sheet, path, text | {"Software": "fsgen"})
    return path


@torch.no_grad()
def _images(g: Generator, inputs: Inputs) -> Tensor:
    return g(inputs).cpu()


def model_if_ended(model: Model, methods: Stack, state: TrainingState) -> tuple[Model, Generator]:
    """``model`` and its generator, the moving average, as they would be if the run ended here."""
    g = copy.deepcopy(state.g_ema)
    model = dataclasses.replace(model, extra=model.extra | methods.export_from(g))
    _refresh(model, g, state, methods)
    return model, g


def _refresh(model: Model, g: Generator, state: TrainingState, methods: Stack) -> None:
    """Refresh statistics derived from the weights, if weights other than embeddings were trained."""
    trained = [name for name in source_parameters(state, methods) if name not in model.family.embeddings]
    if trained and not methods.frozen_statistics:
        model.family.refresh_statistics(g, conditioning_of(model).prior(g))


def source_parameters(state: TrainingState, methods: Stack) -> list[str]:
    """The trained parameters of G that the source has."""
    added = {method.name for method in methods.methods}
    return [name for name in state.trained["g"] if name.split(".")[0] not in added]


def write(
    job: TrainingJob, data: TrainingInputs, state: TrainingState, *, source_g: Generator, ended_early: bool,
    seconds: float, grid: Path,
) -> None:  # fmt: skip
    """Write model, adapter, plots and report.json; removes added modules from the networks of ``state``."""
    methods, folder = job.methods, job.folder
    added_only = not source_parameters(state, methods)
    trained_count = sum(p.numel() for p in state.trained["g"].values())
    exported, _, _ = (methods.export_from(net) for net in (state.g_ema, state.g, state.d))
    source = dataclasses.replace(data.model, extra=data.stored(state.g_ema) | exported)
    for g in (state.g_ema, state.g):
        _refresh(source, g, state, methods)
    adapted = _adapted(source, state, job.config, methods)
    adapted.save(folder.model)
    if added_only and exported:
        Adapter.of(job.source, job.config.method, exported).save(folder.adapter)
    change: dict[str, float] = {}
    if job.config.fresh is None:
        change = rate_of_change(source_g, state.g, source.family.layers(source.spec))
    _plot(job, change)
    write_report(job, grid, {
        "model": {"file": folder.model.name, "hash": adapted.hash},
        **facts(job.source, job.config, methods.options(), len(job.shots), seconds),
        "steps": state.step,
        "ended_by_itself": ended_early,
        "recipe": dataclasses.asdict(job.recipe),
        "trained_parameters": trained_count,
        "rate_of_change": change,
    }, change)  # fmt: skip


def write_report(
    job: TrainingJob, grid: Path, run: PlainDict, change: dict[str, float] | None = None
) -> None:
    """Write report.json and report.html of a finished run; ``run`` is its part of the former."""
    folder = job.folder
    run |= {"grid": str(grid.relative_to(folder.path))}
    contents = PageContents(
        shots=job.shots.pixels[:SHOTS], history=folder.history(), change=change or {},
        grid=torch.from_numpy(np.array(Image.open(grid).convert("RGB"))).permute(2, 0, 1),
    )  # fmt: skip
    report = report_json.update(folder.path, {"run": run})
    report.pop("evaluation", None)  # of the weights before a run was resumed
    write_page(folder.path / "report.html", report, contents)


def write_page(path: Path, report: PlainDict, contents: PageContents) -> None:
    """Render and write report.html."""
    write_text(path, report_page.render(report, contents))


def _plot(job: TrainingJob, change: dict[str, float]) -> None:
    history, folder = job.folder.history(), job.folder.plots
    if history:
        plots.losses(history, folder / "losses.png")
    if change:
        plots.by_layer(change, folder / "change.png", "mean |change| / mean |weight|")
    if any("ewc" in line for line in history):
        plots.penalty(history, folder / "penalty.png")


def facts(source: Model, config: RunConfig, options: PlainDict, shots: int, seconds: float) -> PlainDict:
    """The parts of report.json that every run has: its origin, its method, its cost."""
    scratch = config.fresh is not None
    return {
        "source": None if scratch else {"name": source.about.get("title"), "hash": config.source_hash,
                                        "licence": source.about.get("licence")},
        "images": {"count": shots, "digest": config.images_digest},
        "method": options,
        "seed": config.seed,
        "cost": {"seconds": round(seconds, 1), "peak_rss_mb": peak_rss_mb(), "device": config.device,
                 "threads": torch.get_num_threads()},
    }  # fmt: skip


def _adapted(source: Model, state: TrainingState, config: RunConfig, methods: Stack) -> Model:
    """The networks that the source file has, under the same keys, as training changed them."""
    trained = {"g": state.g, "g_ema": state.g_ema, "d": state.d}
    networks = {
        name: {key: value.detach().cpu().clone() for key, value in trained[name].state_dict().items()}
        for name in source.networks
    }
    return Model(
        source.family, source.spec, networks, about_of(source, config, methods.options()), source.extra
    )


def about_of(source: Model, config: RunConfig, options: PlainDict) -> PlainDict:
    """The header of the finished model: provenance, licence, title."""
    provenance = {"run": dataclasses.asdict(config), "method": options}
    about: PlainDict = {"provenance": provenance, "fsgen": fsgen.__version__}
    about |= {key: source.about[key] for key in ("classes", "class", "features") if key in source.about}
    if config.fresh is not None:
        title = f"{source.about['title']}, trained from scratch"
        return about | {"title": title, "subject": Path(config.images).stem}
    about |= {key: source.about.get(key) for key in ("subject", "licence", "commercial")}
    about["title"] = f"{source.about.get('title', 'unnamed')} adapted with {config.method}"
    about["source"] = {"name": config.source, "hash": config.source_hash}
    return about


@torch.no_grad()
def rate_of_change(before: Module, after: Module, layers: dict[str, list[str]]) -> dict[str, float]:
    """Mean |theta - theta_S| over mean |theta_S| per layer, first to last (Li et al. 2020, figure 1)."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    out = {}
    for layer, names in layers.items():
        moved = torch.cat([(new[name] - old[name]).abs().flatten() for name in names]).mean()
        out[layer] = (moved / torch.cat([old[name].abs().flatten() for name in names]).mean()).item()
    return out


def peak_rss_mb() -> int | None:
    """Peak resident memory of this process so far, in MB; None on Windows, which does not tell."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage goes on from the peak of whatever started this process
        return round(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))
