"""Runs that are stopped on their way, and how to compare what comes of them."""

from __future__ import annotations

from safetensors.torch import load_file

import fsgen
from fsgen.callbacks import Callbacks
from fsgen.io import checkpoint
from fsgen.io.run_folder import RunFolder

STEPS = 6
METHODS = {
    "finetune": ("finetune", {}),
    "ewc": ("ewc", {"ewc": {"lambda": 50, "samples": 4}}),
    "ewc-auto": ("ewc", {"ewc": {"samples": 4}}),
    "diffaugment": ("diffaugment", {}),
    "stack": ("ewc,diffaugment", {"ewc": {"samples": 4}}),
}


def adapt(images, out, source, name="finetune", steps=STEPS, **options):
    method, chosen = METHODS[name]
    return fsgen.adapt(
        images, out=out, source=source, method=method, options=chosen, steps=steps, device="cpu",
        save_every=2, **options,
    )  # fmt: skip


def outcome(run):
    """Identities of the adapted model and of the state behind it, and what stands in the configuration."""
    model, state = (load_file(run / name) for name in ("model.safetensors", "state/latest.safetensors"))
    return checkpoint.hash_tensors(model), checkpoint.hash_tensors(state), RunFolder.open(run).config()


class After:
    """Lets training go as far as ``step``, then asks it to stop, or dies there without saving."""

    def __init__(self, step, die=False):
        self.steps, self.die, self.preparing = step, die, False
        self.callbacks = Callbacks(progress=self.progress, stop=self.stop)

    def progress(self, task, done, total):
        self.preparing = True  # what comes next is no step of the run

    def stop(self):
        self.steps -= not self.preparing
        self.preparing = False
        if self.steps <= 0 and self.die:
            raise KeyboardInterrupt
        return self.steps <= 0
