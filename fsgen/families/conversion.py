"""Conversion steps that the families share: sort a file's networks, check their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Networks

StateDict = dict[str, Tensor]
"""A network's tensors by key."""

NO_DISCRIMINATOR = "no discriminator in the file: adapt starts a fresh one"
SINGLE_GENERATOR = "a single generator in the file: taken for the averaged one, as it is published"


def unsupported(message: str, where: str, hint: str = "") -> FsgenError:
    """The refusal of a checkpoint that is no supported variant of its family."""
    return FsgenError(message, code=Code.UNSUPPORTED, where=where, hint=hint)


class FoundNetworks(NamedTuple):
    """The networks of one checkpoint; absent ones are None, but one of the generators is there."""

    g: StateDict | None
    g_ema: StateDict | None
    d: StateDict | None

    @property
    def generator(self) -> StateDict:
        """The averaged generator or, without it, the live one."""
        state = self.g if self.g_ema is None else self.g_ema
        assert state is not None
        return state

    def converted(
        self, generator: Callable[[StateDict], StateDict], discriminator: Callable[[StateDict], StateDict]
    ) -> FoundNetworks:
        """Each network that was found, converted."""
        g, g_ema = (None if state is None else generator(state) for state in (self.g, self.g_ema))
        return FoundNetworks(g, g_ema, None if self.d is None else discriminator(self.d))


def is_averaged(name: str) -> bool:
    """Tell by its name in the file whether a generator is the moving average."""
    return "ema" in name.lower()


def sort_networks(
    family: str,
    networks: Mapping[str, StateDict],
    is_g: Callable[[StateDict], bool],
    is_d: Callable[[StateDict], bool],
    is_average: Callable[[str], bool] = is_averaged,
) -> FoundNetworks:
    """Sort networks by name and keys; those that are neither generator nor discriminator are left out.

    Raises:
        FsgenError: no generator, or several networks of one kind.
    """
    generators = {name: state for name, state in networks.items() if is_g(state)}
    kinds = {
        "g": [name for name in generators if not is_average(name)],
        "g_ema": [name for name in generators if is_average(name)],
        "d": [name for name, state in networks.items() if is_d(state)],
    }
    if not generators:
        message, hint = f"a discriminator of {family} without a generator", "pull the file of its generator"
        raise unsupported(message, kinds["d"][0], hint)
    for kind, names in kinds.items():
        if len(names) > 1:
            listed = ", ".join(map(repr, names[:3]))
            raise unsupported(f"more than one {family} '{kind}': {listed}", kind, "pull one checkpoint")
    return FoundNetworks(*(networks[names[0]] if names else None for names in kinds.values()))


@contextmanager
def refuse_malformed(family: str) -> Iterator[None]:
    """Turn the KeyError of a missing tensor and the IndexError of a missing axis into a refusal."""
    try:
        yield
    except KeyError as error:
        raise FsgenError(f"a {family} checkpoint without the tensor {error}", code=Code.DAMAGED,
                         where=error.args[0]) from None  # fmt: skip
    except IndexError:
        raise FsgenError(f"a {family} checkpoint with a tensor of too few axes", code=Code.DAMAGED,
                         where=family) from None  # fmt: skip


def check_networks(
    family: str, nets: Networks, found: FoundNetworks, names: tuple[str, str, str] = ("g", "g_ema", "d")
) -> None:
    """Check each network that was found with ``check_state``; ``nets`` are built from the inferred spec."""
    for net, state, name in zip((nets.g, nets.g, nets.d), found, names, strict=True):
        if net is not None and state is not None:
            check_state(net, state, f"{family} '{name}'")


def check_state(net: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Check that ``state`` has exactly the tensors of ``net``, which may be on the meta device.

    Args:
        net: the network as the inferred spec builds it.
        state: tensors by the network's own keys.
        name: of the network, for the message: "DCGAN 'd'".

    Raises:
        FsgenError: names the first three tensors that are missing, unknown or of another shape.
    """
    expected = {key: list(value.shape) for key, value in net.state_dict().items()}
    found = {key: list(value.shape) for key, value in state.items()}
    missing = {key: f"without '{key}'" for key in expected if key not in found}
    wrong = missing | {key: f"with an unknown tensor '{key}'" for key in found if key not in expected}
    wrong |= {
        key: f"where '{key}' is {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if found.get(key, shape) != shape
    }
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        message, code = ", ".join([*wrong.values()][:3]) + more, Code.DAMAGED if missing else Code.UNSUPPORTED
        raise FsgenError(f"a {name} {message}", code=code, where=next(iter(wrong)))
