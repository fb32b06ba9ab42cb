"""What a finished run leaves behind: the adapted model, its pictures, plots and figures."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fsgen
from fsgen.data import image_output
from fsgen.io import report_json
from fsgen.io.run_folder import Run
from fsgen.methods.stack import Stack
from fsgen.models.model import Model
from fsgen.sampling.latents import prior, stored
from fsgen.training import loop, plots
from fsgen.training.data_source import DataSource


class Preview:
    """The same inputs through the generator in training and, above, the contents that it translates or,
    ``beside``, what its source makes of them."""

    def __init__(self, data: DataSource, methods: Stack, device: torch.device, *, beside: bool) -> None:
        g = data.model.generator(device=device)
        self.model, self.methods = data.model, methods
        self.inputs = data.shown(g)
        self.source = _images(g, self.inputs) if beside else None
        if self.inputs.content is not None:
            self.source = self.inputs.content.cpu()
        self.hash = data.model.hash

    def write(self, state: loop.TrainingState, path: Path) -> Path:
        """Eight a row; a source above what became of it, as it would be if the run ended here."""
        model, g = as_it_would_end(self.model, self.methods, state)
        images = _images(g, stored(model, self.inputs))
        beside = self.source is not None
        sheet = (
            image_output.pairs(self.source, images, columns=8)
            if beside
            else image_output.grid(images, columns=8)
        )
        text = {"seeds": f"0-{len(images) - 1}", "step": str(state.step), "source": self.hash}
        image_output.save_png(sheet, path, text | {"Software": "fsgen"})
        return path


def as_it_would_end(model: Model, methods: Stack, state: loop.TrainingState) -> tuple[Model, nn.Module]:
    """What ``model`` has become if the run ends here, and its generator: the average."""
    g = copy.deepcopy(state.g_ema)
    model = dataclasses.replace(model, extra=model.extra | methods.leave(g))
    settle(model, g, state, methods)
    return model, g


def settle(model: Model, g: nn.Module, state: loop.TrainingState, methods: Stack) -> None:
    """Bring ``g`` to rest after training, unless it was at rest or only how classes are embedded changed."""
    if not methods.at_rest and any(name not in model.family.embeddings for name in state.free["g"]):
        model.family.settle(g, prior(model, g))


@torch.no_grad()
def _images(g: nn.Module, inputs: Any) -> Tensor:
    return g(inputs).cpu()


def write(
    data: DataSource, state: loop.TrainingState, methods: Stack, run: Run, *, settings: dict[str, Any],
    recipe: dict[str, Any], source_g: nn.Module, shots: int, seconds: float, grid: Path,
    enough: bool,
) -> None:  # fmt: skip
    """Model, plots and report.json of a run that is done; the networks of ``state`` leave their methods."""
    options = methods.options()
    left = [methods.leave(net) for net in (state.g_ema, state.g, state.d)]
    source = dataclasses.replace(data.model, extra=data.kept(state.g_ema) | left[0])
    for g in (state.g_ema, state.g):
        settle(source, g, state, methods)
    adapted = _adapted(source, state, {"run": settings, "method": options})
    adapted.save(run.model)
    scratch = settings["fresh"] is not None
    change = {} if scratch else rate_of_change(source_g, state.g, source.family.layers(source.spec))
    history = run.history()
    if history:
        plots.losses(history, run.plots / "losses.png")
    if change:
        plots.by_layer(change, run.plots / "change.png", "mean |change| / mean |weight|")
    if any("ewc" in line for line in history):
        plots.penalty(history, run.plots / "penalty.png")
    report_json.update(run.path, {"run": {
        "model": {"file": run.model.name, "hash": adapted.hash},
        **facts(source, settings, options, shots, seconds),
        "steps": state.step,
        "ended_by_itself": enough,
        "recipe": recipe,
        "trained_parameters": sum(p.numel() for p in state.free["g"].values()),
        "rate_of_change": change,
        "grid": str(grid.relative_to(run.path)),
    }})  # fmt: skip


def facts(
    source: Model, settings: dict[str, Any], options: dict[str, Any], shots: int, seconds: float
) -> dict[str, Any]:
    """What report.json says of any run: what it was made from, how, and what it cost."""
    scratch = settings["fresh"] is not None
    return {
        "source": None if scratch else {"name": source.about.get("title"), "hash": settings["source_hash"],
                                        "licence": source.about.get("licence")},
        "images": {"count": shots, "digest": settings["images_digest"]},
        "method": options,
        "seed": settings["seed"],
        "cost": {"seconds": round(seconds, 1), "peak_rss_mb": peak_rss_mb(), "device": settings["device"],
                 "threads": torch.get_num_threads()},
    }  # fmt: skip


def _adapted(source: Model, state: loop.TrainingState, provenance: dict[str, Any]) -> Model:
    """The networks that the source file has, under the same keys, with what training made of them."""
    trained = {"g": state.g, "g_ema": state.g_ema, "d": state.d}
    networks = {
        name: {key: value.detach().cpu().clone() for key, value in trained[name].state_dict().items()}
        for name in source.networks
    } if state.free["g"] else source.networks  # fmt: skip
    run, about = provenance["run"], {"provenance": provenance, "fsgen": fsgen.__version__}
    about |= {key: source.about[key] for key in ("classes", "class", "features") if key in source.about}
    if run["fresh"] is not None:
        about |= {
            "title": f"{source.about['title']}, trained from scratch",
            "subject": Path(run["images"]).stem,
        }
    else:
        about |= {key: source.about.get(key) for key in ("subject", "licence", "commercial")}
        about["title"] = f"{source.about.get('title', 'unnamed')} adapted with {run['method']}"
        about["source"] = {"name": run["source"], "hash": run["source_hash"]}
    return Model(source.family, source.spec, networks, about, source.extra)


@torch.no_grad()
def rate_of_change(before: nn.Module, after: nn.Module, layers: dict[str, list[str]]) -> dict[str, float]:
    """Mean |theta - theta_S| over mean |theta_S| per layer, first to last (Li et al. 2020, figure 1)."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    out = {}
    for layer, names in layers.items():
        moved = torch.cat([(new[name] - old[name]).abs().flatten() for name in names]).mean()
        out[layer] = (moved / torch.cat([old[name].abs().flatten() for name in names]).mean()).item()
    return out


def peak_rss_mb() -> int | None:
    """Largest resident memory of this process so far, in MB; None on Windows, which does not tell."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage goes on from the peak of whatever started this process
        return round(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))
