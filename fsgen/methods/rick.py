"""Removing incompatible knowledge (Zhao et al. 2023): filters that do not matter to the target are cut off.

Every so often the Fisher information of both networks says how much each filter matters to the target. Those
above one percentile are frozen, those between are fine-tuned, and the few below another are set to zero for
good: what they knew of the source does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen.errors import FsgenError
from fsgen.methods.lengths import asked, scaled
from fsgen.types import Bench, Family, Layer, Method, Player, Spec, TrainingState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import Tensor, nn

WARMUP, EVERY, MAIN = 250, 50, 1750  # as published: steps of the warm-up, between estimates, of the run
PRUNED, TUNED, FROZEN = 0, 1, 2  # what becomes of a filter


class RICK(Method):
    """Section 4 of the paper. The warm-up trains D's head alone.

    The published code estimates on averages of both networks; here D is as it is.
    """

    name = "rick"
    summary = "freeze the filters that matter to the target, cut off those that matter least, tune the rest"
    paper = (
        "Zhao et al. 2023, Exploring Incompatible Knowledge Transfer in Few-shot Image Generation, "
        "arXiv 2304.07574"
    )
    licence = "published code: MIT"
    needs = frozenset({"latent", "discriminator", "filters"})
    claims = frozenset({"how weights are held"})
    adapts = True

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
        o = self.options
        if not 0 <= o.prune <= o.freeze <= 100:
            raise FsgenError(
                f"filters cannot be cut off up to percentile {o.prune:g} and frozen above {o.freeze:g}",
                hint="0 <= prune <= freeze <= 100",
            )
        if o.samples < 1:
            raise FsgenError(f"nothing can be estimated from {o.samples} samples", hint="--rick-samples 5")
        self.warmup = asked(o.warmup, "--rick-warmup", least=0)
        self.every = asked(o.every, "--rick-every")
        self.fates: dict[Player, dict[str, Tensor]] = {"g": {}, "d": {}}  # of each filter, by its weight
        self.warm = True  # in the warm-up

    def enter(self, bench: Bench) -> None:
        if "d" not in bench.pretrained:
            raise FsgenError("rick keeps what the source's discriminator sees, and this source has none")
        self.bench = bench
        self.filters = bench.family.filters(bench.spec)
        if self.warmup is None:
            self.warmup = scaled(WARMUP, MAIN, bench.steps)
        if self.every is None:
            self.every = scaled(EVERY, MAIN, bench.steps)

    def state(self) -> dict[str, Tensor]:
        return {f"{who}.{key}": value for who, some in self.fates.items() for key, value in some.items()}

    def restore(self, state: dict[str, Tensor], bench: Bench) -> None:
        self.enter(bench)
        for key, value in state.items():
            who, _, weight = key.partition(".")
            self.fates[who][weight] = value

    def chosen(self) -> dict[str, Any]:
        known = {"warmup": self.warmup, "every": self.every}
        return {name: str(value) for name, value in known.items() if value is not None}

    def trains(self, family: Family, spec: Spec, network: Player, name: str) -> bool:
        """The layers that have filters, whatever else is in them, and D's head."""
        filters = family.filters(spec)
        layers, whole = (filters.g, filters.beside) if network == "g" else (filters.d, filters.head)
        return name in whole or any(name == layer.weight or name in layer.also for layer in layers)

    # ---- in each step --------------------------------------------------------------------------------

    def before(self, state: TrainingState) -> None:
        since = state.step - self.warmup
        self.warm = since < 0
        if since < 0 or since % self.every:
            return
        found = self.bench.information(state.g_ema, state.d, self.options.samples, self.bench.seed)
        for who, net, optimiser in (("g", state.g, state.opt_g), ("d", state.d, state.opt_d)):
            self._decide(who, net, found[who])
            self._settle(who, net, optimiser)

    def _decide(self, who: Player, net: nn.Module, found: Mapping[str, Tensor]) -> None:
        """Every filter's fate anew; but what was cut off stays so."""
        from fsgen.nn.filters import axis_of, importance, per_filter

        scores = {
            layer.weight: importance(
                per_filter(found[layer.weight], axis_of(net, layer.weight)),
                *(found[name] for name in layer.also),
            )
            for layer in self._layers(who)
        }
        fates = decided(self._layers(who), scores, freeze=self.options.freeze, prune=self.options.prune)
        for weight, before in self.fates[who].items():
            fates[weight][before == PRUNED] = PRUNED
        self.fates[who] = fates

    def _settle(self, who: Player, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Cut off what is pruned, and forget where filters that are not tuned were moving to: what Adam has
        gathered would move them on without a gradient, unless its beta1 is 0."""
        import torch

        with torch.no_grad():
            for parameter, fate in self._held(who, net):
                parameter.mul_(fate != PRUNED)
                if "exp_avg" in optimiser.state[parameter]:
                    optimiser.state[parameter]["exp_avg"].mul_(fate == TUNED)

    def hold(self, network: Player, net: nn.Module) -> None:
        from fsgen.nn.filters import still

        if self.warm:
            head = self.filters.head if network == "d" else ()
            for name, parameter in net.named_parameters():
                if name not in head:
                    parameter.grad = None
            return
        for parameter, fate in self._held(network, net):
            still(parameter, fate == TUNED)

    def _layers(self, who: Player) -> tuple[Layer, ...]:
        return self.filters.g if who == "g" else self.filters.d

    def _held(self, who: Player, net: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter that has filters, and their fates in its shape."""
        from fsgen.nn.filters import axis_of, shaped

        for layer in self._layers(who):
            fate = self.fates[who][layer.weight]
            weight = net.get_parameter(layer.weight)
            yield weight, shaped(fate, weight, axis_of(net, layer.weight))
            for name in layer.also:
                yield net.get_parameter(name), shaped(fate, net.get_parameter(name))


def decided(
    layers: tuple[Layer, ...], scores: Mapping[str, Tensor], *, freeze: float, prune: float
) -> dict[str, Tensor]:
    """The fate of each filter by the percentiles of its pool, uint8 [filters] by weight."""
    from fsgen.nn.filters import lines

    cut, end = lines(layers, scores, freeze), lines(layers, scores, prune)
    fates = {}
    for layer in layers:
        score = scores[layer.weight].double()
        # PRUNED and one each for what lies above a line
        fates[layer.weight] = (score > end[layer.pool]).byte() + (score > cut[layer.pool]).byte()
    return fates
