"""StyleGAN2's networks and checkpoint files against the published implementations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import WEIGHTS, Case, case_at, cases, close, each, golden_roots, skipped
from sg2 import (
    FAMILY,
    PICKLES,
    crop,
    files,
    foreign,
    load,
    number,
    outputs,
    renamed,
    settings,
    sibling,
    what,
)
from torch import Tensor, nn

from fsgen.families.stylegan2 import convert
from fsgen.importers.readers import read_foreign
from fsgen.interfaces import Inputs

KINDS = (
    "nvidia-sg2", "nvidia-sg2-cond", "nvidia-sg2-cifar", "rosinality-sg2",
    "nvidia-pkl", "nvidia-pkl-torch2", "nvidia-pkl-sg3",
)  # fmt: skip


class Run:
    """The networks of one case, and everything they can be asked for by the name of an output tensor."""

    def __init__(self, case: Case) -> None:
        self.case, self.io = case, case.tensors()
        self.converted = load(case)
        self.main = self._built("g_ema" if self.converted.g_ema is not None else "g")

    @cached_property
    def d(self) -> nn.Module:
        """Not every file has one."""
        return self._built("d")

    @cached_property
    def raw(self) -> nn.Module:
        """G, where the outputs without a suffix are those of G_ema."""
        return self._built("g")

    def _built(self, which: str) -> nn.Module:
        net = getattr(FAMILY.build(self.converted.spec), which[0])
        net.load_state_dict(getattr(self.converted, which))
        return net.eval()

    def inputs(self, z: str = "in.z") -> Inputs:
        return Inputs(z=self.io[z], y=self.io.get("in.c_G"))

    def truncation(self, name: str) -> tuple[float, int | None]:
        """psi and cutoff of an output, from the case's text or, failing that, the tensor's own name."""
        told = what(self.case, name) + what(self.case, re.sub(r"^out\.img", "out.ws", name))
        psi = re.search(r"truncation(?:_psi)?=([\d.]*\d)|([\d.]*\d) \* \(w", told)
        cut = re.search(r"truncation_cutoff=(\d+)", told) or re.search(r"_cutoff(\d+)", name)
        named = re.search(r"_(?:psi|trunc)(\d+)", name)
        if not named:
            return 1.0, None
        value = float(psi[1] or psi[2]) if psi else self.case.info.get("truncation_psi", number(named[1]))
        return value, int(cut[1]) if cut else None

    def ws(self, name: str, g: nn.Module) -> Tensor:
        psi, cutoff = self.truncation(name)
        return g.map(self.inputs(), psi, cutoff)

    def image(self, name: str, g: nn.Module) -> Tensor:
        psi, cutoff = self.truncation(name)
        if cutoff is None:
            return g(self.inputs(), truncation=psi)
        return g.synthesis(g.map(self.inputs(), psi, cutoff), "const", None)[0]

    def mixed(self, ws: Tensor) -> Tensor:
        return self.main.synthesis(ws, "const", None)[0]

    def crossed(self, cut: int) -> Tensor:
        """Two latents, the second one from layer ``cut`` on."""
        one, two = (self.main.map(self.inputs(z)) for z in ("in.z", "in.z2"))
        return self.mixed(torch.cat([one[:, :cut], two[:, cut:]], dim=1))

    def tap(self, resolution: int, part: int) -> Tensor:
        """Features (0) or the picture so far (1) at one resolution of G."""
        taps = self.main.synthesis(self.main.map(self.inputs()), "const", None)[1]
        return taps[self.main.synthesis.resolutions.index(resolution)][part]

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.d(images, Inputs(y=labels))

    def judged(self, n: int | None = None) -> Tensor:
        """Logits of the first ``n`` images, as one batch."""
        labels = self.io.get("in.c_D")
        return self.logits(self.io["in.D_img"][:n], None if labels is None else labels[:n])

    def spread(self) -> Tensor:
        """The minibatch-spread channel of each image, [n, 1, 1, 1]."""
        seen = []
        hook = self.d.b4.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -1:]))
        self.judged()
        hook.remove()
        assert (seen[0] == seen[0][:, :, :1, :1]).all()
        return seen[0][:, :, :1, :1]

    def features(self, resolution: int) -> Tensor:
        return self.d.features(self.io["in.D_img"])[self.d.resolutions.index(resolution)]


TRUNCATED = r"(?:_(?:psi|trunc)\d+)?(?:_cutoff\d+)?"
OUTPUTS: tuple[tuple[str, Callable[[Run, re.Match], Tensor]], ...] = (
    (r"w", lambda run, m: run.main.mapping(run.io["in.z"], run.io.get("in.c_G"))),
    (rf"(?:ws|latents){TRUNCATED}", lambda run, m: run.ws(m.string, run.main)),
    (rf"(?:ws|latents){TRUNCATED}_G", lambda run, m: run.ws(m.string, run.raw)),
    (rf"img{TRUNCATED}(?:_unfused)?", lambda run, m: run.image(m.string, run.main)),
    (rf"img{TRUNCATED}_G", lambda run, m: run.image(m.string, run.raw)),
    (r"img_nonoise", lambda run, m: run.main(run.inputs(), noise="none")),
    (r"img_wsmix", lambda run, m: run.mixed(run.io["in.ws_mix"])),
    (r"img_w_mix", lambda run, m: run.mixed(run.io["in.w_mix"])),
    (r"img_stylemix_inject(\d+)", lambda run, m: run.crossed(int(m[1]))),
    (r"G\.x_b?(\d+)", lambda run, m: run.tap(int(m[1]), 0)),
    (r"G\.img_b?(\d+)", lambda run, m: run.tap(int(m[1]), 1)),
    (r"D_logits", lambda run, m: run.judged()),
    (r"D_logits_first(\d+)", lambda run, m: run.judged(int(m[1]))),
    (r"D_logits_of_img", lambda run, m: run.logits(run.io["out.img"], run.io.get("in.c_G"))),
    (r"D\.mbstd", lambda run, m: run.spread()),
    (r"D\.x_b?(\d+)", lambda run, m: run.features(int(m[1]))),
)  # fmt: skip


@lru_cache(maxsize=2)  # the tests of one case follow one another
def run_of(folder: Path) -> Run:
    return Run(case_at(folder))


@pytest.mark.parametrize("case, name", outputs(*KINDS))
def test_output(case, name):
    """Every tensor that is no input has an entry in OUTPUTS, or this fails."""
    for pattern, compute in OUTPUTS:
        if match := re.fullmatch(rf"out\.{pattern}", name):
            run = run_of(case.folder)
            with torch.no_grad():
                ours = compute(run, match)
            reference = run.io[name]
            close(crop(ours, reference, what(case, name)), reference)
            return
    pytest.fail(f"{case.label} has {name}, which no test compares")


def each_file(*kinds: str, plain: bool = True) -> list[Any]:
    """All checkpoint files of the cases, with or without their plain weights."""
    found = [
        pytest.param(case, file, id=f"{case.label}-{file}")
        for case in cases(*kinds)
        for file in files(case)
        if plain or file != WEIGHTS
    ]
    return found or [skipped(kinds, values=2)]


@pytest.mark.parametrize("case, file", each_file(*KINDS, plain=False))
def test_tensors_read_are_those_of_the_reference(case, file):
    """Bit for bit, each network under its own name.

    The reference is the case's plain weights, those of a case that its text refers to, or, for networks that
    are in neither, another of its files.
    """
    own = [foreign(case, other) for other in sorted(files(case), key=lambda n: n != WEIGHTS) if other != file]
    other = sibling(case)
    places = own + ([read_foreign(other)] if other is not None and other.is_file() else [])
    read = foreign(case, file)
    compared = 0
    for name, state in read.tensors.items():
        reference = next((place.tensors[name] for place in places if name in place.tensors), None)
        if reference is None:
            continue
        assert state.keys() == reference.keys()
        for key in reference:
            scalar = reference[key].numel() == 1  # stored as [] or [1]
            assert torch.equal(
                state[key].reshape(reference[key].shape) if scalar else state[key], reference[key]
            )
        compared += 1
    means = [place.extras["latent_avg"] for place in places if "latent_avg" in place.extras]
    if means and "latent_avg" in read.extras:
        assert torch.equal(read.extras["latent_avg"], means[0])
    if not compared or (compared < len(read.tensors) and other is not None and not other.is_file()):
        pytest.skip(f"{compared} of {len(read.tensors)} networks compared: the case leaves the others out")


@pytest.mark.parametrize("case, file", each_file(*KINDS))
def test_architecture_is_inferred(case, file):
    converted = FAMILY.convert(foreign(case, file))
    spec, config = converted.spec, case.info["config"]
    if converted.d is None:
        config = {key: value for key, value in config.items() if not key.startswith("discriminator_")}
    for theirs, ours in {
        "resolution": spec["resolution"],
        "img_channels": spec["channels"],
        "z_dim": spec["z_dim"],
        "w_dim": spec["w_dim"],
        "style_dim": spec["w_dim"],
        "c_dim": spec["c_dim"],
        "mapping_layers": spec["mapping_layers"],
        "n_mlp": spec["mapping_layers"],
        "num_ws": 2 * len(spec["g_widths"]),
        "n_latent": 2 * len(spec["g_widths"]),
        "label_embedding_dim": spec["g_embed_dim"],
        "channels_per_resolution": spec["g_widths"],
        "discriminator_architecture": spec["d_architecture"],
        "discriminator_mapping_layers": spec["d_mapping_layers"],
    }.items():
        assert config.get(theirs, ours) == ours, theirs
    if converted.d is not None and config.get("c_dim"):
        assert spec["d_cmap_dim"] == config.get("discriminator_cmap_dim", spec["d_cmap_dim"])


@pytest.mark.parametrize("case", each(*PICKLES))
def test_clamps_and_group_come_from_the_pickle(case):
    """They stand in the state of the layers: in no tensor, and in newer files not in the arguments either."""
    converted = load(case)
    networks = "gdm" if converted.d is not None else "gm"
    told = {name: value for name, value in settings(case).items() if name[0] in networks}
    assert told and {name: converted.spec[name] for name in told} == pytest.approx(told)


def keymaps() -> list[Any]:
    found = next((maps for root in golden_roots() if (maps := sorted(root.rglob("keymap.json")))), [])
    return [pytest.param(path, id=path.parent.name) for path in found] or [skipped(("keymap",))]


@pytest.mark.parametrize("path", keymaps())
def test_names_agree_with_the_keymap(path):
    """The published table of key pairs, for the one resolution it is written for."""
    table = json.loads(path.read_text(encoding="utf-8"))
    if "generator" not in table or "discriminator" not in table:
        pytest.skip("a table of something else")
    resolution = max(
        int(m[1]) for pair in table["generator"] if (m := re.search(r"\.b(\d+)\.", pair["nvidia"]))
    )
    sources = [c for c in cases("rosinality-sg2") if c.info["config"]["resolution"] == resolution]
    if not sources:
        pytest.skip(f"no rosinality-sg2 case of {resolution} px")
    depth = sources[0].info["config"]["n_mlp"]
    tensors = {}
    for file in files(sources[0]):
        tensors |= foreign(sources[0], file).tensors
    for part, network, read in (
        ("generator", "g_ema", convert.convert_g),
        ("discriminator", "d", convert.convert_d),
    ):
        names = renamed(tensors[network], read)
        pairs = {p["rosinality"]: p["nvidia"] for p in table[part]}
        pairs = {
            k: v for k, v in pairs.items() if not (m := re.match(r"style\.(\d+)", k)) or int(m[1]) <= depth
        }
        assert names == pairs
