"""Adaptive discriminator augmentation (Karras et al. 2020): as much of it as D's overfitting asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen.errors import FsgenError
from fsgen.interfaces import ImageKind, Method, MethodContext, TrainingState

if TYPE_CHECKING:
    import torch
    from torch import Tensor

POLICIES = (
    "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc",
)  # fmt: skip
RULES = ("nvidia", "rosinality", "cdc")
KIMG = 500.0  # thousands of reals in which p can go from 0 to 1
RESUMED = 100.0  # the same where training goes on from a source
REACH = 0.2  # p can get as far in a run, however short; it does in 5,000 steps of 4 from a source
COUNTED = 255  # reals that the older rule waits for, and one more


class ADA(Method):
    """T of equation 4 with a probability p, which follows r_t = E[sign(D(x))] over the reals (section 3.1).

    r_t is the mean of the batches since p last moved, all alike, as the paper has it; the published code
    counts those with an R1 step twice.
    """

    name = "ada"
    summary = "augment what the critic sees, the more the surer it is of the reals"
    paper = "Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv 2006.06676"
    licence = "NVIDIA's non-commercial, rosinality's MIT"
    needs = frozenset({"discriminator"})

    @dataclass(frozen=True)
    class Options:
        policy: str = field(
            default="bgc",
            metadata={
                "help": "Augmentations: blit (flips, turns, whole shifts), geom (scales, rotations, shifts), "
                "color, filter, noise, cutout, or several by their first letters.",
                "choices": POLICIES,
            },
        )
        target: float = field(
            default=0.6, metadata={"help": "Mean sign of D on the reals, above which p grows."}
        )
        rule: str = field(
            default="nvidia",
            metadata={
                "help": "How p moves: nvidia's (the paper's), rosinality's (never above 1; a tie counts as "
                "below), or cdc's, also AdAM's and RICK's (the same, slower by the factor target).",
                "choices": RULES,
            },
        )
        interval: str = field(
            default="auto",
            metadata={"help": "Steps from one move of p to the next: auto is 4, rosinality's 256, cdc's as "
                              "many as have 256 reals."},
        )  # fmt: skip
        kimg: str = field(
            default="auto",
            metadata={"help": "Thousands of reals in which p can go from 0 to 1. auto: 500, and 100 from a "
                              "source under nvidia's rule, or less where p could not reach 0.2 in the run."},
        )  # fmt: skip

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.interval = (
            0 if self.options.interval == "auto" else _number("--ada-interval", self.options.interval)
        )
        self.kimg = 0.0 if self.options.kimg == "auto" else _number("--ada-kimg", self.options.kimg)
        if not -1 < self.options.target < 1:
            raise FsgenError(f"--ada-target {self.options.target} is not between -1 and 1")
        self.p: Tensor | None = None  # [] float32
        self.seen: Tensor | None = None  # [2]: signs added up, and their number, since p last moved

    def enter(self, context: MethodContext) -> None:
        import torch

        from fsgen.data.ada_augment import POLICIES as names
        from fsgen.data.ada_warp import BAND_REACH

        side = context.spec["resolution"]
        if "imgfilter" in names[self.options.policy] and side <= BAND_REACH:
            raise FsgenError(f"ada's filter needs more than {BAND_REACH} px, and there are {side}",
                             hint="--ada-policy bgc")  # fmt: skip
        self.interval = int(self.interval) or self._interval(context.recipe.batch)
        self.kimg = self.kimg or self._kimg(context)
        self.p, self.seen = torch.zeros([]), torch.zeros(2, device=context.device)

    def _interval(self, batch: int) -> int:
        return {"nvidia": 4, "rosinality": 256, "cdc": COUNTED // batch + 1}[self.options.rule]

    def _kimg(self, context: MethodContext) -> float:
        """As published for runs of 20,000 reals and more from a source, of 100,000 from scratch."""
        if self.options.rule != "nvidia":
            return KIMG
        published = RESUMED if "g" in context.pretrained else KIMG
        return min(published, context.steps * context.recipe.batch / 1000 / REACH)

    def before(self, state: TrainingState) -> None:
        if state.step and state.step % self.interval == 0:
            signs, real_images = self.seen.tolist()
            self.p = moved(
                self.p, signs / real_images, real_images, self.options.rule, self.options.target, self.kimg
            )
            self.seen.zero_()

    def judged(self, real_logits: Tensor) -> None:
        import torch

        signs = real_logits.sign().flatten(1).mean(dim=1)
        self.seen += torch.stack([signs, torch.ones_like(signs)]).sum(dim=1)

    def view(self, images: Tensor, who: ImageKind, rng: torch.Generator) -> Tensor:
        from fsgen.data.ada_augment import POLICIES as names
        from fsgen.data.ada_augment import adaptive_augment

        p = float(self.p)
        return adaptive_augment(images, names[self.options.policy], p, rng) if p else images

    def meters(self) -> dict[str, Tensor]:
        return {"ada_p": self.p}

    def state(self) -> dict[str, Tensor]:
        import torch

        return {"p": self.p, "seen": self.seen, "kimg": torch.tensor(self.kimg, dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        self.enter(context)
        self.p, self.seen, self.kimg = state["p"].cpu(), state["seen"], state["kimg"].item()

    def chosen(self) -> dict[str, Any]:
        """Before ``enter`` nothing is."""
        return {"interval": str(self.interval), "kimg": repr(self.kimg)} if self.p is not None else {}


def moved(p: Tensor, mean: float, real_images: float, rule: str, target: float, kimg: float) -> Tensor:
    """p after ``reals`` more of them, [] float32, where D's sign on them is ``mean``.

    Args:
        p: before.
        mean: r_t, in [-1, 1].
        reals: so many.
        rule: of RULES. The paper's has no upper limit and stays where it is at the target itself.
        target: of the mean.
        kimg: thousands of reals for a whole way.
    """
    step = real_images / (1000 * kimg)
    if rule == "nvidia":
        return (p + ((mean > target) - (mean < target)) * step).clamp(min=0)
    step *= target if rule == "cdc" else 1.0
    return (p + (step if mean > target else -step)).clamp(0, 1)


def _number(flag: str, text: str) -> float:
    """A number above 0, and for an interval a whole one."""
    whole = flag.endswith("interval")
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        kind = "whole number" if whole else "number"
        raise FsgenError(f"{flag} {text} is not auto, and no {kind} above 0")
    return value
