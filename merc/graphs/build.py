"""Builds the edges of conversation graphs, once for a whole split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.batch import ConversationBatch, Edges

EDGE_ATTRIBUTES = ("self", "past", "future", "speaker", "similar", "same_speaker", "offset", "weight")
"""Columns of :attr:`merc.batch.Edges.attributes`.

The first five are flags for the rules that gave the edge (0 or 1; several may hold): from the node itself, from the
window before or after it, from a neighbouring turn of the same speaker, from a similar utterance. Then follow whether
both ends have the same speaker, the signed distance in turns ``sign(d) log2(1 + |d|)`` (negative if the source came
first), and the edge weight.
"""


class GraphBuilder:
    r"""Builds the graph of every conversation: nodes are the utterances of one conversation, never of two.

    Node i receives edges from itself, the ``past`` utterances before it, the ``future`` utterances after
    it, the ``speaker`` nearest turns of its own speaker on either side, and the ``similar`` utterances whose
    features have the highest cosine with its own (section 3.4.1 of arXiv 2511.13731). If several rules give the
    same edge, it exists once. Its weight is the angular similarity of the two feature vectors,

    .. math:: w_{ij} = 1 - \arccos(\cos(x_i, x_j)) / \pi,

    at least 0.01. It is 1 for the self edge, and 0.5 if an utterance lacks its features; such an utterance has no
    ``similar`` edges. ``context="causal"`` drops every edge from a later utterance, so that a prediction never looks
    ahead.

    Memory is O(U (past + future + speaker + similar)) for U utterances. Finding the similar utterances of a
    conversation takes O(U^2) multiplications, in blocks of constant memory.

    Args:
        past: Utterances before, at least 0.
        future: Utterances after, at least 0.
        speaker: Turns of the same speaker on either side, at least 0.
        similar: Most similar utterances, at least 0.
        context: ``full`` or ``causal``.

    Raises:
        ValueError: A number is negative, or ``context`` is unknown.
    """

    def __init__(
        self,
        past: int = 5,
        future: int = 5,
        speaker: int = 2,
        similar: int = 3,
        context: Literal["full", "causal"] = "full",
    ) -> None:
        for name, value in {"past": past, "future": future, "speaker": speaker, "similar": similar}.items():
            if value < 0:
                raise ValueError(f"Graph option {name} must be at least 0, got {value}.")
        if context not in ("full", "causal"):
            raise ValueError(f"Graph context must be 'full' or 'causal', got {context!r}.")
        self.past = past
        self.future = 0 if context == "causal" else future
        self.speaker = speaker
        self.similar = similar
        self.causal = context == "causal"

    def __call__(self, batch: ConversationBatch, name: str) -> Edges:
        """The edges of all conversations of a batch.

        Args:
            batch: A batch with the features ``name``.
            name: Features that determine similarity and weights, for example ``text``.
        """
        total = batch.num_utterances
        features, present = batch.features[name], batch.present[name]
        unit = F.normalize(features.float(), dim=-1)
        rules = {
            "self": [self._offset(batch, 0)],
            "past": [self._offset(batch, -step) for step in range(1, self.past + 1)],
            "future": [self._offset(batch, step) for step in range(1, self.future + 1)],
            "speaker": list(self._speaker_turns(batch)),
            "similar": list(self._similar(batch, unit, present)),
        }
        # Encode an edge as target * N + source: sorting these numbers sorts the edges by target.
        codes_by_rule = {rule: torch.cat(parts) for rule, parts in rules.items() if parts}
        codes, inverse = torch.unique(torch.cat(list(codes_by_rule.values())), return_inverse=True)
        target, source = codes // max(total, 1), codes % max(total, 1)
        kinds = torch.zeros(len(codes), len(rules))
        start = 0
        for column, rule in enumerate(rules):
            count = len(codes_by_rule.get(rule, ()))
            kinds[inverse[start : start + count], column] = 1.0
            start += count
        weight = _angular(unit, source, target)
        distance = (batch.position[source] - batch.position[target]).float()
        attributes = torch.cat(
            [
                kinds,
                (batch.speaker[source] == batch.speaker[target]).float()[:, None],
                (distance.sign() * torch.log2(1 + distance.abs()))[:, None],
                weight[:, None],
            ],
            dim=1,
        )
        ptr = torch.searchsorted(target, batch.ptr)
        return Edges(torch.stack([source, target]), attributes, weight, ptr)

    def _offset(self, batch: ConversationBatch, offset: int) -> Tensor:
        node = torch.arange(batch.num_utterances)
        length = batch.lengths[batch.conversation]
        there = batch.position + offset
        node = node[(there >= 0) & (there < length)]
        return node * batch.num_utterances + node + offset

    def _speaker_turns(self, batch: ConversationBatch) -> Iterator[Tensor]:
        total = batch.num_utterances
        most = int(batch.speaker.max()) + 1 if total else 1
        turn = batch.conversation * most + batch.speaker
        order = torch.argsort(turn, stable=True)  # turns of one speaker are adjacent and in time order
        for step in range(1, self.speaker + 1):
            earlier, later = order[:-step], order[step:]
            same = turn[earlier] == turn[later]
            earlier, later = earlier[same], later[same]
            yield later * total + earlier
            if not self.causal:
                yield earlier * total + later

    def _similar(self, batch: ConversationBatch, unit: Tensor, present: Tensor, block: int = 1024) -> Iterator[Tensor]:
        if self.similar == 0:
            return
        total = batch.num_utterances
        for start, stop in zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True):
            nodes = torch.arange(start, stop)[present[start:stop]]
            count = min(self.similar, len(nodes) - 1)
            if count < 1:
                continue
            for rows in torch.split(nodes, block):
                score = unit[rows] @ unit[nodes].T
                excluded = nodes >= rows[:, None] if self.causal else nodes == rows[:, None]
                best, column = score.masked_fill_(excluded, -math.inf).topk(count)
                found = best > -math.inf
                yield (rows[:, None] * total + nodes[column])[found]


def _angular(unit: Tensor, source: Tensor, target: Tensor, block: int = 512) -> Tensor:
    cosine = torch.empty(len(source))
    for start in range(0, len(source), block):
        here = slice(start, start + block)
        cosine[here] = (unit[source[here]] * unit[target[here]]).sum(-1)
    cosine[source == target] = 1.0
    return (1 - torch.arccos(cosine.clamp(-1, 1)) / math.pi).clamp(min=0.01)
