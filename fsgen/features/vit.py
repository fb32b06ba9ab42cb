"""CLIP and DINOv2 image features through timm (extra ``vit``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fsgen.errors import FsgenError
from fsgen.features.base_extractor import Extractor, each, read_state, reading, undrawn
from fsgen.features.torchvision_shim import import_torchvision

SIDE = 224  # px of both networks' input
RGB = tuple[float, float, float]


class _Transformer(Extractor):
    """A vision transformer of timm on 8-bit pictures of 224 x 224, normalised."""

    architecture: ClassVar[str]
    options: ClassVar[dict[str, Any]]  # of timm's builder
    mean: ClassVar[RGB]  # of pictures in [0, 1]
    std: ClassVar[RGB]

    def _load(self, path: Path) -> nn.Module:
        create, as_timms = _timm()
        with undrawn():
            network = create(self.architecture, pretrained=False, weight_init="skip", **self.options)
        with reading(path):
            state = as_timms(self._state(read_state(path)), network)
            network.load_state_dict(state, assign=True)
        return network.float()

    def _features(self, images: Tensor) -> Tensor:
        pictures = each(self._resize, images.permute(0, 2, 3, 1).cpu().numpy())  # uint8 [n, 224, 224, 3]
        levels = pictures.permute(0, 3, 1, 2).to(self.device).float() / 255
        mean, std = (levels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return self.network((levels - mean) / std)

    def _state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published tensors, before timm renames them."""
        return state

    @staticmethod
    @abstractmethod
    def _resize(image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [224, 224, 3]."""


class Clip(_Transformer):
    """OpenAI's CLIP ViT-B/32 (Radford et al. 2021): the image embedding, 512 numbers, not normalised.

    As clean-fid computes it on a CPU; on a GPU clean-fid has half precision, here it is float32 everywhere.
    The file is OpenCLIP's copy of OpenAI's weights, of which the half that reads text is left alone.
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
        """The shorter side to 224 by antialiased bicubic, then the middle; rounded to 8 bits."""
        height, width = image.shape[:2]
        short = min(height, width)
        size = (SIDE * width // short, SIDE * height // short)
        left, top = (round((side - SIDE) / 2) for side in size)
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))


class Dinov2(_Transformer):
    """DINOv2 ViT-L/14 (Oquab et al. 2023): the class token after the last norm, 1024 numbers.

    As Stein et al. 2023 use it: 224 x 224 by antialiased bicubic whatever the aspect, rounded to 8 bits.
    """

    name = "dinov2"
    modes = ("vit_l_14",)
    dim = 1024
    version = 1
    architecture = "vit_large_patch14_dinov2"
    options: ClassVar = {"num_classes": 0, "img_size": SIDE}
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def _state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Position embeddings [1, 1 + 37^2, d] of 518 px brought to 224 px as DINOv2's own code does it.

        timm would resize them with antialiasing; the published distances come from plain bicubic at a scale
        of (16 + 0.1) / 37, the 0.1 being DINO's guard against a side rounded down to 15.
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


def _timm() -> tuple[Callable[..., nn.Module], Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]]:
    """timm's builder, and its reader of published vision transformers."""
    import_torchvision()
    try:
        from timm import create_model
        from timm.models.vision_transformer import checkpoint_filter_fn
    except ImportError as error:
        raise FsgenError(
            "the features of CLIP and DINOv2 need the timm package",
            hint="pip install -c constraints.txt 'fsgen[vit]'",
        ) from error
    return create_model, checkpoint_filter_fn
