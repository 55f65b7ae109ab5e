"""Weights of LipSyncNet in a folder: those that merc ships, and those that anyone trains."""

from __future__ import annotations

import math
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


@dataclass(frozen=True, eq=False)
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

    @property
    def spec(self) -> dict[str, Any]:
        """What makes such a network: its import path, with its options."""
        name = type(self.network).__name__
        options = {option: getattr(self.network, option) for option in _OPTIONS[name]}
        return {"class_path": f"merc.speaker.{name}", "init_args": options}


def shipped_lipsync() -> list[str]:
    """The names of the weights that come with merc."""
    configs = {path.parent.name: parse_json(path.read_bytes()) for path in SHIPPED.glob(f"*/{CONFIG}")}
    return sorted(name for name, config in configs.items() if config.get("format") == _FORMAT)


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
        config = parse_json((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or config.get("format") != _FORMAT:
            raise ValueError(f"{CONFIG} is not of format {_FORMAT!r}")
        if lacking := [key for key in ("network", "calibration", "trained_on") if key not in config]:
            raise ValueError(f"{CONFIG} lacks {', '.join(lacking)}")
        calibration = [-math.inf if value is None else value for value in config["calibration"]]
        network = _network(config["network"], load_file(folder / WEIGHTS))
        numbers = torch.tensor(calibration, dtype=torch.float32)
        return PretrainedLips(network, numbers, str(config["trained_on"]), folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        found = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{folder} holds no weights of LipSyncNet that can be read ({found}). Copy it again."
        ) from error


def _network(config: Any, weights: dict[str, Tensor]) -> SyncNetwork:  # noqa: ANN401 - JSON may be anything
    """The network that a config names, with weights that fit it."""
    name, options = (config.get(key) if isinstance(config, dict) else None for key in ("class", "options"))
    if name not in _NETWORKS or not isinstance(options, dict) or set(options) != set(_OPTIONS[name]):
        expected = " or ".join(f"{network} ({', '.join(known)})" for network, known in _OPTIONS.items())
        raise ValueError(f"{CONFIG} names the network {name!r}, expected {expected}")
    with torch.device("meta"):  # the shapes alone: a config that was tampered with may ask for any size
        network = _NETWORKS[name](**options)
    own, found = ({key: tuple(w.shape) for key, w in state.items()} for state in (network.state_dict(), weights))
    if wrong := sorted(key for key in own.keys() | found if own.get(key) != found.get(key)):
        raise ValueError(
            f"{WEIGHTS} does not fit {CONFIG}: {len(wrong)} tensors differ, {wrong[0]} is {found.get(wrong[0])}, "
            f"expected {own.get(wrong[0])}"
        )
    network.load_state_dict({key: weight.to(torch.float32, copy=True) for key, weight in weights.items()}, assign=True)
    return network.eval().requires_grad_(False)


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
        "calibration": [None if math.isinf(value) else value for value in calibration.tolist()],
        "trained_on": trained_on,
    }
    write_json(folder / CONFIG, config)
