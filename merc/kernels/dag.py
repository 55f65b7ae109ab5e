"""A layer of DAG-ERC: turn by turn along all conversations, and the same with a gradient by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.batch import ConversationBatch
from merc.kernels.choose import Kernel, Tensors, run


class Turns(NamedTuple):
    """The order in which the utterances of a batch are encoded: turn by turn, in each the longest conversations first.

    So the conversations that are still going on are always the first ones, and nothing is padded.

    Attributes:
        row: ``(N,)`` which utterance of the batch comes when.
        back: ``(N,)`` its inverse.
        cell: ``(N,)`` where it stands in a table of turns and conversations, ``(T, B)``, row after row.
        sizes: For each of the T turns, in how many conversations it is.
        first: For each turn the earliest one that any of its edges comes from.
        mask: For each turn ``(b, t - f)``: of its b conversations and the turns from its earliest edge f to the one
            before it, 0 where there is an edge and minus infinity elsewhere.
        kinds: For each turn ``(b, 2, t - f)``: 1 where the other turn is of another, and of the same speaker.
    """

    row: Tensor
    back: Tensor
    cell: Tensor
    sizes: list[int]
    first: Sequence[int]
    mask: Sequence[Tensor]
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
        mask = torch.zeros_like(incoming, dtype=dtype).masked_fill_(~incoming, -torch.inf)[longest_first]
        kinds = torch.stack([~same, same], dim=2).to(dtype)[longest_first]
        windows = list(enumerate(zip(sizes, first, strict=True)))
        return cls(
            row,
            row.argsort(),
            cell[row],
            sizes,
            first,
            [mask[:size, turn, start:turn] for turn, (size, start) in windows],
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
        """Go through all conversations at once, turn by turn. This is the definition; :func:`dag_layer` may be faster.

        Args:
            below: ``(N, dim)`` states of the layer below, in the order of ``turns``.
            turns: Order and edges.

        Returns:
            ``(N, dim)``.
        """
        other_weight, same_weight = self.relate.weight.chunk(2)
        states: list[Tensor] = []
        for t, here in enumerate(torch.split(below, turns.sizes)):
            gathered = torch.zeros_like(here)
            if t:
                past = torch.stack([state[: len(here)] for state in states[turns.first[t] :]], dim=1)  # (b, t - f, dim)
                alpha = (self.score(past)[..., 0] + turns.mask[t]).softmax(-1)
                other, same = ((alpha[:, None] * turns.kinds[t]) @ past).unbind(1)
                gathered = F.linear(other, other_weight) + F.linear(same, same_weight)
            states.append(self.content(here, gathered) + self.context(gathered, here))
        return torch.cat(states)


def dag_layer(layer: DAGLayer, below: Tensor, turns: Turns) -> Tensor:
    """What ``layer(below, turns)`` returns, in less time on a CPU.

    Autograd would add up a gradient as large as the weights at every turn, and keep the past of every turn. In the
    kernel the gradient of a weight is one matrix product over all turns, and so is what both cells take from the layer
    below, which needs no turn to wait for.
    """
    return run(layer, Kernel(_forward, _backward), below, turns)


def _parts(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``(N, 6 d)``, what concerns reset and update of both cells ``(N, 2, 2, d)``, and new of either ``(N, d)``."""
    by_cell = table.view(len(table), 2, 3, -1)
    return by_cell[:, :, :2], by_cell[:, 0, 2], by_cell[:, 1, 2]


def _weights(parameters: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Those of both cells as one: of the layer below ``(6 d, d)``, of what is gathered ``(6 d, d)``; the relations.

    The last two: w ``(d,)``, and the weights of both relations side by side ``(d, 2 d)``.
    """
    return (
        torch.cat([parameters["content.weight_ih"], parameters["context.weight_hh"]]),
        torch.cat([parameters["content.weight_hh"], parameters["context.weight_ih"]]),
        parameters["score.weight"][0],
        torch.cat(parameters["relate.weight"].chunk(2), dim=1),
    )


def _forward(parameters: Tensors, below: Tensor, turns: Turns) -> tuple[Tensor, tuple[Tensor, ...]]:
    weight_ahead, weight, score, relate = _weights(parameters)
    # The share of the layer below in reset, update and new of the one cell, then of the other.
    ahead = F.linear(below, weight_ahead, torch.cat([parameters["content.bias_ih"], parameters["context.bias_hh"]]))
    bias = torch.cat([parameters["content.bias_hh"], parameters["context.bias_ih"]])
    total, dim = below.shape
    longest, conversations = len(turns.sizes), turns.sizes[0]
    states = below.new_zeros(longest, conversations, dim)
    scores = below.new_zeros(longest, conversations)
    attended, gathered = below.new_zeros(total, 2 * dim), below.new_zeros(total, dim)
    late, gate, new = torch.empty_like(ahead), below.new_empty(total, 2, 2, dim), below.new_empty(total, 2, dim)
    # Every table once more as a list of what belongs to each turn.
    below_at, attended_at, gathered_at, late_at, gate_at, new_at = turns.split(
        below, attended, gathered, late, gate, new
    )
    ahead_gates, ahead_content, ahead_context = turns.split(*_parts(ahead))
    late_gates, late_content, late_context = turns.split(*_parts(late))
    reset, update, reset_p, update_p = turns.split(*gate.flatten(1, 2).unbind(1))
    content, context = turns.split(*new.unbind(1))
    alphas: list[Tensor] = []
    for t, (size, start) in enumerate(zip(turns.sizes, turns.first, strict=True)):
        if t:
            alpha = (scores[start:t, :size].T + turns.mask[t]).softmax(-1)
            alphas.append(alpha)
            share = alpha[:, None] * turns.kinds[t]
            torch.bmm(share, states[start:t, :size].transpose(0, 1), out=attended_at[t].view(size, 2, dim))
            torch.mm(attended_at[t], relate.T, out=gathered_at[t])
            torch.addmm(bias, gathered_at[t], weight.T, out=late_at[t])
        else:  # nothing comes before it
            late_at[t].copy_(bias)
        torch.add(ahead_gates[t], late_gates[t], out=gate_at[t]).sigmoid_()
        torch.addcmul(ahead_content[t], reset[t], late_content[t], out=content[t])
        torch.addcmul(late_context[t], reset_p[t], ahead_context[t], out=context[t])
        new_at[t].tanh_()
        state = states[t, :size]
        torch.add(content[t].lerp(gathered_at[t], update[t]), context[t].lerp(below_at[t], update_p[t]), out=state)
        torch.mv(state, score, out=scores[t, :size])
    out = states.flatten(0, 1).index_select(0, turns.cell)
    weights = weight_ahead, weight, score, relate
    return out, (*weights, ahead, states, attended, gathered, late, gate, new, *alphas)


def _backward(
    from_above: Tensor, saved: tuple[Tensor, ...], parameters: Tensors, below: Tensor, turns: Turns
) -> tuple[Tensor, Tensors]:
    weight_ahead, weight, score, relate, ahead, states, attended, gathered, late, gate, new, *alphas = saved
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
        to_attended = (gathered_at[t] @ relate).view(size, 2, dim)
        alpha, window = alphas[t - 1], states[start:t, :size].transpose(0, 1)
        share = alpha[:, None] * turns.kinds[t]
        to_states[start:t, :size] += (share.mT @ to_attended).transpose(0, 1)
        pull = (share * (to_attended @ window.mT)).sum(1)
        to_scores[start:t, :size] += (pull - alpha * pull.sum(1, keepdim=True)).T
    to_gathered[: turns.sizes[0]] = 0.0  # in the first turn there is nothing to gather
    to_weight, to_bias = everywhere.T @ gathered, everywhere.sum(0)
    # The layer below enters the same gates, only the new ones in the other place.
    torch.mul(to_state, by_content, out=slope_n)
    slope_np.mul_(reset_p)
    content_hh, context_ih = to_weight.chunk(2)
    content_ih, context_hh = (everywhere.T @ below).chunk(2)
    content_bias_hh, context_bias_ih = to_bias.chunk(2)
    content_bias_ih, context_bias_hh = everywhere.sum(0).chunk(2)
    return (everywhere @ weight_ahead).addcmul_(to_state, update_p), {
        "score.weight": (to_scores.flatten() @ states.flatten(0, 1))[None],
        "relate.weight": torch.cat((to_gathered.T @ attended).chunk(2, dim=1)),
        "content.weight_ih": content_ih,
        "content.weight_hh": content_hh,
        "content.bias_ih": content_bias_ih,
        "content.bias_hh": content_bias_hh,
        "context.weight_ih": context_ih,
        "context.weight_hh": context_hh,
        "context.bias_ih": context_bias_ih,
        "context.bias_hh": context_bias_hh,
    }
