"""Removing incompatible knowledge (Zhao et al. 2023): prune filters that do not matter to the target.

At regular intervals the Fisher information of both networks measures how much each filter matters to the
target. Filters above one percentile are frozen, those up to another are set to zero for good, and the others
are fine-tuned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen.config import check_range
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Family, Layer, MethodContext, NetworkName, Spec, TrainingState
from fsgen.methods.filter_selection import FilterSelection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from torch import Tensor, nn

WARMUP, EVERY, RUN = 250, 50, 1750  # as published: steps of the warm-up, between estimates, of the run
PRUNED, TUNED, FROZEN = 0, 1, 2  # decisions on a filter


@dataclass(frozen=True)
class RICKOptions:
    freeze: float = field(
        default=40.0,
        metadata={"help": "Percentile above which filters are frozen: 40 for near targets, 85 for far."},
    )
    prune: float = field(
        default=0.1,
        metadata={"help": "Percentile up to which filters are pruned: 0.1 is one in a thousand."},
    )
    warmup: str = field(
        default="auto",
        metadata={"help": "Steps for D's head alone: auto (250, in runs below 1,750 a seventh) or a number."},
    )
    every: str = field(
        default="auto",
        metadata={
            "help": "Steps between estimates: auto (50, in runs below 1,750 a 35th of them) or a number."
        },
    )
    samples: int = field(default=5, metadata={"help": "Samples behind each estimate, always the same."})


class RICK(FilterSelection[RICKOptions]):
    """Section 4 of the paper. The warm-up trains D's head alone. D's information is that of the live D, where
    the published code averages it; G's is that of the moving average.
    """

    name = "rick"
    summary = "freeze the filters that matter most to the target, prune those that matter least"
    paper = (
        "Zhao et al. 2023, Exploring Incompatible Knowledge Transfer in Few-shot Image Generation, "
        "arXiv 2304.07574"
    )
    trained = "in both networks the filters neither frozen nor pruned; the head of D, at first alone"

    Options = RICKOptions

    def __init__(self, options: RICKOptions | None = None) -> None:
        super().__init__(options)
        freeze, prune, samples = self.options.freeze, self.options.prune, self.options.samples
        if not 0 <= prune <= freeze <= 100:
            raise FsgenError(
                f"filters cannot be pruned up to percentile {prune:g} and frozen above {freeze:g}",
                code=Code.OUT_OF_RANGE, where="--rick-prune", hint="0 <= prune <= freeze <= 100",
            )  # fmt: skip
        check_range("--rick-samples", samples, 1)
        self.parse_length("warmup", least=0)
        self.parse_length("every")
        self.warmup = True

    def setup(self, context: MethodContext) -> None:
        super().setup(context)
        self.resolve_length("warmup", WARMUP, of=RUN, steps=context.steps)
        self.resolve_length("every", EVERY, of=RUN, steps=context.steps)

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Train the layers that have filters, with their other parameters, and D's head."""
        filters = self.filters(family, spec)
        whole = filters.beside if network == "g" else filters.head
        return name in whole or self.has_filters(family, spec, network, name)

    # ---- in each step --------------------------------------------------------------------------------

    def before_step(self, state: TrainingState) -> None:
        since = state.step - self.lengths["warmup"]
        self.warmup = since < 0
        if self.warmup or since % self.lengths["every"]:
            return
        found = self.context.information(state.g_ema, state.d, self.options.samples, self.context.seed)
        self._select("g", state.g, found["g"])
        self._apply("g", state.g, state.opt_g)
        self._select("d", state.d, found["d"])
        self._apply("d", state.d, state.opt_d)

    def _select(self, network: NetworkName, net: nn.Module, found: Mapping[str, Tensor]) -> None:
        """Decide on every filter by the information ``found``; pruned ones stay pruned."""
        from fsgen.nn.filter_masks import axis_of, filter_means, importance

        scores = {}
        for layer in self.layers[network]:
            mean = filter_means(found[layer.weight], axis_of(net, layer.weight))
            scores[layer.weight] = importance(mean, *(found[name] for name in layer.also))
        decided = between(self.layers[network], scores, self.options.prune, self.options.freeze)
        for weight, before in self.decisions[network].items():
            decided[weight][before == PRUNED] = PRUNED
        self.decide(network, decided)

    def _apply(self, network: NetworkName, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Zero pruned filters, and Adam's first moment of all that are not tuned: with a beta1 above 0 it
        would move them without any gradient."""
        import torch

        with torch.no_grad():
            for parameter, decided in self._filters_of(network, net):
                parameter.masked_fill_(decided == PRUNED, 0.0)
                if "exp_avg" in optimiser.state[parameter]:
                    optimiser.state[parameter]["exp_avg"].masked_fill_(decided != TUNED, 0.0)

    def mask_gradients(self, network: NetworkName, net: Any) -> None:
        from fsgen.nn.filter_masks import mask_gradient

        if not self.warmup:
            for parameter, decided in self._filters_of(network, net):
                mask_gradient(parameter, decided == TUNED)
            return
        head = self.filters(self.context.family, self.context.spec).head if network == "d" else ()
        for name, parameter in net.named_parameters():
            if name not in head:
                parameter.grad = None

    def _filters_of(self, network: NetworkName, net: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter that has filters, with the decisions on them in its shape."""
        from fsgen.nn.filter_masks import axis_of, broadcast

        for layer in self.layers[network]:
            decided, weight = self.decisions[network][layer.weight], net.get_parameter(layer.weight)
            yield weight, broadcast(decided, weight, axis_of(net, layer.weight))
            for name in layer.also:
                yield net.get_parameter(name), broadcast(decided, net.get_parameter(name))


def between(
    layers: Sequence[Layer], scores: Mapping[str, Tensor], prune: float, freeze: float
) -> dict[str, Tensor]:
    """PRUNED up to the percentile ``prune`` of its pool, FROZEN above ``freeze``, else TUNED: uint8 [filters]
    by weight."""
    from fsgen.nn.filter_masks import percentiles

    low, high = percentiles(layers, scores, prune), percentiles(layers, scores, freeze)
    decided = {}
    for layer in layers:
        score = scores[layer.weight]
        decided[layer.weight] = (score > low[layer.pool]).byte() + (score > high[layer.pool]).byte()
    return decided
