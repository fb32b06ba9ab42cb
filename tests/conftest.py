"""Fixtures that tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the caches of the user who runs them."""
    monkeypatch.setenv("FSGEN_HOME", str(tmp_path_factory.getbasetemp() / "home"))


QUICK = {  # slow parts of a run, tested separately
    "fsgen.training.domain_gap.PROBES": 16,
    "fsgen.families.stylegan2.family.LATENTS": 1024,
    "fsgen.nn.batchnorm.STATISTICS": (2, 4),
    "fsgen.families.dcgan.STATISTICS": (2, 4),
}


@pytest.fixture
def quick(without_pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten runs: means over few samples, no plots, no pages."""
    for place, few in QUICK.items():
        monkeypatch.setattr(place, few)


@pytest.fixture
def without_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a run draws for readers, unless the test asks for ``real_plots``."""
    if "real_plots" in request.fixturenames:
        return
    for plot in ("losses", "penalty", "by_layer"):
        monkeypatch.setattr(
            f"fsgen.training.plots.{plot}", lambda values, path, *rest, **options: Path(path).touch()
        )
    monkeypatch.setattr("fsgen.training.results.write_page", lambda path, *rest: path.touch())


@pytest.fixture
def real_plots() -> None:
    """Ask for plots in spite of ``quick``."""


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run on one thread: sums are equal bit for bit only for equal numbers of threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StyleGAN2 source at 16 px with g, g_ema and d."""
    from tiny import make_source

    return make_source(tmp_path_factory.mktemp("source") / "tiny.safetensors")


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five images."""
    from tiny import draw_images

    return draw_images(tmp_path_factory.mktemp("drawings"), 5)
