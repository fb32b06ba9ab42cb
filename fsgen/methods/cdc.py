"""Cross-domain correspondence (Ojha et al. 2021): keep how the source's samples relate to one another.

Similarities between samples are preserved, so that ten shots cannot pull all samples to the same few images.
The discriminator sees whole images only near anchors, as many fixed latents as there are shots, and patches
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fsgen import rng as random
from fsgen.config import check_range
from fsgen.interfaces import (
    Claim,
    Inputs,
    Judge,
    Method,
    MethodContext,
    Module,
    Spec,
    StepContext,
    TappedDiscriminator,
    TrainingState,
    Trait,
)  # fmt: skip

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAMPLES = 4  # B, of which each is compared with the others
SIDE = 32  # px: patch logits are of D's first map of at most this side, as published from 64 px on


@dataclass(frozen=True)
class CDCOptions:
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


class CDC(Method[CDCOptions]):
    """Sections 3.1 and 3.2 of the paper: the term, and a head for patches on D.

    Every fourth step latents are drawn near the anchors and D computes the logits; in the others a
    convolution over D's first map of at most 32 px does, with a leaky ReLU on its logits as published. From
    64 px on that is the published map: its patches span 19 % of a StyleGAN2's side at 64 px, 26 % at 256 px.
    Below, where the published code has no patches and silently uses D itself, it is the first convolution's:
    16 % at 32 px.

    Source and G get the same stored noise (published: each its own), in evaluation mode, so that the term is
    zero at the start. Anchors fix z alone: classes and instances are drawn as usual.
    """

    name = "cdc"
    summary = "preserve similarities between samples; D sees whole images near anchors, patches elsewhere"
    paper = "Ojha et al. 2021, Few-shot Image Generation via Cross-domain Correspondence, arXiv 2104.06820"
    trained = "all of G and D, a head for patches on D"
    licence = "Adobe Research License, non-commercial"
    needs = frozenset({Trait.LATENT, Trait.DISCRIMINATOR, Trait.TAPS})
    claims = frozenset({Claim.LATENTS, Claim.DISCRIMINATOR})
    adapts = True
    Options = CDCOptions

    def __init__(self, options: CDCOptions | None = None) -> None:
        super().__init__(options)
        check_range("--cdc-every", self.options.every, 1)
        check_range("--cdc-weight", self.options.weight, 0)
        check_range("--cdc-spread", self.options.spread, 0)
        self.spec: Spec = {}
        self.seed = 0
        self.anchored = False

    def setup(self, context: MethodContext) -> None:
        """Draw the anchors."""
        self.source, self.spec, self.seed = context.source, context.spec, context.seed
        rng = random.generator(context.seed, "cdc anchors")
        self.anchors: Tensor = context.source.draw(context.shots, rng).z.to(context.device)  # [shots, z_dim]

    def add_modules(self, g: Module, d: Any) -> None:
        import torch

        from fsgen.nn.layers import EqualConv

        device = next(d.parameters()).device
        picture = torch.zeros(1, self.spec["channels"], *[self.spec["resolution"]] * 2, device=device)
        with torch.no_grad(), _evaluating(d):
            width = patch_features(d, picture).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            d.add_module(self.name, EqualConv(width, 1, 3).to(device))

    def before_step(self, state: TrainingState) -> None:
        self.anchored = state.step % self.options.every == 0

    def transform_inputs(self, inputs: Inputs, g: Any, rng: torch.Generator, shown: bool) -> Inputs:
        """Draw near the anchors every ``every`` steps, without style mixing."""
        if not (shown and self.anchored):
            return inputs
        import torch

        assert inputs.z is not None

        rows = torch.randint(len(self.anchors), (len(inputs.z),), generator=rng, device=rng.device)
        around = torch.randn(inputs.z.shape, generator=rng, device=rng.device)
        z = self.anchors[rows] + self.options.spread * around
        return replace(inputs, z=z, mix=z)

    def discriminator(self, d: Any) -> Judge:
        if self.anchored:
            return d
        return lambda images, inputs=None: d.get_submodule(self.name)(patch_features(d, images))

    def loss_terms(self, context: StepContext) -> dict[str, Tensor]:
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

    def export(self, net: Any) -> dict[str, Tensor]:
        if hasattr(net, self.name):
            delattr(net, self.name)
        return {}


def patch_features(d: TappedDiscriminator, images: Tensor) -> Tensor:
    """D's first feature map of at most ``SIDE`` px."""
    return next(x for x in d.taps(images) if x.shape[2] <= SIDE)


def relations(maps: Sequence[Tensor]) -> Tensor:
    """The log-softmax of each sample's cosine similarities to the others (section 3.1).

    Args:
        maps: L layers of [n, C, H, W].

    Returns:
        [L, n, n - 1]; each sample's similarity to itself is left out.
    """
    import torch
    from torch.nn import functional as F

    n = len(maps[0])
    others = ~torch.eye(n, dtype=torch.bool, device=maps[0].device)
    rows = [F.normalize(x.flatten(1), dim=1) for x in maps]
    return torch.stack([(x @ x.T)[others].view(n, n - 1).log_softmax(dim=1) for x in rows])


def divergence(ours: Tensor, source: Tensor, layers: Tensor | None = None) -> Tensor:
    """The divergence of G's ``relations`` from the source's.

    Args:
        ours, source: [L, n, n - 1], logarithms.
        layers: [n], the layer to use for each sample; None: all.

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
def _evaluating(net: Module) -> Iterator[None]:
    """Put ``net`` in evaluation mode for a while: stored statistics are used and not changed."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
