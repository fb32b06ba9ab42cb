"""StyleGAN2 as a family: recipe, losses, regularisers, import."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fsgen.errors import FsgenError
from fsgen.families.strict_loading import check
from fsgen.families.stylegan2 import convert, networks
from fsgen.interfaces import (
    Converted,
    Family,
    Filters,
    Foreign,
    Inputs,
    Layer,
    NetworkName,
    Networks,
    Spec,
    StepContext,
    Trait,
)
from fsgen.nn import losses


@dataclass(frozen=True)
class Recipe:
    """The published recipe at 256 px (the literature's StyleGAN2 runs); ``StyleGAN2.recipe`` scales it."""

    # Adam, before the correction for lazy regularisation. At 256 px and above; below, small networks bear
    # (256 / px)^(1/4) times as much, and need it to get from one domain to the other in a few hundred steps.
    lr: float = 0.002
    beta1: float = 0.0
    beta2: float = 0.99
    batch: int = 4
    r1_gamma: float = 10.0  # at 256 px; proportional to the number of pixels
    r1_every: int = 16  # D steps; 0 switches it off
    path_weight: float = 2.0
    path_every: int = 4  # G steps; 0 switches it off
    path_shrink: int = 2  # the path length's batch is batch / path_shrink
    mixing: float = 0.9  # probability of style mixing
    ema_half_life: float = 10_000 / 32  # steps: decay 0.5^(32 / 10000) a step, whatever the batch
    # The published half-life outlasts a few-shot run: the average would still be mostly the source.
    ema_rampup: float = 0.25  # half-life at most this share of the steps so far


class StyleGAN2(Family):
    """Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"."""

    name = "stylegan2"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.TAPS, Trait.FILTERS,
        Trait.W_SPACE, Trait.CONSTANT, Trait.CLASSES, Trait.INSTANCES, Trait.SCALES, Trait.STYLES,
    })  # fmt: skip
    Recipe = Recipe
    embeddings = ("mapping.embed.weight",)

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks:
        return Networks(networks.Generator(spec), networks.Discriminator(spec) if discriminator else None)

    def fresh(
        self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None, h_dim: int = 0
    ) -> Spec:
        """Configuration F, with half the channels below 512 px as in Karras et al. 2020b, and four mapping
        layers. ``width`` is what the widest layer has, 512 as published. ``h_dim``: length of the features of
        an image that it draws after (IC-GAN)."""
        if size not in SIZES:
            raise FsgenError(
                f"there is no StyleGAN2 of {size} px", hint=f"one of {', '.join(map(str, SIZES))}"
            )
        most = width or 512
        if most < 4:
            raise FsgenError(f"--width {most} is too narrow", hint="4 is the least, 512 as published")
        at_one = most * (64 if size >= 512 else 32)  # channels fall with the side from 64 or 32 px on
        sides = [2**i for i in range(2, size.bit_length())]
        widths = {str(side): max(4, min(most, at_one // side)) for side in sides}
        after = {"h_dim": h_dim, "g_h_embed_dim": most, "d_h_embed_dim": most} if h_dim else {}
        conditional = bool(classes or h_dim)
        return {
            "resolution": size, "channels": channels, "z_dim": most, "w_dim": most, "c_dim": classes,
            "g_embed_dim": most if classes else 0, "mapping_layers": 4, "mapping_lr_mul": 0.01,
            "g_widths": widths, "g_clamp": None, "d_widths": dict(widths), "d_architecture": "resnet",
            "d_clamp": None, "d_group": 4, "d_embed_dim": most if classes else 0,
            "d_cmap_dim": most if conditional else 1, "d_mapping_layers": 4 if conditional else 0, **after,
        }  # fmt: skip

    def embedding_gain(self, classes: int) -> float:
        return classes**-0.5  # equalised learning rate

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(convert.is_rosinality_g(t) or convert.is_nvidia_g(t) for t in foreign.tensors.values())

    def convert(self, foreign: Foreign) -> Converted:
        named = {name.lower(): name for name in foreign.tensors}
        g_name, ema_name, d_name = named.get("g"), named.get("g_ema"), named.get("d")
        if ema_name is None and g_name is None:  # a bare state dict: take it for the averaged weights
            ema_name = next(n for n, t in foreign.tensors.items() if self._is_g(t))
        w_avg = foreign.extras.get("latent_avg")
        g_ema = convert.generator(foreign.tensors[ema_name], w_avg) if ema_name is not None else None
        g = convert.generator(foreign.tensors[g_name]) if g_name is not None else None
        d = convert.discriminator(foreign.tensors[d_name]) if d_name is not None else None
        settings_g = foreign.settings.get(ema_name if ema_name is not None else g_name, {})
        try:
            spec = convert.infer(
                g_ema if g_ema is not None else g, d, settings_g, foreign.settings.get(d_name, {})
            )
        except KeyError as error:
            raise FsgenError(f"a StyleGAN2 checkpoint without the tensor {error}") from None
        if d is not None:
            with torch.device("meta"):
                check(networks.Discriminator(spec), d, "a StyleGAN2 'd'")
        notes = [] if d is not None else ["no discriminator in the file: adapt starts a fresh one"]
        for which, state in (("g_ema", g_ema), ("g", g)):
            if state is not None:
                notes += self._complete(which, state, spec)
        return Converted(spec, g, g_ema, d, tuple(notes))

    def _is_g(self, state: dict[str, Tensor]) -> bool:
        return convert.is_rosinality_g(state) or convert.is_nvidia_g(state)

    def _complete(self, which: str, state: dict[str, Tensor], spec: Spec) -> list[str]:
        """Add what old files lack: stored noise and the mean latent."""
        notes = []
        if convert.stored_noise(state, spec):
            notes.append(f"{which}: no stored noise in the file; drawn from seed 0")
        averaged = "mapping.w_avg" in state
        state.setdefault("mapping.w_avg", torch.zeros(spec["w_dim"]))
        with torch.device("meta"):
            check(networks.Generator(spec), state, f"a StyleGAN2 '{which}'")
        if not averaged:
            net = networks.Generator(spec)
            net.load_state_dict(state)
            self.refresh_statistics(net, net.draw)
            state["mapping.w_avg"] = net.mapping.w_avg
            notes.append(f"{which}: mean latent computed over {SETTLE_SAMPLES:,} samples")
        return notes

    def refresh_statistics(self, g: nn.Module, draw: Callable[[int, torch.Generator], Inputs]) -> None:
        """Recompute the mean latent, which truncation pulls to, after the weights have changed."""
        rng = torch.Generator().manual_seed(0)
        device = g.mapping.w_avg.device
        with torch.no_grad():
            batches = [draw(1024, rng).to(device) for _ in range(SETTLE_SAMPLES // 1024)]
            means = [g.mapping(b.z, b.y, b.h).mean(dim=0) for b in batches]
            g.mapping.w_avg.copy_(torch.stack(means).mean(dim=0))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        base, scale = Recipe(), spec["resolution"] / 256
        return dataclasses.replace(
            base, lr=base.lr / min(1, scale) ** 0.25, r1_gamma=base.r1_gamma * scale**2
        )

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        with torch.device("meta"):
            g = networks.Generator(spec)
        out: dict[str, list[str]] = {}
        for key, _ in g.named_parameters():
            parts = key.split(".")
            layer = parts[1] if parts[0] == "mapping" else ".".join(parts[1:3])
            out.setdefault(f"mapping.{layer}" if parts[0] == "mapping" else layer, []).append(key)
        return out

    def resolution_of(self, key: str) -> int | None:
        match = re.match(r"synthesis\.b(\d+)\.", key)
        return int(match[1]) if match else None

    def filters(self, spec: Spec) -> Filters:
        """Every convolution above 4 px and, in G, its style's affine map, a filter of which is a channel in.

        These are rosinality's ``convs.*`` but from-RGB, numbered there from 8 px up in G, from the picture
        down in D. Not among them: the mapping, the constant, the first convolution, to-RGB.
        """
        sides = networks.resolutions(spec["resolution"])[1:]
        convs = [f"synthesis.b{r}.conv{i}" for r in sides for i in (0, 1)]
        g = [Layer("convolutions", f"{conv}.weight") for conv in convs]
        g += [Layer("modulations", f"{conv}.affine.weight", (f"{conv}.affine.bias",)) for conv in convs]
        blocks = [f"b{r}" for r in sides[::-1]]
        d = [Layer("convolutions", f"{block}.conv{i}.weight", (f"{block}.conv{i}.bias",))
             for block in blocks for i in (0, 1)]  # fmt: skip
        if spec["d_architecture"] == "resnet":
            d += [Layer("convolutions", f"{block}.skip.weight") for block in blocks]
        beside = {f"{conv}.{name}" for conv in convs for name in ("noise_strength", "bias")}
        head = {f"b4.{layer}.{name}" for layer in ("conv", "fc", "out") for name in ("weight", "bias")}
        return Filters({"g": g, "d": d}, frozenset(beside), frozenset(head))

    def stages(self, spec: Spec) -> list[list[str]]:
        """From-RGB, each block (where it has a from-RGB of its own, with that), then 4 px but its last layer.

        FreezeD's count of StyleGAN (Mo et al. 2020).
        """
        with torch.device("meta"):
            d = networks.Discriminator(spec)
        first = f"b{spec['resolution']}.fromrgb"
        out: dict[str, list[str]] = {}
        for key, _ in d.named_parameters():
            if not key.startswith(("mapping.", "b4.out.")):
                out.setdefault(first if key.startswith(first) else key.split(".")[0], []).append(key)
        return list(out.values())

    def scales(self, key: str) -> bool:
        """There is no normalisation: styles scale the channels, and their affine layers make them."""
        return ".affine." in key

    def loss_d(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return losses.logistic_d(real_logits, fake_logits)

    def loss_g(self, fake_logits: Tensor) -> Tensor:
        return losses.nonsaturating_g(fake_logits)

    def log_likelihood(self, logits: Tensor) -> Tensor:
        return losses.log_sigmoid(logits)

    def fakes(self, g: nn.Module, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g.synthesis(self._mixed(g, inputs, recipe, rng), "random", rng, inputs.w_shift)[0]

    def _mixed(self, g: nn.Module, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        """Style mixing (Karras et al. 2019, section 3.1): one random layer of the batch on, another z."""
        ws = g.map(inputs)
        if torch.rand([], generator=rng, device=rng.device) >= recipe.mixing:
            return ws
        z = torch.randn(inputs.z.shape, generator=rng, device=rng.device).to(inputs.z.device)
        other = dataclasses.replace(inputs, z=z if inputs.mix is None else inputs.mix)
        cut = int(torch.randint(1, g.num_ws, [], generator=rng, device=rng.device))
        return torch.cat([ws[:, :cut], g.map(other)[:, cut:]], dim=1)

    def regularise(self, context: StepContext, who: NetworkName, step: int) -> dict[str, Tensor]:
        recipe = context.recipe
        if who == "d" and recipe.r1_gamma and recipe.r1_every and step % recipe.r1_every == 0:
            real_images = context.real_images.detach().requires_grad_()
            logits = (
                context.d(context.augment(real_images, "real"), context.inputs).flatten(1).mean(dim=1)
            )  # of patches, too
            return {"r1": losses.r1(logits, real_images) * (recipe.r1_gamma / 2 * recipe.r1_every)}
        if who == "g" and recipe.path_every and step % recipe.path_every == 0:
            return {"path": self._path(context) * (recipe.path_weight * recipe.path_every)}
        return {}

    def _path(self, context: StepContext) -> Tensor:
        rng = context.rng("path")
        inputs = context.draw(max(1, len(context.real_images) // context.recipe.path_shrink), rng).to(
            context.real_images.device
        )
        ws = self._mixed(context.g, inputs, context.recipe, rng).requires_grad_()  # the mapping may be frozen
        images = context.g.synthesis(ws, "random", rng, inputs.w_shift)[0]
        noise = torch.randn(images.shape, generator=rng, device=rng.device).to(images.device)
        lengths = losses.path_lengths(images, ws, noise)
        mean = context.scalars.get("path_mean", torch.zeros([], device=images.device))
        penalty, context.scalars["path_mean"] = losses.path_penalty(lengths, mean)
        return penalty


SIZES = (16, 32, 64, 128, 256, 512, 1024)  # px; 16 for trials
SETTLE_SAMPLES = 8192  # latents behind a computed mean latent
