"""When a run has gone far enough, from its images and its source alone.

The longer a generator is pulled to a few images, the nearer it comes to their domain, and the fewer different
pictures it draws. So at every look some samples are held against the images in the feature maps of the
source's own critic, which has never seen them: how far they lie apart, and whether the samples are about as
different from one another as the images are. The run ends once they come hardly nearer, or are all alike, and
the last look worth it is kept: nearness bought slowly is learning by heart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fsgen import rng as random
from fsgen.data.images import ImageSet
from fsgen.engine import nearness, outcome
from fsgen.engine.loop import State
from fsgen.engine.seeds import prior
from fsgen.errors import FsgenError
from fsgen.io import checkpoint
from fsgen.methods.stack import Stack
from fsgen.metrics.diversity import mean_pairwise
from fsgen.metrics.energy import energy_distance
from fsgen.models.model import Model

EVERY = 25  # steps between looks
SAMPLES = 128  # a look, of the same latents each time
BATCH = 32
# Chosen on ten runs from peeps64, most of one seed, and tried on others: examples/studies/over_time.py.
GAIN = 0.15  # a better look is nearer by this share
ALIKE = 0.9  # samples less spread than this, where the images are 1, are too much alike
PATIENCE = 100  # steps without a better look, after which the run ends
NETWORKS = ("g", "d", "g_ema")


@dataclass(frozen=True)
class Look:
    """What samples were like after ``step`` steps."""

    step: int
    distance: float  # energy distance to the images
    spread: float  # mean distance between samples, in units of that between the images

    @property
    def in_words(self) -> str:
        return f"energy distance to the images {self.distance:.2f}, diversity {self.spread:.2f} x theirs"

    def better(self, other: Look | None) -> bool:
        """Much nearer to the images; but samples too much alike are never better than others."""
        if other is None or (self.spread < ALIKE) != (other.spread < ALIKE):
            return other is None or self.spread >= ALIKE
        return self.distance < other.distance - GAIN * abs(other.distance)


def check(model: Model, methods: Stack, shots: ImageSet) -> None:
    """Refuse to choose where there is nothing to choose from, or nothing to look with."""
    title = model.about.get("title", "this source")
    if methods.conditions:
        raise FsgenError(f"{methods.name} trains nothing, so --stop auto has nothing to choose from")
    if "translation" in model.family.traits:
        raise FsgenError(f"--stop auto looks at samples, and {title} draws none by itself: it translates")
    if "d" not in model.networks:
        raise FsgenError(
            f"--stop auto looks through the source's discriminator, and {title} has none",
            hint="leave --stop out and look at the samples yourself",
        )
    if len(shots) < 2:
        raise FsgenError(
            "--stop auto asks how much the images differ, and there is only one",
            hint="more images, or leave --stop out",
        )


class Watchman:
    """Looks when asked to, and keeps the networks of the best look.

    Args:
        model: what the run started from; its discriminator judges.
        shots: the images.
        methods: of the run.
        device: where networks run.
    """

    def __init__(self, model: Model, shots: ImageSet, methods: Stack, device: torch.device) -> None:
        self.model, self.images, self.methods, self.device = model, shots, methods, device
        self.best: Look | None = None
        self.kept: dict[str, dict[str, Tensor]] = {}  # network -> its weights at the best look, on the CPU

    @cached_property
    def critic(self) -> nn.Module:
        return self.model.discriminator(self.device)

    @cached_property
    def shots(self) -> Tensor:
        """The images as the critic sees them, [n, k]."""
        return nearness.embed(self.critic, self.images.floats())

    @torch.no_grad()
    def look(self, state: State) -> Look:
        """At samples of the average as it would be if the run ended here; what is better is kept."""
        model, g = outcome.as_it_would_end(self.model, self.methods, state)
        rng, draw = random.generator(0, "stop"), prior(model, g)
        batches = (draw(min(BATCH, SAMPLES - i), rng).to(self.device) for i in range(0, SAMPLES, BATCH))
        drawn = torch.cat([nearness.embed(self.critic, g(inputs)) for inputs in batches])
        spread = mean_pairwise(drawn) / mean_pairwise(self.shots)
        look = Look(state.step, energy_distance(drawn, self.shots), spread)
        if look.better(self.best):
            self.best = look
            self.kept = {name: {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}
                         for name, net in _networks(state).items()}  # fmt: skip
        return look

    def over(self, step: int) -> bool:
        """Whether nothing better has been seen for long enough."""
        return self.best is not None and step - self.best.step >= PATIENCE

    def chosen(self, state: State, say: Callable[[str], None]) -> tuple[State, dict[str, Any] | None]:
        """``state`` with the networks of the best look, and its step, and how that was chosen; as it is where
        nobody looked."""
        if self.best is None:
            return state, None
        facts = {**dataclasses.asdict(self.best), "done": state.step}
        say(f"kept step {self.best.step} of {state.step} ({self.best.in_words})")
        for name, net in _networks(state).items():
            net.load_state_dict(self.kept[name], strict=True)
        return dataclasses.replace(state, step=self.best.step), facts

    # ---- for a run that is resumed -------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All it must have again, by key."""
        if self.best is None:
            return {}
        seen = torch.tensor(dataclasses.astuple(self.best), dtype=torch.float64)
        return {"best": seen, **checkpoint.join(self.kept)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of ``tensors``."""
        if tensors:
            step, distance, spread = tensors["best"].tolist()
            self.best = Look(int(step), distance, spread)
            self.kept = checkpoint.split({key: value for key, value in tensors.items() if key != "best"})


def _networks(state: State) -> dict[str, nn.Module]:
    return {name: getattr(state, name) for name in NETWORKS}
