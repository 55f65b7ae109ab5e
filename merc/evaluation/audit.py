"""Audit: checks that a prediction depends on its own conversation and on nothing else in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from merc.batch import ConversationBatch


class BatchDependenceError(AssertionError):
    """A prediction depends on other conversations in the batch."""


@dataclass(frozen=True)
class AuditResult:
    """The result of :func:`audit_batch_independence`.

    Args:
        largest: Largest absolute difference from the outputs of the conversation alone; infinite if one
            of them is not finite and the other differs.
        setting: The batch with this difference.
        conversation: Index of the conversation with this difference, in ``0..B-1``.
        utterance: Position of the utterance in this conversation.
        tolerance: Largest allowed difference.
    """

    largest: float
    setting: str
    conversation: int
    utterance: int
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the largest difference is within the tolerance."""
        return self.largest <= self.tolerance

    def require(self) -> None:
        """Raise an error if the audit failed.

        Raises:
            BatchDependenceError: The audit failed; the message says where.
        """
        if not self.passed:
            raise BatchDependenceError(
                f"The outputs of conversation {self.conversation} differ by {self.largest:.3g} at utterance "
                f"{self.utterance} between the conversation alone and {self.setting}: expected at most "
                f"{self.tolerance:g}. Look for attention, graphs or statistics that reach across conversations."
            )


@torch.no_grad()
def audit_batch_independence(
    predict: Callable[[ConversationBatch], Tensor], batch: ConversationBatch, tolerance: float = 1e-5, seed: int = 0
) -> AuditResult:
    """Compare the outputs for every conversation alone with those in other batches.

    The batches are: every conversation alone again (which detects a forgotten ``eval()``); the whole batch in its
    order, reversed and shuffled; and smaller batches of shuffled conversations.

    Args:
        predict: Returns outputs ``(N, ...)`` for the N utterances of a batch; a network in evaluation mode.
        batch: At least two conversations, preferably of different lengths.
        tolerance: Largest allowed absolute difference.
        seed: Seed of the shuffles.

    Returns:
        The largest difference and where it is; ``require()`` raises an error if it is too large.

    Raises:
        ValueError: The batch has fewer than two conversations, or ``predict`` returns a wrong number of rows.
    """
    count = batch.num_conversations
    if count < 2:
        raise ValueError(f"The audit got {count} conversations, expected at least two.")

    def outputs(chosen: list[int]) -> list[Tensor]:
        part = batch.select(chosen)
        found = predict(part)
        if len(found) != part.num_utterances:
            raise ValueError(f"predict returned {len(found)} rows for {part.num_utterances} utterances.")
        return list(torch.split(found.double(), part.lengths.tolist()))

    alone = [outputs([index])[0] for index in range(count)]
    worst = AuditResult(0.0, "the conversation alone again", 0, 0, tolerance)
    for setting, chosen in _test_batches(count, seed):
        for conversation, found in zip(chosen, outputs(chosen), strict=True):
            expected = alone[conversation]
            gap = torch.where(found == expected, 0.0, (found - expected).abs()).nan_to_num(torch.inf, torch.inf)
            per_utterance = gap.reshape(len(gap), -1).amax(dim=1)
            largest, utterance = per_utterance.max(dim=0)
            if largest > worst.largest:
                worst = AuditResult(largest.item(), setting, conversation, int(utterance), tolerance)
    return worst


def _test_batches(count: int, seed: int) -> Iterator[tuple[str, list[int]]]:
    """The batches to test: their description, and the conversations in them."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        yield "the conversation alone again", [index]
    yield "the whole batch", list(range(count))
    yield "the whole batch reversed", list(range(count))[::-1]
    yield "the whole batch shuffled", torch.randperm(count, generator=generator).tolist()
    for _ in range(3):
        shuffled = torch.randperm(count, generator=generator).tolist()
        size = max(2, count // 3)
        for start in range(0, count, size):
            yield "a smaller batch of other conversations", shuffled[start : start + size]
