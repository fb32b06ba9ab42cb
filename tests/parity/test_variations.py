"""The parity tests take cases of other files, options and shapes than those at hand.

Each variation is derived from a case in ``tests/golden`` so that its outputs are still published numbers:
other files with the same networks, one channel of operators that treat each by itself, or options by which a
value follows from published ones by a factor or a sum. The parity tests are run on all of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import OWN, REPOSITORY, WEIGHTS
from safetensors.torch import load_file, save_file
from torch import Tensor

IO = "io.safetensors"
VARIATIONS: dict[str, Callable[[Path], None]] = {}


def of(case: str) -> Callable[[Callable[[Path, dict], None]], Callable[[Path, dict], None]]:
    """Register a function that changes a copy of ``case``, given its folder and what its case.json says."""

    def register(change: Callable[[Path, dict[str, Any]], None]) -> Callable[[Path, dict[str, Any]], None]:
        def make(folder: Path) -> None:
            shutil.copytree(OWN / case, folder)
            info = json.loads((folder / "case.json").read_text(encoding="utf-8"))
            change(folder, info)
            (folder / "case.json").write_text(json.dumps(info), encoding="utf-8")

        VARIATIONS[change.__name__] = make
        return change

    return register


def rewrite(file: Path, change: Callable[[str, Tensor], Tensor | None]) -> None:
    """Replace each tensor by what ``change`` makes of it; None drops it."""
    changed = {name: change(name, value) for name, value in load_file(file).items()}
    save_file({name: value.contiguous() for name, value in changed.items() if value is not None}, file)


def keep(file: Path, pattern: str) -> None:
    rewrite(file, lambda name, value: value if re.fullmatch(pattern, name) else None)


# ---- other files -----------------------------------------------------------------------------------------


@of("fastgan/ckpt")
def fastgan_with_both_generators_in_one_file(folder, info):
    info["files"] = {"all_4.pth": ""}
    (folder / "4.pth").unlink()


@of("fastgan/ckpt")
def fastgan_with_the_average_alone(folder, info):
    info["file"] = "4.pth"
    del info["files"]
    (folder / "all_4.pth").unlink()
    keep(folder / IO, "z|.*_ema")


@of("funit/funit-ckpt")
def funit_in_one_file(folder, info):
    networks = [torch.load(folder / f"{part}_00000010.pt", weights_only=True) for part in ("gen", "dis")]
    torch.save(networks[0] | networks[1], folder / "funit.pt")
    info["file"] = "funit.pt"
    del info["files_bytes"]


@of("funit/funit-ckpt")
def funit_with_the_average_alone(folder, info):
    generators = torch.load(folder / "gen_00000010.pt", weights_only=True)
    torch.save({"gen_test": generators["gen_test"]}, folder / "gen_00000010.pt")
    info["files_bytes"] = {"gen_00000010.pt": 0}
    keep(folder / IO, "content|class_images|gen_test.*")


@of("icgan/icgan-ckpt")
def biggan_in_one_file(folder, info):
    info["file"] = f"{info.pop('folder')}/G_ema_best0.pth"


@of("icgan/icgan-ckpt")
def biggan_in_files_beside_the_case(folder, info):
    files = list((folder / info.pop("folder")).iterdir())
    info["files"] = [file.rename(folder / file.name).name for file in files]


@of("icgan/icgan-ckpt")
def biggan_without_a_discriminator(folder, info):
    (folder / info["folder"] / "D_best0.pth").unlink()


@of("dcgan/dcgan-32-csinva")
def dcgan_with_a_generator_alone(folder, info):
    state = {key: value for key, value in load_file(folder / WEIGHTS).items() if key.startswith("netG.")}
    torch.save({key.removeprefix("netG."): value for key, value in state.items()}, folder / "netG.pth")
    (folder / WEIGHTS).unlink()
    info["file"] = "netG.pth"
    keep(folder / IO, "z|(train_)?image.*|train_after.*")


@of("stylegan2/rosinality-sg2")
def stylegan2_with_the_average_alone(folder, info):
    info["files"] = ["converted-legacy.pt"]
    (folder / "checkpoint.pt").unlink()
    keep(folder / IO, r"in\.(z|z2|w_mix)|out\.(?!D).*")


@of("methods/minegan-miner")
def minegan_without_a_miner_of_the_constant(folder, info):
    keep(folder / WEIGHTS, r"(miner|g)\..*")
    keep(folder / IO, r"in\..*|out\.(?!const|img_semantic).*")


# ---- other shapes ----------------------------------------------------------------------------------------


def first_channel(name: str, value: Tensor) -> Tensor:
    return value[:, :1] if value.ndim == 4 and value.shape[1] == 3 else value


@of("methods/ada-pipe")
def ada_of_grey_images(folder, info):
    """Geometry, filters and holes take each channel by itself; hue and saturation are not drawn for grey."""
    mixed = r"out\.(bgc|hue|lumaflip|saturation|random)\..*|in\.random\.\w+\.(hue|saturation)"
    rewrite(
        folder / IO, lambda name, value: None if re.fullmatch(mixed, name) else first_channel(name, value)
    )
    info["config"]["shape"][1] = 1
    info["order"] = [name for name in info["order"] if name not in ("hue", "saturation")]


@of("diffaugment/ops-32")
def diffaugment_of_grey_images(folder, info):
    keep(folder / IO, r"x|grad_weight|(brightness|translation|cutout)\..*")
    rewrite(folder / IO, first_channel)
    info["config"]["shape"][1] = 1


# ---- other options ---------------------------------------------------------------------------------------


@of("methods/ada-pipe")
def ada_of_other_settings(folder, info):
    """Twice the images a move and twice the whole way; a target by which every mean is on the same side."""
    io = load_file(folder / IO)
    for name, trace in info["p_traces"].items():
        if (means := io.get(f"in.p_{name}.sign_mean")) is not None:
            above = means[means > trace["target"]]
            trace["batch"], trace["kimg"] = 2 * trace["batch"], 2 * trace["kimg"]
            if len(above) and not (means == trace["target"]).any():
                trace["target"] = (trace["target"] + float(above.min())) / 2
    keep(folder / IO, r"in\.(images|grad_weight)|(in|out)\.p_nvidia.*")
    info["p_traces"] = {name: trace for name, trace in info["p_traces"].items() if name.startswith("nvidia")}


@of("funit/funit-losses")
def funit_of_other_weights(folder, info):
    config = info["config"] | {"gan_w": 2, "r_w": 0.5, "fm_w": 3, "lr_gen": 2e-4, "lr_dis": 3e-4}
    info["config"] = config
    d, g = info["dis_update"], info["gen_update"]
    said = {name.split()[0]: value for name, value in (d | g).items() if isinstance(value, float)}
    for table in (d, g):
        del table["grad_l2_norm"]
    (total_d, total_g) = (next(name for name in table if name.startswith("l_total")) for table in (d, g))
    del d[total_d]
    d["l_total = gan_w*l_fake + gan_w*l_real + 20*reg"] = (
        2 * (said["l_fake"] + said["l_real"]) + 20 * said["reg"]
    )
    matching = 3 * (said["l_c_rec"] + said["l_m_rec"])
    g[total_g] = 2 * said["l_adv"] + 0.5 * said["l_x_rec"] + matching
    keep(folder / IO, "[xl][abtr]")


@of("methods/bsa")
def bsa_of_other_weights(folder, info):
    factors = {"l_per": 0.5, "l_emd": 2.0, "l_re": 3.0}
    info["config"]["settings"] |= {name: f * info["config"]["settings"][name] for name, f in factors.items()}
    losses = load_file(folder / IO)["out.losses"]  # pixels, maps by layer, latents, scales and shifts
    losses[1:-2] *= factors["l_per"]
    losses[-2:] *= torch.tensor([factors["l_emd"], factors["l_re"]])
    other = {"out.losses": losses, "out.total": losses.sum()}
    rewrite(folder / IO, lambda name, value: other.get(name, value))
    keep(folder / IO, r"in\..*|out\.(?!grad|after_step|interpolate).*")


@of("methods/bsa")
def bsa_of_squared_differences(folder, info):
    settings = info["config"]["settings"] | {"perceptual_type": "l2", "normalize_l1_loss": True}
    info["config"]["settings"] = settings
    io = load_file(folder / IO)
    losses = torch.cat([torch.ones(1), settings["l_per"] * io["out.perceptual_l2"], io["out.losses"][-2:]])
    other = {"out.losses": losses, "out.total": losses.sum()}
    rewrite(folder / IO, lambda name, value: other.get(name, value))
    keep(folder / IO, r"in\..*|out\.(?!grad|after_step|interpolate).*")


@of("methods/cdc-loss")
def cdc_of_another_weight(folder, info):
    info["config"]["kl_wt"] *= 2
    info["config"]["anchor"]["std"] *= 2

    def change(name: str, value: Tensor) -> Tensor:
        if name == "in.anchor.eps":
            return value / 2
        return 2 * value if re.fullmatch(r"out\..*(loss|grad.*)", name) else value

    rewrite(folder / IO, change)


@of("methods/train-numbers")
def stylegan2_of_another_recipe(folder, info):
    base = info["config"]["base_adam"]
    base |= {"lr": 0.005, "betas": [0.5, 0.9]}
    for name, interval in (("G", 8), ("D", 2)):
        ratio = interval / (interval + 1)
        betas = [beta**ratio for beta in base["betas"]]
        info["numbers"]["lazy"][name] = {
            "interval": interval, "ratio": ratio, "lr": base["lr"] * ratio, "betas": betas,
        }  # fmt: skip


# ---- all of them -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Variation -> the outcomes of its tests, failed ones with what they said."""
    root = tmp_path_factory.mktemp("golden")
    for name, make in VARIATIONS.items():
        make(root / "variations" / name)
    command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), "-rA", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--tb=line", "-k", "[variations/"],
        cwd=REPOSITORY, env={**os.environ, "FSGEN_GOLDEN": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"(PASSED|FAILED|ERROR) .*?\[variations/(\w+)", line):
            found.setdefault(match[2], []).append(line)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return found


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_variation_passes_the_parity_tests(outcomes, name):
    lines = outcomes.get(name, [])
    failed = [line for line in lines if not line.startswith("PASSED")]
    assert not failed, "\n".join(failed)
    compared = [line for line in lines if "test_case_is_tested" not in line]
    assert compared, f"no test compares {name}"
