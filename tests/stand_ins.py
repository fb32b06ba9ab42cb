"""Random weights of feature networks under the names and in the formats of the published files."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_files import CATALOGUE


class Scripted(nn.Module):
    """The interface of the published file: class probabilities, or features of ``layers``."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        self.output = nn.Linear(2048, 1008)

    def forward(
        self,
        img,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ):
        x = nn.functional.interpolate(img.float(), size=[299, 299], mode="bilinear")
        features = self.layers((x - 128) / 128).reshape(-1, 2048)
        if return_features:
            return features
        bias = None if no_output_bias else self.output.bias
        return nn.functional.linear(features, self.output.weight, bias).softmax(dim=1)


class ClipImage(nn.Module):
    """CLIP's image encoder (Radford et al. 2021) with OpenAI's names: [n, 3, 224, 224] -> [n, 512]."""

    def __init__(self, width=768, depth=12):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 32, stride=32, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(50, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(map(ClipBlock, [width] * depth))})
        self.proj = nn.Parameter(torch.randn(width, 512) / width**0.5)

    def forward(self, images):
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # [n, 49, width]
        token = self.class_embedding.expand(len(images), 1, -1)
        x = self.ln_pre(torch.cat([token, patches], dim=1) + self.positional_embedding)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


class ClipBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


def dinov2_state(depth: int, width: int) -> dict[str, torch.Tensor]:
    """Random tensors of a DINOv2 file with ``depth`` blocks, scaled so that every part affects the output."""
    shapes = {"norm1": [width], "attn.qkv": [3 * width, width], "attn.proj": [width, width],
              "norm2": [width], "mlp.fc1": [4 * width, width], "mlp.fc2": [width, 4 * width]}  # fmt: skip
    state = {"cls_token": torch.randn(1, 1, width) / 8, "pos_embed": torch.randn(1, 1 + 37**2, width) / 8,
             "mask_token": torch.zeros(1, width),
             "patch_embed.proj.weight": torch.randn(width, 3, 14, 14) / 24,
             "patch_embed.proj.bias": torch.randn(width)}  # fmt: skip
    for block in range(depth):
        for name, shape in shapes.items():
            gain = 2 if name == "attn.qkv" else 1  # attention that tells patches apart
            state[f"blocks.{block}.{name}.weight"] = gain * torch.randn(shape) / shape[-1] ** 0.5
            state[f"blocks.{block}.{name}.bias"] = torch.randn(shape[0]) / 8
        for name in ("ls1.gamma", "ls2.gamma"):
            state[f"blocks.{block}.{name}"] = torch.rand(width)
    return {**state, "norm.weight": torch.rand(width), "norm.bias": torch.randn(width)}


def _folder(factory, name):
    path = factory.mktemp(name)
    yield path
    shutil.rmtree(path)  # hundreds of megabytes; pytest would keep them for three runs


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory):
    yield from _folder(tmp_path_factory, "weights")


def _settled(trunk: nn.Module) -> nn.Module:
    """Set batch norm statistics from one smooth batch, so that random layers keep the scale of images."""
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        trunk.train()(nn.functional.interpolate(torch.randn(2, 3, 12, 12) / 2, (299, 299), mode="bicubic"))
    return trunk.eval()


@contextmanager
def _seeded():
    with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def _whole_trunk() -> nn.Module:
    trunk = import_torchvision().models.inception_v3(
        weights=None, aux_logits=False, init_weights=False, transform_input=False
    )
    trunk.fc, trunk.dropout = nn.Identity(), nn.Identity()
    return trunk


def _short_trunk() -> nn.Module:
    """A stand-in for the trunk with the same shapes in a hundredth of the time."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=3), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 5, stride=4), nn.BatchNorm2d(64), nn.ReLU(), nn.AvgPool2d(4),
        nn.Conv2d(64, 2048, 1), nn.BatchNorm2d(2048), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def write_inception(folder: Path, trunk: Callable[[], nn.Module] = _whole_trunk) -> Path:
    """Write an Inception with random weights as TorchScript; benchmarks use the full size."""
    with _seeded():
        layers = torch.jit.trace(_settled(trunk()), torch.zeros(1, 3, 299, 299), check_trace=False)
        path = folder / CATALOGUE["inception"].file
        torch.jit.script(Scripted(layers)).save(str(path))
    return path


@pytest.fixture(scope="session")
def inception_file(weights_dir) -> Path:
    """A short trunk: fsgen does not depend on the contents of the script."""
    return write_inception(weights_dir, _short_trunk)


@pytest.fixture(scope="session")
def inception_pytorch_file(weights_dir) -> Path:
    """Built by clean-fid's own code, with its downloads disabled."""
    import_torchvision()
    from cleanfid import inception_pytorch

    path = weights_dir / CATALOGUE["inception_pytorch"].file
    with _seeded(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(nn.Module, "load_state_dict", lambda self, state: None)
        torch.save(_settled(inception_pytorch.fid_inception_v3()).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def inception_torchvision_file(weights_dir) -> Path:
    path = weights_dir / CATALOGUE["inception_torchvision"].file
    with _seeded():
        trunk = import_torchvision().models.inception_v3(weights=None, aux_logits=True, init_weights=False)
        torch.save(_settled(trunk).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def clip_file(weights_dir) -> Path:
    path = weights_dir / CATALOGUE["clip"].file
    with _seeded():
        network = ClipImage()
        for parameter in network.parameters():
            if parameter.ndim == 1:  # norms and biases, which start as 1 and 0
                parameter.add_(torch.randn_like(parameter) / 4)
        state = {f"visual.{key}": value for key, value in network.state_dict().items()}
        # Names of the text encoder that the image encoder has too.
        state |= {"positional_embedding": torch.randn(77, 512), "logit_scale": torch.tensor(4.6),
                  "transformer.resblocks.0.ln_1.weight": torch.randn(512)}  # fmt: skip
        save_file(state, path)
    return path


def _save_random(name: str, weights_dir: Path) -> Path:
    torchvision = import_torchvision()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.device("meta"):
            keys = getattr(torchvision.models, name)(weights=None).state_dict()
        # He initialisation keeps the scale of the signal through thirteen random layers. The classifier,
        # most of the file, is not used: zeros that take no space.
        state = {
            k: torch.randn(v.shape) * (2 / max(1, v[0].numel())) ** 0.5
            if k.startswith("features.")
            else torch.zeros(()).expand(v.shape)
            for k, v in keys.items()
        }
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
def vgg16_home(tmp_path_factory) -> Path:
    """A folder for FSGEN_HOME with the convolutions of VGG16 only, a tenth of the file."""
    home = tmp_path_factory.mktemp("home")
    with torch.device("meta"):
        shapes = import_torchvision().models.vgg16(weights=None).features.state_dict()
    with _seeded():
        state = {
            f"features.{key}": torch.randn(value.shape) * (2 / max(1, value[0].numel())) ** 0.5
            for key, value in shapes.items()
        }
    (home / "weights").mkdir()
    torch.save(state, home / "weights" / CATALOGUE["vgg16"].file)
    return home


@pytest.fixture(scope="session")
def picture_folders(tmp_path_factory):
    """Two folders of different PNGs: 56 x 40 px, and 420 x 350 px with fine detail."""
    rng = np.random.default_rng(0)
    folders = []
    for name, scale, size, cells in (("a", 255, (56, 40), 8), ("b", 160, (420, 350), 200)):
        folder = tmp_path_factory.mktemp(name)
        for i in range(4):
            coarse = rng.uniform(0, scale * (i + 1) / 4, (cells, cells, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        folders.append(folder)
    return folders
