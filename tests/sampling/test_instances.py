"""Models conditioned on instances: trained, conditioned anew without training, sampled."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from tiny import draw_images, make_source

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, FsgenError
from fsgen.models import model as models
from fsgen.sampling import instances, sheets
from fsgen.training.adapt import resume
from fsgen.training.train import train

DIM = 12
AFTER = {"h_dim": DIM, "g_h_embed_dim": 6, "d_h_embed_dim": 8, "d_cmap_dim": 8, "d_mapping_layers": 2}
SMALL = {"size": 16, "width": 4, "device": "cpu"}


class MeanColours:
    """Stands in for a feature network: the mean colours of four parts of an image."""

    dim = DIM

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        return torch.nn.functional.normalize(means, dim=1)


@pytest.fixture(autouse=True)
def built(monkeypatch):
    """The names of the networks that were loaded."""
    names = []

    def build(name, device="cpu", weights_dir=None):
        names.append(name)
        if name != "colours":
            raise FsgenError(f"no '{name}'", code=Code.UNKNOWN_NAME, where="--features")
        return MeanColours()

    monkeypatch.setattr("fsgen.features.feature_networks.build_instance_extractor", build)
    return names


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("instances"), 9)


@pytest.fixture
def source(tmp_path, pictures):
    return train(pictures, out=tmp_path / "source", features="colours", neighbours=3, steps=2, **SMALL)


def test_a_model_of_instances_is_trained_and_keeps_them(source, pictures):
    model = models.load_model(source)
    assert model.about["features"] == "colours" and model.spec["h_dim"] == DIM
    kept = model.extra["conditions"]
    assert kept.shape == (9, DIM)
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(9))
    assert len(fsgen.load(source, device="cpu").sample(4)) == 4


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, pictures, one_thread):
    options = {"features": "colours", "neighbours": 3, **SMALL}
    whole = train(pictures, out=tmp_path / "whole", steps=4, **options)
    part = train(pictures, out=tmp_path / "part", steps=2, **options)
    resume(part, steps=4)
    assert models.load_model(whole).hash == models.load_model(part).hash


def test_the_feature_network_is_loaded_once(tmp_path, source, built, drawings, pictures):
    assert built == ["colours"]  # by the training of source
    resume(source, steps=3)
    assert built == ["colours"] * 2
    run = fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="instances", device="cpu")
    assert built == ["colours"] * 3
    photo = sorted(pictures.iterdir())[0]
    job = sheets.SampleRequest(
        str(run), tmp_path / "a.png", [0, 1], instance=photo, candidates=2, device="cpu"
    )
    sheets.write(job, Callbacks())
    assert built == ["colours"] * 4
    plain = train(pictures, out=tmp_path / "plain", steps=1, **SMALL)
    fsgen.adapt(drawings, out=tmp_path / "of plain", source=plain, method="finetune", steps=1, device="cpu")
    assert len(built) == 4


def test_instances_neighbours_and_labels_belong_together():
    features = torch.nn.functional.normalize(torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))
    labels = [i % 3 for i in range(20)]
    shown = instances.InstanceSet.of(features, 4, labels)

    class G:
        def draw(self, n, rng):
            from fsgen.interfaces import Inputs

            return Inputs(z=torch.zeros(n, 2), y=torch.eye(3)[[0] * n])

    inputs = shown.drawing(G())(200, torch.Generator().manual_seed(1))
    angles = features @ features.T
    for h, y, row in zip(inputs.h, inputs.y, inputs.rows.tolist(), strict=True):
        instance = int((features @ h).argmax())
        nearest = angles[instance].topk(5).indices.tolist()
        assert row in nearest[1:] and row != instance  # a neighbour, never the instance itself
        assert y.argmax() == labels[row]
    assert len({*inputs.rows.tolist()}) > 10


def test_an_instance_may_be_its_flipped_image():
    rng = torch.Generator().manual_seed(0)
    features, flipped = torch.nn.functional.normalize(torch.randn(2, 12, 5, generator=rng), dim=2)
    plain, both = (instances.InstanceSet.of(features, 3, None, other) for other in (None, flipped))
    assert torch.equal(plain.near, both.near) and torch.equal(plain.stored(0), both.stored(0))

    class G:
        def draw(self, n, rng):
            from fsgen.interfaces import Inputs

            return Inputs(z=torch.zeros(n, 2))

    one, other = (x.drawing(G())(400, torch.Generator().manual_seed(1)) for x in (plain, both))
    assert torch.equal(one.rows, other.rows)  # the neighbours are those of the image as it was
    instance = [int((features @ h).argmax()) for h in one.h]
    turned = (other.h != one.h).any(dim=1)
    assert torch.equal(other.h, torch.where(turned[:, None], flipped[instance], features[instance]))
    assert 160 < turned.sum() < 240


def test_mirroring_flips_instances_too(tmp_path, pictures, monkeypatch, one_thread):
    extracted = []
    call = MeanColours.__call__
    monkeypatch.setattr(MeanColours, "__call__", lambda self, x: extracted.append(x) or call(self, x))
    options = {"features": "colours", "neighbours": 3, **SMALL}
    train(pictures, out=tmp_path / "plain", steps=1, **options)
    assert len(extracted) == 1
    run = train(pictures, out=tmp_path / "run", steps=2, mirror=True, **options)
    assert len(extracted) == 3 and torch.equal(extracted[1].flip(3), extracted[2])
    kept = models.load_model(run).extra["conditions"]
    torch.testing.assert_close(kept, instances.features_of(MeanColours(), extracted[0]))
    part = train(pictures, out=tmp_path / "part", steps=1, mirror=True, **options)
    resume(part, steps=2)
    assert models.load_model(run).hash == models.load_model(part).hash
    extracted.clear()
    fsgen.adapt(pictures, out=tmp_path / "swap", source=run, method="instances", mirror=True, device="cpu")
    assert len(extracted) == 1  # nothing is trained: pictures are drawn after the images as they are


def test_instances_are_swapped_without_training(tmp_path, source, drawings):
    run = fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="instances", device="cpu")
    before, after = models.load_model(source), models.load_model(run)
    for name, state in before.networks.items():
        assert all(torch.equal(value, after.networks[name][key]) for key, value in state.items()), name
    assert after.extra["conditions"].shape == (5, DIM)
    assert after.about["features"] == "colours"
    drawn = fsgen.load(run, device="cpu").sample(6)
    assert not torch.equal(drawn, fsgen.load(source, device="cpu").sample(6))
    resume(run)
    assert models.load_model(run).hash == after.hash


def test_other_methods_adapt_a_model_of_instances(tmp_path, source, drawings, monkeypatch):
    monkeypatch.setattr("fsgen.methods.ewc.TRIAL", 2)
    for method in ("finetune", "ewc", "diffaugment"):
        options = {"ewc": {"samples": 4}} if method == "ewc" else {}
        run = fsgen.adapt(
            drawings, out=tmp_path / method, source=source, method=method, options=options, steps=2,
            device="cpu",
        )  # fmt: skip
        assert models.load_model(run).extra["conditions"].shape == (5, DIM)
    one = draw_images(tmp_path / "one", 1)
    fsgen.adapt(one, out=tmp_path / "single", source=source, method="finetune", steps=1, device="cpu")


def test_a_model_is_conditioned_on_an_image(tmp_path, source, pictures):
    loaded = fsgen.load(source, device="cpu")
    photo = sorted(pictures.iterdir())[0]
    after = loaded.after(photo)
    assert after.model.extra["conditions"].shape == (1, DIM)
    assert not torch.equal(after.sample(2), loaded.sample(2))
    near, plain = (torch.cat(list(x)) for x in (after.chosen([0, 1], 6), after.images([0, 1])))
    own = after.model.extra["conditions"][0]

    def cosine(images):
        return instances.features_of(MeanColours(), fsgen.data.image_output.to_uint8(images)) @ own

    assert (cosine(near) >= cosine(plain) - 1e-6).all()
    torch.testing.assert_close(torch.cat(list(after.chosen([0, 1], 1))), plain)
    job = sheets.SampleRequest(
        str(source), tmp_path / "a.png", [0, 1], instance=photo, candidates=3, device="cpu"
    )
    assert sheets.write(job, Callbacks()) == [tmp_path / "a.png"]


def test_refusals(tmp_path, tiny, source, drawings, pictures):
    with refused(Code.TOO_FEW, "--neighbours", "9 images", "9 neighbours", "at most 8"):
        train(pictures, out=tmp_path / "run", features="colours", neighbours=9, **SMALL)
    with refused(Code.INCOMPATIBLE, "dcgan", "--features"):
        train(pictures, out=tmp_path / "run", family="dcgan", size=16, features="colours")
    with refused(Code.UNKNOWN_NAME, "--features", "'colour'"):
        train(pictures, out=tmp_path / "run", features="colour", **SMALL)
    with refused(Code.INCOMPATIBLE, "tiny", "--instance"):
        fsgen.load(tiny, device="cpu").after(drawings)
    with refused(Code.OUT_OF_RANGE, "--candidates"):
        sheets.write(
            sheets.SampleRequest(str(source), tmp_path / "a.png", [0], candidates=0, device="cpu"),
            Callbacks(),
        )
    with refused(Code.INCOMPATIBLE, "tiny", "--candidates"):
        sheets.write(
            sheets.SampleRequest(str(tiny), tmp_path / "a.png", [0], candidates=2, device="cpu"), Callbacks()
        )
    with refused(Code.INCOMPATIBLE, "--method", "instances"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="instances,diffaugment")
    mute = make_source(tmp_path / "mute.safetensors", **AFTER)
    with refused(Code.INCOMPATIBLE, "tiny", "--features: bundled"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=mute, method="instances", device="cpu")
    with refused(Code.INCOMPATIBLE, "tiny", "--method instances"):
        fsgen.load(mute, device="cpu").sample(1)
    told = fsgen.adapt(
        drawings, out=tmp_path / "told", source=mute, features="colours", method="instances", device="cpu"
    )
    assert models.load_model(told).about["features"] == "colours"
    other = make_source(tmp_path / "other.safetensors", **AFTER | {"h_dim": 7})
    with refused(Code.INCOMPATIBLE, "--features", "'colours'", "12 features", "tiny", "7"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=other, features="colours", method="instances")
    assert not (tmp_path / "run").exists()
