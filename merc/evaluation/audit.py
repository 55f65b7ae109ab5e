"""Audit: does a prediction depend on its own conversation and on nothing else in the batch?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from merc.batch import ConversationBatch


class BatchDependenceError(AssertionError):
    """A prediction changes with the company its conversation keeps in the batch."""


@dataclass(frozen=True)
class AuditResult:
    """What :func:`audit_batch_independence` found.

    Args:
        largest: Largest absolute difference from the outputs of the conversation alone; infinite where one
            of them is not finite and the other is not the same.
        setting: The batch in which it occurred.
        conversation: Index of the conversation that differs most, in ``0..B-1``.
        utterance: Position of the utterance in that conversation.
        tolerance: What is allowed.
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
        """Do nothing if the audit passed.

        Raises:
            BatchDependenceError: It did not; the message says where.
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
    """Compare the outputs for every conversation alone with those in other company.

    The settings are: every conversation alone once more (which finds a forgotten ``eval()``), the whole batch
    in its order, reversed, and shuffled, and each conversation between other companions.

    Args:
        predict: Gives outputs ``(N, ...)`` for the N utterances of a batch; a network in evaluation mode.
        batch: At least two conversations, best of different lengths.
        tolerance: Largest absolute difference that is allowed.
        seed: Seed of the shuffles.

    Returns:
        The largest difference and where it is; call ``require()`` to raise if it is too large.

    Raises:
        ValueError: The batch has fewer than two conversations, or ``predict`` gives another number of rows.
    """
    count = batch.num_conversations
    if count < 2:
        raise ValueError(f"The audit was given {count} conversations: expected at least two to keep company.")

    def outputs(chosen: list[int]) -> list[Tensor]:
        part = batch.select(chosen)
        found = predict(part)
        if len(found) != part.num_utterances:
            raise ValueError(f"predict gave {len(found)} rows for {part.num_utterances} utterances.")
        return list(torch.split(found.double(), part.lengths.tolist()))

    alone = [outputs([index])[0] for index in range(count)]
    worst = AuditResult(0.0, "the conversation alone again", 0, 0, tolerance)
    for setting, chosen in _companies(count, seed):
        for conversation, found in zip(chosen, outputs(chosen), strict=True):
            expected = alone[conversation]
            gap = torch.where(found == expected, 0.0, (found - expected).abs()).nan_to_num(torch.inf, torch.inf)
            per_utterance = gap.reshape(len(gap), -1).amax(dim=1)
            largest, utterance = per_utterance.max(dim=0)
            if largest > worst.largest:
                worst = AuditResult(largest.item(), setting, conversation, int(utterance), tolerance)
    return worst


def _companies(count: int, seed: int) -> Iterator[tuple[str, list[int]]]:
    """The batches to try: their description, and the conversations in them."""
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
            yield "a smaller batch of other companions", shuffled[start : start + size]
