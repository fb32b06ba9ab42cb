"""Image classes that differ in colour: a square at a random place on a darker background of its hue."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def draw_classes(
    folder: Path, names: list[str], each: int, *, first: int = 0, of: int = 8, seed: int = 0
) -> Path:
    """Write ``each`` images of every class to a sub-folder; class i has hue (first + i) / of."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        colour = np.array(colorsys.hsv_to_rgb((first + index) / of, 1, 1)) * 200
        for i in range(each):
            picture = np.tile(colour * 0.5, (SIDE, SIDE, 1))
            top, left = rng.integers(2, SIDE - 14, 2)
            picture[top : top + 12, left : left + 12] = colour
            picture += rng.uniform(0, 20, picture.shape)
            Image.fromarray(picture.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder
