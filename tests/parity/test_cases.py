"""Every golden case has a test, or says visibly why it has none yet; the repository's own are checked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from cases import OWN, cases, close, each, found_below, golden_roots, load_parts, skipped, stated

from fsgen.registry import FAMILIES, METHODS

# kind -> the module beside this one that tests cases of it
TESTED = {
    "adam-modulation": "test_adam_modulation",
    "ada-pipe": "test_ada_pipe",
    "biggan-d": "test_biggan",
    "biggan-g": "test_biggan",
    "bsa": "test_bsa",
    "cdc-loss": "test_cdc_loss",
    "cdc-patch": "test_cdc_patch",
    "dcgan": "test_dcgan",
    "diffaugment": "test_diffaugment",
    "fastgan-checkpoint": "test_fastgan",
    "fastgan-discriminator": "test_fastgan",
    "fastgan-generator": "test_fastgan",
    "freezed": "test_freezed",
    "funit-ckpt": "test_funit_checkpoints",
    "funit-d": "test_funit",
    "funit-g": "test_funit",
    "funit-losses": "test_funit_losses",
    "icgan-biggan-d": "test_biggan",
    "icgan-biggan-d-cc": "test_biggan",
    "icgan-biggan-g": "test_biggan",
    "icgan-biggan-g-cc": "test_biggan",
    "icgan-ckpt": "test_biggan_checkpoints",
    "icgan-knn": "test_icgan_neighbours",
    "icgan-sg2": "test_icgan_stylegan2",
    "minegan-miner": "test_minegan_miner",
    "nvidia-pkl": "test_stylegan2",
    "nvidia-pkl-sg3": "test_stylegan2",
    "nvidia-pkl-torch2": "test_stylegan2",
    "nvidia-sg2": "test_stylegan2",
    "nvidia-sg2-cifar": "test_stylegan2",
    "nvidia-sg2-cond": "test_stylegan2",
    "rick-masks": "test_rick_masks",
    "rosinality-sg2": "test_stylegan2",
    "train-numbers": "test_train_numbers",
    "training-math": "test_stylegan2_training",
}

# A kind's first word names its family or method; these are other words for them.
ALSO = {
    "nvidia": {"stylegan2"},
    "rosinality": {"stylegan2"},
    "training": {"stylegan2"},
    "icgan": {"biggan"},
    "biggan": {"icgan"},
    "train": {"ada"},  # the numbers of the published ADA training loop
}


def owners(kind: str) -> set[str]:
    """The registered families and methods that a case of ``kind`` belongs to."""
    word = kind.split("-")[0]
    return ({word} | ALSO.get(word, set())) & (set(FAMILIES) | set(METHODS))


def test_every_folder_that_is_named_is_there():
    told = [text for text in os.environ.get("FSGEN_GOLDEN", "").split(os.pathsep) if text]
    assert len(golden_roots()) > len(told), f"FSGEN_GOLDEN names a folder that is not there: {told}"


@pytest.mark.parametrize("case", each())
def test_case_is_tested(case):
    if case.kind in TESTED:
        module = Path(__file__).with_name(f"{TESTED[case.kind]}.py")
        assert f'"{case.kind}"' in module.read_text(encoding="utf-8"), f"{module.name} has no {case.kind}"
    elif owners(case.kind):
        pytest.fail(f"{', '.join(owners(case.kind))} is registered, but nothing tests kind {case.kind}")
    else:
        pytest.skip(f"kind {case.kind}: no family or method of that name is registered yet")


def test_the_repository_has_a_case_of_every_kind_that_is_tested():
    assert {case.kind for case in found_below(OWN)} == set(TESTED)


def test_the_repositorys_cases_are_small():
    files = [file for file in OWN.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 24_000_000


def with_the_whole_case() -> list:
    """The repository's cases, each with the published case that it was made from, where that is here."""
    whole = {(c.label, c.kind, str(c.info.get("config"))): c for c in found_below(*golden_roots()[:-1])}
    pairs = [(c, whole.get((c.label, c.kind, str(c.info.get("config"))))) for c in found_below(OWN)]
    found = [pytest.param(case, other, id=case.label) for case, other in pairs if other is not None]
    return found or [skipped(("any, beside the repository's",), values=2)]


@pytest.mark.parametrize("case, whole", with_the_whole_case())
def test_the_repositorys_numbers_are_the_published_ones(case, whole):
    """Tensors are left out, none is changed: bit for bit."""
    for file in case.folder.rglob("*.safetensors"):
        name = str(file.relative_to(case.folder))
        published = whole.tensors(name)
        for key, value in case.tensors(name).items():
            assert value.dtype == published[key].dtype and torch.equal(value, published[key]), key
    left_out = case.info.get("left_out", {})
    changed = [key for key, value in case.info.items() if key != "left_out" and value != whole.info[key]]
    told = {path.partition("/")[0] for path in left_out.get("case.json", [])}
    assert set(changed) <= told | {"weights"} and ("weights" not in changed or "files" in left_out)


def test_kinds_find_their_owners(monkeypatch):
    monkeypatch.setitem(METHODS, "adam", "")
    assert owners("adam-modulation") == {"adam"}
    assert owners("nvidia-sg2-of-next-year") == {"stylegan2"}
    assert owners("ada-pipe") == owners("train-numbers") == {"ada"}
    assert owners("unheard-of") == set()


def write_case(folder: Path, **info: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(info), encoding="utf-8")
    return folder


def test_cases_are_found_below_every_folder(tmp_path, monkeypatch):
    """Whole cases come before the repository's; other settings make another case."""
    whole = write_case(tmp_path / "a" / "dcgan" / "dcgan-32-csinva", kind="dcgan", config={"size": 1})
    other = write_case(tmp_path / "b" / "new", kind="unheard-of")
    monkeypatch.setenv("FSGEN_GOLDEN", os.pathsep.join(map(str, (tmp_path / "a", other))))
    assert golden_roots() == (tmp_path / "a", other, OWN)
    labels = [case.label for case in cases()]
    assert labels.count("dcgan/dcgan-32-csinva") == 2 and "b/new" in labels
    own = next(case for case in found_below(OWN) if case.label == "dcgan/dcgan-32-csinva")
    copy = write_case(tmp_path / "c" / "dcgan" / "dcgan-32-csinva", **own.info)
    monkeypatch.setenv("FSGEN_GOLDEN", str(tmp_path / "c"))
    assert [case.folder for case in cases("dcgan")] == [copy.resolve()]
    monkeypatch.setenv("FSGEN_GOLDEN", "")
    assert golden_roots() == (OWN,) and whole not in [case.folder for case in cases()]


def test_numbers_are_read_from_a_cases_text():
    assert stated("training multiplies by 10)", r"multiplies by ([\d.]+)", 1.0) == 10
    assert stated("", r"multiplies by ([\d.]+)", 1.0) == 1


def test_parts_may_be_left_out_but_not_by_halves():
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(3, 1)})
    state = net.state_dict()
    assert load_parts(net, state) == set()
    assert load_parts(net, {key: value for key, value in state.items() if key.startswith("a")}) == {"b"}
    for wrong in ({"a.weight": state["a.weight"]}, state | {"c.weight": state["a.weight"]}):
        with pytest.raises(AssertionError):
            load_parts(net, wrong)


def test_close_is_as_strict_as_the_rules_say():
    reference = torch.tensor([1.0, -10.0])
    close(reference + 9e-4, reference)
    close(reference + 9e-3, reference, grad=True)
    close(torch.tensor(3.0), torch.tensor([3.0]))
    close(torch.tensor([1e-6]), torch.tensor([5e-7]), grad=True)
    close(torch.tensor([float("inf"), 1.0]), torch.tensor([float("inf"), 1.0]))
    for ours, theirs, options in [
        (reference + 1.1e-3, reference, {}),
        (reference + 1.1e-2, reference, {"grad": True}),
        (reference + 1e-4, reference, {"atol": 1e-5}),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), {"atol": 5.0}),
        (torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, 1.0]), {"atol": 5.0}),
        (torch.zeros(2, 1), torch.zeros(1, 2), {}),
        (torch.tensor([2e-5]), torch.tensor([1e-6]), {"grad": True}),
    ]:
        with pytest.raises(AssertionError):
            close(ours, theirs, **options)
