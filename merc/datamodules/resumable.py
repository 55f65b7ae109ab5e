"""Batches of a prediction that are still to be done, shared out to the processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning import Trainer
from torch.utils.data import DistributedSampler

from merc.callbacks import predicted_already
from merc.conversation import UtteranceKey


class ResumableBatches(DistributedSampler[list[int]]):
    """This process's share of the batches in which there is something that the stores do not know yet.

    Batches are planned over all inputs and kept or dropped as they are: an encoder whose numbers change in their
    last bits with the company in a batch gives the same ones in a run that was cut, on any number of devices.

    Lightning leaves a sampler of this kind alone; its own for prediction would refuse fewer batches than processes.

    Args:
        keys: Key of every input.
        batches: The planned batches, as indices into ``keys``.
        trainer: The Trainer that is about to predict, with the task's weights in place.
    """

    def __init__(self, keys: Sequence[UtteranceKey], batches: Sequence[list[int]], trainer: Trainer | None) -> None:
        settled = predicted_already(trainer)
        left = [batch for batch in batches if not settled.issuperset(keys[index] for index in batch)]
        rank, processes = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        super().__init__(left, num_replicas=processes, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.batches = left[rank::processes]

    def __iter__(self) -> Iterator[list[int]]:
        """The batches, in order."""
        return iter(self.batches)

    def __len__(self) -> int:
        """Number of batches of this process."""
        return len(self.batches)
