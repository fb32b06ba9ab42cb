"""ResNet-50 (He et al. 2016), the feature network of IC-GAN (Casanova et al. 2021), with its two weights.

Features are the average over the last layer's places, 2048 numbers, brought to length one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from fsgen.features.base_extractor import Extractor, centre, read_state, reading, undrawn

SIDE = 224  # px of the network's input
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures in [0, 1]
STD = (0.229, 0.224, 0.225)
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, channels inside, stride of the first
EXPANSION = 4  # channels of a block's output for one inside


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around which the input is added; the stride is the 3x3's."""

    def __init__(self, before: int, inside: int, stride: int) -> None:
        super().__init__()
        after = EXPANSION * inside
        self.conv1 = nn.Conv2d(before, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if (before, stride) != (after, 1):
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[n, before, H, W] -> [n, 4 inside, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet50(nn.Module):
    """Up to the average pool, by torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = 64
        for number, (blocks, inside, stride) in enumerate(STAGES, start=1):
            stage = [Bottleneck(before, inside, stride)]
            before = EXPANSION * inside
            stage += [Bottleneck(before, inside, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, H, W], normalised -> [n, 2048] of length one."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return nn.functional.normalize(x.mean(dim=(2, 3)), dim=1)


class ResNetClassifier(Extractor):
    """Trained to tell ImageNet's classes apart, torchvision's first weights: class-conditional IC-GAN's.

    Pictures as IC-GAN brings them: the centre square at the generator's own resolution (which is the
    caller's to choose), ImageNet's mean and deviation, torch's bicubic without antialiasing to 224 px.
    """

    name = "resnet50"
    modes = ("imagenet",)
    dim = EXPANSION * STAGES[-1][1]
    version = 1
    dropped: ClassVar[str] = r"fc\.(weight|bias)"  # what the file holds beyond the features

    def _load(self, path: Path) -> nn.Module:
        with undrawn():
            network = ResNet50()
        with reading(path):
            state = {key.removeprefix("module."): value for key, value in read_state(path).items()}
            # How many batches the norms have seen plays no part, and the older files don't say.
            state = {key: value for key, value in state.items() if not re.fullmatch(self.dropped, key)}
            counts = {key: value for key, value in network.state_dict().items() if key.endswith("_tracked")}
            network.load_state_dict(counts | state)
        return network.float()

    def _features(self, images: Tensor) -> Tensor:
        levels = centre(images).to(self.device).float() / 255
        mean, std = (levels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return self.network(nn.functional.interpolate((levels - mean) / std, (SIDE, SIDE), mode="bicubic"))


class Swav(ResNetClassifier):
    """Trained without labels by SwAV (Caron et al. 2020) for 800 epochs: IC-GAN's where there are no classes.

    In the file every name begins with ``module.``; its projection head and its prototypes are left alone.
    """

    name = "swav"
    modes = ("epochs_800",)
    dropped = r"(projection_head\.\d+\.\w+|prototypes\.weight)"
