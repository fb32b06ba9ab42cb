"""CLIP and DINOv2 image features, with timm's vision transformers."""

from __future__ import annotations

from abc import abstractmethod
from math import isqrt
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fsgen.features.base_extractor import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RGB,
    Extractor,
    map_images,
    standardise,
)
from fsgen.features.torchvision_shim import import_timm
from fsgen.features.weight_loading import read_tensors, refuse_bad_weights, skip_random_init

SIDE = 224  # px of both networks' input


class _Transformer(Extractor):
    """A vision transformer of timm on 8-bit images of 224 x 224, normalised."""

    architecture: str  # timm's name
    options: ClassVar[dict[str, int]]  # for ``timm.create_model``
    mean: RGB  # of pixels in [0, 1]
    std: RGB

    def _load(self, path: Path) -> nn.Module:
        timm = import_timm()
        with skip_random_init():
            network = timm.create_model(
                self.architecture, pretrained=False, weight_init="skip", **self.options
            )
        with refuse_bad_weights(path):
            state = self._convert(read_tensors(path))
            rename = timm.models.vision_transformer.checkpoint_filter_fn  # from published to timm's names
            network.load_state_dict(rename(state, network), assign=True)
        return network.float()

    def _features(self, images: Tensor) -> Tensor:
        pixels = map_images(self._resize, images.permute(0, 2, 3, 1).cpu().numpy())  # uint8 [n, 224, 224, 3]
        return self.network(standardise(pixels.permute(0, 3, 1, 2).to(self.device), self.mean, self.std))

    def _convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change the published tensors before timm renames them; here: nothing."""
        return state

    @staticmethod
    @abstractmethod
    def _resize(image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [224, 224, 3]."""


class Clip(_Transformer):
    """OpenAI's CLIP ViT-B/32 (Radford et al. 2021): the image embedding, 512 numbers, not normalised.

    As clean-fid computes it on a CPU; on a GPU clean-fid uses half precision, and fsgen float32 everywhere.
    The file is OpenCLIP's copy of OpenAI's weights; its text encoder is ignored.
    """

    name = "clip"
    modes = ("vit_b_32",)
    dim = 512
    version = 1
    architecture = "vit_base_patch32_clip_quickgelu_224"  # OpenAI trained with x sigmoid(1.702 x) for GELU
    options: ClassVar = {"num_classes": 512}
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    @staticmethod
    def _resize(image: np.ndarray) -> np.ndarray:
        """Resize the shorter side to 224 by antialiased bicubic, crop the centre; rounded to 8 bits."""
        height, width = image.shape[:2]
        short = min(height, width)
        size = (SIDE * width // short, SIDE * height // short)
        left, top = (round((side - SIDE) / 2) for side in size)
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))


class Dinov2(_Transformer):
    """DINOv2 ViT-L/14 (Oquab et al. 2023): the class token after the last norm, 1024 numbers.

    As Stein et al. 2023 use it: 224 x 224 by antialiased bicubic at any aspect ratio, rounded to 8 bits.
    """

    name = "dinov2"
    modes = ("vit_l_14",)
    dim = 1024
    version = 1
    architecture = "vit_large_patch14_dinov2"
    options: ClassVar = {"num_classes": 0, "img_size": SIDE}
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def _convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resize position embeddings [1, 1 + 37^2, d] of 518 px to 224 px, as in DINOv2's own code.

        timm would resize them with antialiasing; published distances come from plain bicubic at a scale of
        (16 + 0.1) / 37. The 0.1 is DINO's guard against a side rounded down to 15.
        """
        positions = state["pos_embed"].float()
        token, grid = positions[:, :1], positions[:, 1:]
        side, patches = isqrt(grid.shape[1]), SIDE // 14
        grid = nn.functional.interpolate(
            grid.view(1, side, side, -1).permute(0, 3, 1, 2),
            scale_factor=(patches + 0.1) / side,
            mode="bicubic",
        )
        return {**state, "pos_embed": torch.cat([token, grid.flatten(2).transpose(1, 2)], dim=1)}

    @staticmethod
    def _resize(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
