"""Inception v3 in the four ways the literature feeds it. clean-fid's blocks are taken from clean-fid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fsgen.errors import FsgenError
from fsgen.features.base_extractor import Extractor, each, read_state, reading, undrawn
from fsgen.features.torchvision_shim import import_torchvision

SIDE = 299  # px of the network's input
CLASSES = (1008, 2048)  # shape of the layer behind the Inception Score


class Inception(Extractor):
    """Pooled features, 2048 numbers an image. Modes:

    - ``clean``: Pillow's antialiased bicubic, channel by channel, then the TorchScript (Parmar et al. 2022).
    - ``legacy_tensorflow``: the TorchScript resizes by itself, like the network of Heusel et al. 2017.
    - ``legacy_pytorch``: torch's bilinear without antialiasing, then pytorch-fid's port of those weights.
    - ``torchvision``: torchvision's own weights, other ones, in eval mode. AdAM and RICK used these weights,
      with reals flipped at random; how they resized and scaled the pictures is not stated in what we have
      read. Here both are as in ``legacy_pytorch`` (input in [-1, 1]), and no flips.

    The first three equal clean-fid's modes of these names.
    """

    name = "inception"
    modes = ("clean", "legacy_pytorch", "legacy_tensorflow", "torchvision")
    dim = 2048
    version = 1

    def _load(self, path: Path) -> nn.Module:
        self._classes: Tensor | None = None
        with reading(path):
            if self.mode in ("clean", "legacy_tensorflow"):
                network = torch.jit.load(str(path), map_location="cpu")
                network.layers  # noqa: B018 - another script has none: better said now
                state = dict(network.state_dict())
            else:
                state = read_state(path)
                network = (_torchvisions if self.mode == "torchvision" else _pytorch_fids)(state)
        found = [v for k, v in state.items() if not k.startswith("layers.") and v.shape == CLASSES]
        if len(found) == 1:
            self._classes = found[0].detach().float()
        return network

    def _features(self, images: Tensor) -> Tensor:
        if self.mode == "clean":
            return self.network.layers((resize_clean(images).to(self.device) - 128) / 128)
        levels = images.to(self.device).float()  # 0 to 255
        if self.mode == "legacy_tensorflow":
            return self.network(levels, return_features=True)
        levels = nn.functional.interpolate(levels, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.network(2 * (levels / 255) - 1)

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """Class probabilities, float32 [n, 1008], from this network's features [n, 2048].

        softmax(W f), without the layer's bias: so does the code of Salimans et al. 2016.

        Raises:
            FsgenError: the file holds no such layer, as torchvision's, which knows 1000 classes.
        """
        if self._classes is None:
            raise FsgenError(
                f"the Inception Score cannot be computed from {self.file}: it holds no layer of 1008 classes",
                hint="the published files of the modes clean, legacy_pytorch and legacy_tensorflow hold it",
            )
        return (features.float() @ self._classes.T).softmax(dim=1)


def resize_clean(images: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] -> float32 [n, 3, 299, 299] in [0, 255] on the CPU, as clean-fid resizes.

    Each channel on its own as float32, antialiased bicubic, overshoot clipped, not rounded to 8 bits again.
    """

    def resize(channel: np.ndarray) -> np.ndarray:
        image = Image.fromarray(channel.astype(np.float32))
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255)

    return each(resize, images.cpu().numpy().reshape(-1, *images.shape[2:])).view(-1, 3, SIDE, SIDE)


def _torchvisions(state: dict[str, Tensor]) -> nn.Module:
    network = _untrained(num_classes=1000, aux_logits=True)
    return _features_only(network, state)


def _pytorch_fids(state: dict[str, Tensor]) -> nn.Module:
    """torchvision's network with the blocks in which the one of Heusel et al. differs.

    Put together here because clean-fid's own function does so only while it downloads the weights.
    """
    network = _untrained(num_classes=CLASSES[0], aux_logits=False)
    from cleanfid import inception_pytorch as blocks

    with undrawn():
        network.Mixed_5b = blocks.FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = blocks.FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = blocks.FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = blocks.FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = blocks.FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = blocks.FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = blocks.FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = blocks.FIDInceptionE_1(1280)
        network.Mixed_7c = blocks.FIDInceptionE_2(2048)
    return _features_only(network, state)


def _untrained(num_classes: int, aux_logits: bool) -> nn.Module:
    """torchvision's Inception v3; nothing is downloaded, and the caller's random stream stays where it is."""
    models = import_torchvision().models
    with undrawn():
        return models.inception_v3(
            weights=None, num_classes=num_classes, aux_logits=aux_logits, init_weights=False
        )  # transform_input, off here, would turn ImageNet's normalisation into [-1, 1]


def _features_only(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict(state)
    network.fc = nn.Identity()
    return network
