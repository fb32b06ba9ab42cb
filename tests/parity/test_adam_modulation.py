"""AdAM against the published implementation: modulated layers, Fisher information, choice and masks.

The published kernel modulation and scale are named options; ``alt.*`` in the case is the default's.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import Case, cases, close, each, skipped
from sg2 import FAMILY
from torch import Tensor, nn

from fsgen.families.stylegan2 import convert
from fsgen.interfaces import Foreign, Inputs
from fsgen.methods.adam import AdAM, above
from fsgen.methods.filter_selection import FilterSelection
from fsgen.methods.stack import Stack
from fsgen.nn.filter_masks import percentiles
from fsgen.nn.layers import EqualConv, EqualLinear, ModulatedConv
from fsgen.nn.modulation import added, modulate, original
from fsgen.training.fisher import of_both

PUBLISHED = {"kernels": "published", "scale": "published"}
KIND = each("adam-modulation")
LAYERS = ("linear", "linear_act", "modconv", "modconv_up", "torgb", "dconv", "noise")
Tensors = dict[str, Tensor]


def part(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


# ---- the reference's names -------------------------------------------------------------------------------


def base(key: str) -> tuple[str, str]:
    """The reference's parameter that a vector modulates, and which vector it is; itself and "" else."""
    match = re.fullmatch(r"(.*\.)([uvb])_vector", key)
    if match is None:
        return key, ""
    owner = re.sub(r"conv\.kml_fc\.$", "conv.modulation.", re.sub(r"^kml_fc\.", "style.", match[1]))
    is_weight = match[2] in "uv" or owner.endswith("noise.")
    return owner + ("weight" if is_weight else "bias"), match[2]


def ours(who: str, keys: list[str]) -> dict[str, str]:
    """The reference's key -> ours in a network whose parameters are modulated, but for D's head."""
    bases = sorted({base(key)[0] for key in keys})
    rename = convert.convert_g if who == "g" else convert.convert_d
    marked = rename({key: torch.full((1, 1, 1, 1), float(i)) for i, key in enumerate(bases)})
    names = {bases[int(value.flatten()[0])]: name for name, value in marked.items()}
    out = {}
    for key in keys:
        reference, vector = base(key)
        name = names[reference]
        whole = name.endswith("const") or (who == "d" and name.startswith("b4."))
        out[key] = added(name, vector) if vector else name if whole else original(name)
    return out


def method_of(spec: dict, kind: type[AdAM] = AdAM, **options) -> AdAM:
    method = kind(AdAM.Options(**options))
    context = SimpleNamespace(family=FAMILY, spec=spec, seed=0, pretrained={"g", "d"})
    FilterSelection.setup(method, context)  # without the probe
    return method


def fill(net: nn.Module, values: Tensors) -> None:
    with torch.no_grad():
        for name, value in values.items():
            there = net.get_parameter(name)
            there.copy_(value.reshape(there.shape))


# ---- single layers ---------------------------------------------------------------------------------------


def layer_of(case: Case, name: str) -> tuple[nn.Module, Tensors]:
    """Our layer with the reference's weights, not yet modulated, and its vectors by our name."""
    given = part(case.tensors(), f"in.{name}.") | part(case.tensors("weights.safetensors"), f"{name}.")
    values = {}
    for key, value in given.items():
        if re.search(r"(weight|bias|_vector)$", key):
            reference, vector = base(f"noise.{key}" if name == "noise" else f"conv.{key}")
            owner = "affine." if "modulation." in reference else ""
            values[owner + reference.rpartition(".")[2], vector] = value
    weight = values["weight", ""]
    if name == "noise":
        layer = nn.Module()
        layer.weight = nn.Parameter(torch.zeros([]))
    elif name.startswith("linear"):
        scale = case.info["scales"][f"{name}.scale"]
        layer = EqualLinear(
            *weight.shape[::-1], lr_mul=scale * len(weight) ** 0.5, activate=name == "linear_act"
        )
    elif name == "dconv":
        layer = EqualConv(weight.shape[1], weight.shape[0], weight.shape[-1], down=True)
    else:
        _, outputs, inputs, size, _ = weight.shape
        layer = ModulatedConv(
            inputs, outputs, size, values["affine.weight", ""].shape[1],
            up=name == "modconv_up", demodulate=name != "torgb",
        )  # fmt: skip
    fill(layer, {key: value for (key, vector), value in values.items() if not vector})
    return layer, {added(f"root.{key}", v).removeprefix("root."): x for (key, v), x in values.items() if v}


def run_layer(layer: nn.Module, name: str, given: Tensors) -> Tensor:
    if name == "noise":
        return given["x"] + layer.weight * given["noise"]
    return layer.convolve(given["x"], given["style"]) if "style" in given else layer(given["x"])


def each_layer() -> list[Any]:
    """The layers that each case has by themselves."""
    found = [
        pytest.param(case, name, id=f"{case.label}-{name}")
        for case in cases("adam-modulation")
        for name in LAYERS
        if f"out.{name}.y" in case.names()
    ]
    return found or [skipped(("adam-modulation",), values=2)]


@pytest.mark.parametrize("case, name", each_layer())
def test_layers(case, name):
    given, wanted = part(case.tensors(), f"in.{name}."), part(case.tensors(), f"out.{name}.")
    layer, vectors = layer_of(case, name)
    parent = nn.ModuleDict({"root": layer})
    names = [key for key, _ in parent.named_parameters()]
    modulate(parent, names, torch.Generator(), reshaped=True, scaled=True)
    fill(layer, vectors)
    y = run_layer(layer, name, given)
    close(y, wanted["y"])
    if "weight" in wanted:
        gain = layer.parametrizations.weight[0].gain  # the case's is without the scale
        close(layer.weight / gain, wanted["weight"].reshape(layer.weight.shape))
    if "grad_y" in given:
        (y * given["grad_y"]).sum().backward()
        vectors = {key.removeprefix("grad."): value for key, value in wanted.items() if "grad." in key}
        for key, value in vectors.items():
            owner = "affine.parametrizations" if "kml_fc" in key else "parametrizations"
            leaf = "bias" if key.endswith("b_vector") else "weight"
            close(layer.get_parameter(f"{owner}.{leaf}.0.{key[-8]}").grad, value, grad=True)


@pytest.mark.parametrize("case", KIND)
def test_the_default_gives_each_filter_its_own_v(case):
    wanted = {key.split(".")[1]: value for key, value in case.tensors().items() if key.startswith("alt.")}
    for name, weight in wanted.items():
        layer, vectors = layer_of(case, name)
        parent = nn.ModuleDict({"root": layer})
        modulate(parent, [key for key, _ in parent.named_parameters()], torch.Generator())
        fill(layer, vectors)
        close(layer.weight, weight[0])


# ---- Fisher information of whole networks ----------------------------------------------------------------


@pytest.fixture(scope="module", params=KIND)
def networks(request) -> tuple:
    """(case, G, D) in float64 with the case's weights and vectors, modulated as published."""
    case = request.param
    if case is None:
        pytest.skip("no case")
    given = case.tensors("weights.safetensors")
    states = {who: part(given, f"{who}.") for who in "gd"}
    if not all(states.values()):
        pytest.skip("the case has no networks")
    plain = {
        who: {key: value for key, value in state.items() if not base(key)[1]} for who, state in states.items()
    }
    converted = FAMILY.convert(Foreign("safetensors", plain))
    nets = dict(zip("gd", FAMILY.build(converted.spec), strict=True))
    nets["g"].load_state_dict(converted.g if converted.g is not None else converted.g_ema)
    nets["d"].load_state_dict(converted.d)
    method_of(converted.spec, **PUBLISHED).modulate(nets["g"], nets["d"], "probe")
    for who, net in nets.items():
        keys = [key for key in states[who] if not re.search(r"kernel$|^noises", key)]
        names = ours(who, keys)
        assert set(names.values()) == {name for name, _ in net.named_parameters()}
        fill(net, {name: states[who][key] for key, name in names.items() if base(key)[1]})
        net.double().eval()
    return case, nets["g"], nets["d"]


def test_losses_of_the_probed_networks(networks):
    case, g, d = networks
    tensors = case.tensors()
    inputs = Inputs(z=tensors["in.fisher.z"].double())
    for i, real in enumerate(tensors["in.fisher.real"].double()):
        one = inputs[i : i + 1]
        fake, real = d(g(one), one), d(real[None], one)
        if f"out.fisher.img{i}" in tensors:
            close(g(one), tensors[f"out.fisher.img{i}"])
        close(fake, tensors["out.fisher.fake_logit"][i])
        close(real, tensors["out.fisher.real_logit"][i])
        close(FAMILY.loss_g(fake), tensors["out.fisher.g_loss"][i])
        close(FAMILY.loss_d(real, fake), tensors["out.fisher.d_loss"][i])


def test_information_of_both_networks(networks):
    case, g, d = networks
    tensors = case.tensors()
    inputs = Inputs(z=tensors["in.fisher.z"].double())
    found = of_both(FAMILY, g, d, [(inputs, tensors["in.fisher.real"].double())])
    for who in ("g", "d"):
        wanted = part(tensors, f"out.fisher.{who}.")
        names = ours(who, [*wanted, *([f"convs.{len(d.resolutions)}.conv1.0.weight"] if who == "d" else [])])
        assert wanted
        for key, value in wanted.items():
            mine = found[who][names[key]]
            close(mine, value.reshape(mine.shape), grad=True)


# ---- which filters are modulated -------------------------------------------------------------------------


def spec_of(case: Case) -> dict:
    """Of the network that the selection is of."""
    config = case.info["config"]["select"]
    widths = {str(side): width for side, width in config["table"].items()}
    size = max(int(side) for side in widths)
    spec = FAMILY.fresh(size)
    head = {"g_widths": widths, "d_widths": dict(widths), "w_dim": config["style"], "z_dim": config["style"]}
    return spec | head


def given_fisher(case: Case, who: str) -> Tensors:
    found = part(case.tensors(), f"in.select.fisher_{who}.")
    return {name: found[key] for key, name in ours(who, list(found)).items()}


def chosen(case: Case, percentile: float, kind: type[AdAM] = AdAM) -> AdAM:
    method = method_of(spec_of(case), kind, percentile=float(percentile), **PUBLISHED)
    for who, layers in method.layers.items():
        method.decide(who, above(layers, given_fisher(case, who), percentile))
    return method


@pytest.mark.parametrize("case", KIND)
def test_which_filters_are_modulated(case):
    tensors = case.tensors()
    for percentile in case.info["config"]["select"]["quantiles"]:
        method = chosen(case, percentile)
        for who in ("g", "d"):
            wanted = part(tensors, f"out.select.q{percentile:g}.modulate_{who}.")
            names = ours(who, list(wanted))
            biases = {name: layer.weight for layer in _layers(case, who) for name in layer.also}
            for key, value in wanted.items():
                name = re.sub(r"\.parametrizations\.(\w+)\..*", r".\1", names[key])
                close(method.decisions[who][biases.get(name, name)].to(value.dtype), value)
            assert {biases.get(n, n) for n in map(_plain, names.values())} == set(method.decisions[who])


def _plain(name: str) -> str:
    return re.sub(r"\.parametrizations\.(\w+)\..*", r".\1", name)


def _layers(case: Case, who: str):
    return FAMILY.filters(spec_of(case)).layers[who]


@pytest.mark.parametrize("case", KIND)
def test_the_lines_between_them(case, monkeypatch):
    found: dict[str, float] = {}
    monkeypatch.setattr(
        "fsgen.nn.filter_masks.percentiles", lambda *given: found.update(percentiles(*given)) or found
    )
    for name, wanted in case.info.get("thresholds", {}).items():
        for who in ("g", "d"):
            above(_layers(case, who), given_fisher(case, who), float(name.removeprefix("q")))
            close(found["convolutions"], wanted[f"cutline_{who}_conv"])
        close(found["modulations"], wanted["cutline_g_fc"])


# ---- the main stage --------------------------------------------------------------------------------------


class Given(AdAM):
    """Starts from the case's parameters in place of fresh vectors."""

    values: dict[str, Tensors]

    def modulate(self, g, d, stage):
        super().modulate(g, d, stage)
        fill(g, self.values["g"])
        fill(d, self.values["d"])


@pytest.mark.parametrize("case", KIND)
def test_what_starts_at_zero_and_which_gradients_are_cleared(case):
    tensors = case.tensors()
    method = chosen(case, case.info["config"]["select"]["quantiles"][0], Given)
    nets = dict(zip("gd", FAMILY.build(method.context.spec), strict=True))
    names, method.values = {}, {}
    for who in nets:
        shown = part(tensors, f"in.mask.{who}.param.")
        names[who] = ours(who, [*shown, *part(tensors, f"in.select.fisher_{who}.")])
        method.values[who] = {names[who][key]: value for key, value in shown.items()}
    method.add_modules(nets["g"], nets["d"])
    for who, net in nets.items():
        shown, after = (part(tensors, f"{side}.mask.{who}.param.") for side in ("in", "out"))
        for key, value in (shown | after).items():
            mine = net.get_parameter(names[who][key])
            close(mine, value.reshape(mine.shape), atol=0.0)
        for key, value in part(tensors, f"in.mask.{who}.grad.").items():
            mine = net.get_parameter(names[who][key])
            mine.grad = value.reshape(mine.shape).clone()
        method.mask_gradients(who, net)
        for key, value in part(tensors, f"out.mask.{who}.grad.").items():
            mine = net.get_parameter(names[who][key])
            if Stack([method]).trains_parameter(FAMILY, method.context.spec, who, names[who][key]):
                close(mine.grad, value.reshape(mine.shape), atol=0.0)
            else:  # the reference gives them to its optimiser and clears all of their gradient
                assert not value.any(), key


@pytest.mark.parametrize("case", KIND)
def test_what_is_trained(case):
    method, info = method_of(spec_of(case)), case.info

    def trains(who: str, keys: list[str]) -> dict[str, bool]:
        names = ours(who, [*keys, *part(case.tensors(), f"in.select.fisher_{who}.")])
        stack = Stack([method])
        return {key: stack.trains_parameter(FAMILY, method.context.spec, who, names[key]) for key in keys}

    assert not any(trains("g", info["frozen_g"]).values())
    assert not any(trains("d", info["frozen_d"]).values())
    for key, trained in trains("g", info["trainable_g_without_later_convs"]).items():
        assert trained != key.endswith(("noise.weight", "activate.bias")), key  # their gradient is cleared


@pytest.mark.parametrize("case", KIND)
def test_every_tensor_of_the_case_is_compared(case):
    known = [
        rf"(in|out)\.({'|'.join(LAYERS)})\.(x|y|style|noise|weight|bias|grad_y|[uvb]_vector|grad\..*_vector)",
        r"alt\.\w+\.weight_per_filter",
        r"in\.fisher\.(z|real)",
        r"out\.fisher\.(img\d+|[gd]_loss|(fake|real)_logit|[gd]\..*)",
        r"in\.select\.fisher_[gd]\..*",
        r"out\.select\.q[\d.]+\.modulate_[gd]\..*",
        r"(in|out)\.mask\.[gd]\.(param|grad)\..*",
    ]
    for name in case.tensors():
        assert any(re.fullmatch(pattern, name) for pattern in known), f"{name} is not compared"
