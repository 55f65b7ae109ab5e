"""The folder of a model: config.json, weights as safetensors, and a card; anything else in it is refused or ignored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from merc.files import parse_json, write_aside, write_json, write_text
from merc.models.errors import ModelError
from merc.models.steps import ENCODERS

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

FORMAT = "merc.Model/1"

_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
_BESIDE = (".json", ".txt", ".safetensors", ".model", ".jinja")
"""How the names of files of a pretrained encoder end: none of them can run code."""


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Write a model, config.json last; files of encoders are in the folder already.

    Args:
        folder: The folder.
        config: What config.json says, but for ``format`` and ``files``.
        tensors: The weights.
        card: Text of the README.
    """
    # Copies: safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with write_aside(folder / WEIGHTS) as aside:
        aside.write_bytes(save(plain))  # save_file would make a file that only its owner may read
    write_text(folder / CARD, card)
    names = [WEIGHTS, *(_name(folder, path) for path in _files_below(folder / ENCODERS))]
    files = {name: _digest(folder / name) for name in names}
    write_json(folder / CONFIG, {"format": FORMAT, **config, "files": files})


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`write_folder` wrote.

    Returns:
        What config.json says, and the weights.

    Raises:
        FileNotFoundError: There is no model.
        ModelError: It is damaged, incomplete, or was tampered with.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"There is no model in {folder}: expected a folder with {CONFIG} and {WEIGHTS}.")
    try:
        config = parse_json((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read ({error}). Copy the model again.") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise ModelError(f"{folder / CONFIG} has the format {found!r}, expected {FORMAT!r}: a folder of `merc export`.")
    files = config.get("files")
    if not isinstance(files, dict) or WEIGHTS not in files:
        raise ModelError(f"{folder / CONFIG} lists no {WEIGHTS} among its files. Copy the model again.")
    for name, digest in files.items():
        _check_file(folder, name, digest)
    if unlisted := sorted({_name(folder, path) for path in _files_below(folder / ENCODERS)} - files.keys()):
        raise ModelError(f"{folder} holds {unlisted[0]}, which {CONFIG} does not list. Copy the model again.")
    _refuse_places(config.get("steps"))
    try:
        return config, load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} is no safetensors file ({error}): other formats, such as pickles, may run code and "
            "are never read. Copy the model again."
        ) from error


def is_model(folder: Path) -> bool:
    """Whether a folder that comes with merc holds a model, and not weights of LipSyncNet alone."""
    return bool(parse_json((folder / CONFIG).read_bytes()).get("format") == FORMAT)


def _check_file(folder: Path, name: str, digest: object) -> None:
    """Refuse a file that is not inside the folder, of a kind that may run code, missing or changed."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ModelError(f"{folder / CONFIG} names the file {name!r}: expected a plain name inside the folder.")
    inside = name == WEIGHTS or (name.startswith(f"{ENCODERS}/") and name.endswith(_BESIDE))
    if not inside:
        raise ModelError(
            f"{folder / CONFIG} names the file {name!r}: expected {WEIGHTS}, or files of encoders below {ENCODERS}/ "
            f"that end in {', '.join(_BESIDE)}. Other formats, such as pickles, may run code and are never read."
        )
    if not (folder / name).is_file():
        raise ModelError(f"{folder} lacks its file {name}. Copy the model again.")
    if _digest(folder / name) != digest:
        raise ModelError(f"{folder / name} does not match its digest: it was damaged or altered. Copy the model again.")


def _refuse_places(value: Any) -> None:  # noqa: ANN401 - nested JSON values
    """Refuse names of places outside the folder: absolute ones, and those that climb."""
    if isinstance(value, str):
        path = value.replace("\\", "/")
        if path.startswith(("/", "~")) or ".." in re.split("[/:]", path) or re.match(r"[A-Za-z]:/", path):
            raise ModelError(f"The model names {value!r}, a place outside its folder: expected none.")
    parts: list[Any] = [*value, *value.values()] if isinstance(value, dict) else []
    parts += value if isinstance(value, list) else []
    for part in parts:
        _refuse_places(part)


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_other_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite: they would give NaN for every utterance.

    Raises:
        ModelError: There are some.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"The weights {name} are not finite. Train again, or copy the model again.")
