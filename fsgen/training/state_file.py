"""The state of a training run as tensors in a file, and back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError
from fsgen.interfaces import TrainingState
from fsgen.io import checkpoint
from fsgen.io.run_folder import SavedState


def to_tensors(state: TrainingState, methods: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything a resumed run needs, by name: networks, optimisers, running means, and what methods keep."""
    nets = {"g": state.g, "d": state.d, "g_ema": state.g_ema}
    tensors = checkpoint.join({name: net.state_dict() for name, net in nets.items()})
    for name, optimiser in (("opt_g", state.opt_g), ("opt_d", state.opt_d)):
        tensors |= {f"{name}.{key}": value for key, value in _flat(optimiser).items()}
    tensors |= {f"scalars.{key}": value for key, value in state.scalars.items()}
    return tensors | {f"method.{key}": value for key, value in methods.items()}


def restore(state: TrainingState, saved: SavedState) -> None:
    """Bring ``state`` to what was saved.

    Raises:
        FsgenError: the file holds other networks.
    """
    parts = saved.parts
    device = next(state.g.parameters()).device
    for name, net in (("g", state.g), ("d", state.d), ("g_ema", state.g_ema)):
        _strict(net, parts[name], saved.path)
    _unflat(state.opt_g, parts.get("opt_g", {}))
    _unflat(state.opt_d, parts.get("opt_d", {}))
    state.scalars = {key: value.to(device) for key, value in parts.get("scalars", {}).items()}
    state.step = saved.header["step"]


def _flat(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts: ``3.exp_avg`` -> tensor."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}


def _unflat(optimiser: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        i, key = name.split(".", 1)
        entries.setdefault(int(i), {})[key] = value
    # load_state_dict moves the moments to each parameter's device and leaves the step counts as they are
    optimiser.load_state_dict({**optimiser.state_dict(), "state": entries})


def _strict(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        message = f"{path} does not fit this run: {reason}"
        raise FsgenError(message, code=Code.INCOMPATIBLE, where=path) from None
