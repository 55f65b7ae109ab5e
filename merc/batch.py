"""ConversationBatch: whole conversations as utterance-flat tensors; and which of them, or of texts, make a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from merc.conversation import Conversation, UtteranceKey
from merc.labels import LabelSet


@dataclass(slots=True, eq=False)
class FlatBatch:
    """The base of batches whose fields are tensors, which go to a device, and plain values, which stay."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch on another device."""
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **{name: t.to(device, non_blocking=non_blocking) for name, t in tensors.items()})


@dataclass(eq=False)
class Edges:
    """The edges of conversation graphs, sorted by target node.

    Args:
        index: ``(2, E)`` source and target nodes, as in PyTorch Geometric.
        attributes: ``(E, A)`` what the columns mean is in :data:`merc.graphs.EDGE_ATTRIBUTES`.
        weight: ``(E,)`` edge weights in (0, 1].
        ptr: ``(B + 1,)`` where the edges of each conversation start.
    """

    index: Tensor
    attributes: Tensor
    weight: Tensor
    ptr: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Edges:
        """The same edges with ``function`` applied to every tensor."""
        return Edges(function(self.index), function(self.attributes), function(self.weight), function(self.ptr))


@dataclass(eq=False)
class ConversationBatch:
    """B whole conversations with N utterances in all; no padding anywhere.

    A whole split is a batch too: :meth:`select` takes conversations out of it without touching Python
    objects, which is all the collation that training needs.

    Args:
        features: By name, ``(N, d)``. Modalities are ``text``, ``audio``, ``visual``; a teacher's logits
            come the same way, under their own name. Zero where an utterance lacks them.
        present: By name, ``(N,)`` booleans: whether the utterance has these features.
        label: ``(N,)`` ids in ``0..C-1``, -100 for unlabelled.
        speaker: ``(N,)`` speaker index, local to the conversation, in order of first appearance.
        position: ``(N,)`` index of the utterance in its conversation.
        ptr: ``(B + 1,)`` where each conversation starts; the last entry is N.
        edges: By modality, the graph edges, if the datamodule was asked for them.
        keys: The N utterance keys, for writing results back; may be left empty.
        values: ``(N, D)`` annotated numbers in the units of the corpus, NaN where there is none; ``None`` for a corpus
            without dimensions.
    """

    features: dict[str, Tensor]
    present: dict[str, Tensor]
    label: Tensor
    speaker: Tensor
    position: Tensor
    ptr: Tensor
    edges: dict[str, Edges] = field(default_factory=dict)
    keys: Sequence[UtteranceKey] = ()
    values: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that every tensor covers the same utterances."""
        total = len(self.label)
        columns: list[tuple[str, Sized]] = [*self.features.items(), *self.present.items()]
        columns += [("speaker", self.speaker), ("position", self.position)]
        columns += [("keys", self.keys)] if self.keys else []
        columns += [] if self.values is None else [("values", self.values)]
        for name, column in columns:
            if len(column) != total:
                raise ValueError(f"Batch of {total} utterances has {len(column)} rows of {name!r}.")
        if self.features.keys() != self.present.keys():
            raise ValueError(f"Features {sorted(self.features)} and presence {sorted(self.present)} differ in names.")

    @classmethod
    def from_conversations(
        cls, conversations: Sequence[Conversation], labels: LabelSet, dimensions: Sequence[str] = ()
    ) -> ConversationBatch:
        """The structure of some conversations, without features yet.

        Args:
            conversations: The conversations, in order.
            labels: Gives label names their ids.
            dimensions: The D dimensions of ``values``, in their order.
        """
        lengths = torch.tensor([len(conversation) for conversation in conversations], dtype=torch.long)
        ptr = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        return cls(
            features={},
            present={},
            label=torch.tensor([labels.index(u.label) for c in conversations for u in c.utterances], dtype=torch.long),
            speaker=torch.tensor([s for c in conversations for s in c.speaker_ids], dtype=torch.long),
            position=torch.arange(int(ptr[-1])) - ptr[:-1].repeat_interleave(lengths),
            ptr=ptr,
            keys=[key for c in conversations for key in c.keys],
            values=_values(conversations, dimensions) if dimensions else None,
        )

    @property
    def num_utterances(self) -> int:
        """N."""
        return len(self.label)

    @property
    def num_conversations(self) -> int:
        """B."""
        return len(self.ptr) - 1

    @property
    def lengths(self) -> Tensor:
        """``(B,)`` utterances in each conversation."""
        return self.ptr.diff()

    @property
    def conversation(self) -> Tensor:
        """``(N,)`` which conversation each utterance belongs to."""
        index = torch.arange(self.num_conversations, device=self.ptr.device)
        return index.repeat_interleave(self.lengths, output_size=self.num_utterances)

    def in_any(self, chosen: Tensor) -> Tensor:
        """``(N,)`` booleans: whether any utterance of the same conversation is ``chosen (N,)``."""
        conversation = self.conversation
        count = chosen.new_zeros(self.num_conversations, dtype=torch.long)
        return count.index_add(0, conversation, chosen.long())[conversation] > 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ConversationBatch:
        """The batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return self._map(move)

    def pin_memory(self) -> ConversationBatch:
        """The batch in page-locked memory, from which copies to a GPU run beside the work."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> ConversationBatch:
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = function(value)
            elif isinstance(value, dict):
                changed[item.name] = {
                    k: v.map(function) if isinstance(v, Edges) else function(v) for k, v in value.items()
                }
        return replace(self, **changed)

    def select(self, conversations: Sequence[int] | Tensor) -> ConversationBatch:
        """Some conversations of this batch, in the order given, with their edges renumbered.

        Args:
            conversations: Indices in ``0..B-1``.
        """
        chosen = torch.as_tensor(conversations, dtype=torch.long, device=self.ptr.device)
        rows, ptr = _ranges(self.ptr, chosen)
        edges = {}
        for name, graph in self.edges.items():
            picked, edge_ptr = _ranges(graph.ptr, chosen)
            shift = (ptr[:-1] - self.ptr[chosen]).repeat_interleave(edge_ptr.diff(), output_size=len(picked))
            edges[name] = Edges(
                graph.index[:, picked] + shift, graph.attributes[picked], graph.weight[picked], edge_ptr
            )
        keys = self.keys
        return ConversationBatch(
            features={name: value[rows] for name, value in self.features.items()},
            present={name: value[rows] for name, value in self.present.items()},
            label=self.label[rows],
            speaker=self.speaker[rows],
            position=self.position[rows],
            ptr=ptr,
            edges=edges,
            keys=[keys[row] for row in rows.tolist()] if keys else (),
            values=None if self.values is None else self.values[rows],
        )

    def graph(self, name: str) -> Edges:
        """The graph of some features.

        Raises:
            ValueError: The batch has none of that name.
        """
        if name not in self.edges:
            raise ValueError(
                f"The batch has no graph of {name!r}, found {sorted(self.edges) or 'none'}: give the datamodule "
                f"graphs={{{name!r}: GraphBuilder(...)}}."
            )
        return self.edges[name]

    def to_dense(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Pad flat values to a rectangle, for sequence models.

        Args:
            values: ``(N, ...)``.

        Returns:
            ``(B, T, ...)`` with zeros as padding, T the longest conversation, and the mask ``(B, T)`` of
            real utterances.
        """
        longest = int(self.lengths.max()) if self.num_conversations else 0
        mask = torch.arange(longest, device=values.device) < self.lengths[:, None]
        dense = values.new_zeros(self.num_conversations, longest, *values.shape[1:])
        dense[self.conversation, self.position] = values
        return dense, mask

    def to_flat(self, dense: Tensor) -> Tensor:
        """Undo :meth:`to_dense`: ``(B, T, ...)`` to ``(N, ...)``."""
        return dense[self.conversation, self.position]


def _values(conversations: Sequence[Conversation], dimensions: Sequence[str]) -> Tensor:
    rows = [utterance.numbers(dimensions) for conversation in conversations for utterance in conversation.utterances]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(dimensions))


def _ranges(ptr: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``ptr[c]..ptr[c+1]`` for every chosen c, and the ptr of the result."""
    lengths = ptr.diff()[chosen]
    new_ptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    total = int(new_ptr[-1])
    start = (ptr[chosen] - new_ptr[:-1]).repeat_interleave(lengths, output_size=total)
    return torch.arange(total, device=ptr.device) + start, new_ptr


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
    budget, size = check_budget(batch_size), 0
    batches: list[list[int]] = []
    for index, length in enumerate(lengths):
        if not batches or size + length > budget:
            batches.append([])
            size = 0
        batches[-1].append(index)
        size += length
    return batches


def check_budget(batch_size: int) -> int:
    """The size of a batch of conversations, in utterances, if it is one.

    Raises:
        ValueError: It is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"A batch is counted in utterances: expected batch_size >= 1, found {batch_size}.")
    return batch_size


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut inputs, longest first, into batches of at most ``budget`` padded tokens, or of one input.

    Args:
        lengths: Tokens of every input.
        budget: Most tokens a batch: its inputs times the longest of them.

    Returns:
        Batches of indices into ``lengths``.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > budget:
            batches.append([])
        batches[-1].append(index)
    return batches
