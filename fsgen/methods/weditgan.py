"""WeditGAN (Duan et al. 2024): adapt by one constant offset of w for each modulated layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fsgen import rng as random
from fsgen.config import check_range
from fsgen.interfaces import Claim, Inputs, Method, Trait

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fsgen.interfaces import Family, MethodContext, Module, NetworkName, Spec, StepContext


@dataclass(frozen=True)
class WeditGANOptions:
    init: float = field(default=1.0, metadata={"help": "Standard deviation of the initial offsets."})
    perpendicular: float = field(default=0.0, metadata={"help": "Weight of the perpendicular loss (1e-4)."})
    contrastive: float = field(default=0.0, metadata={"help": "Weight of the contrastive loss (0.5)."})


class WeditGAN(Method[WeditGANOptions]):
    """w'_l = w_l + dw_l for each convolution and ToRGB l. The published contrastive loss has a D term too."""

    name = "weditgan"
    summary = "learn one offset of w for each layer; the source stays as it is"
    paper = "Duan et al. 2024, Few-shot Image Generation via Latent Space Relocation, arXiv 2305.06671"
    trained = "one offset of w for each modulated layer of G, all of D"
    licence = "none stated"
    needs = frozenset({Trait.LATENT, Trait.DISCRIMINATOR, Trait.W_SPACE})
    claims = frozenset({Claim.WEIGHTS_G})
    adapts = adds_parameters = True
    starts = "g_ema"  # images are drawn with it, and the adapter is applied to it
    Options = WeditGANOptions

    def __init__(self, options: WeditGANOptions | None = None) -> None:
        super().__init__(options)
        for name, value in vars(self.options).items():
            check_range(f"--weditgan-{name}", value, 0)

    def setup(self, context: MethodContext) -> None:
        self.seed = context.seed

    def add_modules(self, g: Any, d: Module) -> None:
        import torch

        noise = torch.randn(1, g.num_slots, g.w_dim, generator=random.generator(self.seed, self.name))
        offsets = (self.options.init * noise).to(next(g.parameters()))
        g.add_module(self.name, torch.nn.ParameterDict({"offsets": offsets}))

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        return network == "d"

    def transform_inputs(self, inputs: Inputs, g: Any, rng: Generator, shown: bool) -> Inputs:
        return self.prepare_inputs(g.get_submodule(self.name), inputs)

    def loss_terms(self, context: StepContext) -> dict[str, Tensor]:
        g, inputs, terms = context.g, context.inputs, {}
        if self.options.perpendicular:
            w = g.map(inputs)[:, :1]  # of the source, the same for every layer: [n, 1, w_dim]
            terms["perpendicular"] = self.options.perpendicular * perpendicular(w, g.weditgan["offsets"])
        if self.options.contrastive:
            source, target = g.taps(replace(inputs, w_shift=None)), g.taps(inputs)
            first, *others = map(contrastive, source[::2], target[::2])  # the last map of each resolution
            terms["contrastive"] = self.options.contrastive * sum(others, first)
        return terms

    def export(self, net: Any) -> dict[str, Tensor]:
        added = net._modules.pop(self.name, None)
        return {"offsets": added["offsets"].detach().clone()} if added else {}

    @staticmethod
    def prepare_inputs(stored: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
        return replace(inputs, w_shift=stored["offsets"].expand(len(inputs), -1, -1))


def perpendicular(w: Tensor, offsets: Tensor) -> Tensor:
    """The mean over the batch of sum_l <w_i - w_(i+1), dw_l>^2; w: [n, 1 or layers, w_dim], dw likewise."""
    return ((w - w.roll(-1, dims=0)) * offsets).sum(dim=2).square().sum(dim=1).mean()


def contrastive(source: Tensor, target: Tensor, temperature: float = 0.07) -> Tensor:
    """-log of the softmax over j of cos(source_j, target_i) / temperature at j = i, the mean over i."""
    a, b = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (target, source))
    return -(a @ b.T / temperature).log_softmax(dim=1).diagonal().mean()
