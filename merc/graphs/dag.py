"""Directed acyclic graphs of conversations: what was said reaches what is said later, turn by turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from merc.batch import ConversationBatch


class Turns(NamedTuple):
    """The order in which the utterances of a batch are encoded: turn by turn, in each the longest conversations first.

    So the conversations that are still going on are always the first ones, and nothing is padded.

    Attributes:
        row: ``(N,)`` which utterance of the batch comes when.
        back: ``(N,)`` its inverse.
        sizes: For each of the T turns, in how many conversations it is.
        first: For each turn the earliest one that any of its edges comes from.
        incoming: ``(B, T, T)`` booleans, longest conversation first: whether turn i (second axis) has an edge from j.
        same: ``(B, T, T)`` booleans: whether both have one speaker.
    """

    row: Tensor
    back: Tensor
    sizes: Sequence[int]
    first: Sequence[int]
    incoming: Tensor
    same: Tensor

    @classmethod
    def of(cls, batch: ConversationBatch, incoming: Tensor, same: Tensor) -> Turns:
        """The turns of a batch with these edges."""
        lengths = batch.lengths
        longest_first = lengths.argsort(descending=True, stable=True)
        rank = longest_first.argsort()
        row = torch.argsort(batch.position * len(lengths) + rank[batch.conversation])
        return cls(
            row,
            row.argsort(),
            (lengths[:, None] > torch.arange(incoming.shape[1], device=lengths.device)).sum(0).tolist(),
            incoming.any(0).int().argmax(-1).tolist(),
            incoming[longest_first],
            same[longest_first],
        )


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

    def forward(self, below: Tensor, turns: Turns) -> Tensor:
        """Go through all conversations at once, turn by turn.

        Args:
            below: ``(N, dim)`` states of the layer below, in the order of ``turns``.
            turns: Who speaks when, and hears whom.

        Returns:
            ``(N, dim)`` in float32 or wider, which a recurrence needs under autocast too.
        """
        content, context = self.content, self.context
        with torch.autocast(below.device.type, enabled=False):
            below = below.to(torch.promote_types(below.dtype, torch.float32))
            # What both cells take from the layer below needs no turn to wait for.
            ahead = F.linear(
                below,
                _by_gate(content.weight_ih, context.weight_hh),
                _by_gate(content.bias_ih, context.bias_hh),
            )
            states = _Recurrence.apply(
                below,
                ahead,
                self.score.weight[0],
                torch.cat(self.relate.weight.chunk(2), dim=1),
                _by_gate(content.weight_hh, context.weight_ih),
                _by_gate(content.bias_hh, context.bias_ih),
                turns,
            )
        return cast(Tensor, states)


def _by_gate(content: Tensor, context: Tensor) -> Tensor:
    """The weights of both cells: reset and update of either, then new of either."""
    sizes = [2 * len(content) // 3, len(content) // 3]
    (old_c, new_c), (old_p, new_p) = torch.split(content, sizes), torch.split(context, sizes)
    return torch.cat([old_c, old_p, new_c, new_p])


class _Recurrence(torch.autograd.Function):
    """The turns of a :class:`DAGLayer`, with a gradient by hand.

    Autograd would add up a gradient as large as the weights at every turn, and keep the past of every turn. Here the
    gradient of a weight is one matrix product over all turns.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - untyped in PyTorch
        below: Tensor,
        ahead: Tensor,
        score: Tensor,
        relate: Tensor,
        weight: Tensor,
        bias: Tensor,
        turns: Turns,
    ) -> Tensor:
        """States ``(N, d)``.

        Args:
            ctx: Keeps what the gradient needs.
            below: ``(N, d)`` states of the layer below.
            ahead: ``(N, 6 d)`` their share in the gates, in the order of :func:`_by_gate`.
            score: ``(d,)`` w.
            relate: ``(d, 2 d)`` the weights of both relations side by side.
            weight: ``(6 d, d)`` from what was gathered to the gates.
            bias: ``(6 d,)``.
            turns: Who speaks when, and hears whom.
        """
        (total, dim), (conversations, longest, _) = below.shape, turns.incoming.shape
        states = below.new_zeros(longest, conversations, dim)
        scores = below.new_zeros(conversations, longest)
        heard, gathered = below.new_zeros(total, 2 * dim), below.new_zeros(total, dim)
        late, gate, new = torch.empty_like(ahead), below.new_empty(total, 4 * dim), below.new_empty(total, 2 * dim)
        shares: list[Tensor] = []
        for turn, (rows, size, start) in enumerate(_steps(turns)):
            if turn:
                incoming, same = turns.incoming[:size, turn, start:turn], turns.same[:size, turn, start:turn]
                alpha = scores[:size, start:turn].masked_fill(~incoming, -torch.inf).softmax(-1)
                share = torch.stack([alpha.masked_fill(same, 0.0), alpha.masked_fill(~same, 0.0)], dim=1)
                shares.append(share)
                torch.bmm(share, states[start:turn, :size].transpose(0, 1), out=heard[rows].view(size, 2, dim))
                torch.mm(heard[rows], relate.T, out=gathered[rows])
            torch.addmm(bias, gathered[rows], weight.T, out=late[rows])
            torch.add(ahead[rows, : 4 * dim], late[rows, : 4 * dim], out=gate[rows]).sigmoid_()
            content, context = new[rows].chunk(2, dim=1)
            reset, update, reset_p, update_p = gate[rows].chunk(4, dim=1)
            torch.addcmul(ahead[rows, 4 * dim : 5 * dim], reset, late[rows, 4 * dim : 5 * dim], out=content).tanh_()
            torch.addcmul(late[rows, 5 * dim :], reset_p, ahead[rows, 5 * dim :], out=context).tanh_()
            state = torch.lerp(content, gathered[rows], update) + torch.lerp(context, below[rows], update_p)
            states[turn, :size] = state
            scores[:size, turn] = state @ score
        ctx.turns = turns
        ctx.save_for_backward(below, ahead, score, relate, weight, states, heard, gathered, late, gate, new, *shares)
        return torch.cat([states[turn, :size] for turn, size in enumerate(turns.sizes)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - untyped in PyTorch
        """Gradients of the arguments of :meth:`forward`, the last of which has none."""
        below, ahead, score, relate, weight, states, heard, gathered, late, gate, new, *shares = ctx.saved_tensors
        dim = below.shape[1]
        content, context = new.chunk(2, dim=1)
        reset, update, reset_p, update_p = gate.chunk(4, dim=1)
        # Derivatives of the state by what enters the six gates, one after another; first the two new ones.
        by_content = (1 - update) * (1 - content.square())
        by_context = (1 - update_p) * (1 - context.square())
        slope = torch.stack(
            [
                by_content * late[:, 4 * dim : 5 * dim] * reset * (1 - reset),
                (gathered - content) * update * (1 - update),
                by_context * ahead[:, 5 * dim :] * reset_p * (1 - reset_p),
                (below - context) * update_p * (1 - update_p),
                by_content * reset,
                by_context,
            ],
            dim=1,
        )
        to_states, to_scores = torch.zeros_like(states), below.new_zeros(states.shape[1::-1])
        to_state, to_gathered = from_above.clone(), torch.empty_like(below)
        to_gates = torch.empty_like(slope)
        for turn, (rows, size, start) in reversed(list(enumerate(_steps(ctx.turns)))):
            here = to_state[rows]
            here += to_states[turn, :size]
            here.addcmul_(to_scores[:size, turn, None], score)
            torch.mul(slope[rows], here[:, None], out=to_gates[rows])
            if turn == 0:
                break
            torch.addmm(here * update[rows], to_gates[rows].flatten(1), weight, out=to_gathered[rows])
            to_heard = (to_gathered[rows] @ relate).view(size, 2, dim)
            share, window = shares[turn - 1], states[start:turn, :size].transpose(0, 1)
            to_states[start:turn, :size] += (share.mT @ to_heard).transpose(0, 1)
            pull = (share * (to_heard @ window.mT)).sum(1)
            to_scores[:size, start:turn] += pull - share.sum(1) * pull.sum(1, keepdim=True)
        everywhere = to_gates.flatten(1)
        to_gathered[: ctx.turns.sizes[0]] = 0.0  # in the first turn there is nothing to gather
        return (
            to_state * update_p,
            torch.cat([everywhere[:, : 4 * dim], to_state * by_content, everywhere[:, 5 * dim :] * reset_p], dim=1),
            to_scores.T.flatten() @ states.flatten(0, 1),
            to_gathered.T @ heard,
            everywhere.T @ gathered,
            everywhere.sum(0),
            None,
        )


def _steps(turns: Turns) -> Iterator[tuple[slice, int, int]]:
    """For each turn its rows, how many they are, and the earliest turn that it hears."""
    stop = 0
    for size, start in zip(turns.sizes, turns.first, strict=True):
        yield slice(stop, stop + size), size, start
        stop += size


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
            one speaker. Padding hears nobody and is heard by nobody.
        """
        speaker, real = batch.to_dense(batch.speaker)
        turn = torch.arange(speaker.shape[1], device=speaker.device)
        past = turn < turn[:, None]
        same = speaker[:, :, None] == speaker[:, None]
        kin = (same & past).long()
        between = kin.flip(-1).cumsum(-1).flip(-1) - kin  # turns of the speaker of i after j and before i
        return past & real[:, :, None] & (between < self.omega), same

    def forward(self, values: Tensor, batch: ConversationBatch) -> Tensor:
        """Encode ``(N, dim)`` values of whole conversations as ``(N, dim)``."""
        turns = Turns.of(batch, *self.edges(batch))
        states = [values[turns.row]]
        for layer in self.layers:
            states.append(cast(Tensor, layer(states[-1], turns)))
        joined: Tensor = self.join(torch.cat(states, dim=-1))[turns.back]
        return joined
