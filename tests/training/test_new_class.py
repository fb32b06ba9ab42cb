"""A new class of a conditional source, by its embedding alone or with the rest."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from tiny import LABELS, draw_images, make_source

import fsgen
from fsgen import config, registry
from fsgen.errors import Code
from fsgen.interfaces import Inputs
from fsgen.models import model as models
from fsgen.models.classes import drawn_class, names_of, with_class, with_class_fisher
from fsgen.nn.per_sample_fisher import diagonal
from fsgen.training.adapt import resume

CONDITIONAL = {
    "stylegan2": LABELS,
    "dcgan": {"c_dim": 3, "g_embed_dim": 4},
    "cgan": {"c_dim": 3},
    "biggan": {},
}


@pytest.fixture(params=CONDITIONAL)
def source(request, tmp_path):
    return make_source(tmp_path / "source.safetensors", name=request.param, **CONDITIONAL[request.param])


def adapt(images, run, source, method="embedding", steps=2, **options):
    return fsgen.adapt(
        images, out=run, source=source, new_class="owls", method=method, steps=steps, device="cpu", **options
    )


def pictures(run, label):
    return fsgen.load(run, device="cpu").sample(3, label=label)


def discriminators(before, after):
    """D of a source, and that of its wider model on the old classes.

    Where D's embedding has spectral norm one, one class more makes the others shorter: there it is the old D.
    """
    old, new = before.discriminator(), after.discriminator()
    if "embed.u" in before.family.embeddings:
        assert new.c_dim == 4
        return old, lambda images, inputs: old(images, Inputs(y=inputs.y[:, :3]))
    return old, new


def test_no_family_with_embeddings_is_forgotten_here():
    growing = {name for name in registry.families() if registry.family(name).embeddings}
    assert growing == set(CONDITIONAL)


def test_adding_a_class_does_not_change_images_of_the_others(source):
    before = models.load_model(source)
    after = with_class(before, "owls")
    assert after.spec["c_dim"] == 4 and names_of(after) == ["0", "1", "2", "owls"] and drawn_class(after) == 3
    rng = torch.Generator().manual_seed(0)
    for which in ("g", "g_ema"):
        old, new = before.generator(which), after.generator(which)
        inputs = old.draw(4, rng)
        more = type(inputs)(inputs.z, torch.cat([inputs.y, torch.zeros(4, 1)], dim=1))
        torch.testing.assert_close(new(more), old(inputs))
        # the new one is where the mean of the others' labels is
        middle = type(inputs)(inputs.z, torch.full((4, 3), 1 / 3))
        owls = type(inputs)(inputs.z, torch.eye(4)[[3] * 4])
        torch.testing.assert_close(new(owls), old(middle))
        discriminator, wider = discriminators(before, after)
        images = old(inputs)
        torch.testing.assert_close(wider(images, more), discriminator(images, inputs))


def test_the_embedding_method_keeps_all_other_weights(tmp_path, source, drawings):
    run = adapt(drawings, tmp_path / "run", source, recipe={"lr": 0.05})
    start, done = with_class(models.load_model(source), "owls"), models.load_model(run)
    assert done.about["classes"][-1] == done.about["class"] == "owls"
    for which in ("g", "g_ema"):
        for key, value in done.networks[which].items():
            before = start.networks["g_ema"][key]  # images are drawn with the average
            if key in done.family.embeddings:
                assert torch.equal(value[:, :3], before[:, :3]) and not torch.equal(value[:, 3], before[:, 3])
            else:
                assert torch.equal(value, before), key
    for label in (0, 1, 2):
        same = pictures(source, label).int() - pictures(run, label).int()
        assert same.abs().max() <= 1  # the embeddings are stored for four classes: the last bit may differ
    fresh = start.networks["d"]
    assert any(not torch.equal(value, fresh[key]) for key, value in done.networks["d"].items())


def test_the_new_class_is_drawn_by_default(tmp_path, source, drawings):
    run = adapt(drawings, tmp_path / "run", source, method="finetune", recipe={"lr": 0.05})
    assert models.load_model(run).spec["c_dim"] == 4
    assert torch.equal(pictures(run, None), pictures(run, "owls"))
    assert not torch.equal(pictures(run, None), pictures(run, "0"))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, source, drawings, one_thread):
    whole = adapt(drawings, tmp_path / "whole", source, steps=3)
    part = adapt(drawings, tmp_path / "part", source, steps=2)
    resume(part, steps=3)
    assert models.load_model(whole).hash == models.load_model(part).hash


def test_a_run_with_a_new_class_can_take_another(tmp_path, source, drawings):
    first = adapt(drawings, tmp_path / "first", source)
    second = fsgen.adapt(
        drawings, out=tmp_path / "second", source=first, new_class="elks", method="embedding", steps=1,
        device="cpu",
    )  # fmt: skip
    assert models.load_model(second).about["classes"] == ["0", "1", "2", "owls", "elks"]
    with refused(Code.EXISTS, "--new-class", "'owls'"):
        adapt(drawings, tmp_path / "third", first)


def test_the_other_methods_train_a_new_class_with_the_rest(tmp_path, source, drawings, monkeypatch):
    monkeypatch.setattr("fsgen.methods.ewc.TRIAL", 2)
    for method in ("ewc", "diffaugment", "embedding,diffaugment"):  # finetune: above
        options = {"ewc": {"samples": 4}} if "ewc" in method else {}
        run = adapt(drawings, tmp_path / method, source, method=method, options=options)
        assert models.load_model(run).spec["c_dim"] == 4
        if method == "ewc":  # the embeddings of other classes, which nothing pulls, do not make it 0
            assert float(config.read_toml(run / "config.toml")["method"]["ewc"]["lambda"]) > 0


def test_the_fisher_information_of_the_new_class_is_zero(source):
    """The Fisher of the wider model where only old classes are drawn, without another estimate."""
    before = models.load_model(source)
    after = with_class(before, "owls")
    old, new = before.generator("g"), after.generator("g")
    d, wider = discriminators(before, after)
    inputs = old.draw(6, torch.Generator().manual_seed(0))
    more = Inputs(inputs.z, torch.cat([inputs.y, torch.zeros(6, 1)], dim=1))
    family = before.family
    known = diagonal(old, lambda x, one, draw: family.log_likelihood(d(x, one)).sum(), [(inputs, None)])
    wanted = diagonal(new, lambda x, one, draw: family.log_likelihood(wider(x, one)).sum(), [(more, None)])
    found = with_class_fisher(known, family, 3)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-6 * value.max().item())
    embedding = next(key for key in found if key in family.embeddings)
    assert not found[embedding][:, 3].any() and found[embedding][:, :3].any()


def test_refused_new_classes(tmp_path, tiny, drawings):
    with refused(Code.INCOMPATIBLE, "--new-class", "tiny"):
        adapt(drawings, tmp_path / "run", tiny)
    with refused(Code.INCOMPATIBLE, "embedding", "tiny"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=tiny, method="embedding", device="cpu")
    conditional = make_source(tmp_path / "labelled.safetensors", **LABELS)
    with refused(Code.OUT_OF_RANGE, "--new-class", "name"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=conditional, new_class=" ", device="cpu")
    with refused(Code.EXISTS, "--new-class", "'1'"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=conditional, new_class="1", device="cpu")
    assert not (tmp_path / "run").exists()


def test_sub_folders_of_the_images_of_a_new_class_are_no_classes(tmp_path, drawings):
    source = make_source(tmp_path / "labelled.safetensors", **LABELS)
    folders = tmp_path / "folders"
    draw_images(folders / "0", 2)
    draw_images(folders / "1", 2, seed=1)
    assert adapt(folders, tmp_path / "run", source).exists()
