"""torchvision's ResNet-50 (He et al. 2016) with the two weights IC-GAN uses (Casanova et al. 2021)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fsgen.features.base_extractor import IMAGENET_MEAN, IMAGENET_STD, Extractor, crop_centre, standardise
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_loading import read_tensors, refuse_bad_weights, skip_random_init

SIDE = 224  # px of the network's input


class ResNetClassifier(Extractor):
    """Trained to classify ImageNet (torchvision's V1 weights); used by class-conditional IC-GAN.

    Features: the average-pooled last map, 2048 numbers, scaled to length one. Preprocessing as in IC-GAN: the
    central square at the generator's resolution (chosen by the caller), ImageNet's mean and standard
    deviation, torch's bicubic without antialiasing to 224 px.
    """

    name = "resnet50"
    modes = ("imagenet",)
    dim = 2048
    version = 1
    dropped: tuple[str, ...] = ("fc.",)  # prefixes of the file's tensors that the features do not need

    def _load(self, path: Path) -> nn.Module:
        with skip_random_init():
            network = import_torchvision().models.resnet50(weights=None)
        network.fc = nn.Identity()
        with refuse_bad_weights(path):
            state = {key.removeprefix("module."): value for key, value in read_tensors(path).items()}
            network.load_state_dict({k: v for k, v in state.items() if not k.startswith(self.dropped)})
        return network.float()

    def _features(self, images: Tensor) -> Tensor:
        pixels = standardise(crop_centre(images).to(self.device), IMAGENET_MEAN, IMAGENET_STD)
        resized = nn.functional.interpolate(pixels, (SIDE, SIDE), mode="bicubic")
        return nn.functional.normalize(self.network(resized), dim=1)


class Swav(ResNetClassifier):
    """Trained without labels by SwAV (Caron et al. 2020) for 800 epochs; used by unconditional IC-GAN.

    The file's names begin with ``module.``; its projection head and prototypes are dropped.
    """

    name = "swav"
    modes = ("epochs_800",)
    dropped = ("projection_head.", "prototypes.")
