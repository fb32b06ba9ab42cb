"""FreezeD and FreezeG: what stays, to the bit, and what moves; names against published code: tests/parity."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import LABELS, SPECS, make_source

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.errors import FsgenError, Interrupted
from fsgen.interfaces import Method
from fsgen.methods.freezed import FreezeD
from fsgen.methods.freezeg import FreezeG
from fsgen.methods.stack import Stack
from fsgen.training import loop
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")
WITH_STAGES = [name for name in registry.families() if "stages" in registry.family(name).traits]
WITH_RESOLUTIONS = [name for name in registry.families() if "resolutions" in registry.family(name).traits]


def trained(method, name: str, **changes) -> dict[str, set[str]]:
    """What the loop would train of a small family's networks, and what not: "g", "d", "held"."""
    kind, spec = registry.family(name)(), SPECS[name] | changes
    nets = kind.build(spec)
    stack = Stack([method])
    stack.check(kind)
    state = loop.begin(
        kind, nets.g, nets.d, kind.recipe(spec), lambda who, key: stack.trains(kind, spec, who, key)
    )
    everything = {
        f"{who}.{key}" for who, net in (("g", nets.g), ("d", nets.d)) for key, _ in net.named_parameters()
    }
    free = {f"{who}.{key}" for who in ("g", "d") for key in state.trained[who]}
    return {"free": free, "held": everything - free}


def context(name: str, pretrained: str = "gd", **changes) -> SimpleNamespace:
    kind = registry.family(name)()
    return SimpleNamespace(family=kind, spec=SPECS[name] | changes, pretrained=frozenset(pretrained))


# ---- stages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_STAGES)
def test_stages_go_from_the_picture_on_and_leave_the_end_out(name):
    kind, spec = registry.family(name)(), SPECS[name]
    stages = kind.stages(spec)
    keys = [key for stage in stages for key in stage]
    d = kind.build(spec).d
    assert len(keys) == len(set(keys)) and set(keys) < {key for key, _ in d.named_parameters()}
    assert all(stages) and len(stages) > 1
    sides = [side for stage in stages for side in [_first_map(d, spec, stage)] if side]
    assert sides == sorted(sides, reverse=True)


def _first_map(d: torch.nn.Module, spec: dict, stage: list[str]) -> int:
    """The side of the first map that a layer of ``stage`` makes."""
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
    found = trained(FreezeD(FreezeD.Options(layers=str(layers))), "stylegan2", d_architecture=architecture)
    one_less = trained(
        FreezeD(FreezeD.Options(layers=str(layers - 1))), "stylegan2", d_architecture=architecture
    )
    assert {key.rpartition(".")[0] for key in found["held"] - one_less["held"]} == {f"d.{last}"}
    every = trained(FreezeD(FreezeD.Options(layers="99")), "stylegan2", d_architecture=architecture, **LABELS)
    assert {key.split(".")[1] for key in every["free"] if key.startswith("d.")} == {"b4", "mapping"}


def test_published_defaults():
    assert FreezeD.Options() == FreezeD.Options(stages=3, layers="auto")
    at_256 = registry.family("stylegan2")().fresh(256, width=8)
    kind = registry.family("stylegan2")()
    held = FreezeD().frozen(kind.stages(at_256))
    assert {key.split(".")[0] for key in held} == {"b256", "b128", "b64", "b32"}
    assert held == FreezeD(FreezeD.Options(layers="13")).frozen(kind.stages(at_256))  # NVIDIA's --freezed 13
    held = FreezeG().frozen(kind, at_256)
    assert {key.split(".")[1] for key in held if key.startswith("synthesis")} == {"b4", "b8", "b16", "b32"}
    assert any(key.startswith("mapping.") for key in held)


@pytest.mark.parametrize("name", WITH_RESOLUTIONS)
def test_the_finest_resolutions_of_g_are_trained_up_to_the_picture(name):
    kind, spec = registry.family(name)(), SPECS[name]
    held = trained(FreezeG(FreezeG.Options(resolutions=1)), name)["held"]
    layers = list(kind.layers(spec).values())
    assert held == {f"g.{key}" for keys in layers for key in keys if f"g.{key}" in held}  # of G alone
    assert all(f"g.{key}" in held for key in layers[0]) and not any(f"g.{key}" in held for key in layers[-1])
    more = trained(FreezeG(FreezeG.Options(resolutions=2)), name)["held"]
    assert more < held


class Alone(Method):
    """Trains without a critic."""

    name, adversarial = "alone", False


# ---- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "where", "message"),
    [
        (FreezeD(), context("stylegan2", "g"), "this source has none"),
        (FreezeD(FreezeD.Options(stages=4)), context("stylegan2"), "this discriminator has 4 stages"),
        (FreezeD(FreezeD.Options(layers="0")), context("stylegan2"), "freezed would freeze nothing"),
        (FreezeG(), context("dcgan"), "freezeg would freeze nothing: this generator has 3 resolutions"),
    ],
)
def test_nothing_to_freeze_is_refused(method, where, message):
    with pytest.raises(FsgenError, match=message):
        method.setup(where)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FreezeD(FreezeD.Options(layers="few")), "--freezed-layers few is not auto"),
        (lambda: FreezeD(FreezeD.Options(stages=-1)), "--freezed-stages -1 is below 0"),
        (lambda: FreezeG(FreezeG.Options(resolutions=0)), "--freezeg-resolutions 0 would train nothing"),
        (lambda: Stack([FreezeD()]).check(registry.family("cgan")()), "freezed needs stages"),
        (lambda: Stack([FreezeG()]).check(registry.family("funit")()), "freezeg needs resolutions"),
        (lambda: Stack([FreezeG()]).check(registry.family("stylegan2")(), scratch=True), "needs a source"),
        (lambda: Stack([FreezeD(), Alone()]).check(registry.family("stylegan2")()), "works on the critic"),
    ],
)
def test_bad_options_and_families_are_refused(make, message):
    with pytest.raises(FsgenError, match=message):
        make()


# ---- a run ---------------------------------------------------------------------------------------------


def adapt(drawings, out, source, method="freezed,freezeg,ada", **more):
    options = {"freezeg": {"resolutions": 2}, "ada": {"kimg": "0.02"}}
    return fsgen.adapt(
        drawings, out=out, source=source, method=method, steps=6, save_every=2, device="cpu",
        options={name: value for name, value in options.items() if name in method}, **more,
    )  # fmt: skip


def test_what_is_frozen_stays_to_the_bit_the_rest_moves_and_a_stop_changes_nothing(tmp_path, tiny, drawings):
    whole = adapt(drawings, tmp_path / "whole", tiny)
    before, after = load_file(tiny), load_file(whole / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    held = (
        trained(FreezeD(), "stylegan2")["held"]
        | trained(FreezeG(FreezeG.Options(resolutions=2)), "stylegan2")["held"]
    )
    buffers = {key for key in before if key.endswith(("noise_const", "w_avg"))}
    for who in ("g", "d"):
        mine = {key for key in before if key.startswith(f"{who}.")} - buffers
        assert moved & mine == mine - held
    for key in held:
        if key.startswith("g."):  # the average starts at g
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
    with pytest.raises(FsgenError, match="freezed keeps what the source's discriminator sees"):
        adapt(drawings, tmp_path / "run", source, "freezed")
    assert not any((tmp_path / "run").glob("*"))
