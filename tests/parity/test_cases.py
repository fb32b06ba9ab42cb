"""Every golden case has a test, or says visibly why it has none yet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cases import cases, close, each, golden_root

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
    "funit-ckpt": "test_funit",
    "funit-d": "test_funit",
    "funit-g": "test_funit",
    "funit-losses": "test_funit",
    "icgan-biggan-d": "test_biggan",
    "icgan-biggan-d-cc": "test_biggan",
    "icgan-biggan-g": "test_biggan",
    "icgan-biggan-g-cc": "test_biggan",
    "icgan-ckpt": "test_biggan",
    "icgan-knn": "test_biggan",
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


def test_the_golden_folder_is_there():
    if not cases():
        message = f"no golden case under {golden_root() or 'FSGEN_GOLDEN or ../shared/golden'}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.mark.parametrize("case", each())
def test_case_is_tested(case):
    if case.kind in TESTED:
        module = Path(__file__).with_name(f"{TESTED[case.kind]}.py")
        assert f'"{case.kind}"' in module.read_text(encoding="utf-8"), f"{module.name} has no {case.kind}"
    elif owners(case.kind):
        pytest.fail(f"{', '.join(owners(case.kind))} is registered, but nothing tests kind {case.kind}")
    else:
        pytest.skip(f"kind {case.kind}: no family or method of that name is registered yet")


def test_kinds_find_their_owners(monkeypatch):
    monkeypatch.setitem(METHODS, "adam", "")
    assert owners("adam-modulation") == {"adam"}
    assert owners("nvidia-sg2-of-next-year") == {"stylegan2"}
    assert owners("ada-pipe") == owners("train-numbers") == {"ada"}
    assert owners("unheard-of") == set()


def test_close_is_as_strict_as_the_rules_say():
    import torch

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
