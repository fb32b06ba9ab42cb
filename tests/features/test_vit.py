"""CLIP against clean-fid's code, DINOv2 against its equations written out; both on random weights."""

from __future__ import annotations

import socket
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file, save_file
from stand_ins import ClipImage, dinov2_state
from torch.nn import functional as F

from fsgen.errors import Code
from fsgen.features.feature_networks import build_metric_extractor
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.vit import Clip, Dinov2

WIDTH = 128


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Fail on any network connection."""

    def refuse(*args):
        raise AssertionError(f"connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def small(monkeypatch):
    """DINOv2 with 2 blocks instead of 24, 128 channels instead of 1024, 2 heads instead of 16."""
    options = {**Dinov2.options, "depth": 2, "embed_dim": WIDTH, "num_heads": WIDTH // 64}
    monkeypatch.setattr(Dinov2, "options", options)


@pytest.fixture
def theirs(clip_file, monkeypatch):
    """clean-fid's module of CLIP; the package it imports is replaced by our construction of the network."""
    network = ClipImage()
    state = load_file(clip_file)
    network.load_state_dict({k.removeprefix("visual."): v for k, v in state.items() if "visual." in k})
    package = types.SimpleNamespace(load=lambda name, device: (network, None), __spec__=None, __name__="clip")
    network.encode_image = network.forward
    monkeypatch.setitem(sys.modules, "clip", package)
    import_torchvision()
    from cleanfid import clip_features

    return clip_features


def images(size, n=2):
    """Coarse random patterns, about as different as real images."""
    blocks = torch.randint(0, 256, (n, 3, 5, 7), generator=torch.Generator().manual_seed(0)).float()
    return F.interpolate(blocks, size, mode="bilinear").to(torch.uint8)


def arrays(batch):
    return batch.permute(0, 2, 3, 1).numpy()


def test_clip_resizes_as_clean_fid_does(theirs):
    for size in ((40, 56), (224, 224), (224, 227), (231, 224), (225, 512), (333, 250), (500, 777)):
        noise = torch.randint(0, 256, (*size, 3), dtype=torch.uint8).numpy()
        np.testing.assert_array_equal(Clip._resize(noise), theirs.img_preprocess_clip(noise), str(size))


def test_clip_features_are_clean_fids(clip_file, theirs, picture_folders):
    from cleanfid import fid

    folder = picture_folders[0]
    expected = fid.get_folder_features(
        str(folder), theirs.CLIP_fx("ViT-B/32", device="cpu"), custom_fn_resize=theirs.img_preprocess_clip,
        num_workers=0, batch_size=4, device=torch.device("cpu"), verbose=False,
    )  # fmt: skip
    pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())])
    clip = build_metric_extractor("clip", clip_file)
    found = clip(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert found.shape == (4, 512) and found.dtype == torch.float32 and found.std(dim=0).mean() > 0.01
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (clip.name, clip.mode) == ("clip", "vit_b_32")


def plain_dinov2(state, pictures, blocks):
    """The class token [n, d] of pictures [n, 3, 224, 224], from Oquab et al.'s tensors."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = F.conv2d(pictures, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = torch.cat([state["cls_token"].expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    grid = state["pos_embed"][:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic").flatten(2).transpose(1, 2)
    x = x + torch.cat([state["pos_embed"][:, :1], grid], dim=1)
    n, t, _ = x.shape
    for i in range(blocks):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").view(n, t, 3, -1, 64).unbind(2)
        weights = torch.einsum("nqhc,nkhc->nhqk", q, k).div(8).softmax(dim=-1)
        y = torch.einsum("nhqk,nkhc->nqhc", weights, v).flatten(2)
        x = x + state[f"blocks.{i}.ls1.gamma"] * linear(y, f"blocks.{i}.attn.proj")
        y = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + state[f"blocks.{i}.ls2.gamma"] * linear(y, f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def check_dinov2(path, depth, width):
    torch.manual_seed(0)
    state = dinov2_state(depth, width)
    torch.save(state, path)
    batch = images((300, 260))
    resized = [Image.fromarray(a).resize((224, 224), Image.Resampling.BICUBIC) for a in arrays(batch)]
    pictures = torch.from_numpy(np.stack(list(map(np.asarray, resized)))).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = plain_dinov2({k: v.double() for k, v in state.items()}, (pictures - mean) / std, depth).float()
    dinov2 = build_metric_extractor("dinov2", path)
    found = dinov2(batch)
    assert found.shape == (2, width) and found.dtype == torch.float32
    assert (found[0] - found[1]).abs().mean() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (dinov2.name, dinov2.mode) == ("dinov2", "vit_l_14")
    return found


def test_dinov2_features_are_its_equations(small, tmp_path):
    found = check_dinov2(tmp_path / "dinov2.pth", 2, WIDTH)
    save_file(dict(torch.load(tmp_path / "dinov2.pth", weights_only=True)), tmp_path / "d.safetensors")
    torch.testing.assert_close(
        build_metric_extractor("dinov2", tmp_path / "d.safetensors")(images((300, 260))), found
    )


@pytest.mark.slow
def test_dinov2_at_full_size(tmp_path):
    check_dinov2(tmp_path / "dinov2.pth", 24, 1024)


def test_files_must_hold_all_tensors_and_no_others(small, tmp_path, clip_file):
    whole, path = dinov2_state(2, WIDTH), tmp_path / "dinov2.pth"
    wrong = {
        "blocks.1.ls2.gamma": {k: v for k, v in whole.items() if k != "blocks.1.ls2.gamma"},
        "blocks.2.norm1.weight": dinov2_state(3, WIDTH),
        "stray": whole | {"stray": torch.zeros(1)},
        "norm.weight": whole | {"norm.weight": torch.zeros(3)},
        "pos_embed": {k: v for k, v in whole.items() if k != "pos_embed"},
    }
    for name, state in wrong.items():
        torch.save(state, path)
        with refused(Code.DAMAGED, path, name):
            build_metric_extractor("dinov2", path)
    cut = tmp_path / clip_file.name
    with clip_file.open("rb") as file:
        cut.write_bytes(file.read(1_000_000))
    for name in ("clip", "dinov2"):
        with refused(Code.DAMAGED, cut):
            build_metric_extractor(name, cut)
        with refused(Code.NOT_FOUND, tmp_path / "absent"):
            build_metric_extractor(name, tmp_path / "absent")
    with refused(Code.DAMAGED, clip_file):
        build_metric_extractor("dinov2", clip_file)


def test_building_leaves_the_random_stream_alone(small, tmp_path, clip_file, capfd, recwarn):
    torch.save(dinov2_state(2, WIDTH), tmp_path / "dinov2.pth")
    before = torch.get_rng_state()
    for network in (
        build_metric_extractor("clip", clip_file),
        build_metric_extractor("dinov2", tmp_path / "dinov2.pth"),
    ):
        assert not network.network.training
        assert not any(parameter.requires_grad for parameter in network.network.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "") and not recwarn.list
