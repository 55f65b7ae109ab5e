"""What the tasks share about checkpoints: reading them, and the refusal of those of another model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from merc.datamodules.facts import DataFacts

_PARTS = {"state_dict": dict, "pytorch-lightning_version": str, "hyper_parameters": dict}
"""What every checkpoint of merc holds, whoever made it."""


def verify_checkpoint(path: str | Path) -> None:
    """Compare what a checkpoint holds with its checksums, which PyTorch does not.

    Without it, one flipped bit loads as a weight of another size.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or no checkpoint.
    """
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No checkpoint {path}: expected one that `merc fit` wrote.") from error
    except Exception as error:  # zipfile raises whatever the bytes lead it to
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if damaged is not None:
        raise _damaged(path, f"{damaged} does not match its checksum")


def _damaged(path: str | Path, why: str) -> ValueError:
    return ValueError(
        f"{path} is no checkpoint, is damaged, or was not written to its end ({why}): expected one that `merc fit` "
        "wrote. Copy it again, or train again."
    )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint in the memory of the CPU, its tensors mapped from the file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged or truncated, or holds more than plain values.
    """
    verify_checkpoint(path)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(checkpoint, dict):
        raise _damaged(path, f"it holds a {type(checkpoint).__name__}")
    for name, kind in _PARTS.items():
        if not isinstance(checkpoint.get(name), kind):
            raise _damaged(path, f"{name} is {type(checkpoint.get(name)).__name__}, expected {kind.__name__}")
    if not isinstance(checkpoint.get("callbacks", {}), dict):
        raise _damaged(path, "callbacks is no dict")
    return checkpoint


def facts_of(checkpoint: Mapping[str, Any], task: object) -> tuple[DataFacts, dict[str, Any]]:
    """The facts of the data that a checkpoint was trained on, and all that it says of itself.

    Args:
        checkpoint: The checkpoint.
        task: The task that it is to be loaded into.

    Raises:
        ValueError: It is of another task, or tells no facts.
    """
    found = checkpoint.get("merc", {})
    name = type(task).__name__
    if not isinstance(found, dict) or found.get("task") != name or not checkpoint.get("state_dict"):
        other = found.get("task") if isinstance(found, dict) else None
        raise ValueError(
            f"The checkpoint is of another model (task: expected {name}, found {other}): "
            "give the checkpoint of this config."
        )
    return DataFacts.from_plain(found.get("facts")), found


def refuse_other_model(
    expected: Mapping[str, Any], found: Mapping[str, Any], own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> None:
    """Compare a checkpoint with the model that it is to be loaded into.

    Args:
        expected: What the model says of itself, in plain values.
        found: What the checkpoint says of the model that it was made from.
        own: The model's state.
        given: The checkpoint's state.

    Raises:
        ValueError: They differ; the message says in what.
    """
    differ = [f"{k}: expected {v}, found {found.get(k)}" for k, v in expected.items() if found.get(k) != v]
    if not differ and list(expected.get("modalities", ())) != list(found.get("modalities", ())):
        # Heads put modalities side by side: in another order every weight would be that of another modality.
        raise ValueError(
            f"The network has the modalities in the order {', '.join(expected['modalities'])}, and the checkpoint "
            f"{', '.join(found['modalities'])}: give the stores in the order of the training."
        )
    if not differ:
        shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (own, given)]
        names = [name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name)]
        differ = [f"{name}: expected {shapes[0].get(name)}, found {shapes[1].get(name)}" for name in names[:3]]
    if differ:
        raise ValueError(
            f"The checkpoint is of another model ({'; '.join(differ)}): give the checkpoint of this config."
        )
