"""Removing incompatible knowledge (Zhao et al. 2023): filters that do not matter to the target are cut off.

Every so often the Fisher information of both networks says how much each filter matters to the target. Those
above one percentile are frozen, those between are fine-tuned, and the few below another are set to zero for
good: what they knew of the source does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsgen.errors import FsgenError
from fsgen.interfaces import Family, Layer, MethodContext, NetworkName, Spec, TrainingState
from fsgen.methods.filter_selection import Choosing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from torch import Tensor, nn

WARMUP, EVERY, RUN = 250, 50, 1750  # as published: steps of the warm-up, between estimates, of the run
PRUNED, TUNED, FROZEN = 0, 1, 2  # what is decided of a filter


class RICK(Choosing):
    """Section 4 of the paper. The warm-up trains D's head alone. D's information is of D as it is, where the
    published code averages it; G's is of the average.
    """

    name = "rick"
    summary = "freeze the filters that matter to the target, cut off those that matter least, tune the rest"
    paper = (
        "Zhao et al. 2023, Exploring Incompatible Knowledge Transfer in Few-shot Image Generation, "
        "arXiv 2304.07574"
    )
    trained = "in both networks filters that are neither frozen nor cut off; the head of D, at first alone"

    @dataclass(frozen=True)
    class Options:
        freeze: float = field(
            default=40.0,
            metadata={"help": "Percentile above which filters are frozen: 40 for near targets, 85 for far."},
        )
        prune: float = field(
            default=0.1,
            metadata={"help": "Percentile up to which filters are cut off: 0.1 is one in a thousand."},
        )
        warmup: str = field(
            default="auto",
            metadata={
                "help": "Steps for D's head alone: auto (250, in runs below 1,750 a seventh) or a number."
            },
        )
        every: str = field(
            default="auto",
            metadata={
                "help": "Steps between estimates: auto (50, in runs below 1,750 a 35th of them) or a number."
            },
        )
        samples: int = field(default=5, metadata={"help": "Samples behind each estimate, always the same."})

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        freeze, prune, samples = self.options.freeze, self.options.prune, self.options.samples
        if not 0 <= prune <= freeze <= 100:
            raise FsgenError(
                f"filters cannot be cut off up to percentile {prune:g} and frozen above {freeze:g}",
                hint="0 <= prune <= freeze <= 100",
            )
        if samples < 1:
            raise FsgenError(f"nothing can be estimated from {samples} samples", hint="--rick-samples 5")
        self.asked("warmup", least=0)
        self.asked("every")
        self.warm = True  # in the warm-up

    def enter(self, context: MethodContext) -> None:
        self.meet(context)
        self.settle("warmup", WARMUP, of=RUN, steps=context.steps)
        self.settle("every", EVERY, of=RUN, steps=context.steps)

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """The layers that have filters, with whatever else is in them, and D's head."""
        filters = self.filters(family, spec)
        whole = filters.beside if network == "g" else filters.head
        return name in whole or self.has_filters(family, spec, network, name)

    # ---- in each step --------------------------------------------------------------------------------

    def before(self, state: TrainingState) -> None:
        since = state.step - self.lengths["warmup"]
        self.warm = since < 0
        if self.warm or since % self.lengths["every"]:
            return
        found = self.context.information(state.g_ema, state.d, self.options.samples, self.context.seed)
        for who, net, optimiser in (("g", state.g, state.opt_g), ("d", state.d, state.opt_d)):
            self.decide(who, net, found[who])
            self._put(who, net, optimiser)

    def decide(self, who: NetworkName, net: nn.Module, found: Mapping[str, Tensor]) -> None:
        """Anew of every filter, by the information ``found``; but what was cut off stays so."""
        from fsgen.nn.filter_masks import axis_of, filter_means, importance

        scores = {}
        for layer in self.layers[who]:
            mean = filter_means(found[layer.weight], axis_of(net, layer.weight))
            scores[layer.weight] = importance(mean, *(found[name] for name in layer.also))
        decided = between(self.layers[who], scores, self.options.prune, self.options.freeze)
        for weight, before in self.decisions[who].items():
            decided[weight][before == PRUNED] = PRUNED
        self.decisions[who] = decided

    def _put(self, who: NetworkName, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Cut off what is pruned, and have Adam forget where filters were moving to that no longer may: with
        a beta1 above 0 it would move them on without any gradient."""
        import torch

        with torch.no_grad():
            for parameter, decided in self._held(who, net):
                parameter.masked_fill_(decided == PRUNED, 0.0)
                if "exp_avg" in optimiser.state[parameter]:
                    optimiser.state[parameter]["exp_avg"].masked_fill_(decided != TUNED, 0.0)

    def hold(self, network: NetworkName, net: nn.Module) -> None:
        from fsgen.nn.filter_masks import mask_gradient

        if not self.warm:
            for parameter, decided in self._held(network, net):
                mask_gradient(parameter, decided == TUNED)
            return
        head = self.filters(self.context.family, self.context.spec).head if network == "d" else ()
        for name, parameter in net.named_parameters():
            if name not in head:
                parameter.grad = None

    def _held(self, who: NetworkName, net: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter that has filters, and in its shape what is decided of them."""
        from fsgen.nn.filter_masks import axis_of, broadcast

        for layer in self.layers[who]:
            decided, weight = self.decisions[who][layer.weight], net.get_parameter(layer.weight)
            yield weight, broadcast(decided, weight, axis_of(net, layer.weight))
            for name in layer.also:
                yield net.get_parameter(name), broadcast(decided, net.get_parameter(name))


def between(
    layers: Sequence[Layer], scores: Mapping[str, Tensor], prune: float, freeze: float
) -> dict[str, Tensor]:
    """What the percentiles ``prune`` and ``freeze`` of its pool make of each filter, uint8 [filters] by
    weight; at a percentile itself it is what it is below."""
    from fsgen.nn.filter_masks import percentiles

    low, high = percentiles(layers, scores, prune), percentiles(layers, scores, freeze)
    decided = {}
    for layer in layers:
        score = scores[layer.weight]
        decided[layer.weight] = (score > low[layer.pool]).byte() + (score > high[layer.pool]).byte()
    return decided
