"""Pretrained models of the encoders, found by name, folder or package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin

UNUSED = ("pooler", "masked_spec_embed")
"""Parts of networks that no vector of ours passes through: they would only be parameters without a gradient."""


def load_pretrained(model: str, kind: str, beside: str, read: Callable[..., Any]) -> tuple[Any, Any]:
    """A network and what prepares its input, in float32, in training mode as any new module, without :data:`UNUSED`.

    Args:
        model: Name on the Hugging Face hub, a local folder, or ``package:folder`` for a folder inside an installed
            Python package. Folders need no network.
        kind: What to call the encoder in messages, as ``Text encoder``.
        beside: What the folder must hold beside ``config.json`` and the weights, for messages.
        read: Reads that from a folder or a name, with the option ``local_files_only``.

    Returns:
        What ``read`` gave, and the network.

    Raises:
        FileNotFoundError: The model is neither a folder nor to be had from the hub.
        ValueError: Its file of weights lacks some, which would stay random.
    """
    folder = local_folder(model)
    place, local = (str(folder), True) if folder else (model, False)
    try:
        prepare = read(place, local_files_only=local)
        network, report = AutoModel.from_pretrained(
            place, local_files_only=local, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{kind} {model!r} could not be loaded: expected a folder with config.json, {beside} and weights, "
            f"package:folder of an installed package, or a name on the Hugging Face hub ({error}). Without a network, "
            "download the model elsewhere, copy it here and give its folder."
        ) from error
    for name in UNUSED:
        if getattr(network, name, None) is not None:
            setattr(network, name, None)
    lacking = sorted(set(report["missing_keys"]) & set(network.state_dict()))
    if lacking:
        raise ValueError(
            f"{kind} {model!r} has no weights for {', '.join(lacking[:3])} ({len(lacking)} in all), which would stay "
            "random: its config.json and its weights do not belong together."
        )
    return prepare, network.train()


def read_sound_settings(place: str, **options: bool) -> dict[str, Any]:
    """What a speech model's folder or name says of its input: ``sampling_rate``, ``do_normalize``."""
    settings: dict[str, Any] = FeatureExtractionMixin.get_feature_extractor_dict(place, **options)[0]
    return settings


def read_image_settings(place: str, **options: bool) -> dict[str, Any]:
    """What a video model's folder or name says of its input: ``image_mean``, ``image_std``, ``rescale_factor``."""
    settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(place, **options)[0]
    return settings


def local_folder(model: str) -> Path | None:
    """The folder that ``model`` names by its path or as ``package:folder``; ``None`` for a name on the hub.

    Raises:
        FileNotFoundError: ``package:folder`` names none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    package, colon, inside = model.partition(":")
    if not colon or not package.isidentifier():
        return None
    spec = importlib.util.find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / inside).is_dir():
            return Path(place) / inside
    raise FileNotFoundError(f"No folder {inside!r} in Python package {package!r}: install the package (pip) first.")
