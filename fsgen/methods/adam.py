"""Adaptation-aware kernel modulation (Zhao et al. 2022).

A probe shows which filters matter to the target: all weights are modulated by rank-one matrices and only
those are trained, for a while, and the Fisher information of what they came to is each filter's importance.
Then it starts again from the source: important filters are kept and modulated, the others are fine-tuned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsgen import rng as random
from fsgen.errors import FsgenError
from fsgen.methods.lengths import asked, scaled
from fsgen.registry import METHODS
from fsgen.types import Bench, Family, Filters, Layer, Method, Player, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

PROBE, SAMPLES, MAIN = 500, 1000, 1500  # as published: steps of the probe, samples after it, steps of the run
AS_PUBLISHED = "published"


class AdAM(Method):
    """Sections 4.1 and 4.2 of the paper. What is modulated keeps its source's weight; the modulation is
    multiplied into it at the end.

    The published probe averages D as well; here D's information is that of D itself.
    """

    name = "adam"
    summary = "modulate the filters that a probe finds important (rank one), fine-tune the others"
    paper = (
        "Zhao et al. 2022, Few-shot Image Generation via Adaptation-Aware Kernel Modulation, arXiv 2210.16559"
    )
    licence = "published code: MIT"
    needs = frozenset({"latent", "discriminator", "filters"})
    claims = frozenset({"how weights are held"})
    adapts = True

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
                "help": "What v[j] modulates: filter j, or what the published code makes of it.",
                "choices": ("filters", AS_PUBLISHED),
            },
        )
        scale: str = field(
            default="kept",
            metadata={
                "help": "Scale of modulated linear layers: the source's, or the published code's, which "
                "changes the source where a layer has not as many inputs as outputs.",
                "choices": ("kept", AS_PUBLISHED),
            },
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        if not 0 <= self.options.percentile <= 100:
            raise FsgenError(f"there is no percentile {self.options.percentile:g}", hint="0 to 100")
        self.probe = asked(self.options.probe, "--adam-probe")
        self.samples = asked(self.options.samples, "--adam-samples")
        self.modulated: dict[Player, dict[str, Tensor]] = {}  # of each filter: whether it is; by its weight
        self.moves: dict[Player, dict[str, Tensor]] = {}  # by parameter: 0 where its gradient is cleared

    # ---- the probe -----------------------------------------------------------------------------------

    def enter(self, bench: Bench) -> None:
        if "d" not in bench.pretrained:
            raise FsgenError("adam keeps what the source's discriminator sees, and this source has none")
        self.bench = bench
        self.probe = self.probe or scaled(PROBE, MAIN, bench.steps)
        self.samples = self.samples or scaled(SAMPLES, PROBE, self.probe)
        pilot = bench.pilot(self.probe, Probe(self))
        found = bench.information(pilot.g, pilot.d, self.samples, bench.seed, waiting=True)
        filters = bench.family.filters(bench.spec)
        self.modulated = {"g": self._chosen(filters.g, found["g"]), "d": self._chosen(filters.d, found["d"])}
        held = [chosen for network in self.modulated.values() for chosen in network.values()]
        bench.say(
            f"{self.probe} steps of probing, {self.samples} samples: {sum(int(c.sum()) for c in held):,} of "
            f"{sum(len(c) for c in held):,} filters are kept and modulated"
        )

    def _chosen(self, layers: tuple[Layer, ...], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whether each filter is above the percentile of its pool, [filters] by weight."""
        from fsgen.nn.filters import lines

        scores = {layer.weight: scored(layer, found) for layer in layers}
        line = lines(layers, scores, self.options.percentile)
        return {layer.weight: scores[layer.weight].double() > line[layer.pool] for layer in layers}

    # ---- the run -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        return {f"{who}.{key}": value for who, some in self.modulated.items() for key, value in some.items()}

    def restore(self, state: dict[str, Tensor], bench: Bench) -> None:
        self.bench = bench
        for key, value in state.items():
            who, _, weight = key.partition(".")
            self.modulated.setdefault(who, {})[weight] = value

    def chosen(self) -> dict[str, Any]:
        known = {"probe": self.probe, "samples": self.samples}
        return {name: str(value) for name, value in known.items() if value is not None}

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        import torch

        from fsgen.nn.filters import axis_of, shaped
        from fsgen.nn.modulation import added, original

        filters = self.modulate(g, d, "run")
        for who, net, layers in (("g", g, filters.g), ("d", d, filters.d)):
            moves = self.moves[who] = {}
            for layer in layers:
                kept, axis = self.modulated[who][layer.weight], axis_of(net, layer.weight)
                v, weight = added(layer.weight, "v"), original(layer.weight)
                moves[v], moves[weight] = kept, shaped(~kept, net.get_parameter(weight), axis)
                moves |= {added(name, "b"): kept for name in layer.also}
                moves |= {original(name): ~kept for name in layer.also}
                with torch.no_grad():
                    for name in (v, *(added(name, "b") for name in layer.also)):
                        net.get_parameter(name).mul_(kept)

    def modulate(self, g: nn.Module, d: nn.Module, stage: str) -> Filters:
        """Modulate all of ``g`` but a learned constant, and all of ``d`` but its head."""
        from fsgen.nn.modulation import modulate

        filters = self.bench.family.filters(self.bench.spec)
        for who, net in (("g", g), ("d", d)):
            theirs = {*METHODS, *(filters.head if who == "d" else ())}  # other methods' modules
            names = [name for name, value in net.named_parameters()
                     if value.ndim != 3 and not {name, name.split(".")[0]} & theirs]  # fmt: skip
            modulate(
                net, names, random.generator(self.bench.seed, f"adam {stage} {who}"),
                reshaped=self.options.kernels == AS_PUBLISHED, scaled=self.options.scale == AS_PUBLISHED,
            )  # fmt: skip
        return filters

    def trains(self, family: Family, spec: Spec, network: Player, name: str) -> bool:
        """Filters that may be fine-tuned, and D's head."""
        filters = family.filters(spec)
        layers = filters.g if network == "g" else filters.d
        return any(name == layer.weight or name in layer.also for layer in layers) or (
            network == "d" and name in filters.head
        )

    def hold(self, network: Player, net: nn.Module) -> None:
        from fsgen.nn.filters import still

        for name, moves in self.moves[network].items():
            still(net.get_parameter(name), moves)

    def leave(self, net: nn.Module) -> dict[str, Tensor]:
        from fsgen.nn.modulation import fold

        fold(net)
        return {}


class Probe(Method):
    """Of ``method``: only what modulates is trained, and D's head."""

    name = AdAM.name
    summary, paper = AdAM.summary, AdAM.paper

    def __init__(self, method: AdAM) -> None:
        super().__init__()
        self.method = method

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        self.method.modulate(g, d, "probe")

    def trains(self, family: Family, spec: Spec, network: Player, name: str) -> bool:
        return network == "d" and name in family.filters(spec).head


def scored(layer: Layer, found: Mapping[str, Tensor]) -> Tensor:
    """Importance of each filter of ``layer``, [filters]: of its v and of the u that all share, and of b."""
    from fsgen.nn.filters import importance
    from fsgen.nn.modulation import added

    u, v = (found[added(layer.weight, part)] for part in "uv")
    return importance(u.mean() + v, *(found[added(name, "b")] for name in layer.also))
