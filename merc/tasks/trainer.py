"""What tasks share about the Trainer that runs them: its data, and what it logs of a training step."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from merc.tasks.checkpoints import verify_checkpoint
from merc.tasks.describe import DescribedTask

_RANDOM = "random_states"
"""Key of a checkpoint for the states of all random numbers."""

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


def require_whole_network(trainer: L.Trainer) -> None:
    """Check that every process of the trainer holds the whole network, as checkpoints, digests and metrics expect.

    Args:
        trainer: The trainer.

    Raises:
        ValueError: Its strategy splits the network over processes.
    """
    if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
        raise ValueError(
            f"trainer.strategy is {type(trainer.strategy).__name__}, which splits a network over devices: expected one "
            "device or DDP, since the networks of merc fit on one. Pass trainer.devices 1 or trainer.strategy ddp."
        )


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms of a loss, in float32."""
    return torch.stack([term.float() for term in terms.values()]).sum()


class TermsTask(DescribedTask):
    """A task that logs the terms of its loss, ``train/...``, as means over the epoch in the first process.

    They are added up here and logged with the last batch: Lightning's own sums take a third of a millisecond for each
    term of each step, a tenth of the training of a small network. When validation runs does not matter. Of an epoch
    that goes on after an interruption they are means over its rest. Who overrides a hook of this class calls it too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._terms: dict[str, tuple[Tensor | float, int]] = {}  # what was added up, and the sizes
        self._random: dict[str, Any] | None = None  # random numbers of an interrupted training, until it goes on

    def add_terms(self, terms: Mapping[str, Tensor], size: int) -> Tensor:
        """Count the terms of a training step and their sum.

        Args:
            terms: Terms of the loss by name, weighted.
            size: By how much the batch counts.

        Returns:
            The sum of the terms, in float32.
        """
        loss = total(terms)
        for name, value in {"loss": loss, **terms}.items():
            so_far, count = self._terms.get(name, (0.0, 0))
            self._terms[name] = so_far + value.detach().float() * size, count + size
        return loss

    def on_train_start(self) -> None:
        """Forget the terms of a training that was interrupted, and check that there will be a validation.

        Raises:
            ValueError: The training ends before its first validation, so that no checkpoint could be chosen.
        """
        self._terms.clear()
        trainer = self.trainer
        batches, first = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches, trainer.val_check_batch
        over_epochs = trainer.enable_validation and trainer.check_val_every_n_epoch is None
        if over_epochs and isinstance(first, int) and batches < first:
            raise ValueError(
                f"The training has {batches} batches and ends before its first validation, which comes after {first}: "
                f"expected trainer.val_check_interval to be at most {batches}. Checkpoints are chosen and written in "
                "validations."
            )
        if trainer.max_epochs == -1 and trainer.max_steps > 0 and math.isfinite(trainer.num_training_batches):
            # The same end, in the unit that progress bars show: they would count towards epoch -2.
            per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            trainer.fit_loop.max_epochs = math.ceil(trainer.max_steps / per_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states of all random numbers, so that a resumed training equals an uninterrupted one."""
        super().on_save_checkpoint(checkpoint)
        name, numbers, *others = np.random.get_state()
        checkpoint[_RANDOM] = {
            "python": random.getstate(),
            "numpy": (name, np.asarray(numbers).tolist(), *others),
            "torch": torch.get_rng_state(),
            "devices": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a damaged checkpoint, and keep the states of random numbers for the training that goes on.

        Raises:
            ValueError: The Trainer's checkpoint does not match its checksums.
        """
        trainer = self._trainer
        if trainer is None or trainer.lightning_module is not self:
            return
        if trainer.ckpt_path and Path(trainer.ckpt_path).is_file():
            verify_checkpoint(trainer.ckpt_path)
        if trainer.state.fn == "fit":
            self._random = checkpoint.get(_RANDOM)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Go on with the random numbers of the training that was interrupted."""
        # Not earlier: between loading and the first step, sanity checks and loaders use random numbers too.
        if self._random is not None:
            found, self._random = self._random, None
            random.setstate(found["python"])
            np.random.set_state(found["numpy"])
            torch.set_rng_state(found["torch"].cpu())
            if len(found["devices"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in found["devices"]])

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: object, batch_idx: int) -> None:
        """Log the means with the last batch, so that progress bars and other callbacks find them at the epoch's end."""
        if self.trainer.is_last_batch or self.trainer.global_step == self.trainer.max_steps:
            self._log_means()

    def on_train_epoch_end(self) -> None:
        """Log the means of an epoch that was stopped before its last batch."""
        self._log_means()

    def _log_means(self) -> None:
        for name, (value, size) in self._terms.items():
            self.log(f"train/{name}", value / size, prog_bar=name == "loss", on_step=False, on_epoch=True, batch_size=1)
        self._terms.clear()
