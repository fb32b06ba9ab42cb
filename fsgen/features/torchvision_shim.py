"""Import torchvision beside a CPU-only torch.

The wheel on PyPI is a CUDA build. Beside a CPU torch its compiled operators cannot load, and the import then
stops at the first Python-side registration for one of them: ``operator torchvision::nms does not exist``.
Nothing here calls those operators, so declaring their schemas is enough to get past it.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from fsgen.errors import Code, FsgenError

if TYPE_CHECKING:
    from types import ModuleType

_REASON = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """The torchvision module, also where its compiled operators do not fit the torch that is installed.

    Call it before importing anything that imports torchvision itself (lpips, clean-fid, timm).

    Raises:
        FsgenError: torchvision cannot be imported for another reason.
    """
    try:
        return import_module("torchvision")
    except Exception as error:
        if _REASON not in str(error):
            raise FsgenError(
                f"torchvision cannot be imported: {error}",
                hint="install the version that fits torch: pip install -c constraints.txt torchvision",
                code=Code.SYSTEM,
            ) from error
    return _declare_and_retry()


def _declare_and_retry() -> ModuleType:
    import torch

    logging.getLogger(__name__).debug("%s: declared its schema and imported torchvision again", _REASON)
    # What the failed import left behind is half initialised: start afresh.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)
    torchvision = import_module("torchvision")
    # The schemas vanish with the Library object: let it live exactly as long as the module that needs it.
    torchvision._fsgen_schemas = library  # type: ignore[attr-defined]
    return torchvision
