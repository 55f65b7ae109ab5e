"""Directed acyclic graphs of conversations: what was said reaches what is said later, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
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
        cell: ``(N,)`` where it stands in a table of turns and conversations, ``(T, B)``, row after row.
        sizes: For each of the T turns, in how many conversations it is.
        first: For each turn the earliest one that any of its edges comes from.
        deaf: For each turn ``(b, t - f)``: of its b conversations and the turns from its earliest edge f to the one
            before it, 0 where there is an edge and minus infinity elsewhere.
        kinds: For each turn ``(b, 2, t - f)``: 1 where the other turn is of another, and of the same speaker.
    """

    row: Tensor
    back: Tensor
    cell: Tensor
    sizes: list[int]
    first: Sequence[int]
    deaf: Sequence[Tensor]
    kinds: Sequence[Tensor]

    @classmethod
    def of(cls, batch: ConversationBatch, incoming: Tensor, same: Tensor, dtype: torch.dtype) -> Turns:
        """The turns of a batch.

        Args:
            batch: Its conversations.
            incoming: ``(B, T, T)`` booleans: whether turn i (second axis) has an edge from j.
            same: ``(B, T, T)`` booleans: whether both have one speaker.
            dtype: Of the states that will be encoded.
        """
        lengths = batch.lengths
        longest_first = lengths.argsort(descending=True, stable=True)
        rank = longest_first.argsort()
        cell = batch.position * len(lengths) + rank[batch.conversation]
        row = torch.argsort(cell)
        sizes = (lengths[:, None] > torch.arange(incoming.shape[1], device=lengths.device)).sum(0).tolist()
        first = incoming.any(0).int().argmax(-1).tolist()
        deaf = torch.zeros_like(incoming, dtype=dtype).masked_fill_(~incoming, -torch.inf)[longest_first]
        kinds = torch.stack([~same, same], dim=2).to(dtype)[longest_first]
        windows = list(enumerate(zip(sizes, first, strict=True)))
        return cls(
            row,
            row.argsort(),
            cell[row],
            sizes,
            first,
            [deaf[:size, turn, start:turn] for turn, (size, start) in windows],
            [kinds[:size, turn, :, start:turn] for turn, (size, start) in windows],
        )

    def split(self, *tables: Tensor) -> list[Sequence[Tensor]]:
        """Tables ``(N, ...)`` in the order of the turns as what belongs to each of them, without a copy."""
        return [torch.split(table, self.sizes) for table in tables]


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
                torch.cat([content.weight_ih, context.weight_hh]),
                torch.cat([content.bias_ih, context.bias_hh]),
            )
            states = _Recurrence.apply(
                below,
                ahead,
                self.score.weight[0],
                torch.cat(self.relate.weight.chunk(2), dim=1),
                torch.cat([content.weight_hh, context.weight_ih]),
                torch.cat([content.bias_hh, context.bias_ih]),
                turns,
            )
        return cast(Tensor, states)


def _parts(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``(N, 6 d)``, what concerns reset and update of both cells ``(N, 2, 2, d)``, and new of either ``(N, d)``."""
    by_cell = table.view(len(table), 2, 3, -1)
    return by_cell[:, :, :2], by_cell[:, 0, 2], by_cell[:, 1, 2]


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
            ahead: ``(N, 6 d)`` their share in reset, update and new of the one cell, then of the other.
            score: ``(d,)`` w.
            relate: ``(d, 2 d)`` the weights of both relations side by side.
            weight: ``(6 d, d)`` from what was gathered to the gates.
            bias: ``(6 d,)``.
            turns: Who speaks when, and hears whom.
        """
        total, dim = below.shape
        longest, conversations = len(turns.sizes), turns.sizes[0]
        states = below.new_zeros(longest, conversations, dim)
        scores = below.new_zeros(longest, conversations)
        heard, gathered = below.new_zeros(total, 2 * dim), below.new_zeros(total, dim)
        late, gate, new = torch.empty_like(ahead), below.new_empty(total, 2, 2, dim), below.new_empty(total, 2, dim)
        # Every table once more as a list of what belongs to each turn.
        below_at, heard_at, gathered_at, late_at, gate_at, new_at = turns.split(below, heard, gathered, late, gate, new)
        ahead_gates, ahead_content, ahead_context = turns.split(*_parts(ahead))
        late_gates, late_content, late_context = turns.split(*_parts(late))
        reset, update, reset_p, update_p = turns.split(*gate.flatten(1, 2).unbind(1))
        content, context = turns.split(*new.unbind(1))
        alphas: list[Tensor] = []
        for t, (size, start) in enumerate(zip(turns.sizes, turns.first, strict=True)):
            if t:
                alpha = (scores[start:t, :size].T + turns.deaf[t]).softmax(-1)
                alphas.append(alpha)
                share = alpha[:, None] * turns.kinds[t]
                torch.bmm(share, states[start:t, :size].transpose(0, 1), out=heard_at[t].view(size, 2, dim))
                torch.mm(heard_at[t], relate.T, out=gathered_at[t])
                torch.addmm(bias, gathered_at[t], weight.T, out=late_at[t])
            else:  # there is nothing to hear
                late_at[t].copy_(bias)
            torch.add(ahead_gates[t], late_gates[t], out=gate_at[t]).sigmoid_()
            torch.addcmul(ahead_content[t], reset[t], late_content[t], out=content[t])
            torch.addcmul(late_context[t], reset_p[t], ahead_context[t], out=context[t])
            new_at[t].tanh_()
            state = states[t, :size]
            torch.add(content[t].lerp(gathered_at[t], update[t]), context[t].lerp(below_at[t], update_p[t]), out=state)
            torch.mv(state, score, out=scores[t, :size])
        ctx.turns = turns
        ctx.save_for_backward(below, ahead, score, relate, weight, states, heard, gathered, late, gate, new, *alphas)
        return states.flatten(0, 1).index_select(0, turns.cell)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - untyped in PyTorch
        """Gradients of the arguments of :meth:`forward`, the last of which has none."""
        below, ahead, score, relate, weight, states, heard, gathered, late, gate, new, *alphas = ctx.saved_tensors
        dim = below.shape[1]
        content, context = new.unbind(1)
        reset, update, reset_p, update_p = gate.flatten(1, 2).unbind(1)
        by_content = (1 - update) * (1 - content.square())
        # Derivatives of the state by what enters the gates; in place they become the gradients of that.
        everywhere = torch.empty_like(late)
        to_gates = everywhere.view(-1, 6, dim)
        slope_c, slope_u, slope_n, slope_p, slope_up, slope_np = to_gates.unbind(1)
        torch.mul(by_content, reset, out=slope_n)
        torch.mul(slope_n, _parts(late)[1], out=slope_c).mul_(1 - reset)
        torch.mul(gathered - content, update, out=slope_u).mul_(1 - update)
        torch.mul(1 - update_p, 1 - context.square(), out=slope_np)
        torch.mul(slope_np, _parts(ahead)[2], out=slope_p).mul_(reset_p).mul_(1 - reset_p)
        torch.mul(below - context, update_p, out=slope_up).mul_(1 - update_p)
        to_states, to_scores = torch.zeros_like(states), below.new_zeros(states.shape[:2])
        to_state, to_gathered = from_above.clone(), torch.empty_like(below)
        turns: Turns = ctx.turns
        here_at, slopes_at, gates_at = turns.split(to_state, to_gates, everywhere)
        update_at, gathered_at = turns.split(update, to_gathered)
        for t, (size, start) in reversed(list(enumerate(zip(turns.sizes, turns.first, strict=True)))):
            here = here_at[t]
            here += to_states[t, :size]
            here.addcmul_(to_scores[t, :size, None], score)
            slopes_at[t].mul_(here[:, None])
            if t == 0:
                break
            torch.addmm(here * update_at[t], gates_at[t], weight, out=gathered_at[t])
            to_heard = (gathered_at[t] @ relate).view(size, 2, dim)
            alpha, window = alphas[t - 1], states[start:t, :size].transpose(0, 1)
            share = alpha[:, None] * turns.kinds[t]
            to_states[start:t, :size] += (share.mT @ to_heard).transpose(0, 1)
            pull = (share * (to_heard @ window.mT)).sum(1)
            to_scores[start:t, :size] += (pull - alpha * pull.sum(1, keepdim=True)).T
        to_gathered[: turns.sizes[0]] = 0.0  # in the first turn there is nothing to gather
        to_weight, to_bias = everywhere.T @ gathered, everywhere.sum(0)
        # The layer below enters the same gates, only the new ones in the other place.
        torch.mul(to_state, by_content, out=slope_n)
        slope_np.mul_(reset_p)
        return (
            to_state * update_p,
            everywhere,
            to_scores.flatten() @ states.flatten(0, 1),
            to_gathered.T @ heard,
            to_weight,
            to_bias,
            None,
        )


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
        turns = Turns.of(batch, *self.edges(batch), torch.promote_types(values.dtype, torch.float32))
        states = [values.index_select(0, turns.row)]
        for layer in self.layers:
            states.append(cast(Tensor, layer(states[-1], turns)))
        joined: Tensor = self.join(torch.cat(states, dim=-1)).index_select(0, turns.back)
        return joined
