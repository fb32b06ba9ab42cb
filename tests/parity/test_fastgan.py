"""FastGAN's networks, losses and checkpoint files against the published implementation."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import WEIGHTS, Case, Outputs, case_at, close, computed, each, each_output, load_parts, stated
from sg2 import renamed
from torch import Tensor

from fsgen.families.fastgan import convert, networks
from fsgen.families.fastgan.family import FastGAN
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Converted, Foreign, Inputs
from fsgen.nn import losses

FAMILY = FastGAN()
PATCHES = 25  # logits of one size of a picture


# ---- what the cases have in common -----------------------------------------------------------------------


def is_input(case: Case, name: str) -> bool:
    if name in ("z", "real", "fake", "r_real", "r_fake") or name.startswith(("in.", "noise.", "list_")):
        return True
    # Decoders by themselves are shown maps that the whole D of another case made.
    return "rec_big" in case.names() and "logits_real" not in case.names() and name.startswith("feat_")


def outputs(*kinds: str) -> list[Any]:
    """For ``parametrize("case, name", ...)``: every tensor of the cases that is not an input."""
    return each_output(*kinds, is_input=is_input)


def part_of(case: Case, name: str, ours: Tensor) -> Tensor:
    """The crop or every k-th pixel of ``ours`` that the case stores under ``name``."""
    if stride := re.search(r"stride(\d+)", name):
        return ours[:, :, :: int(stride[1]), :: int(stride[1])]
    if "_crop" in name:
        rows, columns = re.findall(r"(\d+):(\d+)", case.info["tensors"][name])
        return ours[:, :, slice(*map(int, rows)), slice(*map(int, columns))]
    return ours


def compared(table: Outputs, run: Any, case: Case, name: str) -> None:
    close(part_of(case, name, computed(table, run, case, name)), run.io[name], grad="grad" in name)


# ---- G ---------------------------------------------------------------------------------------------------


class GeneratorRun:
    """G of one case in evaluation and after one pass in training."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        self.converted = FAMILY.convert(Foreign("safetensors", {"": case.tensors(WEIGHTS)}))
        self.names = renamed(case.tensors(WEIGHTS), convert.convert_g)
        self.noises = {k.removeprefix("noise."): x for k, x in self.io.items() if k.startswith("noise.")}

    def built(self) -> networks.Generator:
        g = FAMILY.build(self.converted.spec).g
        g.load_state_dict(self.converted.g_ema)
        return g.eval()

    def pictures(self, g: networks.Generator) -> tuple[Tensor, Tensor]:
        """With the case's noise in the places of the drawn one, or with none."""
        layers = {name: g.get_submodule(_noisy(name)) for name in self.noises}
        for name, layer in layers.items():
            layer._noise = lambda x, noise, rng, name=name: self.noises[name]
        with torch.no_grad():
            return g.both_sizes(Inputs(z=self.io["z"]), "random" if layers else "none", None)

    @cached_property
    def evaluated(self) -> tuple[Tensor, Tensor]:
        return self.pictures(self.built())

    @cached_property
    def trained(self) -> tuple[networks.Generator, tuple[Tensor, Tensor]]:
        g = self.built().train()
        return g, self.pictures(g)

    def after(self, key: str) -> Tensor:
        """What the pass in training left under the published ``key``."""
        return self.trained[0].get_buffer(self.names[key])


def _noisy(name: str) -> str:
    """feat_8.6 -> b8.1"""
    side, place = re.fullmatch(r"feat_(\d+)\.(\d+)", name).groups()
    return f"b{side}.{0 if int(place) < 4 else 1}"


def sized(pictures: tuple[Tensor, Tensor], side: int) -> Tensor:
    return next(x for x in pictures if x.shape[-1] == side)


G_OUTPUTS: tuple[tuple[str, Callable[[GeneratorRun, re.Match], Tensor]], ...] = (
    (r"image_(\d+)(?:_stride\d+|_crop)?", lambda run, m: sized(run.evaluated, int(m[1]))),
    (r"train_image_(\d+)(?:_stride\d+)?", lambda run, m: sized(run.trained[1], int(m[1]))),
    (r"train_after\.(.+)", lambda run, m: run.after(m[1])),
)


@lru_cache(maxsize=1)  # the tests of one case follow one another
def generator_of(folder: Path) -> GeneratorRun:
    return GeneratorRun(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("fastgan-generator"))
def test_generator(case, name):
    compared(G_OUTPUTS, generator_of(case.folder), case, name)


@pytest.mark.parametrize("case", each("fastgan-generator"))
def test_the_spec_is_read_off_the_tensors(case):
    config, spec = case.info["config"], generator_of(case.folder).converted.spec
    assert (spec["resolution"], spec["z_dim"]) == (config["im_size"], config["nz"])
    assert spec["g_widths"] == convert.g_widths(config["im_size"], config["ngf"])["g_widths"]
    assert spec["channels"] == config.get("nc", 3) and spec["sle"]


# ---- D ---------------------------------------------------------------------------------------------------


class DiscriminatorRun:
    """D of one case, whole or in part, and what it says to the case's pictures."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        self.config, published = case.info["config"], case.tensors(WEIGHTS)
        state = convert.convert_d(published)
        self.names = renamed(published, convert.convert_d)
        resolution = self.config["im_size"]
        widths = convert.d_widths(resolution, self.config["ndf"]) | decoder_widths(state)
        if "stem.0.conv.weight" in state and "decode_part.out.weight" in state:
            assert convert.infer_d(state, resolution) == widths
        spec = {"resolution": resolution, "channels": self.config.get("nc", 3), "sle": True, **widths}
        self.d = networks.Discriminator(spec)
        self.absent = load_parts(self.d, state)  # some cases leave decoders out, or everything else
        self.d.eval()

    @cached_property
    def real(self) -> Tensor:
        return self.io["real"].clone().requires_grad_()

    def listed(self) -> tuple[Tensor, Tensor]:
        """Two different pictures in the two sizes."""
        small = next(x for name, x in self.io.items() if name.startswith("list_small"))
        big = next(x for name, x in self.io.items() if name.startswith("list_big"))
        return networks.resize(big, self.d.resolution), networks.resize(small, self.d.small)

    @cached_property
    def logits(self) -> dict[str, Tensor]:
        """[n, 50] of the reals, then of the fakes; in training each leaves D changed, as in the case."""
        if self.case.info.get("mode", "eval").startswith("train"):
            self.d.train()
        out = {"real": self.d(self.real)}
        self.left = {key: value.clone() for key, value in self.d.named_buffers()}
        return out | {"fake": self.d(self.io["fake"])}

    @cached_property
    def looked(self) -> networks.Encoded:
        return self.d.encode(self.io["real"])

    def seen(self, name: str) -> Tensor:
        """A map by its published name: feat_N has 512 / N px, last has 8, small is D's other."""
        if name == "small":
            return self.looked.small
        return self.looked.maps[networks.DEEPEST if name == "last" else 512 // int(name)]

    def decoded(self, which: str) -> Tensor:
        """By the decoders alone, from maps in the case, or of the case's reals."""
        if "real" in self.io:
            return self.d.reconstruct(self.looked, 0)[("big", "small").index(which)]
        known = {"big": "last", "small": "small"}[which]
        maps = [x for name, x in self.io.items() if re.match(rf"feat_{known}(_|$)", name)]
        return self.d.get_submodule(f"decode_{which}")(maps[0])

    def loss(self, which: str) -> Tensor:
        """With the case's margins, of which it gives the random part."""
        sign, text = 1 if which == "real" else -1, self.case.info.get("losses", {}).get(f"d_{which}", "")
        least, spread = stated(text, r"([\d.]+) \+", 0.8), stated(text, r"([\d.]+)\s*\*\s*r\b", 0.2)
        return losses.hinge(sign * self.logits[which], least + spread * by_picture(self.io[f"r_{which}"]))

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Of the reals' hinge, by our parameter's name and "" for the pictures."""
        parameters = dict(self.d.named_parameters())
        found = torch.autograd.grad(
            self.loss("real"), [self.real, *parameters.values()], allow_unused=True, retain_graph=True
        )
        return dict(zip(["", *parameters], found, strict=True))


def decoder_widths(state: dict[str, Tensor]) -> dict[str, list[int]]:
    """As the spec has them, of whichever decoder the case holds; the published ones where it holds none."""
    convs = {key: w for key, w in state.items() if re.fullmatch(r"decode_\w+\.up\.\d\.conv\.weight", key)}
    which = min((key.split(".")[0] for key in convs), default=None)
    widths = [convs[key].shape[0] // 2 for key in sorted(convs) if key.startswith(f"{which}.")]
    return {"decoder_widths": widths} if widths else {}


def published_order(logits: Tensor) -> Tensor:
    """[n, 50] -> [50 n]: the big pictures' of the whole batch, then the small ones'."""
    return torch.cat([half.flatten() for half in logits.split(PATCHES, dim=1)])


def by_picture(values: Tensor) -> Tensor:
    """The inverse: [50 n] -> [n, 50]."""
    return torch.cat([half.reshape(-1, PATCHES) for half in values.chunk(2)], dim=1)


D_OUTPUTS: tuple[tuple[str, Callable[[DiscriminatorRun, re.Match], Tensor]], ...] = (
    (r"logits_(real|fake)", lambda run, m: published_order(run.logits[m[1]])),
    (r"logits_list", lambda run, m: published_order(run.d(run.listed()))),
    (r"real_feat_(\d+|last|small)(?:_after_se)?", lambda run, m: run.seen(m[1])),
    (r"rec_part_(\d)(?:_stride\d+)?", lambda run, m: run.d.reconstruct(run.looked, int(m[1]))[2]),
    (r"rec_(big|small)(?:_stride\d+)?", lambda run, m: run.decoded(m[1])),
    (r"loss_hinge_(real|fake)", lambda run, m: run.loss(m[1])),
    (r"loss_g", lambda run, m: FAMILY.loss_g(run.logits["fake"])),
    (r"grad_real_input", lambda run, m: run.gradients[""]),
    (r"grad_real\.(.+)", lambda run, m: run.gradients[run.names[m[1]]]),
    (r"after_real\.(.+)", lambda run, m: run.logits and run.left[run.names[m[1]]]),
)


@lru_cache(maxsize=1)
def discriminator_of(folder: Path) -> DiscriminatorRun:
    return DiscriminatorRun(case_at(folder))


@pytest.mark.parametrize("case, name", outputs("fastgan-discriminator"))
def test_discriminator(case, name):
    compared(D_OUTPUTS, discriminator_of(case.folder), case, name)


# ---- checkpoint files ------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def converted(folder: Path) -> list[Converted]:
    """The files of a case, one or several: some have an averaged G alone, some the live one as well."""
    case = case_at(folder)
    place = folder / case.info.get("folder", "")
    return [FAMILY.convert(read_foreign(place / file)) for file in case.files]


@pytest.mark.parametrize("case, name", outputs("fastgan-checkpoint"))
def test_images_of_a_checkpoint(case, name):
    """By every file that has the network in question."""
    match = re.fullmatch(r"image_(\d+)(?:_stride\d+|_crop)?_(ema|live)", name)
    assert match, f"{case.label} has {name}, which no test compares"
    io, which = case.tensors(), "g_ema" if match[2] == "ema" else "g"
    found = [one for one in converted(case.folder) if getattr(one, which) is not None]
    assert found, f"no file of {case.label} has the network of {name}"
    for one in found:
        g = FAMILY.build(one.spec, discriminator=False).g
        g.load_state_dict(getattr(one, which))
        with torch.no_grad():
            pictures = g.eval().both_sizes(Inputs(z=io["z"]), "none", None)
        close(part_of(case, name, sized(pictures, int(match[1]))), io[name])


@pytest.mark.parametrize("case", each("fastgan-checkpoint"))
def test_networks_of_a_checkpoint_have_the_cases_architecture(case):
    config = case.info["config"]
    for one in converted(case.folder):
        spec = one.spec
        assert (spec["resolution"], spec["z_dim"]) == (config["im_size"], config["nz"])
        assert spec["channels"] == config.get("nc", 3)
        assert spec["g_widths"] == convert.g_widths(config["im_size"], config["ngf"])["g_widths"]
        if one.d is not None:
            widths = convert.d_widths(config["im_size"], config["ndf"])["d_widths"]
            assert spec["d_widths"] == widths
            FAMILY.build(spec).d.load_state_dict(one.d)


@pytest.mark.parametrize("case", each("fastgan-checkpoint"))
def test_files_of_a_checkpoint_agree(case):
    """What several of them hold; the live G is not the average."""
    first, *others = converted(case.folder)
    for other in others:
        for ours, theirs in ((first.g_ema, other.g_ema), (first.g, other.g), (first.d, other.d)):
            if ours is not None and theirs is not None:
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for one in (first, *others):
        if one.g is not None:
            assert any(not torch.equal(one.g[key], one.g_ema[key]) for key in one.g)
    if not others:
        pytest.skip("a case of one file")
