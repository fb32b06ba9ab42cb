from __future__ import annotations

import subprocess
import sys

from refusals import refused

from fsgen.errors import Code
from fsgen.features import torchvision_shim
from fsgen.features.torchvision_shim import import_torchvision

FRESH = """
import logging, io
talk = io.StringIO()
logging.basicConfig(level=logging.DEBUG, stream=talk)
try:
    import torchvision
    trapped = False
except RuntimeError:
    trapped = True
from fsgen.features.torchvision_shim import import_torchvision
first, second = import_torchvision(), import_torchvision()
assert first is second
assert talk.getvalue().count("torchvision::nms") == (1 if trapped else 0), talk.getvalue()
assert hasattr(first, "_fsgen_schemas") == trapped
import gc; gc.collect()
import lpips, cleanfid.fid
"""


def test_a_fresh_process_gets_past_the_trap_once():
    """Passes with and without the trap on this machine; with it, a plain import fails first."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_another_failure_is_not_papered_over(monkeypatch):
    def broken(name):
        raise ImportError("undefined symbol: something")

    monkeypatch.setattr(torchvision_shim, "import_module", broken)
    with refused(Code.SYSTEM, "torchvision", "undefined symbol") as caught:
        import_torchvision()
    assert "constraints.txt" in caught.value.hint


def test_metrics_without_networks_load_no_torch():
    metrics = "frechet, kernel, manifold, memorisation, diversity, inception_score, energy, distances"
    modules = (
        f"from fsgen.metrics import {metrics}; from fsgen.features import weight_files, torchvision_shim"
    )
    code = f"import sys; {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
