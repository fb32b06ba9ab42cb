from __future__ import annotations

import socket
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from naive_lpips import mean_distance
from PIL import Image
from refusals import refused

from fsgen.errors import Code
from fsgen.features.feature_networks import build_metric_extractor
from fsgen.features.inception import Inception, resize_clean
from fsgen.features.lpips_network import Lpips
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_files import CATALOGUE, file_for
from fsgen.io.checksums import hash_file
from fsgen.metrics.frechet import frechet
from fsgen.metrics.kernel import kid
from fsgen.metrics.pairwise_lpips import Spread


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Fail on any network connection."""

    def refuse(*args):
        raise AssertionError(f"connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def pictures(n=4, size=(64, 48), seed=0):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(1, 1), (40, 56), (299, 299), (450, 330)])
def test_resizing_is_clean_fids(size):
    import_torchvision()
    from cleanfid.resize import build_resizer

    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    expected = [build_resizer("clean")(image.permute(1, 2, 0).numpy()) for image in images]
    np.testing.assert_array_equal(resize_clean(images).permute(0, 2, 3, 1).numpy(), np.stack(expected))


@pytest.fixture
def files(inception_file, inception_pytorch_file, inception_torchvision_file):
    """Mode -> weight file of Inception."""
    here = {path.name: path for path in (inception_file, inception_pytorch_file, inception_torchvision_file)}
    return {mode: here[CATALOGUE[file_for("inception", mode)].file] for mode in Inception.modes}


@pytest.fixture
def local(files, monkeypatch):
    """clean-fid, reading these files instead of downloading its own."""
    import_torchvision()
    from cleanfid import features, inception_pytorch, inception_torchscript

    def script(path, download, **options):
        return inception_torchscript.InceptionV3W(str(files["clean"].parent), download=False, **options)

    monkeypatch.setattr(features, "InceptionV3W", script)
    monkeypatch.setattr(
        inception_pytorch,
        "load_state_dict_from_url",
        lambda url, progress: torch.load(files["legacy_pytorch"], weights_only=True),
    )


CLEAN_FIDS = ("clean", "legacy_pytorch", "legacy_tensorflow")
ON_CPU = {"num_workers": 0, "batch_size": 4, "device": torch.device("cpu"), "verbose": False}


@pytest.mark.parametrize("mode", CLEAN_FIDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_inception_features_and_distances_are_clean_fids(mode, files, local, picture_folders):
    from cleanfid import features, fid

    theirs = features.build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)
    expected = [
        fid.get_folder_features(str(folder), theirs, mode=mode, **ON_CPU) for folder in picture_folders
    ]
    inception = build_metric_extractor("inception", files[mode], mode=mode)
    found = [inception(read_folder(folder)) for folder in picture_folders]
    for ours, want in zip(found, expected, strict=True):
        assert ours.shape == (4, 2048) and ours.dtype == torch.float32 and not ours.requires_grad
        np.testing.assert_allclose(ours.numpy(), want, rtol=1e-4, atol=1e-4)
        assert ours.std(dim=0).mean() > 0.01  # features of the random network differ between images
    assert frechet(*found) == pytest.approx(frechet(*expected), rel=1e-4)
    np.random.seed(1)
    want = fid.kernel_distance(*expected, num_subsets=5)
    assert kid(*found, subsets=5, rng=np.random.RandomState(1)) == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("mode", CLEAN_FIDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_distances_of_folders_are_clean_fids(mode, files, local, picture_folders, monkeypatch):
    """Of features brought to 3 dimensions: clean-fid's matrix root fails where covariances lack rank."""
    from cleanfid import features, fid

    few = torch.randn(2048, 3, generator=torch.Generator().manual_seed(0))

    def extractor(*args, **options):
        theirs = features.build_feature_extractor(*args, **options)
        return lambda images: theirs(images) @ few

    monkeypatch.setattr(fid, "build_feature_extractor", extractor)
    folders = map(str, picture_folders)
    expected = fid.compute_fid(*folders, mode=mode, use_dataparallel=False, **ON_CPU)
    inception = build_metric_extractor("inception", files[mode], mode=mode)
    found = frechet(*(inception(read_folder(folder)) @ few for folder in picture_folders))
    assert found == pytest.approx(expected, rel=1e-4) and found > 1


def test_the_mode_torchvision_is_torchvisions_own_pooled_features(files, picture_folders):
    models = import_torchvision().models
    whole = models.inception_v3(weights=None, aux_logits=True, init_weights=False).eval()
    whole.load_state_dict(torch.load(files["torchvision"], weights_only=True))
    pooled = []
    whole.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    images = read_folder(picture_folders[1])
    with torch.no_grad():
        whole(torch.nn.functional.interpolate(images / 127.5 - 1, (299, 299), mode="bilinear"))
    found = build_metric_extractor("inception", files["torchvision"], mode="torchvision")(images)
    torch.testing.assert_close(found, pooled[0], rtol=1e-4, atol=1e-4)


def test_modes_and_keys_differ(files, tmp_path, monkeypatch, picture_folders):
    images = read_folder(picture_folders[0])
    networks = {mode: build_metric_extractor("inception", path, mode=mode) for mode, path in files.items()}
    features = {mode: network(images) for mode, network in networks.items()}
    for a, b in combinations(Inception.modes, 2):
        assert (features[a] - features[b]).abs().mean() > 1e-3, (a, b)
        assert networks[a].key != networks[b].key
    default = build_metric_extractor("inception", files["clean"])
    assert (default.name, default.mode, default.key) == ("inception", "clean", networks["clean"].key)
    assert hash_file(files["clean"]) in default.key
    monkeypatch.setattr(Inception, "version", Inception.version + 1)
    assert build_metric_extractor("inception", files["clean"]).key != default.key


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_class_probabilities_are_the_files_own_without_bias(files, picture_folders):
    images = read_folder(picture_folders[0])
    inception = build_metric_extractor("inception", files["legacy_tensorflow"], mode="legacy_tensorflow")
    with torch.no_grad():
        expected = torch.jit.load(files["clean"])(images, no_output_bias=True)
        biased = torch.jit.load(files["clean"])(images)
    found = inception.probabilities(inception(images))
    assert found.shape == (4, 1008)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    assert not torch.allclose(found, biased, rtol=1e-2)

    port = build_metric_extractor("inception", files["legacy_pytorch"], mode="legacy_pytorch")
    weight = torch.load(files["legacy_pytorch"], weights_only=True)["fc.weight"]
    features = port(images)
    torch.testing.assert_close(port.probabilities(features), (features @ weight.T).softmax(dim=1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_inception_score_without_the_layer_of_its_classes(files, tmp_path):
    torchvision = build_metric_extractor("inception", files["torchvision"], mode="torchvision")
    with refused(
        Code.INCOMPATIBLE, "Inception Score", files["torchvision"].name, "1008", "legacy_pytorch"
    ) as e:
        torchvision.probabilities(torch.zeros(2, 2048))
    assert e.value.exit_code == 2 and "legacy_pytorch" in e.value.hint

    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Linear(2048, 1008)  # of the right shape in the wrong place

        def forward(self, x):
            return self.layers(x)

    torch.jit.script(Bare()).save(tmp_path / "bare.pt")
    bare = build_metric_extractor("inception", tmp_path / "bare.pt")
    with refused(Code.INCOMPATIBLE, "Inception Score", "bare.pt"):
        bare.probabilities(torch.zeros(2, 2048))


def test_no_network_is_built_from_the_wrong_name_mode_or_file(files):
    with refused(Code.UNKNOWN_NAME, "'inceptoin'") as caught:
        build_metric_extractor("inceptoin", files["clean"])
    assert "did you mean 'inception'" in caught.value.hint
    with refused(Code.UNKNOWN_NAME, "inception", "'legacy_torch'") as caught:
        build_metric_extractor("inception", files["clean"], mode="legacy_torch")
    assert "did you mean 'legacy_pytorch'" in caught.value.hint
    for mode, other in (("clean", "torchvision"), ("legacy_pytorch", "torchvision"),
                        ("torchvision", "clean"), ("torchvision", "legacy_pytorch")):  # fmt: skip
        path = files[other]
        with refused(Code.DAMAGED, path) as caught:
            build_metric_extractor("inception", path, mode=mode)
        assert str(path) in caught.value.message


def test_building_is_quiet_and_leaves_the_random_stream_alone(files, capfd, recwarn):
    before = torch.get_rng_state()
    for mode, path in files.items():
        network = build_metric_extractor("inception", path, mode=mode)
        assert not network.network.training
        assert not any(parameter.requires_grad for parameter in network.network.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "") and not recwarn.list


def read_folder(folder: Path) -> torch.Tensor:
    """uint8 [n, 3, H, W], in the order of clean-fid."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def reference(net, path, monkeypatch):
    """lpips.LPIPS as its users build it, with its backbone in torch's cache."""
    import_torchvision()
    import lpips

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(path.parent / "hub"))
    (path.parent / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    link = path.parent / "hub" / "checkpoints" / path.name
    if not link.exists():
        link.symlink_to(path)
    return lpips.LPIPS(net=net, verbose=False)


def check_lpips(net, path, monkeypatch):
    a, b = pictures(seed=1), pictures(seed=2) * 0.5
    lpips = Lpips(net, path)
    found = lpips(a, b)
    with torch.no_grad():
        expected = reference(net, path, monkeypatch)(a, b).flatten()
    assert found.shape == (4,) and found.min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(lpips(a, a), torch.zeros(4))
    squared = (lpips.embed(a) - lpips.embed(b)).square().sum(dim=1)
    torch.testing.assert_close(squared, expected, rtol=1e-4, atol=1e-6)
    return lpips


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_alex_is_the_packages(alexnet_file, monkeypatch):
    lpips = check_lpips("alex", alexnet_file, monkeypatch)
    images = pictures(5)
    spread = Spread()
    for part in images.split(2):
        spread.add(lpips.embed(part))
    assert spread.within() == pytest.approx(mean_distance(images, lpips), rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_vgg_is_the_packages(vgg16_file, monkeypatch):
    check_lpips("vgg", vgg16_file, monkeypatch)


def test_lpips_is_quiet_and_leaves_the_random_stream_and_the_weights_alone(alexnet_file, capfd, recwarn):
    before = torch.get_rng_state()
    lpips = Lpips("alex", alexnet_file)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "") and not recwarn.list
    images = pictures(2).requires_grad_()
    lpips(images, pictures(2, seed=5)).sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in lpips.model.parameters())


def test_small_or_misshapen_images_are_refused(alexnet_file, inception_file):
    lpips = Lpips("alex", alexnet_file)
    lpips(pictures(1, (31, 31)), pictures(1, (31, 31), 2))
    with refused(Code.INCOMPATIBLE, "LPIPS", "31", "30x64"):
        lpips.embed(pictures(1, (30, 64)))
    with pytest.raises(ValueError, match=r"float.*\[1, 1, 64, 48\]"):
        lpips(pictures(1)[:, :1], pictures(1))
    with pytest.raises(ValueError, match=r"uint8.*float32"):
        Inception(inception_file)(pictures(1))


def test_absent_damaged_and_wrong_files_are_named(tmp_path, alexnet_file):
    script = tmp_path / "inception-2015-12-05.pt"
    with refused(Code.NOT_FOUND, script):
        Inception(script)
    script.write_bytes(b"half a download")
    with refused(Code.DAMAGED, script):
        Inception(script)

    truncated = tmp_path / alexnet_file.name
    with alexnet_file.open("rb") as file:
        truncated.write_bytes(file.read(1_000_000))
    with refused(Code.DAMAGED, truncated):
        Lpips("alex", truncated)
    with refused(Code.DAMAGED, alexnet_file):
        Lpips("vgg", alexnet_file)
    with refused(Code.UNKNOWN_NAME, "LPIPS", "'alexnet'"):
        Lpips("alexnet", alexnet_file)


def test_a_hostile_pickle_is_not_run(tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "alexnet-owt-7be5be79.pth"
    path.write_bytes(pickle.dumps(Hostile()))
    with refused(Code.DAMAGED, path):
        Lpips("alex", path)
    assert not (tmp_path / "ran").exists()
