"""The contract between families, methods and training.

Data flows one way: the family draws ``Inputs`` and turns them into images; the method looks at both and adds
terms to the loss; training owns the loop. Importing this package imports no torch, so that a method's options
can be read for ``--help`` without it.
"""

from fsgen.interfaces.families import (
    Converted,
    Draw,
    Family,
    Filters,
    Foreign,
    ImageKind,
    Layer,
    NetworkName,
    Networks,
    Spec,
    StepContext,
    TrainingRecipe,
    Trait,
)
from fsgen.interfaces.methods import (
    Claim,
    Judge,
    Method,
    MethodContext,
    NoOptions,
    Rng,
    Technique,
    TrainingFree,
    TrainingState,
    TrialRun,
    combined,
)
from fsgen.interfaces.networks import (
    Discriminator,
    Generator,
    Inputs,
    LatentGenerator,
    Module,
    StyleGenerator,
    TappedDiscriminator,
    TappedGenerator,
    Translator,
)

__all__ = [
    "Claim", "Converted", "Discriminator", "Draw", "Family", "Filters", "Foreign", "Generator", "ImageKind",
    "Inputs", "Judge", "LatentGenerator", "Layer", "Method", "MethodContext", "Module", "NetworkName",
    "Networks", "NoOptions", "Rng", "Spec", "StepContext", "StyleGenerator", "TappedDiscriminator",
    "TappedGenerator", "Technique", "TrainingFree", "TrainingRecipe", "TrainingState", "Trait", "Translator",
    "TrialRun", "combined",
]  # fmt: skip
