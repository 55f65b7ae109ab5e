"""Pretrained models of the encoders, found by name, folder or package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

UNUSED = ("pooler", "masked_spec_embed")
"""Parts of networks that are not used here; their parameters would never get a gradient."""


def load_pretrained(model: str, kind: str, beside: str, read: Callable[..., Any]) -> tuple[Any, Any]:
    """Load a network and its input preparation, in float32 and training mode, without the parts :data:`UNUSED`.

    Args:
        model: Name on the Hugging Face hub, a local folder, or ``package:folder`` for a folder inside an installed
            Python package. Folders need no network.
        kind: Name of the encoder in messages, such as ``Text encoder``.
        beside: Files that the folder needs beside ``config.json`` and the weights, for messages.
        read: Reads these from a folder or a name, with the option ``local_files_only``.

    Returns:
        The result of ``read``, and the network.

    Raises:
        FileNotFoundError: The model is neither a folder nor available on the hub.
        ValueError: Weights are missing in its file, and would stay random.
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
            "download the model elsewhere, copy it here and pass its folder."
        ) from error
    for name in UNUSED:
        if getattr(network, name, None) is not None:
            setattr(network, name, None)
    lacking = sorted(set(report["missing_keys"]) & set(network.state_dict()))
    if lacking:
        raise ValueError(
            f"{kind} {model!r} has no weights for {', '.join(lacking[:3])} ({len(lacking)} in all), which would stay "
            "random. Its config.json and its weights do not match."
        )
    return prepare, network.train()


def read_sound_settings(place: str, **options: bool) -> dict[str, Any]:
    """The input settings of a speech model, from its folder or name: ``sampling_rate``, ``do_normalize``."""
    from transformers.feature_extraction_utils import FeatureExtractionMixin

    settings: dict[str, Any] = FeatureExtractionMixin.get_feature_extractor_dict(place, **options)[0]
    return settings


def read_image_settings(place: str, **options: bool) -> dict[str, Any]:
    """The input settings of a video model, from its folder or name: ``image_mean``, ``image_std`` and others."""
    from transformers.image_processing_base import ImageProcessingMixin  # imports torchvision, which takes seconds

    settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(place, **options)[0]
    return settings


def local_folder(model: str) -> Path | None:
    """The folder that ``model`` names by its path or as ``package:folder``; ``None`` for a name on the hub.

    Raises:
        FileNotFoundError: ``package:folder`` does not exist.
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
    raise FileNotFoundError(f"No folder {inside!r} in Python package {package!r}. Install the package (pip) first.")
