"""GATv2 along edges, with a gradient by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch_geometric.nn import GATv2Conv

from merc.batch import Edges

BLOCK = 1024
"""Edges whose vectors are held at a time on a CPU: as many as fit into the cache of a core."""


def attend_along_edges(layer: GATv2Conv, hidden: Tensor, edges: Edges) -> Tensor:
    """What a :class:`torch_geometric.nn.GATv2Conv` gives, in less time and memory on a CPU.

    An edge costs what its vectors of width d cost to read and write, far more than their arithmetic. PyTorch Geometric
    makes an array of ``(E, d)`` at each step, and keeps many for the gradient. Here no such array exists: on a CPU the
    edges are gone through in blocks that stay in its cache, and what the gradient needs of them is computed once more.

    Args:
        layer: The layer, with edge attributes, heads side by side, and no dropout of its own.
        hidden: ``(N, d)``.
        edges: The graph.

    Returns:
        ``(N, d)``, in float32 under autocast too.
    """
    source, target = edges.index
    sent, asked = layer.lin_l(hidden), layer.lin_r(hidden)
    assert layer.lin_edge is not None
    with torch.autocast(hidden.device.type, enabled=False):
        wide = torch.promote_types(sent.dtype, torch.float32)
        by_edge = layer.lin_edge.weight.to(wide), layer.att[0].to(wide), edges.attributes.to(wide)
        messages: Tensor = _Attention.apply(
            sent.to(wide), asked.to(wide), *by_edge, source, target, layer.negative_slope
        )
        messages = messages + layer.bias
    return messages


class _Attention(torch.autograd.Function):
    """Scores, softmax over the incoming edges of each target, and the weighted sum of what the sources send."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - untyped in PyTorch
        sent: Tensor,
        asked: Tensor,
        weight: Tensor,
        attention: Tensor,
        attributes: Tensor,
        source: Tensor,
        target: Tensor,
        slope: float,
    ) -> Tensor:
        """Messages ``(N, d)``.

        Args:
            ctx: Keeps what the gradient needs.
            sent: ``(N, d)`` by source.
            asked: ``(N, d)`` by target.
            weight: ``(d, A)`` of the edge attributes.
            attention: ``(H, d / H)``.
            attributes: ``(E, A)``.
            source: ``(E,)``.
            target: ``(E,)``.
            slope: Of the leaky rectifier.
        """
        heads, nodes = len(attention), len(sent)
        by_head = _by_head(attention)
        score = sent.new_empty(len(source), heads)
        for rows in _blocks(source):
            score[rows] = (by_head @ _mixed(sent, asked, weight, attributes, source, target, slope, rows).T).T
        to_target = target[:, None].expand_as(score)
        top = score.new_full((nodes, heads), -torch.inf).scatter_reduce_(0, to_target, score, "amax")
        share = (score - top.index_select(0, target)).exp_()
        share /= share.new_zeros(nodes, heads).scatter_add_(0, to_target, share).index_select(0, target)
        messages = torch.zeros_like(sent)
        for rows in _blocks(source):
            _add_rows(messages, target[rows], _weighted(sent.index_select(0, source[rows]), share[rows]))
        ctx.slope = slope
        ctx.save_for_backward(sent, asked, weight, attention, attributes, source, target, share)
        return messages

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_messages: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - untyped in PyTorch
        """Gradients of the arguments of :meth:`forward`, the last four of which have none."""
        sent, asked, weight, attention, attributes, source, target, share = ctx.saved_tensors
        by_head, whole = _by_head(attention), _by_head(torch.ones_like(attention))
        to_share = torch.empty_like(share)
        for rows in _blocks(source):
            product = sent.index_select(0, source[rows]).mul_(to_messages.index_select(0, target[rows]))
            to_share[rows] = (whole @ product.T).T
        to_share *= share
        total = share.new_zeros(len(sent), len(attention)).scatter_add_(0, target[:, None].expand_as(share), to_share)
        to_score = to_share - share * total.index_select(0, target)

        to_sent, to_asked = torch.zeros_like(sent), torch.zeros_like(sent)
        to_weight, to_by_head = torch.zeros_like(weight.T), torch.zeros_like(by_head)
        for rows in _blocks(source):
            mixed = _mixed(sent, asked, weight, attributes, source, target, ctx.slope, rows)
            to_by_head.addmm_(to_score[rows].T, mixed)
            to_mixed = torch.ops.aten.leaky_relu_backward(to_score[rows] @ by_head, mixed, ctx.slope, True)
            to_weight.addmm_(attributes[rows].T, to_mixed)
            _add_rows(to_asked, target[rows], to_mixed)
            to_heard = _weighted(to_messages.index_select(0, target[rows]), share[rows]).add_(to_mixed)
            _add_rows(to_sent, source[rows], to_heard)
        to_attention = (to_by_head * whole).sum(0).view_as(attention)
        return to_sent, to_asked, to_weight.T, to_attention, None, None, None, None


def _blocks(source: Tensor) -> Iterator[slice]:
    edges = len(source)
    size = BLOCK if source.device.type == "cpu" else max(edges, 1)
    return (slice(start, start + size) for start in range(0, edges, size))


def _by_head(attention: Tensor) -> Tensor:
    """``(H, d)``: a row for each head, zero outside of it; it stands first in a product, as the other way is slow."""
    heads, width = attention.shape
    rows = attention.new_zeros(heads, heads, width)
    rows.diagonal().copy_(attention.T)
    return rows.flatten(1)


def _mixed(
    sent: Tensor,
    asked: Tensor,
    weight: Tensor,
    attributes: Tensor,
    source: Tensor,
    target: Tensor,
    slope: float,
    rows: slice,
) -> Tensor:
    """What is scored of some edges, ``(e, d)``."""
    mixed = sent.index_select(0, source[rows]).add_(asked.index_select(0, target[rows]))
    return F.leaky_relu_(mixed.addmm_(attributes[rows], weight.T), slope)


def _weighted(values: Tensor, share: Tensor) -> Tensor:
    """The values ``(e, d)``, in place, by the share ``(e, H)`` of their head."""
    torch.unflatten(values, 1, (share.shape[1], -1)).mul_(share[..., None])
    return values


def _add_rows(total: Tensor, index: Tensor, values: Tensor) -> None:
    total.scatter_add_(0, index[:, None].expand_as(values), values)
