"""Batches of a prediction that are still to be done, shared out to the processes."""

from __future__ import annotations

from collections.abc import Sequence

from lightning import Trainer

from merc.callbacks import predicted_already
from merc.conversation import UtteranceKey
from merc.datamodules.batches import PlannedBatches


class ResumableBatches(PlannedBatches):
    """This process's share of the batches in which there is something that the stores do not know yet.

    Batches are planned over all inputs and kept or dropped as they are: an encoder whose numbers change in their
    last bits with the company in a batch gives the same ones in a run that was interrupted, on any number of devices.

    Args:
        keys: Key of every input.
        batches: The planned batches, as indices into ``keys``.
        trainer: The Trainer that is about to predict, with the task's weights in place.
    """

    def __init__(self, keys: Sequence[UtteranceKey], batches: Sequence[list[int]], trainer: Trainer | None) -> None:
        settled = predicted_already(trainer)
        left = [batch for batch in batches if not settled.issuperset(keys[index] for index in batch)]
        super().__init__(left, trainer, even=False)
