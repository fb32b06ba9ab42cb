"""Any network of timm's as features, by timm's name (extra ``vit``); torchvision's are there too (``tv``)."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fsgen.errors import FsgenError, suggest
from fsgen.features.base_extractor import Extractor, centre, each, read_state, reading, undrawn
from fsgen.features.torchvision_shim import import_torchvision
from fsgen.features.weight_files import Download

PREFIX = "timm:"


class TimmNetwork(Extractor):
    """The pooled output before the classifier, brought to length one.

    Pictures as timm says of that network: input size, interpolation, mean and deviation; of each the whole
    centre square, where timm would crop a margin.

    Args:
        model: timm's name, with or without a tag ("resnet18.tv_in1k").
        path: its weights as published for it; a name or a tensor too many or too few is an error.
        device: where it runs.
    """

    modes: ClassVar = ("pooled",)
    version = 1

    def __init__(self, model: str, path: Path, device: torch.device | str = "cpu") -> None:
        self.model = _known(model)
        self.name = PREFIX + model
        super().__init__(path, device)
        self.dim = self(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape[1]

    def _load(self, path: Path) -> nn.Module:
        timm = _timm()
        with undrawn(), reading(path):
            # With its own classifier, else timm lets tensors be absent; timm renames what needs it.
            source = {"state_dict": read_state(path), "custom_load": False}
            network = timm.create_model(self.model, pretrained=True, pretrained_cfg_overlay=source)
        network.pretrained_cfg["state_dict"] = None  # once is enough
        network.reset_classifier(0)
        found = timm.data.resolve_model_data_config(network)
        self._size = found["input_size"][:0:-1]  # (width, height)
        self._filter = Image.Resampling[found["interpolation"].upper()]
        self._mean, self._std = (torch.tensor(found[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        return network.float()

    def _features(self, images: Tensor) -> Tensor:
        pictures = each(self._resize, centre(images).permute(0, 2, 3, 1).cpu().numpy())
        levels = (pictures.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        return nn.functional.normalize(self.network(levels.to(self.device)).flatten(1), dim=1)

    def _resize(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize(self._size, self._filter))


def locate_timm_file(model: str, weights_dir: Path | None = None, download: Download | None = None) -> Path:
    """The weights of timm's ``model``: MODEL.safetensors in ``weights_dir``, else from the Hub.

    Args:
        model: timm's name.
        weights_dir: a folder of the user's.
        download: any of ``weights.Download`` allows the network, where the Hub's cache does not hold them.

    Raises:
        FsgenError: no such model; absent and not to be had.
    """
    config = _timm().get_pretrained_cfg(_known(model))
    name = f"{model}.safetensors"
    if weights_dir is not None and (weights_dir / name).is_file():
        return weights_dir / name
    hint = f"put its weights as {name} into a folder and name that with --weights-dir"
    if config is None or not config.hf_hub_id:
        raise FsgenError(f"timm has no weights of '{model}' on the Hub", hint=hint)
    file = config.hf_hub_filename or "model.safetensors"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(config.hf_hub_id, file)
    if isinstance(cached, str):
        return Path(cached)
    if download is not None:
        from fsgen.io.download import fetch_hub

        return fetch_hub(f"hf://{config.hf_hub_id}/{file}")
    raise FsgenError(
        f"weights are not on this machine: timm's {model}",
        hint=f"fetch them once: fsgen pull metrics {PREFIX}{model}\n"
        f"or get https://huggingface.co/{config.hf_hub_id}/resolve/main/{file}; {hint}",
    )


def _known(model: str) -> str:
    """``model``, which timm has."""
    timm = _timm()
    if not timm.is_model(model):
        raise FsgenError(f"timm has no model '{model}'", hint=suggest(model, timm.list_models(), _LIST))
    try:
        timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        tags = timm.list_models(model.split(".")[0], pretrained=True)
        raise FsgenError(f"timm has no weights called '{model}'", hint=suggest(model, tags)) from error
    return model


_LIST = "python -c 'import timm; print(timm.list_models())' lists them"


def _timm() -> ModuleType:
    import_torchvision()
    try:
        import timm
    except ImportError as error:
        raise FsgenError(
            "features by timm's names need the timm package",
            hint="pip install -c constraints.txt 'fsgen[vit]'",
        ) from error
    return timm
