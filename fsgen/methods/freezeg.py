"""Freezing the generator's first layers (Lee 2020): layout and pose stay, how they are drawn is learnt."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsgen.errors import FsgenError
from fsgen.interfaces import Family, Method, MethodContext, NetworkName, Spec


class FreezeG(Method):
    """All of D is trained, and of G the layers of the finest resolutions.

    Published for StyleGAN2 at 256 px: the three resolutions from 64 px on, so that what stays is coarser than
    an eighth of the picture's side. That holds at every size. Its code also goes without path length
    regularisation, here a matter of the recipe.
    """

    name = "freezeg"
    summary = "keep the first layers of G, those of coarse resolutions, as they are"
    paper = "Lee 2020, FreezeG, github.com/bryandlee/FreezeG (no paper)"
    trained = "the finest resolutions of G, all of D"
    licence = "MIT"
    needs = frozenset({"resolutions"})
    claims = frozenset({"which weights of G stay"})
    adapts = True

    @dataclass(frozen=True)
    class Options:
        resolutions: int = field(
            default=3, metadata={"help": "Resolutions of G that are trained, from the picture on."}
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        if self.options.resolutions < 1:
            raise FsgenError(f"--freezeg-resolutions {self.options.resolutions} would train nothing")
        self.held: set[str] | None = None  # parameters of G that stay, once known

    def enter(self, context: MethodContext) -> None:
        if not self.frozen(context.family, context.spec):
            count = len(set(resolutions(context.family, context.spec).values()) - {0})
            raise FsgenError(
                f"freezeg would freeze nothing: this generator has {count} resolutions",
                hint=f"--freezeg-resolutions {count - 1}, or fewer",
            )

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        if self.held is None:
            self.held = self.frozen(family, spec)
        return network == "d" or name not in self.held

    def frozen(self, family: Family, spec: Spec) -> set[str]:
        """Which parameters of G stay."""
        sides = resolutions(family, spec)
        trained = sorted(set(sides.values()) - {0})[-self.options.resolutions :]
        return {key for key, side in sides.items() if side < trained[0]}


def resolutions(family: Family, spec: Spec) -> dict[str, int]:
    """The resolution of each parameter of G; what has none has that of what comes before it, or 0."""
    side, sides = 0, {}
    for keys in family.layers(spec).values():
        side = max([side, *(found for key in keys if (found := family.resolution_of(key)))])
        sides |= dict.fromkeys(keys, side)
    return sides
