"""Adaptive discriminator augmentation (Karras et al. 2020): augment as much as D overfits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import ImageKind, Method, MethodContext, Rng, TrainingState, Trait

if TYPE_CHECKING:
    from torch import Tensor

POLICIES = (
    "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc",
)  # fmt: skip
RULES = ("nvidia", "rosinality", "cdc")
KIMG = 500.0  # thousands of real images in which p can go from 0 to 1
RESUMED = 100.0  # the same when training starts from a source
REACH = 0.2  # p can get as far in a run, however short; it does in 5,000 steps of 4 from a source
COUNTED = 255  # real images that the older rule waits for, and one more


@dataclass(frozen=True)
class ADAOptions:
    policy: str = field(
        default="bgc",
        metadata={
            "help": "Augmentations: blit (flips, turns, whole shifts), geom (scales, rotations, shifts), "
            "color, filter, noise, cutout, or several by their first letters.",
            "choices": POLICIES,
        },
    )
    target: float = field(
        default=0.6, metadata={"help": "Mean sign of D on real images above which p grows."}
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
        metadata={"help": "Steps between updates of p: auto is 4, rosinality's 256, cdc's the steps of 256 "
                          "real images."},
    )  # fmt: skip
    kimg: str = field(
        default="auto",
        metadata={"help": "Thousands of real images in which p can go from 0 to 1. auto: 500, and 100 from a "
                          "source under nvidia's rule, or less where p could not reach 0.2 in the run."},
    )  # fmt: skip


class ADA(Method[ADAOptions]):
    """T of equation 4 with a probability p, which follows r_t = E[sign(D(x))] over real images (section 3.1).

    r_t is the mean of all batches since p last changed, with equal weights, as in the paper; the published
    code counts batches with an R1 step twice.
    """

    name = "ada"
    summary = "augment images before D, more often the more D overfits"
    paper = "Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, arXiv 2006.06676"
    licence = "NVIDIA's non-commercial, rosinality's MIT"
    needs = frozenset({Trait.DISCRIMINATOR})
    Options = ADAOptions

    def __init__(self, options: ADAOptions | None = None) -> None:
        super().__init__(options)
        self.interval = 0  # 0: not known yet
        self.kimg = 0.0
        if self.options.interval != "auto":
            self.interval = int(_number("--ada-interval", self.options.interval))
        if self.options.kimg != "auto":
            self.kimg = _number("--ada-kimg", self.options.kimg)
        if not -1 < self.options.target < 1:
            raise FsgenError(
                f"--ada-target {self.options.target} is not between -1 and 1",
                code=Code.OUT_OF_RANGE, where="--ada-target",
            )  # fmt: skip

    def setup(self, context: MethodContext) -> None:
        """Set p to 0, or take it from a saved run."""
        import torch

        from fsgen.data.ada_augment import POLICIES as operators
        from fsgen.data.ada_warp import BAND_REACH

        side = context.spec["resolution"]
        if "imgfilter" in operators[self.options.policy] and side <= BAND_REACH:
            raise FsgenError(
                f"ada's filter needs more than {BAND_REACH} px, and the images have {side}",
                code=Code.INCOMPATIBLE, where="--ada-policy", hint="--ada-policy bgc",
            )  # fmt: skip
        self.interval = self.interval or self._interval(context.recipe.batch)
        self.kimg = self.kimg or self._kimg(context)
        if self.buffers:
            self.buffers["p"], self.kimg = self.buffers["p"].cpu(), self.buffers["kimg"].item()
        else:
            # p: [] float32; seen: [2], the sum of signs since p last changed, and their number
            self.buffers = {"p": torch.zeros([]), "seen": torch.zeros(2, device=context.device)}
            self.buffers["kimg"] = torch.tensor(self.kimg, dtype=torch.float64)
        self.options = replace(self.options, interval=str(self.interval), kimg=repr(self.kimg))

    def _interval(self, batch: int) -> int:
        return {"nvidia": 4, "rosinality": 256, "cdc": COUNTED // batch + 1}[self.options.rule]

    def _kimg(self, context: MethodContext) -> float:
        """The published value for runs of 20,000 real images or more from a source, 100,000 from scratch."""
        if self.options.rule != "nvidia":
            return KIMG
        published = RESUMED if "g" in context.pretrained else KIMG
        return min(published, context.steps * context.recipe.batch / 1000 / REACH)

    def before_step(self, state: TrainingState) -> None:
        if state.step and state.step % self.interval == 0:
            signs, count = self.buffers["seen"].tolist()
            self.buffers["p"] = updated(
                self.buffers["p"], signs / count, count, self.options.rule, self.options.target, self.kimg
            )
            self.buffers["seen"].zero_()

    def augment(self, images: Tensor, kind: ImageKind, rng: Rng) -> Tensor:
        from fsgen.data.ada_augment import POLICIES as operators
        from fsgen.data.ada_augment import adaptive_augment

        p = float(self.buffers["p"])
        return (
            adaptive_augment(images, operators[self.options.policy], p, rng(f"{self.name} {kind}"))
            if p
            else images
        )

    def after_step(self, state: TrainingState) -> dict[str, Tensor]:
        """Count the signs of D on the real images of this step."""
        import torch

        if state.real_logits is not None:
            signs = state.real_logits.sign().flatten(1).mean(dim=1)
            self.buffers["seen"] += torch.stack([signs, torch.ones_like(signs)]).sum(dim=1)
        return {"ada_p": self.buffers["p"]}


def updated(p: Tensor, mean: float, count: float, rule: str, target: float, kimg: float) -> Tensor:
    """p after ``count`` further real images, on which the mean sign of D is ``mean``: [] float32.

    Args:
        p: before.
        mean: r_t, in [-1, 1].
        count: real images since p last changed.
        rule: one of RULES. The paper's has no upper limit, and leaves p unchanged at the target itself.
        target: of the mean.
        kimg: thousands of real images in which p can go from 0 to 1.
    """
    step = count / (1000 * kimg)
    if rule == "nvidia":
        return (p + ((mean > target) - (mean < target)) * step).clamp(min=0)
    step *= target if rule == "cdc" else 1.0
    return (p + (step if mean > target else -step)).clamp(0, 1)


def _number(flag: str, text: str) -> float:
    """A number above 0; for an interval a whole one."""
    whole = flag.endswith("interval")
    try:
        value: float = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        kind = "whole number" if whole else "number"
        raise FsgenError(
            f"{flag} {text} is neither auto nor a {kind} above 0", code=Code.OUT_OF_RANGE, where=flag
        )
    return value
