"""Random weights of the full-size networks, in the published files' names, formats and conventions."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fsgen.metrics.torchvision_shim import import_torchvision
from fsgen.metrics.weights import CATALOGUE


class Scripted(nn.Module):
    """The published file's outside: features through ``layers``, or from the whole with return_features."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, images, return_features: bool = False):
        x = nn.functional.interpolate(images.float(), size=[299, 299], mode="bilinear")
        return self.layers((x - 128) / 128)


def _folder(factory, name):
    path = factory.mktemp(name)
    yield path
    shutil.rmtree(path)  # hundreds of megabytes that pytest would keep for three runs


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory):
    yield from _folder(tmp_path_factory, "weights")


@pytest.fixture(scope="session")
def inception_file(weights_dir) -> Path:
    torchvision = import_torchvision()
    with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        trunk = torchvision.models.inception_v3(
            weights=None, aux_logits=False, init_weights=False, transform_input=False
        )
        trunk.fc, trunk.dropout = nn.Identity(), nn.Identity()
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # one batch sets the scales: random layers would lose the signal else
        trunk.train()(torch.randn(2, 3, 299, 299))
        layers = torch.jit.trace(trunk.eval(), torch.zeros(1, 3, 299, 299), check_trace=False)
        path = weights_dir / CATALOGUE["inception"].file
        torch.jit.script(Scripted(layers)).save(str(path))
    return path


def _save_random(name: str, weights_dir: Path) -> Path:
    torchvision = import_torchvision()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.device("meta"):
            keys = getattr(torchvision.models, name)(weights=None).state_dict()
        # He scale, so that five to thirteen random layers neither lose nor blow up the signal.
        state = {k: torch.randn(v.shape) * (2 / max(1, v[0].numel())) ** 0.5 for k, v in keys.items()}
    path = weights_dir / CATALOGUE[name].file
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def alexnet_file(weights_dir) -> Path:
    return _save_random("alexnet", weights_dir)


@pytest.fixture(scope="session")
def vgg16_file(weights_dir) -> Path:
    return _save_random("vgg16", weights_dir)


@pytest.fixture(scope="session")
def picture_folders(tmp_path_factory):
    """Two folders of PNGs that differ, 40 x 56 pixels."""
    rng = np.random.default_rng(0)
    folders = []
    for name, scale in (("a", 255), ("b", 160)):
        folder = tmp_path_factory.mktemp(name)
        for i in range(4):
            coarse = rng.uniform(0, scale, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((56, 40), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        folders.append(folder)
    return folders
