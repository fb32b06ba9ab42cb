"""Cross-domain correspondence (Ojha et al. 2021): keep how the source's samples relate to one another.

Samples that were alike stay alike and those that were not stay apart, so that ten images cannot pull all of
them to the same few pictures. Only near as many fixed latents as there are images must whole pictures pass
for real; everywhere else patches of them must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fsgen import rng as random
from fsgen.errors import FsgenError
from fsgen.interfaces import Inputs, Method, MethodContext, Spec, StepContext, TrainingState

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SAMPLES = 4  # B, of which each is compared with the others
SIDE = 32  # px: the patches' critic looks at D's first map of at most this side, as published from 64 px on


class CDC(Method):
    """Sections 3.1 and 3.2 of the paper: the term, and a head for patches on D.

    Every fourth step latents are drawn near the anchors and D judges; in the others, a convolution over D's
    first map of at most 32 px does, with a leaky ReLU on its logits as published. From 64 px on that is the
    published map: of a StyleGAN2's side its patches are 19 % at 64 px, 26 % at 256 px. Below, where the
    published code has no patches and silently asks D itself, it is the first convolution's: 16 % at 32 px.

    Source and G see the same stored noise (published: each its own), in evaluation mode, so that the term is
    zero at the start. Anchors are of z alone: a class, or an instance, is drawn as ever.
    """

    name = "cdc"
    summary = "keep the similarities between samples; whole pictures judged near anchors, patches elsewhere"
    paper = "Ojha et al. 2021, Few-shot Image Generation via Cross-domain Correspondence, arXiv 2104.06820"
    trained = "all of G and D, a head for patches on D"
    licence = "Adobe Research License, non-commercial"
    needs = frozenset({"latent", "discriminator", "taps"})
    claims = frozenset({"what latents are drawn", "what judges"})
    adapts = True

    @dataclass(frozen=True)
    class Options:
        weight: float = field(default=1000.0, metadata={"help": "Weight of the correspondence."})
        divergence: str = field(
            default="paper",
            metadata={
                "help": "What is compared. paper: KL(G || source), summed over samples and layers; published "
                "(its code): KL(source || G), one layer a sample, the mean over all pairs.",
                "choices": ("paper", "published"),
            },
        )
        every: int = field(
            default=4, metadata={"help": "Every so many steps whole pictures are judged, near the anchors."}
        )
        spread: float = field(
            default=0.1, metadata={"help": "Standard deviation of the latents around an anchor."}
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        if self.options.every < 1:
            raise FsgenError(f"--cdc-every {self.options.every} is no number of steps: 1 or more")
        if not (0 <= self.options.weight < float("inf") and 0 <= self.options.spread < float("inf")):
            raise FsgenError("--cdc-weight and --cdc-spread are numbers of at least 0")
        self.source: nn.Module | None = None
        self.anchors: Tensor | None = None  # [shots, z_dim]
        self.spec: Spec = {}
        self.seed = 0
        self.anchored = False

    def enter(self, context: MethodContext) -> None:
        self.source, self.spec, self.seed = context.source, context.spec, context.seed
        rng = random.generator(context.seed, "cdc anchors")
        self.anchors = context.source.draw(context.shots, rng).z.to(context.device)

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        self.enter(context)

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        import torch

        from fsgen.nn.layers import EqualConv

        device = next(d.parameters()).device
        picture = torch.zeros(1, self.spec["channels"], *[self.spec["resolution"]] * 2, device=device)
        with torch.no_grad(), _evaluating(d):
            width = seen(d, picture).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            d.add_module(self.name, EqualConv(width, 1, 3).to(device))

    def before(self, state: TrainingState) -> None:
        self.anchored = state.step % self.options.every == 0

    def draw(self, g: nn.Module, inputs: Inputs, rng: torch.Generator, shown: bool) -> Inputs:
        """Near the anchors styles are mixed with nothing else."""
        if not (shown and self.anchored):
            return inputs
        import torch

        rows = torch.randint(len(self.anchors), (len(inputs.z),), generator=rng, device=rng.device)
        around = torch.randn(inputs.z.shape, generator=rng, device=rng.device)
        z = self.anchors[rows] + self.options.spread * around
        return replace(inputs, z=z, mix=z)

    def discriminator(self, d: nn.Module) -> Callable[..., Tensor]:
        if self.anchored:
            return d
        return lambda images, inputs=None: d.get_submodule(self.name)(seen(d, images))

    def terms(self, context: StepContext) -> dict[str, Tensor]:
        import torch

        rng = context.rng("cdc")
        inputs = context.draw(SAMPLES, rng)
        with torch.no_grad():
            source = relations(self.source.taps(inputs)[1:])
        with _evaluating(context.g):
            ours = relations(context.g.taps(inputs)[1:])
        layers = None
        if self.options.divergence == "published":
            layers = torch.randint(len(ours), (SAMPLES,), generator=rng, device=rng.device)
        return {"cdc": self.options.weight * divergence(ours, source, layers)}

    def leave(self, net: nn.Module) -> dict[str, Tensor]:
        if hasattr(net, self.name):
            delattr(net, self.name)  # nothing is judged any more
        return {}


def seen(d: nn.Module, images: Tensor) -> Tensor:
    """What the patches' critic looks at: D's first map of at most ``SIDE`` px."""
    return next(x for x in d.taps(images) if x.shape[2] <= SIDE)


def relations(maps: Sequence[Tensor]) -> Tensor:
    """log of the softmax of the cosine similarity of each sample to each other (section 3.1).

    Args:
        maps: of L layers, [n, C, H, W] each.

    Returns:
        [L, n, n - 1]; a sample's own place is left out.
    """
    import torch
    from torch.nn import functional as F

    n = len(maps[0])
    others = ~torch.eye(n, dtype=torch.bool, device=maps[0].device)
    rows = [F.normalize(x.flatten(1), dim=1) for x in maps]
    return torch.stack([(x @ x.T)[others].view(n, n - 1).log_softmax(dim=1) for x in rows])


def divergence(ours: Tensor, source: Tensor, layers: Tensor | None = None) -> Tensor:
    """How far the ``relations`` of G are from the source's.

    Args:
        ours, source: [L, n, n - 1], logarithms.
        layers: [n], the layer of each sample; None: all.

    Returns:
        L_dist, the sum over layers l and samples i of KL(ours_il || source_il). With ``layers``, as in the
        published code, the mean of all n (n - 1) terms of KL(source || ours), so divided by n - 1 once more.
    """
    from torch.nn import functional as F

    if layers is None:
        return F.kl_div(source, ours, reduction="sum", log_target=True)
    n = range(len(layers))
    return F.kl_div(ours[layers, n], source[layers, n], reduction="none", log_target=True).mean()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """``net`` in evaluation mode: with the stored statistics, and none of them changed."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
