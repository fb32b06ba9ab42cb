"""Find the source, the discriminator and the training images of what is evaluated."""

from __future__ import annotations

from pathlib import Path

from fsgen.data.decode import Fit
from fsgen.data.images import ImageSet, load_images
from fsgen.errors import Code, FsgenError
from fsgen.evaluation.availability import Availability
from fsgen.evaluation.image_sets import EvaluationSet
from fsgen.models import model as models
from fsgen.models.model import Model
from fsgen.sampling import sampler

BUNDLED = "peeps64"  # the model whose discriminator is used for images of unknown source


def find_source(evaluated: EvaluationSet, source: str | Path | None, metrics: Availability) -> Model | None:
    """Load the source named or recorded; None with a warning if it is not available."""
    if source is not None:
        return models.load_model(source)
    if evaluated.model is None or not evaluated.model.about.get("source"):
        return None
    try:
        return sampler.source_of(evaluated.model)
    except FsgenError as error:
        metrics.warn(f"{error.message}: there is no row of the source")
        return None


def find_judge(evaluated: EvaluationSet, source: Model | None, metrics: Availability) -> Model:
    """Choose the model whose discriminator is used: the source, a source itself, else the bundled one."""
    adapted = evaluated.model is not None and evaluated.model.about.get("source")
    model = source if source is not None or adapted else evaluated.model
    if model is not None and "d" in model.networks:
        return model
    metrics.warn(
        f"the source's discriminator is not available: near copies and diversity use that of {BUNDLED}"
    )
    return models.load_model(BUNDLED)


def find_shots(
    evaluated: EvaluationSet, shots: str | Path | None, fit: Fit, metrics: Availability, resolution: int
) -> ImageSet | None:
    """Load the training images; None if unknown, and metrics that need them are left out."""
    if shots is not None:
        return load_images(shots, resolution, fit=fit)
    about = {} if evaluated.model is None else evaluated.model.about
    run = about.get("provenance", {}).get("run", {})
    code, folder = Code.NOT_FOUND, run.get("images")
    if not folder:
        why = "the training images are not recorded"
    elif not Path(folder).exists():
        why = f"the training images are no longer at {folder}"
    else:
        found = load_images(folder, resolution, fit=run.get("fit", fit))
        if found.digest == run.get("images_digest"):
            return found
        code, why = Code.CHANGED, f"the images in {folder} are not those of the training"
    error = FsgenError(why, code=code, where=folder or "--shots", hint="name them: --shots DIR")
    metrics.exclude(("near_copies", "intra_lpips"), error)
    return None
