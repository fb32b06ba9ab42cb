"""Strict loading: each tensor of a converted checkpoint has its place, and none is missing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fsgen.errors import FsgenError


def check(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Raise unless ``state`` has the tensors of ``net`` (which may be on the meta device), and no other.

    Args:
        net: the network as the inferred spec makes it.
        state: tensors by the network's own keys.
        what: what the network is called in the message, as in "a DCGAN generator".

    Raises:
        FsgenError: names the first three tensors that are missing, unknown or of another shape.
    """
    wanted = {key: list(value.shape) for key, value in net.state_dict().items()}
    found = {key: list(value.shape) for key, value in state.items()}
    wrong = [f"without '{key}'" for key in wanted if key not in found]
    wrong += [f"with an unknown tensor '{key}'" for key in found if key not in wanted]
    wrong += [
        f"where '{key}' is {found[key]}, expected {shape}"
        for key, shape in wanted.items()
        if found.get(key, shape) != shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise FsgenError(f"{what} {', '.join(wrong[:3])}{more}")
