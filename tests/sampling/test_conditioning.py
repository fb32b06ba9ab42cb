"""The conditioning of a model: chosen once from its family and spec, by models of every family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refusals import refused
from tiny import LABELS, draw_images, make_source

from fsgen import registry
from fsgen.data.images import load_images
from fsgen.errors import Code
from fsgen.models import model as models
from fsgen.models.classes import with_class
from fsgen.sampling.conditioning import (
    PREVIEW,
    ClassConditioning,
    Conditioning,
    InstanceConditioning,
    TrainingRequest,
    TranslationConditioning,
    conditioning_of,
)

CPU = torch.device("cpu")
DIM = 12
# family -> kind of conditioning -> changes to its small spec; every kind that the family has
KINDS = {
    "stylegan2": {
        Conditioning: {},
        ClassConditioning: LABELS,
        InstanceConditioning: {"h_dim": DIM, "g_h_embed_dim": 6, "d_h_embed_dim": 8, "d_cmap_dim": 8,
                               "d_mapping_layers": 2},
    },
    "dcgan": {Conditioning: {}, ClassConditioning: {"c_dim": 3, "g_embed_dim": 4}},
    "cgan": {ClassConditioning: {}},
    "fastgan": {Conditioning: {}},
    "biggan": {
        ClassConditioning: {},
        InstanceConditioning: {"c_dim": 0, "g_embed_dim": 0, "h_dim": DIM, "h_embed_dim": 4},
    },
    "funit": {TranslationConditioning: {}},
}  # fmt: skip
CASES = [(family, kind) for family, kinds in KINDS.items() for kind in kinds]
IDS = [f"{family}-{kind.__name__}" for family, kind in CASES]


class MeanColours:
    """Stands in for a feature network: the mean colours of four parts of an image."""

    dim = DIM

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


@pytest.fixture(params=CASES, ids=IDS)
def case(request, tmp_path):
    """A model of one family and kind with what it draws from, and its kind."""
    family, kind = request.param
    model = models.load_model(
        make_source(tmp_path / "source.safetensors", name=family, **KINDS[family][kind])
    )
    extra = {}
    if kind is InstanceConditioning:
        extra = {"conditions": torch.nn.functional.normalize(torch.randn(5, DIM), dim=1)}
    if kind is TranslationConditioning:
        contents = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        extra = {"conditions": torch.randn(3, model.spec["latent_dim"]), "contents": contents}
    return replace(model, extra=extra, about={**model.about, "features": "colours"}), kind


def test_no_family_and_no_kind_is_forgotten_here():
    assert set(KINDS) == set(registry.families())
    assert {kind for kinds in KINDS.values() for kind in kinds} == {
        Conditioning, ClassConditioning, InstanceConditioning, TranslationConditioning,
    }  # fmt: skip
    traits = {name: registry.family(name).traits for name in KINDS}
    for name, kinds in KINDS.items():
        assert (InstanceConditioning in kinds) == ("instances" in traits[name])
        assert (TranslationConditioning in kinds) == ("translation" in traits[name])
        assert (ClassConditioning in kinds) == ("classes" in traits[name] - {"translation"})


def test_it_is_chosen_by_the_model(case):
    model, kind = case
    assert type(conditioning_of(model)) is kind
    assert conditioning_of(model).draws_alone == (kind is not TranslationConditioning)


def test_inputs_have_the_parts_that_the_model_draws_from(case):
    model, kind = case
    conditioning, g = conditioning_of(model), model.generator()
    inputs = conditioning.inputs(g, [3, 8, 8], "cpu")
    wanted = {
        Conditioning: {"z"},
        ClassConditioning: {"z", "y"},
        InstanceConditioning: {"z", "h"},
        TranslationConditioning: {"content", "h"},
    }[kind]
    assert inputs.parts().keys() == wanted
    for part in inputs.parts().values():
        assert len(part) == 3 and torch.equal(part[1], part[2])  # a seed determines its inputs
    with torch.no_grad():
        side = model.spec["resolution"]
        assert g(inputs).shape == (3, 3, side, side)
    if kind is InstanceConditioning:
        rows = (inputs.h[:, None] == model.extra["conditions"]).all(dim=2)
        assert rows.any(dim=1).all()


def test_labels_are_those_of_models_with_classes(case):
    model, kind = case
    conditioning, g = conditioning_of(model), model.generator()
    assert conditioning.check_label(None) is None
    if not model.spec.get("c_dim"):
        with refused(Code.INCOMPATIBLE, "--class"):
            conditioning.check_label("0")
        return
    assert conditioning.check_label("2") == conditioning.check_label(2) == 2
    with refused(Code.UNKNOWN_NAME, "--class", "'3'", "0 to 2"):
        conditioning.check_label("3")
    named = conditioning_of(replace(model, about={**model.about, "classes": ["cats", "dogs", "eels"]}))
    assert named.check_label("eels") == 2
    with refused(Code.UNKNOWN_NAME, "--class", "'eel'", "'eels'"):
        named.check_label("eel")
    inputs = conditioning.inputs(g, range(4), "cpu", 2)
    if kind is TranslationConditioning:
        assert torch.equal(inputs.h, model.extra["conditions"][[2] * 4])
    else:
        assert inputs.y.argmax(dim=1).tolist() == [2] * 4


def test_a_model_adapted_to_a_new_class_draws_it_by_default(case):
    model, kind = case
    if kind is not ClassConditioning:
        return
    model = with_class(model, "owls")
    conditioning, g = conditioning_of(model), model.generator()
    assert conditioning.inputs(g, range(4), "cpu").y.argmax(dim=1).tolist() == [3] * 4
    assert conditioning.inputs(g, range(4), "cpu", 1).y.argmax(dim=1).tolist() == [1] * 4


def test_training_draws_previews_and_stores_by_it(case, tmp_path):
    model, kind = case
    for name in "012":  # the classes, by number
        draw_images(tmp_path / "images" / name, 2, seed=int(name))
    images = load_images(tmp_path / "images", model.spec["resolution"])
    conditioning = conditioning_of(model)
    assert (conditioning.labels(images) == [0, 0, 1, 1, 2, 2]) == bool(model.spec.get("c_dim"))
    conditioning.check_images(images)
    extractor = MeanColours() if kind is InstanceConditioning else None
    data = conditioning.training_inputs(images, TrainingRequest(0, CPU, extractor=extractor))
    g = data.model.generator()
    inputs = data.draw(g)(4, torch.Generator().manual_seed(0))
    assert len(inputs) == 4 and len(data.preview(g)) == PREVIEW
    stored = {
        Conditioning: {},
        ClassConditioning: {},
        InstanceConditioning: {"conditions": (6, DIM)},
        TranslationConditioning: {"conditions": (3, model.spec.get("latent_dim"))},
    }[kind]
    assert {name: tuple(value.shape) for name, value in data.stored(g).items()} == stored
    if kind in (InstanceConditioning, TranslationConditioning):
        assert inputs.rows is not None  # of the real images that belong to the inputs


def test_new_conditions_without_training(case, tmp_path):
    model, kind = case
    images = load_images(draw_images(tmp_path / "owls", 3), model.spec["resolution"])
    extractor = MeanColours() if kind is InstanceConditioning else None
    request = TrainingRequest(0, CPU, extractor=extractor)
    if kind in (Conditioning, ClassConditioning):
        with refused(Code.INCOMPATIBLE, "tiny"):
            conditioning_of(model).conditioned_on(images, "owls", request)
        return
    data = conditioning_of(model).conditioned_on(images, "owls", request)
    rows = 3 if kind is InstanceConditioning else 1
    assert len(data.stored(data.model.generator())["conditions"]) == rows
    assert len(data.preview(data.model.generator())) == PREVIEW
    assert (data.model.about.get("classes") == ["owls"]) == (kind is TranslationConditioning)


def test_extractors_are_those_of_instances(case, monkeypatch):
    model, kind = case
    monkeypatch.setattr(
        "fsgen.features.feature_networks.build_instance_extractor", lambda name, **options: MeanColours()
    )
    found = conditioning_of(model).extractor("", CPU, None)
    assert isinstance(found, MeanColours) if kind is InstanceConditioning else found is None
    if kind is InstanceConditioning:
        unnamed = replace(model, about={"title": "tiny"})
        with refused(Code.INCOMPATIBLE, "--features", "tiny"):
            conditioning_of(unnamed).extractor("", CPU, None)
        monkeypatch.setattr(MeanColours, "dim", DIM + 1)
        with refused(Code.INCOMPATIBLE, "--features", DIM, DIM + 1):
            conditioning_of(model).extractor("colours", CPU, None)


def test_models_without_what_they_draw_from_are_refused(case):
    model, kind = case
    conditioning, g = conditioning_of(replace(model, extra={})), model.generator()
    if kind is InstanceConditioning:
        with refused(Code.INCOMPATIBLE, "tiny", "--method instances"):
            conditioning.inputs(g, [0], "cpu")
    elif kind is TranslationConditioning:
        with refused(Code.INCOMPATIBLE, "tiny", "--content"):
            conditioning.inputs(g, [0], "cpu")
        contents = {"contents": model.extra["contents"]}
        with refused(Code.INCOMPATIBLE, "tiny", "--method classcode"):
            conditioning_of(replace(model, extra=contents)).inputs(g, [0], "cpu")
    else:
        assert len(conditioning.inputs(g, [0], "cpu")) == 1
