"""What families, methods and the engine say to one another.

Data flows one way: the family draws ``Inputs`` and turns them into images; the method looks at both and adds
terms to the loss; the engine owns the loop. This package imports no torch, so that a method's options can be
read for ``--help`` without it.
"""

from fsgen.interfaces.families import (
    Converted,
    Family,
    Filters,
    Foreign,
    ImageKind,
    Inputs,
    Layer,
    NetworkName,
    Networks,
    Spec,
    StepContext,
)
from fsgen.interfaces.methods import CLAIMS, Method, MethodContext, TrainingState, TrialRun

__all__ = [
    "CLAIMS", "Converted", "Family", "Filters", "Foreign", "ImageKind", "Inputs", "Layer", "Method",
    "MethodContext", "NetworkName", "Networks", "Spec", "StepContext", "TrainingState", "TrialRun",
]  # fmt: skip
