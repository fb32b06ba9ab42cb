"""StyleGAN2: recipe, losses, regularisers, conversion."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fsgen.families.adversarial import LogisticFamily
from fsgen.families.checks import check_size, checked_width, require
from fsgen.families.conversion import NO_DISCRIMINATOR, FoundNetworks, check_networks, refuse_malformed
from fsgen.families.parameters import grouped, parameter_names
from fsgen.families.stylegan2 import convert
from fsgen.families.stylegan2.networks import Discriminator, Generator, block_resolutions
from fsgen.interfaces import (
    Converted,
    Draw,
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
    """The published training recipe at 256 px; ``StyleGAN2.recipe`` scales it to other sizes."""

    # Adam's, before the correction for lazy regularisation, at 256 px and above. Below it is multiplied by
    # (256 / px)^(1/4): small networks tolerate that, and need it to change domain in a few hundred steps.
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
    # With the published half-life alone, the average after a few-shot run would still be mostly the source.
    ema_rampup: float = 0.25  # the half-life is at most this share of the steps so far


SIZES = (16, 32, 64, 128, 256, 512, 1024)  # px; 16 for tests
WIDTH = 512  # channels of the widest layer, as published
LATENTS = 8192  # samples for the mean latent


class StyleGAN2(LogisticFamily[Generator, Discriminator, Recipe]):
    """StyleGAN2: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"."""

    name = "stylegan2"
    traits: ClassVar[frozenset[Trait]] = frozenset({
        Trait.LATENT, Trait.DISCRIMINATOR, Trait.STAGES, Trait.RESOLUTIONS, Trait.TAPS, Trait.FILTERS,
        Trait.W_SPACE, Trait.CONSTANT, Trait.CLASSES, Trait.INSTANCES, Trait.SCALES, Trait.STYLES,
    })  # fmt: skip
    embeddings = ("mapping.embed.weight",)

    def build(self, spec: Spec, *, discriminator: bool = True) -> Networks[Generator, Discriminator]:
        return Networks(Generator(spec), Discriminator(spec) if discriminator else None)

    def fresh(
        self, size: int, channels: int = 3, classes: int = 0, *, width: int | None = None, h_dim: int = 0
    ) -> Spec:
        """Configuration F with four mapping layers; below 512 px half the channels (Karras et al. 2020b).

        Args:
            size: resolution in pixels, a power of two from 16 to 1024.
            channels: of the images.
            classes: number of classes; 0: unconditional.
            width: channels of the widest layer; default: 512, as published.
            h_dim: length of the features of an instance (IC-GAN); 0: no instances.
        """
        check_size("StyleGAN2", size, SIZES)
        most = checked_width(width, WIDTH, least=4)
        at_one = most * (
            64 if size >= 512 else 32
        )  # channels are halved with each resolution above 64 or 32 px
        sides = [2**i for i in range(2, size.bit_length())]
        widths = {str(side): max(4, min(most, at_one // side)) for side in sides}
        instances = {"h_dim": h_dim, "g_h_embed_dim": most, "d_h_embed_dim": most} if h_dim else {}
        conditional = bool(classes or h_dim)
        return {
            "resolution": size, "channels": channels, "z_dim": most, "w_dim": most, "c_dim": classes,
            "g_embed_dim": most if classes else 0, "mapping_layers": 4, "mapping_lr_mul": 0.01,
            "g_widths": widths, "g_clamp": None, "d_widths": dict(widths), "d_architecture": "resnet",
            "d_clamp": None, "d_group": 4, "d_embed_dim": most if classes else 0,
            "d_cmap_dim": most if conditional else 1, "d_mapping_layers": 4 if conditional else 0,
            **instances,
        }  # fmt: skip

    def embedding_gain(self, classes: int) -> float:
        return classes**-0.5  # equalised learning rate

    # ---- checkpoints ---------------------------------------------------------------------------------

    def recognise(self, foreign: Foreign) -> bool:
        return any(convert.is_g(state) for state in foreign.tensors.values())

    def convert(self, foreign: Foreign) -> Converted:
        """Convert networks called "G", "G_ema" and "D", or a bare generator, taken for the averaged one."""
        named = {name.lower(): name for name in foreign.tensors}
        if not named.keys() & {"g", "g_ema"}:
            named["g_ema"] = next(n for n, state in foreign.tensors.items() if convert.is_g(state))
        parts = {part: foreign.tensors[name] for part, name in named.items()}
        found = FoundNetworks(parts.get("g"), parts.get("g_ema"), parts.get("d"))
        found = found.converted(convert.convert_g, convert.convert_d)
        w_avg = foreign.extras.get("latent_avg")
        if found.g_ema is not None and isinstance(w_avg, Tensor):
            found.g_ema.setdefault("mapping.w_avg", w_avg.flatten().float())
        settings = {part: foreign.settings.get(name, {}) for part, name in named.items()}
        with refuse_malformed("StyleGAN2"):
            settings_g = settings["g" if found.g_ema is None else "g_ema"]
            spec = convert.infer(found.generator, found.d, settings_g, settings.get("d", {}))
        notes = [] if found.d is not None else [NO_DISCRIMINATOR]
        notes += self._complete(spec, found)
        return Converted(spec, *found, tuple(notes))

    def _complete(self, spec: Spec, found: FoundNetworks) -> list[str]:
        """Check the networks and add what old files lack: stored noise and the mean latent."""
        notes, unaveraged = [], {}
        for name, state in {"g_ema": found.g_ema, "g": found.g}.items():
            if state is not None and convert.add_stored_noise(state, spec):
                notes.append(f"{name}: no stored noise in the file; drawn from seed 0")
            if state is not None and "mapping.w_avg" not in state:
                unaveraged[name] = state
                state["mapping.w_avg"] = torch.zeros(spec["w_dim"])
        with torch.device("meta"):
            check_networks("StyleGAN2", self.build(spec), found)
        for name, state in unaveraged.items():
            g = Generator(spec)
            g.load_state_dict(state)
            self.refresh_statistics(g, g.draw)
            state["mapping.w_avg"] = g.mapping.w_avg
            notes.append(f"{name}: mean latent computed over {LATENTS:,} samples")
        return notes

    def refresh_statistics(self, g: Generator, draw: Draw) -> None:
        """Recompute the mean latent ``w_avg``, which truncation pulls to."""
        rng = torch.Generator().manual_seed(0)
        device = g.mapping.w_avg.device
        with torch.no_grad():
            batches = [draw(1024, rng).to(device) for _ in range(LATENTS // 1024)]
            means = [g.mapping(b.z, b.y, b.h).mean(dim=0) for b in batches]
            g.mapping.w_avg.copy_(torch.stack(means).mean(dim=0))

    # ---- training ------------------------------------------------------------------------------------

    def recipe(self, spec: Spec) -> Recipe:
        base, scale = Recipe(), spec["resolution"] / 256
        return dataclasses.replace(
            base, lr=base.lr / min(1, scale) ** 0.25, r1_gamma=base.r1_gamma * scale**2
        )

    def layers(self, spec: Spec) -> dict[str, list[str]]:
        names = parameter_names(Generator, spec)
        return grouped(names, lambda key: re.findall(r"mapping\.\w+|b\d+\.\w+", key)[0])

    def resolution_of(self, key: str) -> int | None:
        match = re.match(r"synthesis\.b(\d+)\.", key)
        return int(match[1]) if match else None

    def filters(self, spec: Spec) -> Filters:
        """Every convolution above 4 px and, in G, the affine map of its style: one filter an input channel.

        These are rosinality's ``convs.*`` without FromRGB (numbered there from 8 px up in G, from the image
        down in D). The mapping, the constant, the first convolution and ToRGB are not among them.
        """
        sides = block_resolutions(spec["resolution"])[1:]
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
        """FromRGB, each block (with a FromRGB of its own, if it has one), then 4 px without its last layer.

        FreezeD counts StyleGAN's stages so (Mo et al. 2020).
        """
        first = f"b{spec['resolution']}.fromrgb"

        def stage(key: str) -> str | None:
            block = None if key.startswith(("mapping.", "b4.out.")) else key.split(".")[0]
            return first if key.startswith(first) else block

        return list(grouped(parameter_names(Discriminator, spec), stage).values())

    def scales(self, key: str) -> bool:
        """True of the affine layers, which compute the styles: there are no normalisations."""
        return ".affine." in key

    def fakes(self, g: Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        return g.synthesis(self._mixed(g, inputs, recipe, rng), "random", rng, inputs.w_shift)[0]

    def _mixed(self, g: Generator, inputs: Inputs, recipe: Recipe, rng: torch.Generator) -> Tensor:
        """Style mixing (Karras et al. 2019, section 3.1): from a random layer on, w of another z."""
        ws, z = g.map(inputs), require(inputs, "z")
        if torch.rand([], generator=rng, device=rng.device) >= recipe.mixing:
            return ws
        drawn = torch.randn(z.shape, generator=rng, device=rng.device).to(z.device)
        other = dataclasses.replace(inputs, z=drawn if inputs.mix is None else inputs.mix)
        cut = int(torch.randint(1, g.num_ws, [], generator=rng, device=rng.device))
        return torch.cat([ws[:, :cut], g.map(other)[:, cut:]], dim=1)

    def regularise(self, context: StepContext, network: NetworkName, step: int) -> dict[str, Tensor]:
        recipe = context.recipe
        if network == "d" and recipe.r1_gamma and recipe.r1_every and step % recipe.r1_every == 0:
            real_images = context.real_images.detach().requires_grad_()
            logits = context.d(context.augment(real_images, "real"), context.inputs)
            logits = logits.flatten(1).mean(dim=1)  # over patches, where a method's D judges them
            return {"r1": losses.r1(logits, real_images) * (recipe.r1_gamma / 2 * recipe.r1_every)}
        if network == "g" and recipe.path_every and step % recipe.path_every == 0:
            return {"path": self._path(context) * (recipe.path_weight * recipe.path_every)}
        return {}

    def _path(self, context: StepContext) -> Tensor:
        rng = context.rng("path")
        batch = max(1, len(context.real_images) // context.recipe.path_shrink)
        inputs = context.draw(batch, rng).to(context.real_images.device)
        ws = self._mixed(context.g, inputs, context.recipe, rng).requires_grad_()  # the mapping may be frozen
        images = context.g.synthesis(ws, "random", rng, inputs.w_shift)[0]
        noise = torch.randn(images.shape, generator=rng, device=rng.device).to(images.device)
        lengths = losses.path_lengths(images, ws, noise)
        mean = context.scalars.get("path_mean", torch.zeros([], device=images.device))
        penalty, context.scalars["path_mean"] = losses.path_penalty(lengths, mean)
        return penalty
