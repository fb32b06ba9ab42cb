"""Compare fsgen eval with the usual way to FID: write PNGs, run clean-fid on the folder.

    python examples/bench/fid.py SOURCE REAL --weights-dir DIR [--samples 2000] [--rounds 1]

Both use the same model, weight file and real images (of the model's resolution), and compute FID and KID on
the CPU; their runs alternate. With --random a full-size network with random weights is written to DIR first:
the work is the same. Prints one line of JSON per run, with seconds and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FSGEN = """
import sys, fsgen
report = fsgen.evaluate(sys.argv[1], real=sys.argv[2], samples=int(sys.argv[3]), metrics=["fid", "kid"],
                        weights_dir=__import__("pathlib").Path(sys.argv[4]), device="cpu")
print(report.metrics)
"""

CLEAN_FID = """
import sys, tempfile, warnings
warnings.simplefilter("ignore")
import numpy as np, torch, fsgen
from pathlib import Path
from PIL import Image
from fsgen.features.torchvision_shim import import_torchvision
import_torchvision()
from cleanfid import fid, features
from cleanfid.inception_torchscript import InceptionV3W

source, real, n, weights = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
with tempfile.TemporaryDirectory() as folder:
    model = fsgen.load(source, device="cpu")
    for first in range(0, n, 16):
        for i, image in enumerate(model.sample(min(16, n - first), seed=first)):
            image = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
            Image.fromarray(image).save(Path(folder) / f"{first + i:05d}.png")
    network = InceptionV3W(weights, download=False).eval()
    options = dict(num_workers=2, batch_size=32, device=torch.device("cpu"), verbose=False)
    samples, real = (fid.get_folder_features(path, network, **options) for path in (folder, real))
np.random.seed(0)
print({"fid": fid.fid_from_feats(samples, real), "kid": fid.kernel_distance(samples, real)})
"""


def write_random_weights(folder: Path) -> None:
    """Write a full-size Inception with random weights in the published file's format."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import stand_ins

    folder.mkdir(parents=True, exist_ok=True)
    stand_ins.write_inception(folder)


def run_timed(code: str, home: str, *arguments: object) -> dict[str, object]:
    """Run ``code`` in a process of its own, whose caches are in ``home``."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "FSGEN_HOME": home},
    )  # fmt: skip
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, "a run failed"
    return {
        "seconds": round(time.perf_counter() - began, 1), "peak_rss_mb": usage.ru_maxrss // 1000,
        "metrics": out.strip(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("real", type=Path, help="a folder of real images")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="write random weights into --weights-dir first")
    given = parser.parse_args()
    if given.random:
        write_random_weights(given.weights_dir)
    for turn in range(given.rounds):
        for name, code in (("fsgen eval", FSGEN), ("PNGs and clean-fid", CLEAN_FID)):
            with tempfile.TemporaryDirectory() as home:  # nothing is cached between runs
                row = run_timed(code, home, given.source, given.real, given.samples, given.weights_dir)
            print(json.dumps({"round": turn, "way": name, "cores": os.cpu_count(), **row}), flush=True)


if __name__ == "__main__":
    main()
