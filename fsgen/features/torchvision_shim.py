"""Import torchvision, and packages that need it, beside a CPU-only torch.

The wheel on PyPI is a CUDA build. Beside a CPU torch its compiled operators cannot load, and the import stops
at the first Python-side registration for one of them: ``operator torchvision::nms does not exist``. fsgen
calls none of those operators, so declaring their schemas is enough.
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
    """Import torchvision, also where its compiled operators do not fit the installed torch.

    Call it before importing anything that imports torchvision itself (lpips, clean-fid).

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
                code=Code.SYSTEM, where="torchvision",
            ) from error  # fmt: skip
    return _declare_and_retry()


def import_timm() -> ModuleType:
    """Import timm, which imports torchvision."""
    import_torchvision()
    return import_module("timm")


def _declare_and_retry() -> ModuleType:
    import torch

    logging.getLogger(__name__).debug("%s: declared its schema and imported torchvision again", _REASON)
    # The failed import leaves half-initialised modules: start afresh.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)
    torchvision = import_module("torchvision")
    # The schemas vanish with the Library object: keep it as long as the module that needs it.
    torchvision.__dict__["_fsgen_schemas"] = library
    return torchvision
