"""Freeze the first stages of the discriminator (Mo et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsgen.config import check_range
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Claim, Family, Method, MethodContext, NetworkName, Spec, Trait


@dataclass(frozen=True)
class FreezeDOptions:
    stages: int = field(default=3, metadata={"help": "Trained stages of D, counted from the logit."})
    layers: str = field(
        default="auto",
        metadata={"help": "In place of stages, frozen layers of D, counted from the image as NVIDIA's code "
                          "does: auto, or a number."},
    )  # fmt: skip


class FreezeD(Method[FreezeDOptions]):
    """Trains all of G, and of D the last stages and the logit.

    The paper's D has one stage a resolution, the last of them at 4 px, and from-RGB before them. Its best at
    256 px, three trained stages, are the three coarsest at every other size as well. Its optimiser (no lazy
    regularisation, a slower mapping) is StyleGAN1's and not part of the method.
    """

    name = "freezed"
    summary = "freeze the first stages of D"
    paper = "Mo et al. 2020, Freeze the Discriminator: a Simple Baseline for Fine-Tuning, arXiv 2002.10964"
    trained = "all of G, the last stages of D"
    licence = "MIT"
    needs = frozenset({Trait.DISCRIMINATOR, Trait.STAGES})
    claims = frozenset({Claim.WEIGHTS_D})
    adapts = True
    Options = FreezeDOptions

    def __init__(self, options: FreezeDOptions | None = None) -> None:
        super().__init__(options)
        layers = self.options.layers
        if layers != "auto" and not layers.isdecimal():
            raise FsgenError(
                f"--freezed-layers {layers} is neither auto nor a whole number",
                code=Code.OUT_OF_RANGE, where="--freezed-layers",
            )  # fmt: skip
        check_range("--freezed-stages", self.options.stages, 0)
        self._frozen: set[str] | None = None  # parameters of D, once known

    def setup(self, context: MethodContext) -> None:
        """Check that the source has a discriminator with enough stages."""
        if "d" not in context.pretrained:
            raise FsgenError(
                "freezed keeps features of the source's discriminator, and this source has none",
                code=Code.INCOMPATIBLE, where="freezed",
            )  # fmt: skip
        stages = context.family.stages(context.spec)
        if not self.frozen(stages):
            raise FsgenError(
                f"freezed would freeze nothing: this discriminator has {len(stages)} stages",
                code=Code.INCOMPATIBLE, where="--freezed-stages",
                hint=f"--freezed-stages {len(stages) - 1}, or fewer",
            )  # fmt: skip

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        if self._frozen is None:
            self._frozen = self.frozen(family.stages(spec))
        return network == "g" or name not in self._frozen

    def frozen(self, stages: list[list[str]]) -> set[str]:
        """The frozen parameters among ``stages`` (see ``Family.stages``).

        NVIDIA counts each convolution, in the order of construction, and never the last stage.
        """
        if self.options.layers == "auto":
            return {key for stage in stages[: max(0, len(stages) - self.options.stages)] for key in stage}
        keys = [key for stage in stages[:-1] for key in stage]
        layers = list(dict.fromkeys(_layer(key) for key in keys))[: int(self.options.layers)]
        return {key for key in keys if _layer(key) in layers}


def _layer(key: str) -> str:
    return key.rpartition(".")[0]
