"""Which conversations or utterances make a batch, and a loader that goes on in the middle of an epoch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Sampler

Batch_co = TypeVar("Batch_co", covariant=True)


class EpochBatches(Sampler[list[int]]):
    """Batches of indices that are drawn again in every epoch.

    The seed of the run (``seed_everything``, ``torch.manual_seed``) and the epoch decide them, and nothing else does:
    they are the same in every process, and in a training that goes on after an interruption.
    """

    def __init__(self) -> None:
        self.seed = torch.initial_seed()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next; Lightning calls this before every epoch.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches, the same in every epoch."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> list[list[int]]:
        """The batches of one epoch.

        Args:
            generator: Where random numbers come from.
        """

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch that was chosen."""
        # Far apart, so that two seeds have no epoch in common.
        seed = (self.seed * 1_000_003 + self.epoch) % 2**63
        return iter(self.draw(torch.Generator().manual_seed(seed)))


class UtteranceBatches(EpochBatches):
    """Shuffled batches of whole conversations, with about as many utterances in each.

    The number of batches does not change from epoch to epoch. It is the number of utterances over ``batch_size``,
    rounded up, but at most the number of conversations. The shuffled conversations are cut where the batches come
    closest to equal shares of the utterances.

    Args:
        lengths: Utterances of every conversation.
        batch_size: Utterances per batch, about.

    Raises:
        ValueError: ``batch_size`` is less than 1.

    Example:
        >>> batches = UtteranceBatches([30, 10, 10, 10, 20], batch_size=30)
        >>> len(batches)
        3
        >>> sorted(index for batch in batches for index in batch)
        [0, 1, 2, 3, 4]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int) -> None:
        super().__init__()
        self.lengths = list(lengths)
        self.batches = min(len(self.lengths), math.ceil(sum(self.lengths) / _budget(batch_size)))

    def __len__(self) -> int:
        """Number of batches, the same in every epoch."""
        return self.batches

    def draw(self, generator: torch.Generator) -> list[list[int]]:
        """The batches of one epoch."""
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        left, start = sum(self.lengths), 0
        batches = []
        for still in range(self.batches, 0, -1):
            share, stop, size = left / still, start, 0
            last = len(order) - (still - 1)  # every batch that follows needs a conversation
            while stop < last and (stop == start or size + self.lengths[order[stop]] / 2 <= share):
                size += self.lengths[order[stop]]
                stop += 1
            batches.append(order[start:stop])
            left, start = left - size, stop
        return batches


def consecutive_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Put conversations into batches in their order, as many as fit.

    Args:
        lengths: Utterances of every conversation.
        batch_size: Most utterances per batch; a longer conversation is a batch of its own.

    Returns:
        Batches of indices into ``lengths``.

    Raises:
        ValueError: ``batch_size`` is less than 1.

    Example:
        >>> consecutive_batches([30, 10, 10, 70, 20], batch_size=40)
        [[0, 1], [2], [3], [4]]
    """
    budget, size = _budget(batch_size), 0
    batches: list[list[int]] = []
    for index, length in enumerate(lengths):
        if not batches or size + length > budget:
            batches.append([])
            size = 0
        batches[-1].append(index)
        size += length
    return batches


def _budget(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"A batch is counted in utterances: expected batch_size >= 1, found {batch_size}.")
    return batch_size


class TrainingLoader(DataLoader[Batch_co]):
    """A DataLoader with which Lightning can go on in the middle of an epoch.

    A checkpoint knows how many batches of the epoch were done. Lightning leaves it to the loader to pass over them, and
    warns of one that does not say that it can.

    Args:
        dataset: As for a DataLoader.
        trainer: The Trainer that knows how many batches were done; ``None`` for batches that are drawn at random when
            they are asked for, of which none is to be passed over.
        options: The other arguments of a DataLoader.
    """

    def __init__(self, dataset: Any, *, trainer: Trainer | None = None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(dataset, **options)
        self.trainer = trainer

    # A generator: nothing runs before the first batch is asked for, and until then Lightning tells the epoch.
    def __iter__(self) -> Iterator[Batch_co]:  # type: ignore[override]
        """The batches, without those that were done before an interruption."""
        loop = None if self.trainer is None else self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.ready if loop is not None and loop.restarting else 0
        yield from islice(super().__iter__(), done, None)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where the training stands is in the state of the Trainer."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""
