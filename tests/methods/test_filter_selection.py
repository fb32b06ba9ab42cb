"""Common to adam and rick: filters of the families, lengths of phases, resumed runs, refusals."""

from __future__ import annotations

import pytest
from refusals import refused
from safetensors.torch import load_file
from tiny import LABELS, SPECS, make_source

import fsgen
from fsgen import registry
from fsgen.callbacks import Callbacks
from fsgen.errors import Code, Interrupted
from fsgen.interfaces import Claim
from fsgen.io import checkpoint
from fsgen.methods.adam import PROBE, SAMPLES, AdAM
from fsgen.methods.adam import RUN as ADAM_RUN
from fsgen.methods.rick import EVERY, RICK, WARMUP
from fsgen.methods.rick import RUN as RICK_RUN
from fsgen.nn.filter_masks import axis_of
from fsgen.training.adapt import resume

pytestmark = pytest.mark.usefixtures("one_thread")
WITH_FILTERS = [name for name in registry.families() if "filters" in registry.family(name).traits]
OPTIONS = {"adam": {"probe": "2", "samples": "4"}, "rick": {"warmup": "1", "every": "2", "prune": 10.0}}


def adapt(images, out, source, method, steps=5, **options):
    return fsgen.adapt(
        images, out=out, source=source, method=method, steps=steps, device="cpu", save_every=2,
        options={method: OPTIONS[method]} if method in OPTIONS else {}, recipe={"batch": 4}, **options,
    )  # fmt: skip


# ---- filters of the families ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_FILTERS)
@pytest.mark.parametrize("labelled", [False, True])
def test_filters_are_those_of_the_networks(name, labelled):
    spec = SPECS[name] | (LABELS if labelled and name == "stylegan2" else {})
    family = registry.family(name)()
    nets, filters = dict(zip("gd", family.build(spec), strict=True)), family.filters(spec)
    for who, net in nets.items():
        known, seen = dict(net.named_parameters()), set()
        assert filters.layers[who]
        for layer in filters.layers[who]:
            count = known[layer.weight].shape[axis_of(net, layer.weight)]
            assert known[layer.weight].ndim >= 2
            assert all(known[key].shape == (count,) for key in layer.also)
            assert not seen & {layer.weight, *layer.also}
            seen |= {layer.weight, *layer.also}
        rest = filters.beside if who == "g" else filters.head
        assert not rest & seen and (who == "g" or rest & known.keys())
        assert known.keys() - rest - seen  # what sees the latent, or the picture, is in neither


def test_filters_of_stylegan2_are_rosinalitys_convs():
    """At 256 px: 12 styled convolutions of G, 6 blocks of D, as the published masks count them."""
    family = registry.family("stylegan2")()
    spec = family.fresh(256)
    filters = family.filters(spec)
    pools = [layer.pool for layer in filters.layers["g"]]
    assert (pools.count("convolutions"), pools.count("modulations")) == (12, 12)
    assert len(filters.layers["d"]) == 18
    named = {layer.weight.split(".")[-2] for layer in filters.layers["d"]}
    assert named == {"conv0", "conv1", "skip"}
    without = family.filters(spec | {"d_architecture": "orig"}).layers["d"]
    assert {layer.weight.split(".")[-2] for layer in without} == {"conv0", "conv1"}


# ---- lengths of phases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "option", "published", "of"),
    [
        (AdAM, "probe", PROBE, ADAM_RUN), (AdAM, "samples", SAMPLES, PROBE),
        (RICK, "warmup", WARMUP, RICK_RUN), (RICK, "every", EVERY, RICK_RUN),
    ],
)  # fmt: skip
def test_shorter_runs_have_shorter_phases(method, option, published, of):
    lengths = {}
    for steps in (1, of // 2, of, 3 * of):
        some = method()
        lengths[steps] = some.resolve_length(option, published, of, steps)
        assert getattr(some.options, option) == str(lengths[steps]) == str(some.lengths[option])
    least = max(1, published // of)
    assert lengths == {1: least, of // 2: published // 2, of: published, 3 * of: published}
    given = method(method.Options(**{option: "7"}))
    assert given.resolve_length(option, published, of, 10**6) == 7 and getattr(given.options, option) == "7"


# ---- resumed runs --------------------------------------------------------------------------------------


def stopping(after: int) -> Callbacks:
    """Ask to stop after so many steps; calls while preparing do not count."""
    steps, preparing = after, False

    def progress(task, done, total):
        nonlocal preparing
        preparing = True

    def stop():
        nonlocal steps, preparing
        steps -= not preparing
        preparing = False
        return steps <= 0

    return Callbacks(progress=progress, stop=stop)


@pytest.mark.parametrize(
    ("method", "family"), [("adam", "stylegan2"), ("rick", "stylegan2"), ("rick", "dcgan")]
)
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, drawings, method, family):
    source = make_source(tmp_path / "source.safetensors", name=family)
    whole = adapt(drawings, tmp_path / "whole", source, method)
    for stop in (1, 2, 4):  # rick: before its estimates, at one and between two
        with pytest.raises(Interrupted):
            adapt(drawings, tmp_path / f"{stop}", source, method, callbacks=stopping(stop))
        resume(tmp_path / f"{stop}")
        for name in ("model.safetensors", "state/latest.safetensors"):
            same = [checkpoint.hash_tensors(load_file(run / name)) for run in (whole, tmp_path / f"{stop}")]
            assert same[0] == same[1], (stop, name)


# ---- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adam", "rick"])
def test_refusals(tmp_path, tiny, drawings, method):
    def check(code, *named, source=tiny, name=method, **options):
        with refused(code, *named) as caught:
            fsgen.adapt(drawings, out=tmp_path / "run", source=source, method=name, steps=2, device="cpu",
                        options={method: options} if options else {})  # fmt: skip
        assert caught.value.exit_code == 2 and not any((tmp_path / "run").glob("*"))

    for family in ("cgan", "funit"):
        source = make_source(tmp_path / f"{family}.safetensors", name=family)
        check(Code.INCOMPATIBLE, f"{method} needs", family, source=source)
    alone = make_source(tmp_path / "alone.safetensors", ("g_ema",))
    check(Code.INCOMPATIBLE, method, "discriminator", source=alone)
    for first, second, claim in (
        ("ewc", method, Claim.FREEZING), ("adam", "rick", Claim.FREEZING),
        ("freezed", method, Claim.WEIGHTS_D), (method, "freezeg", Claim.WEIGHTS_G),
    ):  # fmt: skip
        check(Code.INCOMPATIBLE, f"{first} and {second}", claim.value, name=f"{first},{second}")
    option = "probe" if method == "adam" else "every"
    for wrong in ("0", "soon", "1.5", "-3"):
        check(Code.OUT_OF_RANGE, f"--{method}-{option} {wrong}", **{option: wrong})
    if method == "adam":
        check(Code.OUT_OF_RANGE, "--adam-percentile 101", percentile=101.0)
    else:
        check(Code.OUT_OF_RANGE, "--rick-prune", "50", "40", prune=50.0)
        check(Code.OUT_OF_RANGE, "--rick-samples 0", samples=0)


def test_with_augmentation(tmp_path, tiny, drawings):
    for method in ("adam", "rick"):
        name = f"{method},diffaugment"
        run = fsgen.adapt(
            drawings, out=tmp_path / method, source=tiny, method=name, steps=2, device="cpu",
            options={method: OPTIONS[method]},
        )  # fmt: skip
        assert load_file(run / "model.safetensors").keys() == load_file(tiny).keys()
