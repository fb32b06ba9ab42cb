"""fsgen eval against the usual way to a FID: write PNGs, run clean-fid on the folder. Interleaved in one run.

    python examples/bench/fid.py SOURCE REALS --weights-dir DIR [--samples 2000] [--rounds 1]

Both begin with the same model and folder of reals, read the same weights file and end with FID and KID. The
network may be a full-size one with random weights: the work is the same. --random writes such a file first.
Prints one line of JSON a run, and the peak memory of each process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

OURS = """
import sys, fsgen
found = fsgen.evaluate(sys.argv[1], real=sys.argv[2], samples=int(sys.argv[3]), metrics=["fid", "kid"],
                       weights_dir=__import__("pathlib").Path(sys.argv[4]), device="cpu")
print(found.metrics)
"""

THEIRS = """
import sys, tempfile, warnings
warnings.simplefilter("ignore")
import numpy as np, torch, fsgen
from pathlib import Path
from fsgen.data.image_output import picture
from fsgen.features.torchvision_shim import import_torchvision
import_torchvision()
from cleanfid import fid, features
from cleanfid.inception_torchscript import InceptionV3W

source, reals, n, weights = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
with tempfile.TemporaryDirectory() as folder:
    model = fsgen.load(source, device="cpu")
    for first in range(0, n, 16):
        for i, image in enumerate(model.sample(min(16, n - first), seed=first)):
            picture(image).save(Path(folder) / f"{first + i:05d}.png")
    network = InceptionV3W(weights, download=False).eval()
    options = dict(num_workers=2, batch_size=32, device=torch.device("cpu"), verbose=False)
    made, real = (fid.get_folder_features(path, network, **options) for path in (folder, reals))
np.random.seed(0)
print({"fid": fid.fid_from_feats(made, real), "kid": fid.kernel_distance(made, real)})
"""


def random_weights(folder: Path) -> None:
    """A full-size Inception with random weights in the published file's format."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import stand_ins

    folder.mkdir(parents=True, exist_ok=True)
    stand_ins.write_inception(folder)


def timed(code: str, *arguments: object) -> dict[str, object]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "FSGEN_HOME": os.environ["BENCH_HOME"]},
    )  # fmt: skip
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, "a run failed"
    return {
        "seconds": round(time.perf_counter() - began, 1), "peak_rss_mb": usage.ru_maxrss // 1000,
        "figures": out.strip(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("reals", type=Path, help="a folder of images")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="write random weights into --weights-dir first")
    given = parser.parse_args()
    if given.random:
        random_weights(given.weights_dir)
    import tempfile

    for turn in range(given.rounds):
        for name, code in (("fsgen eval", OURS), ("PNGs and clean-fid", THEIRS)):
            with tempfile.TemporaryDirectory() as home:  # nothing is cached from turn to turn
                os.environ["BENCH_HOME"] = home
                row = timed(code, given.source, given.reals, given.samples, given.weights_dir)
            print(json.dumps({"turn": turn, "way": name, "cores": os.cpu_count(), **row}), flush=True)


if __name__ == "__main__":
    main()
