"""Instance features: ResNet-50 against timm's, published file layouts, timm's networks, the bundled one."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import fsgen
from fsgen.errors import Code
from fsgen.features import bundled, weight_files
from fsgen.features.bundled import BundledNetwork
from fsgen.features.feature_networks import build_instance_extractor
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_files import CATALOGUE

import_torchvision()
import timm  # noqa: E402


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """Fail on any network connection; hide all weights but those of the test."""

    def refuse(*args):
        raise AssertionError(f"connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def shaken(network):
    """Give ``network`` non-trivial batch norm statistics and features that differ between images."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def resnet50():
    """timm's, with random weights and a classifier; its tensors have torchvision's names."""
    torch.manual_seed(0)
    return shaken(timm.create_model("resnet50", pretrained=False))


@pytest.fixture
def swav_file(resnet50, tmp_path):
    """A file with the published layout and the old serialisation."""
    state = {f"module.{k}": v for k, v in resnet50.state_dict().items() if not k.startswith("fc.")}
    state |= {f"module.projection_head.{i}.weight": torch.zeros(3, 3) for i in (0, 1, 3)}
    state |= {f"module.projection_head.1.{k}": torch.zeros(()) for k in ("running_mean", "running_var")}
    state |= {"module.projection_head.1.num_batches_tracked": torch.zeros(()).long()}
    state |= {"module.prototypes.weight": torch.zeros(3, 3)}
    torch.save(state, tmp_path / CATALOGUE["swav"].file, _use_new_zipfile_serialization=False)
    return tmp_path / CATALOGUE["swav"].file


@pytest.fixture
def classifier_file(resnet50, tmp_path):
    torch.save(resnet50.state_dict(), tmp_path / CATALOGUE["resnet50"].file)
    return tmp_path / CATALOGUE["resnet50"].file


def pictures(*size, n=3, seed=0):
    """Coarse random patterns, about as different as real images."""
    blocks = torch.randint(0, 256, (n, 3, 5, 7), generator=torch.Generator().manual_seed(seed)).float()
    return F.interpolate(blocks, size, mode="bilinear").to(torch.uint8)


@torch.no_grad()
def theirs(network, squares, side=224):
    """timm's features of uint8 squares with IC-GAN's preprocessing, in float64 but for the network."""
    levels = squares.double() / 255
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        levels[:, channel] = (levels[:, channel] - mean) / std
    levels = F.interpolate(levels, (side, side), mode="bicubic", align_corners=False).float()
    pooled = network.forward_head(network.forward_features(levels), pre_logits=True)
    return pooled / pooled.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("size", [(32, 32), (64, 80), (91, 57)])
def test_resnet50_is_timms(resnet50, classifier_file, size):
    ours = build_instance_extractor("resnet50", classifier_file).network
    state = {k: v for k, v in resnet50.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = F.normalize(resnet50.forward_head(resnet50.forward_features(x), pre_logits=True), dim=1)
        found = F.normalize(ours(x), dim=1)
    assert (expected[0] - expected[1]).norm() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "file"), [("swav", "swav_file"), ("resnet50", "classifier_file")])
def test_features_are_those_of_the_published_layouts(name, file, resnet50, request):
    path = request.getfixturevalue(file)
    before = torch.get_rng_state()
    extractor = build_instance_extractor(name, weights_dir=path.parent)
    assert torch.equal(torch.get_rng_state(), before)
    assert (extractor.name, extractor.dim, extractor.file) == (name, 2048, path.name)
    assert not extractor.network.training
    images = pictures(64, 90)
    found = extractor(images)
    assert found.shape == (3, 2048) and found.dtype == torch.float32
    expected = theirs(resnet50, images[:, :, :, 13:77])
    assert (expected[0] - expected[1]).norm() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_saved_before_norms_counted(classifier_file):
    state = torch.load(classifier_file, weights_only=True)
    whole = build_instance_extractor("resnet50", classifier_file)(pictures(16, 16))
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, classifier_file)
    assert torch.equal(build_instance_extractor("resnet50", classifier_file)(pictures(16, 16)), whole)


def test_a_file_must_be_the_network_it_is_taken_for(classifier_file, swav_file):
    state = torch.load(classifier_file, weights_only=True)
    del state["layer3.5.bn2.running_var"]
    torch.save(state | {"layer3.6.bn2.bias": torch.zeros(1)}, classifier_file)
    with refused(Code.DAMAGED, classifier_file, "layer3.5.bn2.running_var", "layer3.6.bn2.bias"):
        build_instance_extractor("resnet50", classifier_file)
    with refused(Code.DAMAGED, swav_file, "prototypes"):
        build_instance_extractor("resnet50", swav_file)
    swav_file.write_bytes(swav_file.read_bytes()[:100_000])
    with refused(Code.DAMAGED, swav_file):
        build_instance_extractor("swav", swav_file)
    with refused(Code.NOT_FOUND, swav_file.with_name("absent")):
        build_instance_extractor("swav", swav_file.with_name("absent"))


@pytest.mark.parametrize("name", ["swav", "resnet50"])
def test_absent_weights_are_named_with_the_remedy(name, tmp_path):
    entry, remedy = CATALOGUE[name], f"fsgen pull metrics {name}"
    with refused(Code.MISSING_WEIGHTS, entry.url, tmp_path / entry.file, remedy) as caught:
        build_instance_extractor(name, weights_dir=tmp_path)
    assert caught.value.exit_code == 2


def test_a_download_is_the_callers_to_allow(classifier_file, tmp_path):
    asked = []

    def download(url, destination, sha256):
        asked.append((url, sha256))
        return classifier_file.rename(destination)

    folder = tmp_path / "mine"
    folder.mkdir()
    extractor = build_instance_extractor("resnet50", weights_dir=folder, download=download)
    assert asked == [(CATALOGUE["resnet50"].url, "0676ba61")] and extractor.dim == 2048


@pytest.mark.parametrize(
    ("name", "said"),
    [("swaw", "did you mean 'swav'"), ("resnet", "resnet50"), ("bundle", "bundled"), ("x", "known: bundled")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, said):
    with refused(Code.UNKNOWN_NAME, "--features", f"'{name}'") as caught:
        build_instance_extractor(name)
    assert said in caught.value.hint


# ---- timm --------------------------------------------------------------------------------------------------

MODEL = "resnet18.tv_in1k"


@pytest.fixture
def timm_file(tmp_path):
    torch.manual_seed(0)
    network = shaken(timm.create_model(MODEL, pretrained=False))
    save_file(network.state_dict(), tmp_path / f"{MODEL}.safetensors")
    return tmp_path / f"{MODEL}.safetensors"


def test_timms_networks_have_timms_preprocessing(timm_file):
    before = torch.get_rng_state()
    extractor = build_instance_extractor(f"timm:{MODEL}", weights_dir=timm_file.parent)
    assert torch.equal(torch.get_rng_state(), before)
    assert (extractor.name, extractor.dim) == (f"timm:{MODEL}", 512)
    network = timm.create_model(MODEL, pretrained=False, num_classes=0).eval()
    network.load_state_dict({k: v for k, v in load_file(timm_file).items() if not k.startswith("fc.")})
    cut = {**timm.data.resolve_model_data_config(network), "crop_pct": 1.0}
    see = timm.data.create_transform(**cut)
    images = pictures(300, 300)
    with torch.no_grad():
        shown = torch.stack([see(Image.fromarray(image)) for image in images.permute(0, 2, 3, 1).numpy()])
        expected = F.normalize(network(shown), dim=1)
    assert (expected[0] - expected[1]).norm() > 0.01
    torch.testing.assert_close(extractor(images), expected, rtol=1e-4, atol=1e-5)
    wide = torch.cat([images[..., :20], images, images[..., -20:]], dim=3)
    torch.testing.assert_close(extractor(wide), expected, rtol=1e-4, atol=1e-5)
    assert extractor.key != build_instance_extractor(f"timm:{MODEL.split('.')[0]}", timm_file).key


def test_timms_weights_are_all_there_or_refused(timm_file):
    state = load_file(timm_file)
    del state["layer1.0.bn1.weight"]
    save_file(state, timm_file)
    with refused(Code.DAMAGED, timm_file, "layer1.0.bn1.weight"):
        build_instance_extractor(f"timm:{MODEL}", timm_file)


def test_a_network_whose_output_is_wider_than_its_trunk(tmp_path):
    network = shaken(timm.create_model("mobilenetv3_small_050", pretrained=False))
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    extractor = build_instance_extractor("timm:mobilenetv3_small_050", tmp_path / "m.safetensors")
    assert extractor(pictures(20, 20)).shape == (3, extractor.dim) and extractor.dim == 1024


def test_timms_weights_come_from_the_hubs_cache_or_when_allowed(timm_file, tmp_path, monkeypatch):
    with refused(Code.MISSING_WEIGHTS, MODEL) as caught:
        build_instance_extractor(f"timm:{MODEL}")
    assert f"huggingface.co/timm/{MODEL}/resolve/main/model.safetensors" in caught.value.hint
    assert f"{MODEL}.safetensors" in caught.value.hint and "--weights-dir" in caught.value.hint
    assert f"fsgen pull metrics timm:{MODEL}" in caught.value.hint

    asked = []
    monkeypatch.setattr("fsgen.io.download.fetch_hub", lambda address: asked.append(address) or timm_file)
    build_instance_extractor(f"timm:{MODEL}", download=weight_files.downloader())
    assert asked == [f"hf://timm/{MODEL}/model.safetensors"]

    repository = tmp_path / "hub" / f"models--timm--{MODEL}"
    for folder, name, text in (("refs", "main", b"abc"), ("snapshots/abc", "model.safetensors", None)):
        (repository / folder).mkdir(parents=True)
        (repository / folder / name).write_bytes(timm_file.read_bytes() if text is None else text)
    assert build_instance_extractor(f"timm:{MODEL}").file == "model.safetensors" and len(asked) == 1


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("resnet81", Code.UNKNOWN_NAME, "did you mean 'resnet"),
        ("resnet18.tw_in1k", Code.UNKNOWN_NAME, "did you mean 'resnet18.tv_in1k'"),
        ("gcvit_tiny", Code.MISSING_WEIGHTS, "gcvit_tiny.safetensors"),
    ],
)
def test_what_timm_does_not_have(name, code, hint):
    with refused(code, f"'{name}'") as caught:
        build_instance_extractor(f"timm:{name}")
    assert hint in caught.value.hint


# ---- the bundled network -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawings():
    """uint8 [24, 3, 64, 64], drawn by the bundled source."""
    return fsgen.load("peeps64", device="cpu").sample(24, seed=0)


def test_what_ships_is_small_and_free():
    from safetensors import safe_open

    assert bundled.FILE.stat().st_size < 1_500_000
    with safe_open(bundled.FILE, "pt") as file:
        assert file.metadata()["licence"] == "CC0-1.0"
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118 - no mapping
    assert sum(tensor.numel() for tensor in tensors) < 600_000
    assert all(tensor.dtype == torch.float16 and tensor.isfinite().all() for tensor in tensors)


def test_bundled_features_are_a_plain_networks(drawings):
    extractor = build_instance_extractor("bundled")
    found = extractor(drawings)
    assert found.shape == (24, 128) and found.dtype == torch.float32
    state = {k: v.double() for k, v in load_file(bundled.FILE).items()}
    x = drawings.double() / 127.5 - 1
    for i, stride in enumerate((2, 2, 1, 2, 2)):
        weight, bias = state[f"convolutions.{i}.weight"], state[f"convolutions.{i}.bias"]
        x = F.conv2d(x, weight, bias, stride=stride, padding=1).clamp(min=0)
    x = x.flatten(1) @ state["out.weight"].T + state["out.bias"]
    torch.testing.assert_close(found, (x / x.norm(dim=1, keepdim=True)).float(), rtol=1e-4, atol=1e-5)


def test_bundled_features_tell_drawings_apart_whatever_their_size(drawings):
    extractor = build_instance_extractor("bundled")
    points = extractor(drawings)
    large = F.interpolate(drawings.float(), (256, 256), mode="bicubic").clamp(0, 255).to(torch.uint8)
    wide = F.pad(large, (30, 30), value=255)
    for seen in (large, wide, drawings.roll(1, dims=2)):
        alike = extractor(seen) @ points.T
        assert torch.equal(alike.argmax(dim=1), torch.arange(24))
        assert alike.diagonal().min() > 0.9


def test_bundled_can_be_given_another_file(tmp_path):
    torch.manual_seed(0)
    save_file(BundledNetwork().state_dict(), tmp_path / "mine.safetensors")
    other = build_instance_extractor("bundled", tmp_path / "mine.safetensors")
    assert other.key != build_instance_extractor("bundled").key
    assert not np.allclose(other(pictures(64, 64)), build_instance_extractor("bundled")(pictures(64, 64)))
