"""Interrupted runs, and a comparison of their results."""

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
    """Hashes of the adapted model and of the saved state, and the configuration."""
    model, state = (load_file(run / name) for name in ("model.safetensors", "state/latest.safetensors"))
    return checkpoint.hash_tensors(model), checkpoint.hash_tensors(state), RunFolder.open(run).config()


class After:
    """Stop training after ``step`` steps, or with ``die`` raise there, before the state is saved."""

    def __init__(self, step, die=False):
        self.steps, self.die, self.preparing = step, die, False
        self.callbacks = Callbacks(progress=self.progress, stop=self.stop)

    def progress(self, task, done, total):
        self.preparing = True  # the next call of stop belongs to no step

    def stop(self):
        self.steps -= not self.preparing
        self.preparing = False
        if self.steps <= 0 and self.die:
            raise KeyboardInterrupt
        return self.steps <= 0
