"""FreezeD and FreezeG: frozen and trained parameters; names against the published code: tests/parity."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from tiny import LABELS, SPECS, make_source

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, Interrupted
from fsgen.interfaces import Method
from fsgen.methods.freezed import FreezeD
from fsgen.methods.freezeg import FreezeG
from fsgen.methods.stack import Stack
from fsgen.training import loop
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")
WITH_STAGES = [name for name in registry.families() if "stages" in registry.family(name).traits]
WITH_RESOLUTIONS = [name for name in registry.families() if "resolutions" in registry.family(name).traits]


def split(method, name: str, **changes) -> dict[str, set[str]]:
    """The parameters of a small family's networks that the loop trains, and the frozen ones."""
    kind, spec = registry.family(name)(), SPECS[name] | changes
    nets = kind.build(spec)
    stack = Stack([method])
    stack.check(kind)
    state = loop.begin(kind, nets.g, nets.d, kind.recipe(spec), partial(stack.trains_parameter, kind, spec))
    everything = {
        f"{who}.{key}" for who, net in (("g", nets.g), ("d", nets.d)) for key, _ in net.named_parameters()
    }
    trained = {f"{who}.{key}" for who in ("g", "d") for key in state.trained[who]}
    return {"trained": trained, "frozen": everything - trained}


def context(name: str, pretrained: str = "gd", **changes) -> SimpleNamespace:
    kind = registry.family(name)()
    return SimpleNamespace(family=kind, spec=SPECS[name] | changes, pretrained=frozenset(pretrained))


# ---- stages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_STAGES)
def test_stages_go_from_the_image_on_and_leave_out_the_end(name):
    kind, spec = registry.family(name)(), SPECS[name]
    stages = kind.stages(spec)
    keys = [key for stage in stages for key in stage]
    d = kind.build(spec).d
    assert len(keys) == len(set(keys)) and set(keys) < {key for key, _ in d.named_parameters()}
    assert all(stages) and len(stages) > 1
    sides = [side for stage in stages for side in [_first_map(d, spec, stage)] if side]
    assert sides == sorted(sides, reverse=True)


def _first_map(d: torch.nn.Module, spec: dict, stage: list[str]) -> int:
    """The side of the first feature map of ``stage``."""
    seen: list[int] = []
    owners = {key.rpartition(".")[0] for key in stage}
    hooks = [
        module.register_forward_hook(lambda m, i, out: seen.append(out.shape[-1] if out.ndim == 4 else 0))
        for name, module in d.named_modules()
        if name in owners
    ]
    n, size = 4, spec["resolution"]
    with torch.no_grad():
        d.eval()(torch.zeros(n, spec["channels"], size, size), _inputs(spec, n))
    for hook in hooks:
        hook.remove()
    return seen[0]


def _inputs(spec: dict, n: int) -> SimpleNamespace:
    return SimpleNamespace(y=torch.eye(max(1, spec.get("c_dim", 0)))[[0] * n], h=None)


@pytest.mark.parametrize(
    ("architecture", "layers", "last"),
    [("resnet", 4, "b16.skip"), ("skip", 4, "b8.fromrgb"), ("orig", 3, "b16.conv1")],
)
def test_nvidia_counts_layers_by_architecture(architecture, layers, last):
    found = split(FreezeD(FreezeD.Options(layers=str(layers))), "stylegan2", d_architecture=architecture)
    one_less = split(
        FreezeD(FreezeD.Options(layers=str(layers - 1))), "stylegan2", d_architecture=architecture
    )
    assert {key.rpartition(".")[0] for key in found["frozen"] - one_less["frozen"]} == {f"d.{last}"}
    every = split(FreezeD(FreezeD.Options(layers="99")), "stylegan2", d_architecture=architecture, **LABELS)
    assert {key.split(".")[1] for key in every["trained"] if key.startswith("d.")} == {"b4", "mapping"}


def test_published_defaults():
    assert FreezeD.Options() == FreezeD.Options(stages=3, layers="auto")
    at_256 = registry.family("stylegan2")().fresh(256, width=8)
    kind = registry.family("stylegan2")()
    frozen = FreezeD().frozen(kind.stages(at_256))
    assert {key.split(".")[0] for key in frozen} == {"b256", "b128", "b64", "b32"}
    nvidia = FreezeD(FreezeD.Options(layers="13"))  # --freezed 13
    assert frozen == nvidia.frozen(kind.stages(at_256))
    frozen = FreezeG().frozen(kind, at_256)
    assert {key.split(".")[1] for key in frozen if key.startswith("synthesis")} == {"b4", "b8", "b16", "b32"}
    assert any(key.startswith("mapping.") for key in frozen)


@pytest.mark.parametrize("name", WITH_RESOLUTIONS)
def test_the_finest_resolutions_of_g_are_trained_up_to_the_image(name):
    kind, spec = registry.family(name)(), SPECS[name]
    frozen = split(FreezeG(FreezeG.Options(resolutions=1)), name)["frozen"]
    layers = list(kind.layers(spec).values())
    assert frozen == {f"g.{key}" for keys in layers for key in keys if f"g.{key}" in frozen}  # of G alone
    assert frozen >= {f"g.{key}" for key in layers[0]} and not frozen & {f"g.{key}" for key in layers[-1]}
    more = split(FreezeG(FreezeG.Options(resolutions=2)), name)["frozen"]
    assert more < frozen


class Alone(Method):
    """Trains without a discriminator."""

    name, adversarial = "alone", False


# ---- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "where", "named"),
    [
        (FreezeD(), context("stylegan2", "g"), ["freezed", "discriminator"]),
        (FreezeD(FreezeD.Options(stages=4)), context("stylegan2"), ["--freezed-stages 3", "4 stages"]),
        (FreezeD(FreezeD.Options(layers="0")), context("stylegan2"), ["freezed", "freeze nothing"]),
        (FreezeG(), context("dcgan"), ["--freezeg-resolutions 2", "freeze nothing", "3 resolutions"]),
    ],
)
def test_nothing_to_freeze_is_refused(method, where, named):
    with refused(Code.INCOMPATIBLE, *named):
        method.setup(where)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FreezeD(FreezeD.Options(layers="few")), ["--freezed-layers few"]),
        (lambda: FreezeD(FreezeD.Options(stages=-1)), ["--freezed-stages -1"]),
        (lambda: FreezeG(FreezeG.Options(resolutions=0)), ["--freezeg-resolutions 0"]),
    ],
)
def test_options_out_of_range_are_refused(make, named):
    with refused(Code.OUT_OF_RANGE, *named):
        make()


@pytest.mark.parametrize(
    ("methods", "family", "scratch", "named"),
    [
        ([FreezeD()], "cgan", False, ["freezed needs stages", "cgan"]),
        ([FreezeG()], "funit", False, ["freezeg needs resolutions", "funit"]),
        ([FreezeG()], "stylegan2", True, ["freezeg needs a source"]),
        ([FreezeD(), Alone()], "stylegan2", False, ["freezed needs a discriminator", "alone"]),
    ],
)
def test_families_and_methods_that_do_not_fit_are_refused(methods, family, scratch, named):
    with refused(Code.INCOMPATIBLE, *named):
        Stack(methods).check(registry.family(family)(), scratch=scratch)


# ---- a run ---------------------------------------------------------------------------------------------


def adapt(drawings, out, source, method="freezed,freezeg,ada", **more):
    options = {"freezeg": {"resolutions": 2}, "ada": {"kimg": "0.02"}}
    return fsgen.adapt(
        drawings, out=out, source=source, method=method, steps=6, save_every=2, device="cpu",
        options={name: value for name, value in options.items() if name in method}, **more,
    )  # fmt: skip


def test_a_run_trains_all_but_the_frozen_parameters_and_resumes_exactly(tmp_path, tiny, drawings):
    whole = adapt(drawings, tmp_path / "whole", tiny)
    before, after = load_file(tiny), load_file(whole / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    frozen = (
        split(FreezeD(), "stylegan2")["frozen"]
        | split(FreezeG(FreezeG.Options(resolutions=2)), "stylegan2")["frozen"]
    )
    buffers = {key for key in before if key.endswith(("noise_const", "w_avg"))}
    for who in ("g", "d"):
        mine = {key for key in before if key.startswith(f"{who}.")} - buffers
        assert moved & mine == mine - frozen
    for key in frozen:
        if key.startswith("g."):  # the moving average starts at g
            assert torch.equal(after["g_ema" + key[1:]], before[key])
    left = iter(range(3))
    with pytest.raises(Interrupted):
        adapt(drawings, tmp_path / "cut", tiny, callbacks=Callbacks(stop=lambda: next(left, None) is None))
    cut = resume(tmp_path / "cut")
    for name in ("model.safetensors", "state/latest.safetensors"):
        ours, theirs = (load_file(run / name) for run in (whole, cut))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_source_without_a_discriminator_is_refused_before_anything_is_written(tmp_path, drawings):
    source = make_source(tmp_path / "source.safetensors", ("g_ema",))
    with refused(Code.INCOMPATIBLE, "freezed", "discriminator"):
        adapt(drawings, tmp_path / "run", source, "freezed")
    assert not any((tmp_path / "run").glob("*"))
