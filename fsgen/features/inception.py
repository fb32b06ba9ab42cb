"""Inception v3 with the four variants of preprocessing and weights in the literature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError
from fsgen.features.base_extractor import Extractor, map_images
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_loading import read_tensors, refuse_bad_weights, skip_random_init

SIDE = 299  # px of the network's input
CLASSES = (1008, 2048)  # shape of the weight from which the Inception Score is computed


class Inception(Extractor):
    """Pooled features, 2048 numbers an image. Modes:

    - ``clean``: Pillow's antialiased bicubic, channel by channel, then the TorchScript (Parmar et al. 2022).
    - ``legacy_tensorflow``: the TorchScript resizes by itself, like the network of Heusel et al. 2017.
    - ``legacy_pytorch``: torch's bilinear without antialiasing, then pytorch-fid's port of those weights.
    - ``torchvision``: torchvision's own weights in eval mode. AdAM and RICK used these weights with randomly
      flipped real images; how they resized and scaled images is not stated in what we have read. Here both
      are as in ``legacy_pytorch`` (input in [-1, 1]), without flips.

    The first three equal clean-fid's modes of these names.
    """

    name = "inception"
    modes = ("clean", "legacy_pytorch", "legacy_tensorflow", "torchvision")
    dim = 2048
    version = 1

    def _load(self, path: Path) -> nn.Module:
        self._class_weight: Tensor | None = None
        with refuse_bad_weights(path):
            if self.mode in ("clean", "legacy_tensorflow"):
                network = torch.jit.load(str(path), map_location="cpu")
                self._layers = network.layers  # of another TorchScript: fails here, not at first use
                state = dict(network.state_dict())
            else:
                state = read_tensors(path)
                network = (_build_torchvision if self.mode == "torchvision" else _build_pytorch_fid)(state)
        found = [v for k, v in state.items() if not k.startswith("layers.") and v.shape == CLASSES]
        if len(found) == 1:
            self._class_weight = found[0].detach().float()
        return network

    def _features(self, images: Tensor) -> Tensor:
        if self.mode == "clean":
            return self._layers((resize_clean(images).to(self.device) - 128) / 128)
        levels = images.to(self.device).float()  # 0 to 255
        if self.mode == "legacy_tensorflow":
            return self.network(levels, return_features=True)
        levels = nn.functional.interpolate(levels, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.network(2 * (levels / 255) - 1)

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """Compute class probabilities, float32 [n, 1008], from this network's features [n, 2048].

        softmax(W f), without the layer's bias, as in the code of Salimans et al. 2016.

        Raises:
            FsgenError: the file has no layer of 1008 classes (torchvision's has 1000).
        """
        if self._class_weight is None:
            raise FsgenError(
                f"the Inception Score needs a layer of 1008 classes, which {self.file} lacks",
                code=Code.INCOMPATIBLE, where=self.file,
                hint="the published files of the modes clean, legacy_pytorch and legacy_tensorflow have it",
            )  # fmt: skip
        return (features.float() @ self._class_weight.T).softmax(dim=1)


def resize_clean(images: Tensor) -> Tensor:
    """Resize uint8 [n, 3, H, W] to float32 [n, 3, 299, 299] in [0, 255] on the CPU, as clean-fid does.

    Each channel separately as float32: antialiased bicubic, overshoot clipped, not rounded to 8 bits again.
    """

    def resize(channel: np.ndarray) -> np.ndarray:
        image = Image.fromarray(channel.astype(np.float32))
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255)

    return map_images(resize, images.cpu().numpy().reshape(-1, *images.shape[2:])).view(-1, 3, SIDE, SIDE)


def _build_torchvision(state: dict[str, Tensor]) -> nn.Module:
    return _without_classes(_untrained(num_classes=1000, aux_logits=True), state)


def _build_pytorch_fid(state: dict[str, Tensor]) -> nn.Module:
    """Build torchvision's network with the blocks in which that of Heusel et al. differs.

    clean-fid has a function for this, but it also downloads the weights.
    """
    network = _untrained(num_classes=CLASSES[0], aux_logits=False)
    from cleanfid import inception_pytorch as blocks

    with skip_random_init():
        network.Mixed_5b = blocks.FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = blocks.FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = blocks.FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = blocks.FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = blocks.FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = blocks.FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = blocks.FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = blocks.FIDInceptionE_1(1280)
        network.Mixed_7c = blocks.FIDInceptionE_2(2048)
    return _without_classes(network, state)


def _untrained(num_classes: int, aux_logits: bool) -> nn.Module:
    """Build torchvision's Inception v3 without downloading weights."""
    models = import_torchvision().models
    with skip_random_init():
        return models.inception_v3(
            weights=None, num_classes=num_classes, aux_logits=aux_logits, init_weights=False
        )  # transform_input, off here, would convert from ImageNet's normalisation to [-1, 1]


def _without_classes(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict(state)
    network.fc = nn.Identity()
    return network
