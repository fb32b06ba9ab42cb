"""Source generators small enough for any test, and images to adapt them to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fsgen import registry
from fsgen.models.model import Model

SPECS: dict[str, dict[str, Any]] = {  # by family; 16 px unless noted
    "stylegan2": {
        "resolution": 16, "channels": 3, "z_dim": 6, "w_dim": 6, "c_dim": 0, "g_embed_dim": 0,
        "mapping_layers": 2, "mapping_lr_mul": 0.01, "g_widths": {"4": 8, "8": 8, "16": 4}, "g_clamp": None,
        "d_widths": {"4": 8, "8": 8, "16": 4}, "d_architecture": "resnet", "d_clamp": None, "d_group": 4,
        "d_embed_dim": 0, "d_cmap_dim": 1, "d_mapping_layers": 0,
    },
    "dcgan": {
        "resolution": 16, "channels": 3, "z_dim": 6, "c_dim": 0, "g_embed_dim": 0, "g_widths": [8, 4],
        "d_widths": [4, 8],
    },
    "cgan": {
        "resolution": 16, "channels": 3, "z_dim": 6, "c_dim": 3, "g_widths": {"z": 8, "y": 8, "joint": 16},
        "d_widths": {"x": 8, "y": 8, "joint": 8}, "d_pieces": {"x": 2, "y": 3, "joint": 2},
    },
    "funit": {  # 32 px: the smallest input of its discriminator
        "resolution": 32, "channels": 3, "c_dim": 3, "content_widths": [2, 4, 4, 8], "content_blocks": 1,
        "class_widths": [2, 4, 4, 4, 4], "latent_dim": 6, "mlp_widths": [8, 8], "decoder_blocks": 1,
        "decoder_widths": [4, 4, 2], "d_widths": [2, 4, 4, 8, 8, 8],
    },
    "fastgan": {  # 64 px: the smallest size with skip-layer excitation
        "resolution": 64, "channels": 3, "z_dim": 6, "sle": True,
        "g_widths": {"4": 8, "8": 6, "16": 4, "32": 4, "64": 4},
        "d_widths": {"64": 4, "32": 4, "16": 6, "8": 8, "4": 6}, "decoder_widths": [6, 4],
    },
    "biggan": {
        "resolution": 16, "channels": 3, "z_dim": 6, "c_dim": 3, "h_dim": 0, "g_embed_dim": 4,
        "h_embed_dim": 0, "g_widths": [8, 8, 4], "g_attention": [0], "d_widths": [4, 8, 8],
        "d_halves": [True, True, False], "d_wide": True, "d_attention": [0],
    },
}  # fmt: skip
LABELS = {"c_dim": 3, "g_embed_dim": 6, "d_embed_dim": 8, "d_cmap_dim": 8, "d_mapping_layers": 2}
ABOUT = {"title": "tiny", "subject": "noise", "licence": "CC0-1.0"}


def make_source(
    path: Path, networks: tuple[str, ...] = ("g", "g_ema", "d"), name: str = "stylegan2", **changes: Any
) -> Path:
    """Write a checkpoint of the family ``name`` with random weights of ``networks`` to ``path``."""
    family, spec = registry.family(name)(), SPECS[name] | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = family.build(spec)
        average = family.build(spec).g.state_dict()  # differs from g
    parts = {"g": built.g.state_dict(), "g_ema": average, "d": built.d.state_dict()}
    Model(family, spec, {name: parts[name] for name in networks}, ABOUT).save(path)
    return path


def draw_images(folder: Path, n: int, seed: int = 0) -> Path:
    """Write n images of coloured blocks, 20 x 20 px."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((20, 20), Image.Resampling.NEAREST).save(folder / f"{i:04d}.png")
    return folder
