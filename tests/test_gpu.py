"""Tests that need a CUDA device: run with ``pytest -m gpu``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fsgen
from fsgen.models import model as models
from fsgen.sampling.conditioning import conditioning_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SHOTS = Path(__file__).parent.parent / "examples" / "ten_sketches"


def test_images_and_logits_equal_those_of_the_cpu() -> None:
    model = models.load_model("peeps64")
    pictures, logits = {}, {}
    for device in ("cpu", "cuda"):
        g, d = model.generator(device=device), model.discriminator(device)
        with torch.no_grad():
            pictures[device] = g(conditioning_of(model).inputs(g, range(8), device))
            logits[device] = d(pictures["cpu"].to(device)).cpu()
    torch.testing.assert_close(pictures["cuda"].cpu(), pictures["cpu"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(logits["cuda"], logits["cpu"], atol=1e-2, rtol=1e-3)


def test_fisher_equals_that_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("FSGEN_HOME", str(tmp_path / device))  # otherwise the second comes from the cache
        found[device] = fsgen.fisher("peeps64", samples=16, device=device).trace
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-2)


@pytest.mark.parametrize("method", ["finetune", "ewc", "diffaugment", "ewc,diffaugment"])
def test_adapts(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path / "home"))
    options = {"ewc": {"samples": 8}} if "ewc" in method else {}
    run = fsgen.adapt(
        SHOTS, out=tmp_path / "run", method=method, options=options, steps=5, device="cuda", save_every=2
    )
    images = fsgen.load(run).sample(4)
    assert images.shape == (4, 3, 64, 64)
    assert images.float().std() > 10
