"""Adaptation-aware kernel modulation (Zhao et al. 2022).

A probe finds the filters that matter to the target: all weights are modulated by matrices of rank one, only
those are trained for a while, and their Fisher information is each filter's importance. Training then starts
again from the source: important filters are frozen and modulated, the others are fine-tuned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen import registry
from fsgen import rng as random
from fsgen.config import check_range
from fsgen.interfaces import Family, Layer, Method, MethodContext, Module, NetworkName, NoOptions, Spec
from fsgen.methods.filter_selection import FilterSelection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

PROBE, SAMPLES, RUN = 500, 1000, 1500  # as published: steps of the probe, samples after it, steps of the run


@dataclass(frozen=True)
class AdAMOptions:
    percentile: float = field(
        default=50.0,
        metadata={"help": "Percentage of filters that is fine-tuned: 50 for near targets, 75 for far."},
    )
    probe: str = field(
        default="auto",
        metadata={"help": "Steps of the probe: auto (500, in runs below 1,500 a third of them) or a number."},
    )
    samples: str = field(
        default="auto",
        metadata={"help": "Samples behind the importance: auto (two a step of the probe) or a number."},
    )
    kernels: str = field(
        default="filters",
        metadata={
            "help": "The j-th v modulates filter j, or what the published code reshapes it to.",
            "choices": ("filters", "published"),
        },
    )
    scale: str = field(
        default="kept",
        metadata={
            "help": "Scale of modulated linear layers: the source's, or the published code's, which "
            "changes the source where a layer's inputs and outputs differ in number.",
            "choices": ("kept", "published"),
        },
    )


class AdAM(FilterSelection[AdAMOptions]):
    """Sections 4.1 and 4.2 of the paper. A modulated filter keeps its source's weight; at the end the
    modulation is folded into it. D's information is that of the live D; the published probe averages it.
    """

    name = "adam"
    summary = "modulate the filters that a probe finds important (rank one), fine-tune the others"
    paper = (
        "Zhao et al. 2022, Few-shot Image Generation via Adaptation-Aware Kernel Modulation, arXiv 2210.16559"
    )
    trained = "in both networks filters, important ones by their modulation alone; the head of D"

    Options = AdAMOptions

    def __init__(self, options: AdAMOptions | None = None) -> None:
        super().__init__(options)
        check_range("--adam-percentile", self.options.percentile, 0, 100)
        self.parse_length("probe")
        self.parse_length("samples")
        self.masks: dict[NetworkName, dict[str, Tensor]] = {}  # by parameter: where it has a gradient

    # ---- the probe -----------------------------------------------------------------------------------

    def setup(self, context: MethodContext) -> None:
        resumed = bool(self.buffers)
        super().setup(context)
        steps = self.resolve_length("probe", PROBE, of=RUN, steps=context.steps)
        samples = self.resolve_length("samples", SAMPLES, of=PROBE, steps=steps)
        if resumed:
            return
        trial = context.trial_run(steps, Probe(self))
        found = context.information(trial.g, trial.d, samples, context.seed, report_progress=True)
        for network, layers in self.layers.items():
            self.decide(network, above(layers, found[network], self.options.percentile))
        frozen = [some for decided in self.decisions.values() for some in decided.values()]
        context.say(
            f"after {steps} steps of probing, {sum(int(some.sum()) for some in frozen):,} of "
            f"{sum(map(len, frozen)):,} filters are frozen and modulated"
        )

    # ---- the run -------------------------------------------------------------------------------------

    def add_modules(self, g: Any, d: Any) -> None:
        import torch

        from fsgen.nn.filter_masks import axis_of, broadcast
        from fsgen.nn.modulation import added, original

        self.modulate(g, d, "run")
        networks: tuple[tuple[NetworkName, nn.Module], ...] = (("g", g), ("d", d))
        for network, net in networks:
            masks = self.masks[network] = {}
            for layer in self.layers[network]:
                weight = net.get_parameter(original(layer.weight))
                frozen = self.decisions[network][layer.weight].to(weight.device)
                masks[original(layer.weight)] = broadcast(~frozen, weight, axis_of(net, layer.weight))
                masks |= {original(name): ~frozen for name in layer.also}
                vectors = [added(layer.weight, "v"), *(added(name, "b") for name in layer.also)]
                for name in vectors:
                    masks[name] = frozen
                    with torch.no_grad():
                        net.get_parameter(name).masked_fill_(~frozen, 0.0)

    def modulate(self, g: Any, d: Any, stage: str) -> None:
        """Modulate all of ``g`` but a learned constant, and all of ``d`` but its head."""
        from fsgen.nn.modulation import modulate

        head = self.filters(self.context.family, self.context.spec).head
        unmodulated: frozenset[str] = frozenset()
        for network, net, excluded in (("g", g, unmodulated), ("d", d, head)):
            names = [name for name, value in net.named_parameters()
                     if value.ndim != 3 and name not in excluded and not is_added(name)]  # fmt: skip
            modulate(
                net, names, random.generator(self.context.seed, f"adam {stage} {network}"),
                reshaped=self.options.kernels == "published", scaled=self.options.scale == "published",
            )  # fmt: skip

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        """Train filters (masked later) and D's head. G's other parameters are only modulated: the published
        code hands them to its optimiser and clears their gradient."""
        return self.has_filters(family, spec, network, name) or (
            network == "d" and name in self.filters(family, spec).head
        )

    def mask_gradients(self, network: NetworkName, net: Module) -> None:
        from fsgen.nn.filter_masks import mask_gradient

        for name, mask in self.masks[network].items():
            mask_gradient(net.get_parameter(name), mask)

    def export(self, net: Any) -> dict[str, Tensor]:
        from fsgen.nn.modulation import fold

        fold(net)
        return {}


class Probe(Method[NoOptions]):
    """The probe of ``method``: trains the modulation and D's head."""

    name, summary, paper = AdAM.name, AdAM.summary, AdAM.paper

    def __init__(self, method: AdAM) -> None:
        super().__init__()
        self.method = method

    def add_modules(self, g: Module, d: Module) -> None:
        self.method.modulate(g, d, "probe")

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        return network == "d" and name in self.method.filters(family, spec).head


def is_added(name: str) -> bool:
    """Tell whether another method of the stack has added the parameter ``name``."""
    return ".parametrizations." in name or name.split(".")[0] in registry.methods()


def above(layers: Sequence[Layer], found: Mapping[str, Tensor], percentile: float) -> dict[str, Tensor]:
    """Tell whether each filter's importance exceeds the percentile of its pool: [filters] by weight.

    Args:
        found: the information of a modulated network. A filter's importance is the mean over its v, the u
            that all filters share, and its b.
    """
    from fsgen.nn.filter_masks import importance, percentiles
    from fsgen.nn.modulation import added

    scores = {}
    for layer in layers:
        u, v = (found[added(layer.weight, part)] for part in "uv")
        scores[layer.weight] = importance(u.mean() + v, *(found[added(name, "b")] for name in layer.also))
    line = percentiles(layers, scores, percentile)
    return {layer.weight: scores[layer.weight] > line[layer.pool] for layer in layers}
