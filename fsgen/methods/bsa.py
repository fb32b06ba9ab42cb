"""Batch statistics adaptation (Noguchi & Harada 2019): learn scales, shifts and one latent an image; no D.

Each image is rebuilt from its latent: L = |G(z_i) - x_i| + perceptual + EMD(z, N(0, I)) + drift. Filters stay
the source's; how strongly each is active is learned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fsgen.config import PlainDict, number_or_auto
from fsgen.errors import FsgenError
from fsgen.interfaces import (
    Claim,
    Family,
    Inputs,
    Method,
    MethodContext,
    Module,
    NetworkName,
    Spec,
    StepContext,
    TrainingState,
    Trait,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

LAYERS = (
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv4_1", "conv4_2",
    "conv4_3",
)  # fmt: skip
NOISE = 0.01  # standard deviation of the noise added to the latents in training
NORMALS = 10  # draws from the prior for each latent of a batch
BATCH = 25  # images a step, or all of them if they are fewer
DECAY = 0.2  # factor of the learning rates after each period
PERIOD = 0.3  # share of the steps: 3,000 of 10,000 as published
# Adam's learning rates of scales and shifts, latents and the label, by whether scales depend on the input
RATES = {False: {"scales": 0.03, "z": 0.03, "y": 0.03}, True: {"scales": 0.0005, "z": 0.05, "y": 0.001}}


@dataclass(frozen=True)
class BSAOptions:
    perceptual: str = field(
        default="auto",
        metadata={"help": "Weight of VGG16's maps: auto (0.001 if its weights are here), or a number."},
    )
    perceptual_type: str = field(
        default="l1",
        metadata={"help": "Difference of VGG16's maps: l1, or l2 (a published variant).",
                  "choices": ("l1", "l2")},
    )  # fmt: skip
    normalize_l1: bool = field(
        default=False,
        metadata={"help": "Divide the pixel loss by its own value (a published variant), so that its "
                          "gradient keeps its size."},
    )  # fmt: skip
    emd: float = field(default=0.1, metadata={"help": "Weight of the latents' distance to the prior."})
    drift: float = field(default=0.02, metadata={"help": "Weight of the scales' and shifts' change."})
    temperature: float = field(
        default=0.5,
        metadata={
            "help": "Factor of the latents when images are drawn; where the family "
            "normalises them (stylegan2), sample --truncation does it instead."
        },
    )


class BSA(Method[BSAOptions]):
    """Published for two generators and 10,000 steps; periods are shares of the steps here.

    Normalisations with scales and shifts of their own (SNGAN; dcgan, fastgan) learn at 0.03, layers that
    compute them from the input (BigGAN; biggan, stylegan2) at 0.0005, in units of the weights as used. Left
    out: the first layer's weight, whose rate of 1e-7 moves nothing, and the scale of BigGAN's first map,
    which a weight of spectral norm one cannot fold. A source with classes gets one label for all images,
    where the published BigGAN gets one class vector.
    """

    name = "bsa"
    summary = "rebuild each image from a latent of its own by scaling and shifting the source's feature maps"
    paper = (
        "Noguchi & Harada 2019, Image Generation From Small Datasets via Batch Statistics Adaptation, "
        "arXiv 1904.01774"
    )
    trained = (
        "scales and shifts of G (stylegan2, without normalisation: its style affines), a latent an image"
    )
    licence = "MIT"
    needs = frozenset({Trait.LATENT, Trait.SCALES})
    claims = frozenset({Claim.LATENTS, Claim.LOSS})
    adapts = True
    adversarial = False
    frozen_statistics = True
    starts = "g_ema"
    Options = BSAOptions

    def __init__(self, options: BSAOptions | None = None) -> None:
        super().__init__(options)
        self.weight = number_or_auto("--bsa-perceptual", self.options.perceptual)  # once known
        if self.weight is not None:
            self.options = replace(self.options, perceptual=repr(self.weight))
        self._targets: dict[str, Tensor] = {}  # VGG16's maps of all images, which do not change

    # ---- before step 0 -------------------------------------------------------------------------------

    def recipe(self, family: Family, spec: Spec, shots: int) -> PlainDict:
        lr = RATES[Trait.STYLES in family.traits]["scales"]
        if Trait.W_SPACE in family.traits:
            lr *= spec["w_dim"] ** 0.5  # these layers' weights are stored as many times larger than used
        return {"lr": lr, "beta1": 0.9, "beta2": 0.999, "batch": min(shots, BATCH), "path_every": 0}

    def setup(self, context: MethodContext) -> None:
        """Load VGG16 and set learning rates."""
        weights = dict(context.source.named_parameters())
        self.start = {name: value for name, value in weights.items() if context.family.scales(name)}
        self.shots, self.z_dim = context.shots, context.spec["z_dim"]
        self.classes = context.spec.get("c_dim", 0)
        # One learning rate for all: tensors that are to move more are stored as much smaller.
        usual = self.recipe(context.family, context.spec, context.shots)["lr"]
        rates = RATES[Trait.STYLES in context.family.traits]
        self.gains = {name: rates[name] / usual for name in ("z", "y")}
        self.period = max(1, round(PERIOD * context.steps))
        self._set_vgg(context)
        count = sum(value.numel() for value in self.start.values())
        total = sum(value.numel() for value in weights.values())
        context.say(f"bsa trains {_kind(context.family)}, {count:,} of {total:,} parameters, and no D")

    def _set_vgg(self, context: MethodContext) -> None:
        try:
            if self.weight != 0:
                self.vgg = context.frozen_network("vgg16", layers=LAYERS)
        except FsgenError as error:
            if self.weight is not None:
                raise
            self.weight = 0.0
            context.say(f"bsa compares pixels alone: {error.message} ({error.hint})")
        if self.weight is None:
            self.weight = 0.001
        self.options = replace(self.options, perceptual=repr(self.weight))

    def add_modules(self, g: Module, d: Module) -> None:
        import torch
        from torch import nn

        device = next(g.parameters()).device
        own = {"z": torch.zeros(self.shots, self.z_dim, device=device)}
        if self.classes:
            own["y"] = torch.full((self.classes,), 1 / self.classes / self.gains["y"], device=device)
        g.add_module(self.name, nn.ParameterDict(own))

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        return network == "g" and family.scales(name)

    # ---- in each step --------------------------------------------------------------------------------

    def before_step(self, state: TrainingState) -> None:
        for group in state.opt_g.param_groups:
            rate = group.setdefault("initial_lr", group["lr"])
            group["lr"] = rate * DECAY ** (state.step // self.period)

    def transform_inputs(self, inputs: Inputs, g: Any, rng: torch.Generator, shown: bool) -> Inputs:
        """Draw the latents of some images, all equally often, with noise added."""
        import torch

        assert inputs.z is not None
        own, n, rows = g.get_submodule(self.name), len(inputs.z), inputs.rows
        if rows is None:
            turns = torch.rand(-(-n // self.shots), self.shots, generator=rng, device=rng.device)
            rows = turns.argsort(dim=1).flatten()[:n]
            rows = rows.sort().values if n <= self.shots else rows  # a batch of all images is always the same
        noise = torch.randn(n, self.z_dim, generator=rng, device=rng.device)
        y = (own["y"] * self.gains["y"]).expand(n, -1) if self.classes else inputs.y
        return replace(inputs, z=own["z"][rows] * self.gains["z"] + NOISE * noise, y=y, rows=rows)

    def loss_terms(self, context: StepContext) -> dict[str, Tensor]:
        import torch
        from torch.nn import functional as F

        assert context.inputs.rows is not None and self.weight is not None
        images, rng, options = context.g(context.inputs), context.rng("prior"), self.options
        z = context.g.get_submodule(self.name)["z"][context.inputs.rows] * self.gains["z"]
        normals = torch.randn(NORMALS * len(z), self.z_dim, generator=rng, device=rng.device)
        l1 = F.l1_loss(images, context.real_images)
        terms = {"l1": l1 / l1.detach() if options.normalize_l1 else l1}
        if self.weight:
            wanted = self._maps(context.real_images, context.inputs.rows.tolist())
            terms["perceptual"] = self.weight * perceptual(self.vgg(images), wanted, options.perceptual_type)
        terms["emd"] = options.emd * earth_mover(z, normals)
        terms["drift"] = options.drift * drift(dict(context.g.named_parameters()), self.start)
        return terms

    def _maps(self, real_images: Tensor, rows: list[int]) -> dict[str, Tensor]:
        """VGG16's maps of the images ``rows``; a batch of all images, the usual one, is computed once."""
        import torch

        with torch.no_grad():
            if rows != list(range(self.shots)):
                return self.vgg(real_images)
            if not self._targets:
                self._targets = self.vgg(real_images)
            return self._targets

    # ---- afterwards ----------------------------------------------------------------------------------

    def export(self, net: Any) -> dict[str, Tensor]:
        import torch

        if not hasattr(net, self.name):
            return {}
        own = net.get_submodule(self.name)
        delattr(net, self.name)
        kept = {name: value.detach().cpu() * self.gains[name] for name, value in own.items()}
        return kept | {"temperature": torch.tensor(self.options.temperature)}

    @staticmethod
    def prepare_inputs(stored: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
        assert inputs.z is not None
        y = stored["y"].to(inputs.z.device).expand(len(inputs.z), -1) if "y" in stored else inputs.y
        return replace(inputs, z=inputs.z * stored["temperature"].item(), y=y)


def perceptual(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], kind: str = "l1") -> Tensor:
    """The mean absolute (l1) or squared (l2) difference of each map, summed over the layers."""
    import torch
    from torch.nn import functional as F

    from fsgen.nn.losses import l1_distance

    difference = l1_distance if kind == "l1" else F.mse_loss
    return sum((difference(ours[layer], theirs[layer]) for layer in theirs), torch.zeros([]))


def earth_mover(z: Tensor, normals: Tensor) -> Tensor:
    """The published proxy for the earth mover's distance: squared distances to the nearest, both ways.

    Args:
        z: latents, [n, z_dim].
        normals: draws from the prior, [m, z_dim].
    """
    distances = (z[:, None] - normals).square().sum(dim=2)  # [n, m]
    return distances.amin(dim=0).mean() + distances.amin(dim=1).mean()


def drift(now: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """The mean squared change of each tensor in ``start``, summed; in the paper scales start at 1, shifts at
    0."""
    import torch

    return sum(((now[name] - value).square().mean() for name, value in start.items()), torch.zeros([]))


def _kind(family: Family) -> str:
    if Trait.W_SPACE in family.traits:
        return f"the style affines (the family {family.name} has no normalisation)"
    layers = "the layers that compute the " if Trait.STYLES in family.traits else "the "
    return f"{layers}scales and shifts of normalisations"
