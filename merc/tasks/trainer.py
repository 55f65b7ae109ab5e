"""What tasks share about the Trainer that runs them: its data, and what it logs of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import lightning as L
import torch
from torch import Tensor

Data = TypeVar("Data", bound=L.LightningDataModule)


def datamodule_of(task: L.LightningModule, kind: type[Data]) -> Data:
    """The datamodule of a task's trainer.

    Args:
        task: The task that the trainer runs.
        kind: The datamodule that the task needs.

    Raises:
        TypeError: The trainer has none, or one of another kind.
    """
    data = getattr(task.trainer, "datamodule", None)
    if not isinstance(data, kind):
        raise TypeError(
            f"{type(task).__name__} expects a {kind.__name__}, found {type(data).__name__}: "
            "pass trainer.fit(task, datamodule=...)."
        )
    return data


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms of a loss, in float32."""
    return torch.stack([term.float() for term in terms.values()]).sum()


def log_terms(task: L.LightningModule, terms: Mapping[str, Tensor], size: int) -> Tensor:
    """Log the terms of a training step and their sum, as means over the epoch.

    Args:
        task: The task that trains.
        terms: Terms of the loss by name, weighted.
        size: By how much the batch counts.

    Returns:
        The sum of the terms, in float32.
    """
    loss = total(terms)
    for name, value in {"loss": loss, **terms}.items():
        task.log(
            f"train/{name}", value.detach(), prog_bar=name == "loss", on_step=False, on_epoch=True, batch_size=size
        )
    return loss
