"""``fsgen fisher``: the diagonal Fisher information of a source generator, estimated once and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsgen import device as devices
from fsgen import rng as random
from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Discriminator, Family, Generator, Inputs, Module, NetworkName
from fsgen.io.cache_folders import make_folder
from fsgen.models import model as models
from fsgen.models.fisher_cache import Fisher, plan, read, write
from fsgen.models.model import Model
from fsgen.nn import per_sample_fisher as estimator
from fsgen.sampling.conditioning import conditioning_of

CHUNK = 2**24  # gradients in memory at a time on a CPU (64 MB, and as much again); 32 times as many on a GPU

Progress = Callable[[int, int], None]
"""(done, total)"""


def fisher(
    source: str | Path = "peeps64",
    *,
    samples: int = 1000,
    proxy: str = "adversarial",
    seed: int = 0,
    device: str = "auto",
    weights_dir: Path | None = None,
    dry_run: bool = False,
    progress: Progress = lambda done, total: None,
) -> Fisher | PlainDict:
    """Estimate the Fisher information of ``source`` at theta_S (its ``g``, or ``g_ema`` without one); cached.

    Args:
        source: run folder, file or name.
        samples: latents to average over; the error falls with their square root.
        proxy: stand-in for the log-likelihood (see ``likelihood``).
        seed: of the latents.
        weights_dir: a folder with the LPIPS backbone, for ``perceptual``.
        dry_run: check everything, estimate nothing, return the resolved options as plain values.
        progress: (done, total) of the samples.

    Raises:
        FsgenError: unknown proxy, no discriminator for ``adversarial``, fewer than 1 sample.
    """
    found, target = models.load_model(source), devices.pick(device)
    if dry_run:
        about, path = plan(found, samples, proxy, seed)
        likelihood(found, proxy, target, weights_dir)
        return {**about, "source": str(source), "device": str(target), "cached": path.is_file()}
    return fisher_of_model(
        found, samples=samples, proxy=proxy, seed=seed, device=target, weights_dir=weights_dir,
        progress=progress,
    )  # fmt: skip


def fisher_of_model(
    source: Model,
    *,
    samples: int,
    proxy: str,
    seed: int,
    device: torch.device,
    weights_dir: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Fisher:
    """Estimate the Fisher information of a loaded model; see ``fisher``."""
    about, path = plan(source, samples, proxy, seed)
    layers = source.family.layers(source.spec)
    if (kept := read(path, about)) is not None:
        return Fisher(kept, about, layers)
    g = source.generator(source.start, device)
    score = likelihood(source, proxy, device, weights_dir)
    # All inputs are drawn at once, so that they do not depend on the batch size.
    drawn = conditioning_of(source).prior(g)(samples, random.generator(seed, "fisher"))
    batches = _batches(g, drawn, proxy, seed, device, score, progress)
    diagonal = {name: value.cpu() for name, value in estimator.diagonal(g, score, batches).items()}
    make_folder(path.parent)
    found = Fisher(diagonal, about, layers)
    write(found, path)
    return found


def of_both(
    family: Family, g: Generator, d: Discriminator, batches: Iterable[tuple[Inputs, Tensor]]
) -> dict[NetworkName, dict[str, Tensor]]:
    """The diagonal for both networks, of their own adversarial losses per sample (Zhao et al. 2022, section
    4; Zhao et al. 2023, section 3.2).

    Args:
        family, g, d: the networks, in evaluation mode, and their family.
        batches: inputs of n samples, and [n, C, H, W] in [-1, 1], a real image beside each sample.
    """

    def of_g(net: Any, one: Inputs, _: None) -> Tensor:
        return family.loss_g(d(net(one), one))

    def of_d(net: Any, one: Inputs, pair: Tensor) -> Tensor:
        return family.loss_d(net(pair[:1], one), net(pair[1:], one))

    totals: dict[NetworkName, dict[str, Tensor]] = {"g": {}, "d": {}}
    count = 0
    for inputs, real_images in batches:
        with torch.no_grad():
            pairs = torch.stack([real_images, g(inputs)], dim=1)
        n = len(real_images)
        both: list[tuple[NetworkName, Module, Any, Tensor | None]] = [
            ("g", g, of_g, None),
            ("d", d, of_d, pairs),
        ]
        for name, net, score, draws in both:
            size = _together(net, real_images.device)
            some = ((inputs[i : i + size], None if draws is None else draws[i : i + size])
                    for i in range(0, n, size))  # fmt: skip
            for key, value in estimator.diagonal_of_network(net, score, some).items():
                totals[name][key] = totals[name].get(key, torch.zeros([])) + n * value
        count += n
    return {name: {key: value / count for key, value in found.items()} for name, found in totals.items()}


def _together(net: Module, device: torch.device) -> int:
    """The number of samples whose gradients are in memory at a time."""
    parameters = sum(p.numel() for p in net.parameters())
    return max(1, min(32, CHUNK * (32 if device.type == "cuda" else 1) // parameters))


def likelihood(
    source: Model, proxy: str, device: torch.device, weights_dir: Path | None = None
) -> estimator.Likelihood:
    """log L(x) of one image [1, C, H, W] up to a constant; the Fisher information squares its gradient.

    ``adversarial``: log D(x) with D frozen (Li et al. 2020, section 3.2). ``reconstruction``: a Gaussian
    around x itself, whose score is <eps, x> with eps ~ N(0, I); the gradient of the plain squared error is
    zero there. ``perceptual``: the same in LPIPS features.

    Raises:
        FsgenError: the source has no discriminator; the weights of LPIPS are not on this machine.
    """
    if proxy == "reconstruction":
        return Gaussian(lambda image: image)
    if proxy == "perceptual":
        from fsgen.features.lpips_network import Lpips
        from fsgen.features.weight_files import locate_file

        lpips = Lpips("alex", locate_file("alexnet", weights_dir), device)
        return Gaussian(lambda image: lpips.embed(image.expand(-1, 3, -1, -1)))  # grey is repeated to RGB
    d = source.discriminator(device)
    if d is None:
        raise FsgenError(
            "the source has no discriminator to compute the adversarial Fisher information with",
            code=Code.INCOMPATIBLE, where="discriminator",
            hint="use --proxy reconstruction or perceptual (with adapt: --ewc-proxy)",
        )  # fmt: skip
    d.requires_grad_(False)
    return lambda image, inputs, draw: source.family.log_likelihood(d(image, inputs)).sum()


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian log-likelihood of image features, log N(e(x) | e(x_S), I).

    At x = x_S its gradient is that of <e(x), eps> for a draw eps ~ N(0, I)."""

    embed: Callable[[Tensor], Tensor]  # [1, C, H, W] -> [1, ...]

    def __call__(self, image: Tensor, inputs: Inputs, eps: Tensor) -> Tensor:
        return (self.embed(image)[0] * eps).sum()


def _batches(
    g: Generator, drawn: Inputs, proxy: str, seed: int, device: torch.device, score: Any, progress: Progress
) -> Iterator[tuple[Inputs, Tensor | None]]:
    """Inputs and, for a Gaussian, eps of each sample."""
    samples = len(drawn)
    size = _together(g, device)
    shape = _draw_shape(g, drawn[:1].to(device), proxy, score)
    for done in range(0, samples, size):
        progress(done, samples)
        inputs = drawn[done : done + size]
        draws = None
        if proxy != "adversarial":
            streams = [random.generator(seed, "fisher eps", done + i) for i in range(len(inputs))]
            draws = torch.stack([torch.randn(shape, generator=stream) for stream in streams])
        yield inputs.to(device), None if draws is None else draws.to(device)
    progress(samples, samples)


def _draw_shape(g: Generator, one: Inputs, proxy: str, score: Any) -> tuple[int, ...]:
    if proxy == "adversarial":
        return ()
    with torch.no_grad():
        return tuple(score.embed(g(one))[0].shape)
