"""Directed acyclic graphs of conversations: what was said reaches what is said later, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from merc.batch import ConversationBatch


class DAGLayer(nn.Module):
    r"""One layer of DAG-ERC (arXiv 2105.12907, eq. 3-7): utterance i gathers from its predecessors j in this layer.

    .. math::
        \alpha_{ij} &= \mathrm{softmax}_j(w^\top [h_i^{(l-1)}; h_j^{(l)}]) \\
        M_i &= \textstyle\sum_j \alpha_{ij} W_{r(i, j)} h_j^{(l)} \\
        h_i^{(l)} &= \mathrm{GRU}_C(h_i^{(l-1)}, M_i) + \mathrm{GRU}_P(M_i, h_i^{(l-1)})

    with r whether i and j have one speaker; the first argument of a GRU is its input, the second its state, and a first
    utterance gathers zeros. The softmax removes the part of w that meets :math:`h_i^{(l-1)}`, which is the same for
    every j: only the other part is a parameter, and every utterance is scored once.

    Args:
        dim: Width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)
        self.relate = nn.Linear(dim, 2 * dim, bias=False)  # for another speaker, for the same
        self.content = nn.GRUCell(dim, dim)
        self.context = nn.GRUCell(dim, dim)

    def forward(self, below: Tensor, incoming: Tensor, same: Tensor, first: Sequence[int]) -> Tensor:
        """Go through all conversations at once, turn by turn.

        Args:
            below: ``(B, T, dim)`` states of the layer below.
            incoming: ``(B, T, T)`` booleans: whether utterance i (second axis) has an edge from j (third).
            same: ``(B, T, T)`` booleans: whether both have one speaker.
            first: For each turn the earliest one that any of its edges comes from.

        Returns:
            ``(B, T, dim)``.
        """
        states: list[Tensor] = []
        scores: list[Tensor] = []
        values: list[Tensor] = []
        gathered = torch.zeros_like(below[:, 0])
        for turn, start in enumerate(first):
            if turn:
                window = slice(start, turn)
                score = torch.cat(scores[window], dim=1).float().masked_fill(~incoming[:, turn, window], -torch.inf)
                weight = score.softmax(-1).to(below.dtype)
                kin = same[:, turn, window].to(weight.dtype)
                by_relation = torch.stack([weight * (1 - kin), weight * kin], dim=-1).flatten(1)
                gathered = (by_relation[:, None] @ torch.cat(values[window], dim=1).to(weight.dtype))[:, 0]
            now = below[:, turn]
            state = self.content(now, gathered) + self.context(gathered, now)
            states.append(state)
            scores.append(self.score(state))
            values.append(self.relate(state).unflatten(-1, (2, -1)))
        return torch.stack(states, dim=1)


class DAGEncoder(nn.Module):
    r"""DAG-ERC (Shen et al. 2021, arXiv 2105.12907) along every conversation.

    Utterance i has edges from the utterances before it, back to and including the ``omega``-th latest of its own
    speaker; if there are fewer, back to the first. The output is a linear map of the states of all layers,
    :math:`W [h_i^{(0)}; \dots; h_i^{(L)}]`, with :math:`h^{(0)}` the input. No edge comes from a later utterance.

    All conversations take a step together, so time is O(layers T) steps for T utterances in the longest one; memory is
    O(T^2) for the edges.

    Args:
        dim: Width of the input, of every layer and of the output.
        layers: DAG layers, at least 1.
        omega: Turns of the own speaker that the past reaches back to, at least 1.

    Raises:
        ValueError: A number is below 1.
    """

    def __init__(self, dim: int, layers: int = 2, omega: int = 1) -> None:
        super().__init__()
        if min(dim, layers, omega) < 1:
            raise ValueError(f"DAGEncoder: dim, layers and omega must be at least 1, got {dim}, {layers}, {omega}.")
        self.omega = omega
        self.layers = nn.ModuleList(DAGLayer(dim) for _ in range(layers))
        self.join = nn.Linear((layers + 1) * dim, dim)

    def edges(self, batch: ConversationBatch) -> tuple[Tensor, Tensor]:
        """Which utterances hear which.

        Returns:
            ``(B, T, T)`` booleans: whether utterance i (second axis) has an edge from j (third), and whether both have
            one speaker. What the rows and columns of padding say is of no consequence: no utterance hears them.
        """
        speaker, _ = batch.to_dense(batch.speaker)
        turn = torch.arange(speaker.shape[1], device=speaker.device)
        past = turn < turn[:, None]
        same = speaker[:, :, None] == speaker[:, None]
        kin = (same & past).long()
        between = kin.flip(-1).cumsum(-1).flip(-1) - kin  # turns of the speaker of i after j and before i
        return past & (between < self.omega), same

    def forward(self, values: Tensor, batch: ConversationBatch) -> Tensor:
        """Encode ``(N, dim)`` values of whole conversations as ``(N, dim)``."""
        incoming, same = self.edges(batch)
        first = incoming.any(0).int().argmax(-1).tolist()
        dense, _ = batch.to_dense(values)
        states = [values]
        for layer in self.layers:
            dense = cast(Tensor, layer(dense, incoming, same, first))
            states.append(batch.to_flat(dense))
        joined: Tensor = self.join(torch.cat(states, dim=-1))
        return joined
