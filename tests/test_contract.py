"""Every family with every method and every two of them: two steps run, or the pair is refused.

In these steps frozen parameters stay bit-identical, and all others change.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from tiny import SPECS, draw_images, make_source

import fsgen
from fsgen import registry
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Family, Method, Technique, TrainingFree, Trait
from fsgen.io.run_folder import ADAPTER
from fsgen.methods.filter_selection import FilterSelection
from fsgen.methods.stack import Stack, check_fits
from fsgen.models import model as models
from fsgen.training.adapt import resume, technique_of

pytestmark = pytest.mark.usefixtures("quick")
PAIRS = [",".join(pair) for pair in combinations(registry.methods(), 2)]
QUICKEST_FIRST = ("dcgan", "cgan", "stylegan2", "biggan", "funit", "fastgan")
NEED_MORE = ("embedding", "instances", "nst")  # than the family: classes, features, VGG16's weights
OPTIONS = {  # shorter, or fit for networks so small
    "ewc": {"samples": 4}, "freezed": {"stages": 1}, "freezeg": {"resolutions": 1},
}  # fmt: skip


@pytest.fixture(scope="module", params=registry.families())
def source(request, tmp_path_factory):
    name = request.param
    assert name in SPECS, f"tests/tiny.py has no spec of a small {name} yet"
    return make_source(tmp_path_factory.mktemp("source") / f"{name}.safetensors", name=name)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Images in a sub-folder for each of three classes, to train a translating source."""
    folder = tmp_path_factory.mktemp("classes")
    for k in range(3):
        draw_images(folder / f"{k}", 2, seed=k)
    return folder


@pytest.mark.parametrize("method", registry.methods())
def test_two_steps_run_or_are_refused(tmp_path, source, drawings, classes, method, monkeypatch):
    by_class = source.stem == "funit" and not trains_nothing(method)  # those take images of one class
    ran = two_steps(tmp_path / "run", source, classes if by_class else drawings, method, monkeypatch)
    assert ran or not takes(method, source.stem) or method in NEED_MORE, "it fits, but was refused"


@pytest.mark.parametrize("stack", PAIRS)
def test_stacks_of_two_run_on_the_quickest_family_that_takes_them(tmp_path, drawings, stack, monkeypatch):
    family = next(filter(partial(takes, stack), QUICKEST_FIRST), QUICKEST_FIRST[0])
    source = make_source(tmp_path / "source.safetensors", name=family)
    ran = two_steps(tmp_path / "run", source, drawings, stack, monkeypatch)
    assert ran or not takes(stack, family) or "embedding" in stack, "it fits, but was refused"


@pytest.mark.slow
@pytest.mark.parametrize("stack", PAIRS)
def test_stacks_of_two_run_on_every_family_or_are_refused(
    tmp_path, source, drawings, classes, stack, monkeypatch
):
    images = classes if source.stem == "funit" else drawings
    ran = two_steps(tmp_path / "run", source, images, stack, monkeypatch)
    assert ran or not takes(stack, source.stem) or "embedding" in stack, "it fits, but was refused"


def trains_nothing(name: str) -> bool:
    return issubclass(registry.method(name), TrainingFree)


def takes(stack: str, family: str) -> bool:
    """Tell whether the methods fit one another and the family."""
    try:
        technique = technique_of(stack, {})
        if isinstance(technique, Stack):
            technique.check(registry.family(family)())
        else:
            check_fits(technique, registry.family(family)())
    except FsgenError as error:
        assert error.code is Code.INCOMPATIBLE
        return False
    return True


def two_steps(out: Path, source: Path, drawings: Path, stack: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Tell whether they ran; if not, they were refused in one line before anything was written."""
    monkeypatch.setattr("fsgen.methods.ewc.TRIAL", 2)
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
    except FsgenError as error:
        assert error.exit_code == 2 and error.code is not Code.USAGE and "\n" not in error.message
        assert not any(out.glob("*")), "refused, but only after the run had begun"
        return False
    before, after = load_file(source), load_file(run / "model.safetensors")
    after = {key: value for key, value in after.items() if not key.startswith("extra.")}
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    check_trained(source, run, technique_of(stack, options))
    loaded = fsgen.load(run, device="cpu")
    if "translation" in loaded.model.family.traits:
        loaded = loaded.translating(drawings)
    assert len(loaded.sample(2)) == 2
    done = fsgen.load(run, device="cpu").model.hash
    resume(run)  # with the methods' buffers
    assert fsgen.load(run, device="cpu").model.hash == done
    return True


def check_trained(source: Path, run: Path, technique: Stack | TrainingFree) -> None:
    """Compare what has changed with what the methods say they train. Where filters are selected one by one, a
    whole layer may be frozen; tests/methods compare filters."""
    model = models.load_model(source)
    if not isinstance(technique, Stack):
        after = models.load_model(run).networks
        for network, before in model.networks.items():
            assert all(torch.equal(value, after[network][key]) for key, value in before.items())
        assert not (run / ADAPTER).exists()
        return
    after = load_file(run / "state" / "latest.safetensors")
    for network, net in model.family.build(model.spec)._asdict().items():
        before = model.networks[technique.starts if network == "g" else network]
        names = [name for name, _ in net.named_parameters()]
        trained = {name for name in names if technique.trains(model.family, model.spec, network, name)}
        moved = {name for name in names if not torch.equal(before[name], weight_of(after, network, name))}
        by_filter = set()
        if any(isinstance(method, FilterSelection) for method in technique.methods):
            layers = model.family.filters(model.spec).layers[network]
            by_filter = {name for layer in layers for name in (layer.weight, *layer.also)}
        assert moved <= trained, f"frozen, but changed: {moved - trained}"
        assert trained - moved <= by_filter, f"trained, but unchanged: {trained - moved - by_filter}"
        assert moved or not trained
        if network == "g":
            assert (run / ADAPTER).exists() == (not trained), "written by methods that train what they add"


def weight_of(state: dict[str, torch.Tensor], network: str, name: str) -> torch.Tensor:
    """The weight ``name`` itself, also where a method has parametrised it."""
    module, _, leaf = f"{network}.{name}".rpartition(".")
    return state.get(f"{network}.{name}", state.get(f"{module}.parametrizations.{leaf}.original"))


@pytest.mark.parametrize("name", registry.families())
def test_families_describe_themselves(name):
    family = registry.family(name)
    assert issubclass(family, Family) and family.name == name and family.__doc__
    networks = family().build(SPECS[name])
    layers = family().layers(SPECS[name])
    listed = [key for keys in layers.values() for key in keys]
    assert sorted(listed) == sorted(dict(networks.g.named_parameters()))  # each parameter in one layer


@pytest.mark.parametrize("name", registry.methods())
def test_methods_describe_themselves(name):
    method = registry.method(name)
    assert issubclass(method, Technique) and method.name == name
    assert method.summary and "\n" not in method.summary and method.paper and method.__doc__
    assert all(isinstance(trait, Trait) for trait in method.needs)
    traits = {trait for family in registry.families() for trait in registry.family(family).traits}
    assert method.needs <= traits, "no family can run it"
    if method.trained == Method.trained:
        assert method.trains is Method.trains, "it says that it trains everything, but freezes something"
    assert (method.trained == "nothing") == trains_nothing(name) != issubclass(method, Method)


@pytest.mark.parametrize("kind", ["family", "method"])
def test_unknown_names_get_the_nearest(kind):
    known = next(iter(registry.families() if kind == "family" else registry.methods()))
    with refused(Code.UNKNOWN_NAME, known + "x", f"'{known}'"):
        getattr(registry, kind)(known + "x")
    every = registry.families() if kind == "family" else registry.methods()
    with refused(Code.UNKNOWN_NAME, "qqqq", *every):
        getattr(registry, kind)("qqqq")


def test_a_method_that_a_family_cannot_run_is_refused_first(tmp_path, source, drawings, monkeypatch):
    monkeypatch.setattr(registry.method("finetune"), "needs", frozenset({"norm_scale"}))
    with refused(Code.INCOMPATIBLE, "finetune needs norm_scale", source.stem):
        fsgen.adapt(drawings, out=tmp_path / "run", source=source, method="finetune")
    assert not (tmp_path / "run").exists()
