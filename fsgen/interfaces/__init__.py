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
    Inputs,
    Layer,
    Networks,
    Play,
    Player,
    Spec,
    Who,
)
from fsgen.interfaces.methods import CLAIMS, Bench, Method, Pilot, TrainingState

__all__ = [
    "CLAIMS", "Bench", "Converted", "Family", "Filters", "Foreign", "Inputs", "Layer", "Method", "Networks",
    "Pilot", "Play", "Player", "Spec", "TrainingState", "Who",
]  # fmt: skip
