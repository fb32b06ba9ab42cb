"""Seeds and latents: lists of seeds as text, and inputs as the methods a model was made with want them."""

from __future__ import annotations

from fsgen import registry
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Inputs, Method
from fsgen.methods.stack import own_part
from fsgen.models.model import Model


def parse_seeds(text: str) -> list[int]:
    """``"0-3,8"`` -> [0, 1, 2, 3, 8].

    Raises:
        FsgenError: not a list of whole numbers and ranges.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise FsgenError(
                f"'{text}' is not a list of seeds",
                code=Code.OUT_OF_RANGE, where="--seeds", hint="as in --seeds 0-63 or --seeds 1,5,9",
            )  # fmt: skip
        if dash and int(last) < int(first):
            raise FsgenError(
                f"the range {part.strip()} runs backwards",
                code=Code.OUT_OF_RANGE, where="--seeds", hint=f"write {last}-{first}",
            )  # fmt: skip
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def prepared(model: Model, inputs: Inputs) -> Inputs:
    """Change ``inputs`` as the methods that ``model`` was made with do, by the tensors they stored in it."""
    for name in dict.fromkeys(key.split(".")[0] for key in model.extra if "." in key):
        method = registry.method(name)
        assert issubclass(method, Method)
        inputs = method.prepare_inputs(own_part(model.extra, name), inputs)
    return inputs
