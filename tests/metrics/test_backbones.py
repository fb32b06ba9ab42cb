from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fsgen.errors import FsgenError
from fsgen.metrics.backbones import Inception, Lpips, resize_clean
from fsgen.metrics.diversity import lpips_diversity, mean_squared_pairwise
from fsgen.metrics.frechet import frechet
from fsgen.metrics.kernel import kid
from fsgen.metrics.torchvision_shim import import_torchvision


def pictures(n=4, size=(64, 48), seed=0):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(1, 1), (40, 56), (299, 299), (450, 330)])
def test_resizing_is_clean_fids(size):
    import_torchvision()
    from cleanfid.resize import build_resizer

    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    expected = [build_resizer("clean")(image.permute(1, 2, 0).numpy()) for image in images]
    np.testing.assert_array_equal(resize_clean(images).permute(0, 2, 3, 1).numpy(), np.stack(expected))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inception_features_and_distances_are_clean_fids(inception_file, picture_folders):
    import_torchvision()
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    theirs = InceptionV3W(str(inception_file.parent), download=False).eval()
    expected = [
        fid.get_folder_features(
            str(folder), theirs, num_workers=0, batch_size=4, device=torch.device("cpu"), verbose=False
        )
        for folder in picture_folders
    ]
    inception = Inception(inception_file)
    found = [inception(read_folder(folder)) for folder in picture_folders]
    for ours, want in zip(found, expected, strict=True):
        assert ours.shape == (4, 2048) and ours.dtype == torch.float32 and not ours.requires_grad
        np.testing.assert_allclose(ours.numpy(), want, atol=1e-5)
        assert ours.std(dim=0).mean() > 0.01  # the random network tells the pictures apart
    assert frechet(*found) == pytest.approx(frechet(*expected), rel=1e-4)
    np.random.seed(1)
    want = fid.kernel_distance(*expected, num_subsets=5)
    assert kid(*found, subsets=5, rng=np.random.RandomState(1)) == pytest.approx(want, rel=1e-3)


def read_folder(folder: Path) -> torch.Tensor:
    """uint8 [n, 3, H, W], in the order of clean-fid."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def reference(net, path, monkeypatch):
    """lpips.LPIPS as its users call it, its backbone coming out of torch's cache."""
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
    assert mean_squared_pairwise(lpips.embed(part) for part in images.split(2)) == pytest.approx(
        lpips_diversity(images, lpips), rel=1e-4
    )


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
    with pytest.raises(FsgenError, match="at least 31 pixels a side, got 30x64"):
        lpips.embed(pictures(1, (30, 64)))
    with pytest.raises(ValueError, match="expected float"):
        lpips(pictures(1)[:, :1], pictures(1))
    with pytest.raises(ValueError, match="expected uint8"):
        Inception(inception_file)(pictures(1))


def test_absent_damaged_and_wrong_files_are_named(tmp_path, alexnet_file):
    script = tmp_path / "inception-2015-12-05.pt"
    with pytest.raises(FsgenError, match="there is no weight file") as caught:
        Inception(script)
    assert str(script) in str(caught.value)
    script.write_bytes(b"half a download")
    with pytest.raises(FsgenError, match="cannot be read as these weights") as caught:
        Inception(script)
    assert str(script) in str(caught.value)
    with pytest.raises(FsgenError, match=r"to be called inception-2015-12-05\.pt"):
        Inception(tmp_path / "inception.pt")

    truncated = tmp_path / alexnet_file.name
    with alexnet_file.open("rb") as file:
        truncated.write_bytes(file.read(1_000_000))
    with pytest.raises(FsgenError, match="cannot be read as these weights"):
        Lpips("alex", truncated)
    with pytest.raises(FsgenError, match="cannot be read as these weights"):
        Lpips("vgg", alexnet_file)
    with pytest.raises(FsgenError, match="no backbone 'alexnet'"):
        Lpips("alexnet", alexnet_file)


def test_a_hostile_pickle_is_not_run(tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "alexnet-owt-7be5be79.pth"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(FsgenError, match="cannot be read as these weights"):
        Lpips("alex", path)
    assert not (tmp_path / "ran").exists()
