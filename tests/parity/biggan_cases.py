"""What the golden cases of BigGAN and IC-GAN have in common: their outputs by name, and what they allow."""

from __future__ import annotations

import re
from typing import Any

from cases import WEIGHTS, Case, Outputs, close, computed, each_output
from sg2 import crop

from fsgen.families.biggan.family import BigGAN

FAMILY = BigGAN()
GIVEN = re.compile(r"z|[hyx](_real|_fake)?|eval\.interp_embedding|features_raw|labels")


def has_blocks(case: Case) -> bool:
    """Whether the case has the whole of its network: some leave the blocks out, and have what they give."""
    return any(key.startswith("blocks.") for key in case.names(WEIGHTS))


def is_input(case: Case, name: str) -> bool:
    if re.fullmatch(r"(icgan-)?biggan-d(-cc)?", case.kind) and name.startswith("eval.pooled"):
        return not has_blocks(case)
    return GIVEN.fullmatch(name) is not None


def outputs(*kinds: str) -> list[Any]:
    """For ``parametrize("case, name", ...)``: every tensor of the cases that is not an input."""
    return each_output(*kinds, is_input=is_input)


def compared(table: Outputs, run: Any, case: Case, name: str) -> None:
    ours, reference = computed(table, run, case, name), run.io[name]
    atol = None if name.startswith("train.") else case.info.get("suggested_atol")
    close(crop(ours, reference), reference, grad=".grad" in name, atol=atol)
