"""What tasks ask of the Trainer that runs them."""

from __future__ import annotations

from typing import TypeVar

import lightning as L

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
