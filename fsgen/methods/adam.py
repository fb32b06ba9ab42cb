"""Adaptation-aware kernel modulation (Zhao et al. 2022).

A probe shows which filters matter to the target: all weights are modulated by matrices of rank one, nothing
but those is trained for a while, and the Fisher information of what they came to is each filter's importance.
Then it starts again from the source: important filters are kept and modulated, the others are fine-tuned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsgen import rng as random
from fsgen.errors import FsgenError
from fsgen.interfaces import Family, Layer, Method, MethodContext, NetworkName, Spec
from fsgen.methods.filter_selection import Choosing
from fsgen.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

PROBE, SAMPLES, RUN = 500, 1000, 1500  # as published: steps of the probe, samples after it, steps of the run


class AdAM(Choosing):
    """Sections 4.1 and 4.2 of the paper. A modulated filter keeps its source's weight; at the end the
    modulation is multiplied into it. D's information is of D as it is, where the published probe averages it.
    """

    name = "adam"
    summary = "modulate the filters that a probe finds important (rank one), fine-tune the others"
    paper = (
        "Zhao et al. 2022, Few-shot Image Generation via Adaptation-Aware Kernel Modulation, arXiv 2210.16559"
    )
    trained = "in both networks filters, the important ones by their modulation alone; the head of D"

    @dataclass(frozen=True)
    class Options:
        percentile: float = field(
            default=50.0,
            metadata={"help": "Percentage of filters that is fine-tuned: 50 for near targets, 75 for far."},
        )
        probe: str = field(
            default="auto",
            metadata={
                "help": "Steps of the probe: auto (500, in runs below 1,500 a third of them) or a number."
            },
        )
        samples: str = field(
            default="auto",
            metadata={"help": "Samples behind the importance: auto (two a step of the probe) or a number."},
        )
        kernels: str = field(
            default="filters",
            metadata={
                "help": "What the j-th v modulates: filter j, or whatever the published code makes of it.",
                "choices": ("filters", "published"),
            },
        )
        scale: str = field(
            default="kept",
            metadata={
                "help": "Scale of modulated linear layers: the source's, or the published code's, which "
                "changes the source where a layer has not as many inputs as outputs.",
                "choices": ("kept", "published"),
            },
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        if not 0 <= self.options.percentile <= 100:
            raise FsgenError(f"there is no percentile {self.options.percentile:g}", hint="0 to 100")
        self.asked("probe")
        self.asked("samples")
        self.moves: dict[NetworkName, dict[str, Tensor]] = {}  # by parameter: where it has a gradient

    # ---- the probe -----------------------------------------------------------------------------------

    def enter(self, context: MethodContext) -> None:
        self.meet(context)
        steps = self.settle("probe", PROBE, of=RUN, steps=context.steps)
        samples = self.settle("samples", SAMPLES, of=PROBE, steps=steps)
        trial_run = context.trial_run(steps, Probe(self))
        found = context.information(trial_run.g, trial_run.d, samples, context.seed, waiting=True)
        for who, layers in self.layers.items():
            self.decisions[who] = above(layers, found[who], self.options.percentile)
        kept = [some for decided in self.decisions.values() for some in decided.values()]
        context.say(
            f"after {steps} steps of probing {sum(int(some.sum()) for some in kept):,} of "
            f"{sum(map(len, kept)):,} filters are kept and modulated"
        )

    # ---- the run -------------------------------------------------------------------------------------

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        import torch

        from fsgen.nn.filter_masks import axis_of, broadcast
        from fsgen.nn.modulation import added, original

        self.modulate(g, d, "run")
        for who, net in (("g", g), ("d", d)):
            moves = self.moves[who] = {}
            for layer in self.layers[who]:
                weight = net.get_parameter(original(layer.weight))
                kept = self.decisions[who][layer.weight].to(weight.device)
                moves[original(layer.weight)] = broadcast(~kept, weight, axis_of(net, layer.weight))
                moves |= {original(name): ~kept for name in layer.also}
                vectors = [added(layer.weight, "v"), *(added(name, "b") for name in layer.also)]
                for name in vectors:
                    moves[name] = kept
                    with torch.no_grad():
                        net.get_parameter(name).masked_fill_(~kept, 0.0)

    def modulate(self, g: nn.Module, d: nn.Module, stage: str) -> None:
        """Modulate all of ``g`` but a learned constant, and all of ``d`` but its head."""
        from fsgen.nn.modulation import modulate

        head = self.filters(self.context.family, self.context.spec).head
        for who, net, left in (("g", g, ()), ("d", d, head)):
            names = [name for name, value in net.named_parameters()
                     if value.ndim != 3 and name not in left and not of_a_method(name)]  # fmt: skip
            modulate(
                net, names, random.generator(self.context.seed, f"adam {stage} {who}"),
                reshaped=self.options.kernels == "published", scaled=self.options.scale == "published",
            )  # fmt: skip

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Filters, for those that are fine-tuned, and D's head. Of G's other parameters only what modulates
        them: the published code hands them to its optimiser and clears their gradient."""
        return self.has_filters(family, spec, network, name) or (
            network == "d" and name in self.filters(family, spec).head
        )

    def hold(self, network: NetworkName, net: nn.Module) -> None:
        from fsgen.nn.filter_masks import mask_gradient

        for name, moves in self.moves[network].items():
            mask_gradient(net.get_parameter(name), moves)

    def leave(self, net: nn.Module) -> dict[str, Tensor]:
        from fsgen.nn.modulation import fold

        fold(net)
        return {}


class Probe(Method):
    """Of ``method``: only what modulates is trained, and D's head."""

    name, summary, paper = AdAM.name, AdAM.summary, AdAM.paper

    def __init__(self, method: AdAM) -> None:
        super().__init__()
        self.method = method

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        self.method.modulate(g, d, "probe")

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        return network == "d" and name in self.method.filters(family, spec).head


def of_a_method(name: str) -> bool:
    """Whether another method of the stack has added the parameter ``name``."""
    return ".parametrizations." in name or name.split(".")[0] in METHODS


def above(layers: Sequence[Layer], found: Mapping[str, Tensor], percentile: float) -> dict[str, Tensor]:
    """Whether each filter's importance exceeds the percentile of its pool, [filters] by weight.

    Args:
        found: the information of a modulated network. A filter's importance is that of its v, of the u that
            all share, and of its b.
    """
    from fsgen.nn.filter_masks import importance, percentiles
    from fsgen.nn.modulation import added

    scores = {}
    for layer in layers:
        u, v = (found[added(layer.weight, part)] for part in "uv")
        scores[layer.weight] = importance(u.mean() + v, *(found[added(name, "b")] for name in layer.also))
    line = percentiles(layers, scores, percentile)
    return {layer.weight: scores[layer.weight] > line[layer.pool] for layer in layers}
