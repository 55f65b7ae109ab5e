"""Weights of LipSyncNet in a folder: those that merc ships, and those that anyone trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from merc.files import parse_json, write_aside, write_json, write_text
from merc.speaker.base import SyncNetwork
from merc.speaker.net import LipSyncNet
from merc.speaker.pooled import PooledLipSyncNet

SHIPPED = Path(__file__).resolve().parents[1] / "shipped"
"""The folder of the weights that come with merc."""

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

_FORMAT = "merc.lipsync/1"
_NETWORKS: dict[str, type[SyncNetwork]] = {cls.__name__: cls for cls in (LipSyncNet, PooledLipSyncNet)}
_OPTIONS = {
    "LipSyncNet": ("size", "channels", "width", "hidden", "dropout"),
    "PooledLipSyncNet": ("size", "dim", "width", "dropout"),
}


@dataclass(frozen=True)
class PretrainedLips:
    """A trained network that compares lips with sound.

    Args:
        network: In evaluation mode.
        calibration: For its scorer, see :meth:`merc.speaker.SpeakerScorer.calibrated`.
        trained_on: What it was trained on, in words.
        folder: Where it was read from.
    """

    network: SyncNetwork
    calibration: Tensor
    trained_on: str
    folder: Path


def shipped_lipsync() -> list[str]:
    """The names of the weights that come with merc."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def load_lipsync(name: str | Path = "lipsync") -> PretrainedLips:
    """Load weights that come with merc, or that :func:`save_lipsync` wrote.

    Args:
        name: One of :func:`shipped_lipsync`, or a folder.

    Raises:
        FileNotFoundError: There are no such weights; the message lists those that there are.
        ValueError: The files are damaged, or of something else.

    Example:
        >>> load_lipsync("lipsync").network.size
        32
    """
    folder = SHIPPED / str(name) if str(name) in shipped_lipsync() else Path(name)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"There are no weights {str(name)!r}: expected {', '.join(shipped_lipsync())}, or a folder with {CONFIG} "
            f"and {WEIGHTS}."
        )
    try:
        config: dict[str, Any] = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != _FORMAT:
            raise ValueError(f"its format is {config['format']!r}, expected {_FORMAT!r}")
        network = _NETWORKS[config["network"]["class"]](**config["network"]["options"])
        network.load_state_dict(load_file(folder / WEIGHTS))
        calibration = torch.tensor(config["calibration"], dtype=torch.float32)
        trained_on = str(config["trained_on"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no weights of LipSyncNet that can be read ({type(error).__name__}: {error}). Copy it "
            "again."
        ) from error
    return PretrainedLips(network.eval().requires_grad_(False), calibration, trained_on, folder)


def save_lipsync(
    folder: str | Path, network: SyncNetwork, calibration: Tensor, *, trained_on: str, card: str = ""
) -> None:
    """Write weights as :func:`load_lipsync` reads them: no pickle, no path of this machine.

    Args:
        folder: Where to write; made if it is not there.
        network: One of merc's networks.
        calibration: For its scorer.
        trained_on: What it was trained on, in words.
        card: Text of its ``README.md``.

    Raises:
        TypeError: The network is not merc's, so its class could not be named in a file that anyone may open.
    """
    folder = Path(folder)
    name = type(network).__name__
    if _NETWORKS.get(name) is not type(network):
        raise TypeError(f"{name} cannot be saved: expected one of {', '.join(_NETWORKS)}.")
    options = {option: getattr(network, option) for option in _OPTIONS[name]}
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(folder / WEIGHTS) as aside:
        aside.write_bytes(save({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}))
    if card:
        write_text(folder / CARD, card)
    config = {
        "format": _FORMAT,
        "network": {"class": name, "options": options},
        "calibration": calibration.tolist(),
        "trained_on": trained_on,
    }
    write_json(folder / CONFIG, config)
