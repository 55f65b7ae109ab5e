"""Which conversations or utterances make a batch, and a loader that goes on in the middle of an epoch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, DistributedSampler

from merc.batch import check_budget

Batch_co = TypeVar("Batch_co", covariant=True)


class Repeated(list[int]):
    """A batch that this process goes through only to keep in step with the others: it counts for nothing.

    Processes that train together must make equally many steps, in validation too. Where batches do not divide evenly, a
    process that runs out goes through a batch again, as one of these. Datasets give it without labels, and tasks do not
    count what has no label.
    """


class SharedBatches(DistributedSampler[list[int]]):
    """Batches of indices, dealt out to the processes of a Trainer in turn.

    Lightning leaves a sampler of this kind alone. Its own would repeat batches that metrics then count twice, would
    give every epoch the batches of the first, and would refuse fewer batches than processes.

    Args:
        trainer: The Trainer whose processes share the batches; ``None`` for all batches in one process.
        even: Whether every process gets equally many batches, some twice where need be. Training and validation need
            it; prediction must not have it.
    """

    again: type[list[int]] = Repeated
    """What a batch becomes that is given once more."""

    def __init__(self, trainer: Trainer | None = None, even: bool = True) -> None:
        self.rank, self.processes = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        self.even = even

    @property
    @abstractmethod
    def total(self) -> int:
        """Number of batches of all processes, the same in every epoch."""

    @abstractmethod
    def all_batches(self) -> list[list[int]]:
        """The batches of all processes, in order."""

    def __len__(self) -> int:
        """Number of batches of this process, the same in every epoch."""
        return (
            math.ceil(self.total / self.processes) if self.even else len(range(self.rank, self.total, self.processes))
        )

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this process."""
        batches = self.all_batches()
        own = batches[self.rank :: self.processes]
        if self.even and batches:
            # Of its own, so that what was computed first is what counts; else of the first process, which comes first.
            again = self.again((own or batches)[0])
            own += [again] * (len(self) - len(own))
        return iter(own)


class PlannedBatches(SharedBatches):
    """Batches that are the same in every epoch.

    Args:
        batches: The batches, as lists of indices.
        trainer: As for :class:`SharedBatches`.
        even: As for :class:`SharedBatches`.
    """

    def __init__(self, batches: Sequence[list[int]], trainer: Trainer | None = None, even: bool = True) -> None:
        super().__init__(trainer, even)
        self.batches = list(batches)

    @property
    def total(self) -> int:
        """Number of batches of all processes."""
        return len(self.batches)

    def all_batches(self) -> list[list[int]]:
        """The batches of all processes, in order."""
        return self.batches


class EpochBatches(SharedBatches):
    """Batches of indices that are drawn again in every epoch.

    The seed of the run (``seed_everything``, ``torch.manual_seed``) and the epoch decide them, and nothing else does:
    every process draws the same ones and takes its share, and so does a training that goes on after an interruption.

    Args:
        trainer: As for :class:`SharedBatches`.
    """

    again: type[list[int]] = list  # to train on a batch twice does no harm; without labels it would halve the step

    def __init__(self, trainer: Trainer | None = None) -> None:
        super().__init__(trainer)
        self.seed = torch.initial_seed()
        if trainer is not None and self.processes > 1:
            self.seed = trainer.strategy.broadcast(self.seed)  # processes that nobody has seeded differ
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next; Lightning calls this before every epoch.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    @abstractmethod
    def draw(self, generator: torch.Generator) -> list[list[int]]:
        """The batches of one epoch, of all processes.

        Args:
            generator: Where random numbers come from.
        """

    def all_batches(self) -> list[list[int]]:
        """The batches of the epoch that was chosen."""
        # Far apart, so that two seeds have no epoch in common.
        seed = (self.seed * 1_000_003 + self.epoch) % 2**63
        return self.draw(torch.Generator().manual_seed(seed))


class DrawnBatches(EpochBatches):
    """Batches of one seed each, for datasets that draw what they give; every process has its own.

    Args:
        count: Batches per epoch and process.
        trainer: As for :class:`SharedBatches`.
    """

    def __init__(self, count: int, trainer: Trainer | None = None) -> None:
        super().__init__(trainer)
        self.count = count

    @property
    def total(self) -> int:
        """Number of batches of all processes."""
        return self.count * self.processes

    def draw(self, generator: torch.Generator) -> list[list[int]]:
        """Seeds."""
        return [[seed] for seed in torch.randint(2**62, (self.total,), generator=generator).tolist()]


class UtteranceBatches(EpochBatches):
    """Shuffled batches of whole conversations, with about as many utterances in each.

    The number of batches does not change from epoch to epoch. It is the number of utterances over ``batch_size``,
    rounded up to a multiple of the processes, but at most the number of conversations. The shuffled conversations are
    cut where the batches come closest to equal shares of the utterances.

    Args:
        lengths: Utterances of every conversation.
        batch_size: Utterances per batch and process, about.
        trainer: As for :class:`SharedBatches`.

    Raises:
        ValueError: ``batch_size`` is less than 1.

    Example:
        >>> batches = UtteranceBatches([30, 10, 10, 10, 20], batch_size=30)
        >>> len(batches)
        3
        >>> sorted(index for batch in batches for index in batch)
        [0, 1, 2, 3, 4]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, trainer: Trainer | None = None) -> None:
        super().__init__(trainer)
        self.lengths = list(lengths)
        rounds = math.ceil(sum(self.lengths) / check_budget(batch_size) / self.processes)
        self.batches = min(len(self.lengths), rounds * self.processes)

    @property
    def total(self) -> int:
        """Number of batches of all processes."""
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


class ShuffledBuckets(EpochBatches):
    """Batches of a fixed size and of similar length, drawn again in every epoch.

    Inputs are sorted by length with some noise, cut into batches, and the batches are shuffled.

    Args:
        lengths: Length of every input, above 0: tokens or seconds.
        batch_size: Inputs per batch.
        noise: By how much, as a share of the length, neighbours in length may be mixed.
        trainer: As for :class:`merc.datamodules.batches.SharedBatches`.
    """

    def __init__(
        self, lengths: Sequence[float], batch_size: int, noise: float = 0.2, trainer: Trainer | None = None
    ) -> None:
        super().__init__(trainer)
        self.lengths = torch.tensor(lengths, dtype=torch.float)
        self.batch_size = batch_size
        self.noise = noise

    @property
    def total(self) -> int:
        """Number of batches of all processes."""
        return -(-len(self.lengths) // self.batch_size)

    def draw(self, generator: torch.Generator) -> list[list[int]]:
        """The batches of one epoch."""
        noise = self.noise * torch.rand(len(self.lengths), generator=generator)
        batches = torch.split((self.lengths * (1 + noise)).argsort(), self.batch_size)
        return [batches[index].tolist() for index in torch.randperm(len(batches), generator=generator).tolist()]


class TrainingLoader(DataLoader[Batch_co]):
    """A DataLoader with which Lightning can go on in the middle of an epoch.

    A checkpoint knows how many batches of the epoch were done. Lightning leaves it to the loader to pass over them, and
    warns of one that does not say that it can.

    Args:
        dataset: As for a DataLoader.
        trainer: The Trainer that knows how many batches were done.
        options: The other arguments of a DataLoader.
    """

    def __init__(self, dataset: Any, *, trainer: Trainer | None = None, **options: Any) -> None:  # noqa: ANN401
        # A generator of its own: what DataLoader draws when it starts must not move the random numbers of the training.
        super().__init__(dataset, generator=torch.Generator(), **options)
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
