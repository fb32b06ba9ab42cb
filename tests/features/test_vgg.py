"""VGG16's maps: those of torchvision's network, and their scale."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from stand_ins import vgg16_home  # noqa: F401
from torch import nn

from fsgen.errors import Code
from fsgen.features.base_extractor import IMAGENET_MEAN as MEAN
from fsgen.features.base_extractor import IMAGENET_STD as DEVIATION
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.vgg import Vgg
from fsgen.features.weight_files import CATALOGUE

LAYERS = [f"conv{block}_{i}" for block, n in enumerate((2, 2, 3, 3, 3), start=1) for i in range(1, n + 1)]


@pytest.fixture(scope="module")
def file(vgg16_home):  # noqa: F811
    return vgg16_home / "weights" / CATALOGUE["vgg16"].file


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def torchvisions(file, x: torch.Tensor, pool: nn.Module) -> list[torch.Tensor]:
    """The maps after each ReLU of torchvision's own network."""
    network = import_torchvision().models.vgg16(weights=None).features
    network.load_state_dict({k.removeprefix("features."): v for k, v in torch.load(file).items()})
    maps = []
    with torch.no_grad():
        for layer in network:
            x = (pool if isinstance(layer, nn.MaxPool2d) else layer)(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x.clone())
    return maps


@pytest.mark.parametrize("average", [False, True])
def test_they_are_torchvisions_of_pixels_from_0_to_255(file, images, average):
    vgg = Vgg(file, LAYERS, 32, average=average)
    # without biases the maps scale with the pixels: minus mean, times mean deviation over each deviation
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
    x = ((images + 1) * 127.5 - 255 * mean) * deviation.mean() / deviation
    for layer in vgg.network:
        if isinstance(layer, nn.Conv2d):
            layer.bias.zero_()
    pool = nn.AvgPool2d(2) if average else nn.MaxPool2d(2)
    state = torch.load(file)
    for key in state:
        if key.endswith("bias"):
            state[key].zero_()
    bare = file.with_name("bare.pth")
    torch.save(state, bare)
    maps = vgg(images)
    assert list(maps) == LAYERS
    for ours, theirs in zip(maps.values(), torchvisions(bare, x, pool), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_biases_are_there_as_well(file, images):
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
    theirs = torchvisions(file, ((images + 1) / 2 - mean) / deviation, nn.MaxPool2d(2))
    ours = Vgg(file, ["conv5_3", "conv1_1"], 32)(images)
    assert list(ours) == ["conv1_1", "conv5_3"]
    for name, wanted in (("conv1_1", theirs[0]), ("conv5_3", theirs[-1])):
        torch.testing.assert_close(ours[name], wanted * 255 * sum(DEVIATION) / 3, rtol=1e-4, atol=1e-3)


def test_grey_is_used_as_rgb_and_gradients_flow_to_the_images_alone(file, images):
    vgg, grey = Vgg(file, ["conv2_2"], 32), images[:, :1].clone().requires_grad_()
    seen = vgg(grey)["conv2_2"]
    torch.testing.assert_close(seen, vgg(grey.expand(-1, 3, -1, -1))["conv2_2"])
    seen.sum().backward()
    assert grey.grad.abs().min() > 0
    assert len(vgg.network) == 9 and not any(p.requires_grad for p in vgg.network.parameters())


def test_small_pictures_and_other_files_are_refused(file, images, tmp_path):
    assert Vgg(file, ["conv4_3"], 8)(images[:, :, :8, :8])["conv4_3"].shape == (2, 512, 1, 1)
    with refused(Code.INCOMPATIBLE, "VGG16", "at least 8", "7"):
        Vgg(file, ["conv4_3"], 7)
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alex.pth")
    with refused(Code.DAMAGED, tmp_path / "alex.pth"):
        Vgg(tmp_path / "alex.pth", ["conv1_1"], 8)
    with refused(Code.NOT_FOUND, tmp_path / "none.pth"):
        Vgg(tmp_path / "none.pth", ["conv1_1"], 8)
