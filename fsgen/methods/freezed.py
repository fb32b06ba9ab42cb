"""Freezing the discriminator (Mo et al. 2020): what it sees stays, how it judges is learnt anew."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsgen.errors import FsgenError
from fsgen.interfaces import Family, Method, MethodContext, NetworkName, Spec


class FreezeD(Method):
    """All of G is trained, and of D the last stages; what gives the logit always is.

    The paper's D has a stage a resolution, the last one being what works at 4 px, and from-RGB before them.
    Three trained ones, its best at 256 px, are the three coarsest at every other size as well. Its optimiser
    (no lazy regularisation, a slower mapping) is StyleGAN1's and not a part of it.
    """

    name = "freezed"
    summary = "keep the first stages of D as they are"
    paper = "Mo et al. 2020, Freeze the Discriminator: a Simple Baseline for Fine-Tuning, arXiv 2002.10964"
    trained = "all of G, the last stages of D"
    licence = "MIT"
    needs = frozenset({"discriminator", "stages"})
    claims = frozenset({"which weights of D stay"})
    adapts = True

    @dataclass(frozen=True)
    class Options:
        stages: int = field(default=3, metadata={"help": "Stages of D that are trained, from the logit on."})
        layers: str = field(
            default="auto",
            metadata={"help": "In place of stages, layers of D that are frozen, from the picture on, as "
                              "NVIDIA's code counts them: auto, or a number."},
        )  # fmt: skip

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        layers = self.options.layers
        if layers != "auto" and not layers.isdecimal():
            raise FsgenError(f"--freezed-layers {layers} is not auto, and no whole number")
        if self.options.stages < 0:
            raise FsgenError(f"--freezed-stages {self.options.stages} is below 0")
        self.held: set[str] | None = None  # parameters of D that stay, once known

    def enter(self, context: MethodContext) -> None:
        if "d" not in context.pretrained:
            raise FsgenError("freezed keeps what the source's discriminator sees, and this source has none")
        stages = context.family.stages(context.spec)
        if not self.frozen(stages):
            raise FsgenError(
                f"freezed would freeze nothing: this discriminator has {len(stages)} stages",
                hint=f"--freezed-stages {len(stages) - 1}, or fewer",
            )

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        if self.held is None:
            self.held = self.frozen(family.stages(spec))
        return network == "g" or name not in self.held

    def frozen(self, stages: list[list[str]]) -> set[str]:
        """Which of the parameters in ``stages`` (see ``Family.stages``) stay.

        NVIDIA counts each convolution, in the order in which they are built, and never the last stage.
        """
        if self.options.layers == "auto":
            return {key for stage in stages[: max(0, len(stages) - self.options.stages)] for key in stage}
        keys = [key for stage in stages[:-1] for key in stage]
        layers = list(dict.fromkeys(_layer(key) for key in keys))[: int(self.options.layers)]
        return {key for key in keys if _layer(key) in layers}


def _layer(key: str) -> str:
    return key.rpartition(".")[0]
