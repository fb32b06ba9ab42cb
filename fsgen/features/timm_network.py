"""A network of timm as features, by timm's name; torchvision's weights are among them (``.tv_``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError, unknown_name
from fsgen.features.base_extractor import Extractor, crop_centre, map_images, standardise
from fsgen.features.torchvision_shim import import_timm
from fsgen.features.weight_files import Download
from fsgen.features.weight_loading import read_tensors, refuse_bad_weights, skip_random_init

PREFIX = "timm:"
_LIST = "python -c 'import timm; print(timm.list_models())' lists them"


class TimmNetwork(Extractor):
    """The pooled output before the classifier, scaled to length one.

    Preprocessing as timm configures the network (input size, interpolation, mean, standard deviation), but on
    the whole central square, where timm would crop a margin.

    Args:
        model: timm's name, with or without a tag ("resnet18.tv_in1k").
        path: its weights as published; missing or unexpected tensors are refused.
        device: where it runs.
    """

    modes = ("pooled",)
    version = 1

    def __init__(self, model: str, path: Path, device: torch.device | str = "cpu") -> None:
        self.model = _checked_name(model)
        self.name = PREFIX + model
        super().__init__(path, device)
        self.dim = self(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape[1]

    def _load(self, path: Path) -> nn.Module:
        timm = import_timm()
        with skip_random_init(), refuse_bad_weights(path):
            # With its own classifier, or timm would accept missing tensors; timm renames what needs it.
            source = {"state_dict": read_tensors(path), "custom_load": False}
            network = timm.create_model(self.model, pretrained=True, pretrained_cfg_overlay=source)
        network.pretrained_cfg["state_dict"] = None  # frees the second copy
        network.reset_classifier(0)
        config = timm.data.resolve_model_data_config(network)
        self._size = config["input_size"][:0:-1]  # (width, height)
        self._filter = Image.Resampling[config["interpolation"].upper()]
        self._mean, self._std = config["mean"], config["std"]
        return network.float()

    def _features(self, images: Tensor) -> Tensor:
        pixels = map_images(self._resize, crop_centre(images).permute(0, 2, 3, 1).cpu().numpy())
        pixels = standardise(pixels.permute(0, 3, 1, 2).to(self.device), self._mean, self._std)
        return nn.functional.normalize(self.network(pixels).flatten(1), dim=1)

    def _resize(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize(self._size, self._filter))


def locate_timm_file(model: str, weights_dir: Path | None = None, download: Download | None = None) -> Path:
    """Locate the weights of timm's ``model``: MODEL.safetensors in ``weights_dir``, else from the Hub.

    Args:
        model: timm's name.
        weights_dir: a folder of the user's.
        download: any ``Download`` allows network access where the Hub's cache does not have them; None: none.

    Raises:
        FsgenError: unknown model; weights absent and not downloaded.
    """
    config = import_timm().get_pretrained_cfg(_checked_name(model))
    name = f"{model}.safetensors"
    if weights_dir is not None and (weights_dir / name).is_file():
        return weights_dir / name
    hint = f"put its weights as {name} into a folder and pass that as --weights-dir"
    if config is None or not config.hf_hub_id:
        raise FsgenError(
            f"the Hub has no weights of timm's '{model}'",
            code=Code.MISSING_WEIGHTS, where=model, hint=hint,
        )  # fmt: skip
    file = config.hf_hub_filename or "model.safetensors"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(config.hf_hub_id, file)
    if isinstance(cached, str):
        return Path(cached)
    if download is not None:
        from fsgen.io.download import fetch_hub

        return fetch_hub(f"hf://{config.hf_hub_id}/{file}")
    raise FsgenError(
        f"the weights of timm's '{model}' are not on this machine",
        code=Code.MISSING_WEIGHTS, where=model,
        hint=f"fetch them once: fsgen pull metrics {PREFIX}{model}\n"
        f"or get https://huggingface.co/{config.hf_hub_id}/resolve/main/{file}; {hint}",
    )  # fmt: skip


def _checked_name(model: str) -> str:
    """Return ``model`` if timm knows it and its tag, else refuse it."""
    timm = import_timm()
    if not timm.is_model(model):
        raise unknown_name(f"timm has no model '{model}'", model, timm.list_models(), otherwise=_LIST)
    try:
        timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        known = timm.list_models(model.split(".")[0], pretrained=True)
        raise unknown_name(f"timm has no weights called '{model}'", model, known) from error
    return model
