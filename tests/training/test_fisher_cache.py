"""``fisher``: estimated once for each source, proxy, number and seed; refused without a discriminator."""

from __future__ import annotations

import json

import pytest
import torch
from refusals import refused
from safetensors import safe_open
from tiny import LABELS, make_source

from fsgen import rng as random
from fsgen.errors import Code
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_files import CATALOGUE
from fsgen.io import checkpoint
from fsgen.models import fisher_cache
from fsgen.models import model as models
from fsgen.nn import per_sample_fisher as estimator
from fsgen.training import fisher as engine

WIDTHS = {"4": 4, "8": 4, "16": 4, "32": 2}
LARGER = {"resolution": 32, "g_widths": WIDTHS, "d_widths": WIDTHS}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def estimates(monkeypatch):
    """One entry for each estimate; none if it is found in the cache."""
    counted, real = [], estimator.diagonal

    def count(*args):
        counted.append(1)
        return real(*args)

    monkeypatch.setattr(estimator, "diagonal", count)
    return counted


def fisher(source, samples=3, **options):
    return engine.fisher(source, samples=samples, device="cpu", **options)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- the cache -----------------------------------------------------------------------------------------


def test_estimated_once(tmp_path, tiny, estimates):
    shown = []
    first = fisher(tiny, progress=lambda done, total: shown.append((done, total)))
    assert shown == [(0, 3), (3, 3)]
    (path,) = (tmp_path / "home" / "fisher").iterdir()
    again = fisher(tiny, progress=lambda done, total: shown.append((done, total)))
    assert equal(first.diagonal, again.diagonal) and first.about == again.about
    assert len(estimates) == 1 and len(shown) == 2
    assert path.suffix == ".safetensors"


def test_cached_by_source_samples_seed_proxy_and_network(tmp_path, tiny, estimates):
    base = fisher(tiny)
    others = [
        fisher(tiny, samples=4), fisher(tiny, seed=1), fisher(tiny, proxy="reconstruction"),
        fisher(make_source(tmp_path / "average.safetensors", ("g_ema", "d"))),
        fisher(make_source(tmp_path / "other.safetensors", d_group=0)),
    ]  # fmt: skip
    assert len(estimates) == 6
    assert not any(equal(base.diagonal, other.diagonal) for other in others)
    assert len(list((tmp_path / "home" / "fisher").iterdir())) == 6
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(tiny.read_bytes())
    assert equal(fisher(renamed).diagonal, base.diagonal) and len(estimates) == 6


@pytest.mark.parametrize("damage", ["truncated", "text", "another", "empty"])
def test_a_damaged_cache_is_made_anew(tmp_path, tiny, estimates, damage):
    first = fisher(tiny)
    (path,) = (tmp_path / "home" / "fisher").iterdir()
    if damage == "another":
        engine.write(fisher(tiny, seed=1), path)
    else:
        data = path.read_bytes()
        path.write_bytes({"truncated": data[:-9], "text": b"hello there", "empty": b""}[damage])
    before = len(estimates)
    assert equal(fisher(tiny).diagonal, first.diagonal)
    assert len(estimates) == before + 1
    assert equal(checkpoint.read_file(path)[0], first.diagonal)
    fisher(tiny)
    assert len(estimates) == before + 1


def test_a_cache_that_cannot_be_kept(tmp_path, tiny, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "file"))
    with refused(Code.UNWRITABLE, tmp_path / "file") as caught:
        fisher(tiny)
    assert caught.value.exit_code == 2


# ---- the estimate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [{}, LABELS], ids=["plain", "conditional"])
def test_it_is_the_mean_of_squared_gradients_at_theta_s(tmp_path, labels):
    source = make_source(tmp_path / "s.safetensors", **labels)
    found = fisher(source, samples=3, seed=5)
    model = models.load_model(source)
    g, d = model.generator("g"), model.discriminator()
    inputs = g.draw(3, random.generator(5, "fisher"))
    total = {name: torch.zeros_like(p) for name, p in g.named_parameters()}
    for i in range(3):
        one = inputs[i : i + 1]
        score = -torch.nn.functional.softplus(-d(g(one), one)).sum()
        gradients = torch.autograd.grad(score, list(g.parameters()))
        for value, gradient in zip(total.values(), gradients, strict=True):
            value += gradient.square() / 3
    for name, value in total.items():
        torch.testing.assert_close(found.diagonal[name], value, rtol=1e-3, atol=1e-9)
    assert found.about["network"] == "g" and found.about["source_hash"] == model.hash


def test_without_g_the_average_is_meant(tmp_path):
    found = fisher(make_source(tmp_path / "s.safetensors", ("g_ema", "d")))
    assert found.about["network"] == "g_ema"


def test_by_layer(tiny):
    found = fisher(tiny)
    source = models.load_model(tiny)
    means = found.by_layer()
    assert list(means) == list(source.family.layers(source.spec))
    sizes = {layer: sum(found.diagonal[n].numel() for n in names) for layer, names in found.layers.items()}
    total = sum(means[layer] * sizes[layer] for layer in means)
    assert total == pytest.approx(found.trace)
    assert total == pytest.approx(sum(value.sum().item() for value in found.diagonal.values()), rel=1e-4)
    one = found.layers["b8.conv0"]
    values = torch.cat([found.diagonal[name].flatten() for name in one])
    assert means["b8.conv0"] == pytest.approx(values.mean().item())


def test_written_where_asked_with_its_convention(tmp_path, tiny):
    found = fisher(tiny)
    engine.write(found, tmp_path / "f.safetensors")
    tensors, header = checkpoint.read_file(tmp_path / "f.safetensors")
    assert equal(tensors, found.diagonal)
    assert header["convention"] == fisher_cache.CONVENTION and header["samples"] == 3 and header["seed"] == 0
    assert header["proxy"] == "adversarial" and header["source_hash"] == models.load_model(tiny).hash
    with safe_open(tmp_path / "f.safetensors", "pt") as file:
        assert json.loads(file.metadata()["fsgen"])["kind"] == "fisher"


# ---- proxies -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """AlexNet's features with random weights, under the published file's name."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = import_torchvision().models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{k}": v for k, v in features.items()}, folder / CATALOGUE["alexnet"].file)
    return folder


@pytest.mark.parametrize("channels", [3, 1])
def test_one_proxy_needs_a_discriminator(tmp_path, weights, channels):
    source = make_source(tmp_path / "s.safetensors", ("g",), channels=channels, **LARGER)
    found = {p: fisher(source, 2, proxy=p, weights_dir=weights) for p in ("reconstruction", "perceptual")}
    for proxy, one in found.items():
        assert one.about["proxy"] == proxy
        assert all(mean > 0 for mean in one.by_layer().values())
    assert not equal(found["reconstruction"].diagonal, found["perceptual"].diagonal)
    with refused(Code.INCOMPATIBLE, "discriminator", "--proxy reconstruction"):
        fisher(source)


def test_reconstruction_is_the_gradient_along_noise(tiny):
    found = fisher(tiny, samples=2, proxy="reconstruction")
    g = models.load_model(tiny).generator("g")
    inputs = g.draw(2, random.generator(0, "fisher"))
    eps = [torch.randn(3, 16, 16, generator=random.generator(0, "fisher eps", i)) for i in range(2)]
    total = 0
    for i in range(2):
        score = (g(inputs[i : i + 1])[0] * eps[i]).sum()
        total += torch.autograd.grad(score, g.synthesis.b16.torgb.weight)[0].square() / 2
    torch.testing.assert_close(found.diagonal["synthesis.b16.torgb.weight"], total, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("proxy", ["adversarial", "reconstruction"])
def test_the_size_of_a_batch_changes_nothing(tiny, monkeypatch, proxy):
    whole = fisher(tiny, samples=5, proxy=proxy).diagonal
    monkeypatch.setattr("fsgen.training.fisher.read", lambda path, about: None)
    monkeypatch.setattr("fsgen.training.fisher.CHUNK", 1)  # parameters at a time: one sample a batch
    for name, value in fisher(tiny, samples=5, proxy=proxy).diagonal.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-9)


def test_refusals(tmp_path, tiny, weights, monkeypatch):
    with refused(Code.UNKNOWN_NAME, "--proxy", "'reconstructions'", "did you mean 'reconstruction'"):
        fisher(tiny, proxy="reconstructions")
    for samples in (0, -1):
        with refused(Code.OUT_OF_RANGE, "--samples", f"{samples} samples"):
            fisher(tiny, samples=samples)
    with refused(Code.INCOMPATIBLE, "31 px", "16x16"):
        fisher(tiny, proxy="perceptual", weights_dir=weights)
    with refused(Code.NOT_FOUND, "--weights-dir", tmp_path / "absent"):
        fisher(tiny, proxy="perceptual", weights_dir=tmp_path / "absent")
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with refused(Code.MISSING_WEIGHTS, "alexnet-owt-7be5be79.pth", "fsgen pull metrics"):
        fisher(tiny, proxy="perceptual", weights_dir=tmp_path / "none")
