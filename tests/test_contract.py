"""Every family with every method and every two of them: two steps run, or one sentence says why not.

In these steps what is frozen stays to the bit, and the rest moves.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import SPECS, draw_images, make_source

import fsgen
from fsgen import registry
from fsgen.errors import FsgenError
from fsgen.interfaces import Family, Method
from fsgen.methods.filter_selection import FilterSelection
from fsgen.models import model as models
from fsgen.training.adapt import resume, technique_of

pytestmark = pytest.mark.usefixtures("quick")
PAIRS = [",".join(pair) for pair in combinations(registry.methods(), 2)]
QUICKEST_FIRST = ("dcgan", "cgan", "stylegan2", "biggan", "funit", "fastgan")
OPTIONS = {  # what would take long otherwise, or take nothing of networks so small
    "ewc": {"samples": 4}, "freezed": {"stages": 1}, "freezeg": {"resolutions": 1},
}  # fmt: skip


@pytest.fixture(scope="module", params=registry.families())
def source(request, tmp_path_factory):
    name = request.param
    assert name in SPECS, f"tests/tiny.py has no spec of a small {name} yet"
    return make_source(tmp_path_factory.mktemp("source") / f"{name}.safetensors", name=name)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Pictures in a sub-folder for each of three classes: what a source that translates learns from."""
    folder = tmp_path_factory.mktemp("classes")
    for k in range(3):
        draw_images(folder / f"{k}", 2, seed=k)
    return folder


@pytest.mark.parametrize("method", registry.methods())
def test_two_steps_run_or_are_refused(tmp_path, source, drawings, classes, method, monkeypatch):
    by_class = source.stem == "funit" and not registry.method(method).conditions  # those are of one class
    ran = two_steps(tmp_path / "run", source, classes if by_class else drawings, method, monkeypatch)
    assert ran or not takes(method, source.stem) or method in ("embedding", "nst"), "allowed, and yet refused"


@pytest.mark.parametrize("stack", PAIRS)
def test_stacks_of_two_run_on_the_quickest_family_that_takes_them(tmp_path, drawings, stack, monkeypatch):
    family = next(filter(partial(takes, stack), QUICKEST_FIRST), QUICKEST_FIRST[0])
    source = make_source(tmp_path / "source.safetensors", name=family)
    ran = two_steps(tmp_path / "run", source, drawings, stack, monkeypatch)
    assert ran or not takes(stack, family) or "embedding" in stack, "allowed, and yet refused"


@pytest.mark.slow
@pytest.mark.parametrize("stack", PAIRS)
def test_stacks_of_two_run_on_every_family_or_are_refused(
    tmp_path, source, drawings, classes, stack, monkeypatch
):
    images = classes if source.stem == "funit" else drawings
    ran = two_steps(tmp_path / "run", source, images, stack, monkeypatch)
    assert ran or not takes(stack, source.stem) or "embedding" in stack, "allowed, and yet refused"


def takes(stack: str, family: str) -> bool:
    """Whether the methods go together, and with the family."""
    try:
        technique_of(stack, {}).check(registry.family(family)())
    except FsgenError:
        return False
    return True


def two_steps(out: Path, source: Path, drawings: Path, stack: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether they ran; if not, they were refused as they should be."""
    monkeypatch.setattr("fsgen.methods.ewc.PILOT", 2)
    options = {name: OPTIONS[name] for name in stack.split(",") if name in OPTIONS}
    try:
        run = fsgen.adapt(
            drawings,
            out=out,
            source=source,
            method=stack,
            options=options,
            recipe={"batch": 4},  # some are published with hundreds
            steps=2,
            device="cpu",
        )
    except FsgenError as refused:
        assert refused.exit_code == 2 and "\n" not in refused.message
        assert not any(out.glob("*")), "refused, but only after the run was begun"
        return False
    before, after = load_file(source), load_file(run / "model.safetensors")
    after = {key: value for key, value in after.items() if not key.startswith("extra.")}
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    what_is_frozen_stays_and_the_rest_moves(source, run, technique_of(stack, options))
    loaded = fsgen.load(run, device="cpu")
    if "translation" in loaded.model.family.traits:
        loaded = loaded.translating(drawings)
    assert len(loaded.sample(2)) == 2
    done = fsgen.load(run, device="cpu").model.hash
    resume(run)  # restores the methods' state
    assert fsgen.load(run, device="cpu").model.hash == done
    return True


def what_is_frozen_stays_and_the_rest_moves(source: Path, run: Path, stack: Stack) -> None:
    """By what the methods say they train. Where they choose filter by filter a layer may be held as a whole:
    which filters are is looked at in tests/methods."""
    model = models.load(source)
    if stack.conditions:
        after = models.load(run).networks
        for network, before in model.networks.items():
            assert all(torch.equal(value, after[network][key]) for key, value in before.items())
        return
    after = load_file(run / "state" / "latest.safetensors")
    for player, net in model.family.build(model.spec)._asdict().items():
        before = model.networks[stack.starts if player == "g" else player]
        names = [name for name, _ in net.named_parameters()]
        trained = {name for name in names if stack.trains(model.family, model.spec, player, name)}
        moved = {name for name in names if not torch.equal(before[name], kept(after, player, name))}
        by_filter = set()
        if any(isinstance(method, FilterSelection) for method in stack.methods):
            layers = model.family.filters(model.spec).layers[player]
            by_filter = {name for layer in layers for name in (layer.weight, *layer.also)}
        assert moved <= trained, f"frozen, and yet moved: {moved - trained}"
        assert trained - moved <= by_filter, f"trained, and did not move: {trained - moved - by_filter}"
        assert moved or not trained


def kept(state: dict[str, torch.Tensor], player: str, name: str) -> torch.Tensor:
    """The weight ``name`` itself, where a method has given it another parametrisation too."""
    module, _, leaf = f"{player}.{name}".rpartition(".")
    return state.get(f"{player}.{name}", state.get(f"{module}.parametrizations.{leaf}.original"))


@pytest.mark.parametrize("name", registry.families())
def test_families_say_who_they_are(name):
    family = registry.family(name)
    assert issubclass(family, Family) and family.name == name and family.__doc__
    networks = family().build(SPECS[name])
    layers = family().layers(SPECS[name])
    listed = [key for keys in layers.values() for key in keys]
    assert sorted(listed) == sorted(dict(networks.g.named_parameters()))  # each parameter in one layer


@pytest.mark.parametrize("name", registry.methods())
def test_methods_say_who_they_are(name):
    method = registry.method(name)
    assert issubclass(method, Method) and method.name == name
    assert method.summary and "\n" not in method.summary and method.paper and method.__doc__
    traits = {trait for family in registry.families() for trait in registry.family(family).traits}
    assert method.needs <= traits, "no family can run it"
    if method.trained == Method.trained:
        assert method.trains is Method.trains, "says that it trains everything, and keeps something"
    assert (method.trained == "nothing") == method.conditions


@pytest.mark.parametrize("kind", ["family", "method"])
def test_unknown_names_get_the_nearest(kind):
    known = next(iter(registry.families() if kind == "family" else registry.methods()))
    with pytest.raises(FsgenError, match=f"did you mean '{known}'"):
        getattr(registry, kind)(known + "x")
    with pytest.raises(FsgenError, match="known: "):
        getattr(registry, kind)("qqqq")


def test_a_method_that_a_family_cannot_run_is_refused_first(tmp_path, source, drawings, monkeypatch):
    monkeypatch.setattr(registry.method("finetune"), "needs", frozenset({"norm_scale"}))
    with pytest.raises(FsgenError, match=r"finetune needs norm_scale; the family .* has none"):
        fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="finetune")
    assert not (tmp_path / "run").exists()
