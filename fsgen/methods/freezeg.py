"""Freeze the coarse layers of the generator (Lee 2020): layout and pose stay, rendering is learned."""

from __future__ import annotations

from dataclasses import dataclass, field

from fsgen.config import check_range
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Claim, Family, Method, MethodContext, NetworkName, Spec, Trait


@dataclass(frozen=True)
class FreezeGOptions:
    resolutions: int = field(
        default=3, metadata={"help": "Trained resolutions of G, counted from the image."}
    )


class FreezeG(Method[FreezeGOptions]):
    """Trains all of D, and of G the layers of the finest resolutions.

    Published for StyleGAN2 at 256 px: the three resolutions from 64 px on, so layers coarser than an eighth
    of the image's side are frozen. That rule is used at every size. The published code also drops path length
    regularisation, which belongs to the recipe here.
    """

    name = "freezeg"
    summary = "freeze the layers of G at coarse resolutions"
    paper = "Lee 2020, FreezeG, github.com/bryandlee/FreezeG (no paper)"
    trained = "the finest resolutions of G, all of D"
    licence = "MIT"
    needs = frozenset({Trait.RESOLUTIONS})
    claims = frozenset({Claim.WEIGHTS_G})
    adapts = True
    Options = FreezeGOptions

    def __init__(self, options: FreezeGOptions | None = None) -> None:
        super().__init__(options)
        check_range("--freezeg-resolutions", self.options.resolutions, 1)
        self._frozen: set[str] | None = None  # parameters of G, once known

    def setup(self, context: MethodContext) -> None:
        """Check that the generator has enough resolutions."""
        if not self.frozen(context.family, context.spec):
            count = len(set(resolutions(context.family, context.spec).values()) - {0})
            raise FsgenError(
                f"freezeg would freeze nothing: this generator has {count} resolutions",
                code=Code.INCOMPATIBLE, where="--freezeg-resolutions",
                hint=f"--freezeg-resolutions {count - 1}, or fewer",
            )  # fmt: skip

    def trains(self, family: Family, spec: Spec, network: NetworkName, name: str) -> bool:
        if self._frozen is None:
            self._frozen = self.frozen(family, spec)
        return network == "d" or name not in self._frozen

    def frozen(self, family: Family, spec: Spec) -> set[str]:
        """The frozen parameters of G."""
        sides = resolutions(family, spec)
        trained = sorted(set(sides.values()) - {0})[-self.options.resolutions :]
        return {key for key, side in sides.items() if side < trained[0]}


def resolutions(family: Family, spec: Spec) -> dict[str, int]:
    """The resolution of each parameter of G; one without takes that of the layer before it, or 0."""
    side = 0
    sides: dict[str, int] = {}
    for keys in family.layers(spec).values():
        side = max([side, *(found for key in keys if (found := family.resolution_of(key)))])
        sides |= dict.fromkeys(keys, side)
    return sides
