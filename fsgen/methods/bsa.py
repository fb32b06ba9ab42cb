"""Batch statistics adaptation (Noguchi & Harada 2019): scales, shifts and a latent of each image, no critic.

The images are rebuilt, each from a latent of its own: L = |G(z_i) - x_i| + perceptual + EMD(z, N(0, I)) +
drift. Filters stay the source's; which of them are active, and how strongly, is learned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fsgen.errors import FsgenError
from fsgen.interfaces import (
    Family,
    Inputs,
    Method,
    MethodContext,
    NetworkName,
    Spec,
    StepContext,
    TrainingState,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

LAYERS = (
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv4_1", "conv4_2",
    "conv4_3",
)  # fmt: skip
NOISE = 0.01  # standard deviation of what is added to the latents in training
NORMALS = 10  # draws from the prior that each latent of a batch is held against
BATCH = 25  # images a step, or all of them if they are fewer
DECAY = 0.2  # what rates are multiplied by
PERIOD = 0.3  # of the steps, between two such times: 3,000 of 10,000 as published
# Adam's step of scales and shifts, of latents and of the label; whether the first are made of the input
RATES = {False: {"scales": 0.03, "z": 0.03, "y": 0.03}, True: {"scales": 0.0005, "z": 0.05, "y": 0.001}}


class BSA(Method):
    """The published settings are those of two generators of 10,000 steps; here periods are shares of the
    steps. With scales and shifts of their own (SNGAN; dcgan, fastgan) normalisations learn at 0.03; layers
    that make them of the input (BigGAN; biggan, stylegan2) at 0.0005, in units of the weights as used.

    Left out is what moves nothing, the first layer's weight at a rate of 1e-7, and the scale of BigGAN's
    first map, which a weight of spectral norm one cannot take up. A source with classes gets one label for
    all images, where the published BigGAN gets one class vector.
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
    needs = frozenset({"latent", "scales"})
    claims = frozenset({"what latents are drawn", "the loss"})
    adapts = True
    adversarial = False
    at_rest = True
    starts = "g_ema"

    @dataclass(frozen=True)
    class Options:
        perceptual: str = field(
            default="auto",
            metadata={"help": "Weight of VGG16's maps: auto (0.001 if its weights are here), or a number."},
        )
        emd: float = field(default=0.1, metadata={"help": "Weight of the latents' distance to the prior."})
        drift: float = field(default=0.02, metadata={"help": "Weight of the scales' and shifts' change."})
        temperature: float = field(
            default=0.5,
            metadata={
                "help": "What latents are multiplied by when pictures are drawn; where the family "
                "normalises them (stylegan2), sample --truncation does it instead."
            },
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.weight: float | None = None  # of the perceptual term, once known
        self.seen: dict[str, Tensor] = {}  # VGG16's maps of all images, which do not change
        if self.options.perceptual != "auto":
            self.weight = _number(self.options.perceptual)

    # ---- before step 0 -------------------------------------------------------------------------------

    def recipe(self, family: Family, spec: Spec, shots: int) -> dict[str, Any]:
        lr = RATES["styles" in family.traits]["scales"]
        if "w_space" in family.traits:
            lr *= spec["w_dim"] ** 0.5  # these layers' weights are stored as many times larger than used
        return {"lr": lr, "beta1": 0.9, "beta2": 0.999, "batch": min(shots, BATCH), "path_every": 0}

    def enter(self, context: MethodContext) -> None:
        weights = dict(context.source.named_parameters())
        self.start = {name: value for name, value in weights.items() if context.family.scales(name)}
        self.shots, self.z_dim = context.shots, context.spec["z_dim"]
        self.classes = context.spec.get("c_dim", 0)
        # One step for all: what is to move more is stored as much smaller.
        usual = self.recipe(context.family, context.spec, context.shots)["lr"]
        rates = RATES["styles" in context.family.traits]
        self.gains = {name: rates[name] / usual for name in ("z", "y")}
        self.period = max(1, round(PERIOD * context.steps))
        self._look(context)
        count = sum(value.numel() for value in self.start.values())
        total = sum(value.numel() for value in weights.values())
        context.say(f"bsa trains {_kind(context.family)}, {count:,} of {total:,} parameters, and no critic")

    def _look(self, context: MethodContext) -> None:
        """Find VGG16, if it is wanted."""
        try:
            self.vgg = context.vgg(LAYERS) if self.weight != 0 else None
        except FsgenError as error:
            if self.weight is not None:
                raise
            self.weight, self.vgg = 0.0, None
            context.say(f"bsa compares pixels alone: {error.message} ({error.hint})")
        if self.weight is None:
            self.weight = 0.001

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        self.enter(context)

    def chosen(self) -> dict[str, Any]:
        return {} if self.weight is None else {"perceptual": repr(self.weight)}

    def fit(self, g: nn.Module, d: nn.Module) -> None:
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

    def before(self, state: TrainingState) -> None:
        for group in state.opt_g.param_groups:
            rate = group.setdefault("initial_lr", group["lr"])
            group["lr"] = rate * DECAY ** (state.step // self.period)

    def draw(self, g: nn.Module, inputs: Inputs, rng: torch.Generator, shown: bool) -> Inputs:
        """The latents of some images, each as often as any other, slightly off."""
        import torch

        own, n, rows = g.get_submodule(self.name), len(inputs.z), inputs.rows
        if rows is None:
            turns = torch.rand(-(-n // self.shots), self.shots, generator=rng, device=rng.device)
            rows = turns.argsort(dim=1).flatten()[:n]
            rows = rows.sort().values if n <= self.shots else rows  # so that a batch of all is always one
        noise = torch.randn(n, self.z_dim, generator=rng, device=rng.device)
        y = (own["y"] * self.gains["y"]).expand(n, -1) if self.classes else inputs.y
        return replace(inputs, z=own["z"][rows] * self.gains["z"] + NOISE * noise, y=y, rows=rows)

    def objective(self, context: StepContext) -> dict[str, Tensor]:
        import torch
        from torch.nn import functional as F

        images, rng, options = context.g(context.inputs), context.rng("prior"), self.options
        z = context.g.get_submodule(self.name)["z"][context.inputs.rows] * self.gains["z"]
        normals = torch.randn(NORMALS * len(z), self.z_dim, generator=rng, device=rng.device)
        terms = {"l1": F.l1_loss(images, context.real_images)}
        if self.vgg is not None:
            wanted = self._maps(context.real_images, context.inputs.rows.tolist())
            terms["perceptual"] = self.weight * perceptual(self.vgg(images), wanted)
        terms["emd"] = options.emd * earth_mover(z, normals)
        terms["drift"] = options.drift * drift(dict(context.g.named_parameters()), self.start)
        return terms

    def _maps(self, real_images: Tensor, rows: list[int]) -> dict[str, Tensor]:
        """VGG16's of the images ``rows``; all of them, as most batches have them, are looked at once."""
        import torch

        with torch.no_grad():
            if rows != list(range(self.shots)):
                return self.vgg(real_images)
            if not self.seen:
                self.seen = self.vgg(real_images)
            return self.seen

    # ---- afterwards ----------------------------------------------------------------------------------

    def leave(self, net: nn.Module) -> dict[str, Tensor]:
        import torch

        if not hasattr(net, self.name):
            return {}
        own = net.get_submodule(self.name)
        delattr(net, self.name)
        kept = {name: value.detach().cpu() * self.gains[name] for name, value in own.items()}
        return kept | {"temperature": torch.tensor(self.options.temperature)}

    @staticmethod
    def feed(stored: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
        y = stored["y"].to(inputs.z.device).expand(len(inputs.z), -1) if "y" in stored else inputs.y
        return replace(inputs, z=inputs.z * stored["temperature"].item(), y=y)


def perceptual(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
    """The mean absolute difference of each map, added up."""
    from fsgen.nn.losses import l1_distance

    return sum(l1_distance(ours[layer], theirs[layer]) for layer in theirs)


def earth_mover(z: Tensor, normals: Tensor) -> Tensor:
    """The published stand-in for the earth mover's distance: squared distances to the nearest, both ways.

    Args:
        z: latents, [n, z_dim].
        normals: draws from the prior, [m, z_dim].
    """
    distances = (z[:, None] - normals).square().sum(dim=2)  # [n, m]
    return distances.amin(dim=0).mean() + distances.amin(dim=1).mean()


def drift(now: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """The mean squared change of each tensor in ``start``, added up; scales start at 1, shifts at 0 in the
    paper."""
    return sum((now[name] - value).square().mean() for name, value in start.items())


def _kind(family: Family) -> str:
    if "w_space" in family.traits:
        return f"the style affines (the family {family.name} has no normalisation)"
    made = "the layers that make the " if "styles" in family.traits else "the "
    return f"{made}scales and shifts of normalisations"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        hint = "--bsa-perceptual auto, or a number such as 0.001"
        raise FsgenError(f"'{text}' is not a weight", hint=hint) from None
    if not 0 <= value < float("inf"):
        raise FsgenError(f"the weight {text} is not a number of at least 0")
    return value
