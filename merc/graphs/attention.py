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

BLOCK = 4096
"""Edges whose vectors are held at a time on a CPU, or as many as there are nodes, if that is more."""

KEPT = 4096
"""How many edges a graph may have for their vectors to be kept for the gradient."""


def attend_along_edges(layer: GATv2Conv, hidden: Tensor, edges: Edges) -> Tensor:
    """What a :class:`torch_geometric.nn.GATv2Conv` gives, in less time and memory on a CPU.

    An edge costs what its vectors of width d cost to read and write, far more than their arithmetic. PyTorch Geometric
    makes an array of ``(E, d)`` at each step, and keeps many for the gradient. Here sums over edges are bags of rows,
    of which no array is made. The one that is left, and three more for the gradient, are made of some edges at a time
    on a CPU. If it is small the one is kept for the gradient, else it is computed once more.

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
    r"""Scores, softmax over the incoming edges of each target, and the weighted sum of what the sources send.

    The edge e from s to t has :math:`x_e = sent_s + asked_t + W a_e`, whose score is
    :math:`\alpha \cdot \mathrm{leaky}(x_e)`. With :math:`D_e` the slopes of the rectifier, which are 1 or ``slope``,
    :math:`\mathrm{leaky}(x_e) = D_e x_e`. With :math:`r_e` the gradient of the score, all that the gradients need of
    the edges are so the sums of :math:`r_e D_e` by source, by target and by attribute: times :math:`\alpha` they are
    the gradients of sent, asked and W; times sent, asked and W, and added up, they are the gradient of :math:`\alpha`.
    """

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
        score = sent.new_empty(heads, len(source))
        assert slope >= 0  # so that the backward pass can tell from what is rectified here which side it was on
        mixed = None
        for rows, mixed in _mixed(sent, asked, weight, attributes, source, target):
            by_head = F.leaky_relu_(mixed, slope).view(-1, *attention.shape)
            score[:, rows] = (attention[:, None] @ by_head.permute(1, 2, 0))[:, 0]
        to_target = target.expand_as(score)
        top = score.new_full((heads, nodes), -torch.inf).scatter_reduce_(1, to_target, score, "amax")
        share = (score - top.index_select(1, target)).exp_()
        share /= share.new_zeros(heads, nodes).scatter_add_(1, to_target, share).index_select(1, target)
        ctx.slope = slope
        kept = mixed if mixed is not None and len(mixed) == len(source) <= KEPT else None
        ctx.save_for_backward(sent, asked, weight, attention, attributes, source, target, share, kept)
        return _weighted_sums(sent, source, share, target, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_messages: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - untyped in PyTorch
        """Gradients of the arguments of :meth:`forward`, the last four of which have none."""
        sent, asked, weight, attention, attributes, source, target, share, kept = ctx.saved_tensors
        heads, nodes = len(attention), len(sent)
        to_share = torch.empty_like(share)
        for rows in _blocks(source, nodes):
            product = sent.index_select(0, source[rows]).mul_(to_messages.index_select(0, target[rows]))
            to_share[:, rows] = product.view(-1, *attention.shape).sum(-1).T
        to_share *= share
        total = share.new_zeros(heads, nodes).scatter_add_(1, target.expand_as(share), to_share)
        to_score = to_share - share * total.index_select(1, target)

        by_source, by_target = torch.zeros_like(sent), torch.zeros_like(asked)
        by_attribute = torch.zeros_like(weight.T, memory_format=torch.contiguous_format)
        one = sent.new_ones(1, 1)
        everything = _mixed(sent, asked, weight, attributes, source, target) if kept is None else [(slice(None), kept)]
        for rows, mixed in everything:
            slopes = torch.ops.aten.leaky_relu_backward(one.expand_as(mixed), mixed, ctx.slope, False)
            slopes.view(-1, *attention.shape).mul_(to_score[:, rows].T[..., None])
            by_attribute.addmm_(attributes[rows].T, slopes)
            by_target += _sums(slopes, target[rows], nodes)
            by_source += _sums(slopes, source[rows], nodes)
        to_attention = (sent * by_source).sum(0) + (asked * by_target).sum(0) + (weight.T * by_attribute).sum(0)

        to_sent = _weighted_sums(to_messages, target, share, source, nodes)
        scale = attention.flatten()
        return (
            to_sent.addcmul_(by_source, scale),
            by_target.mul_(scale),
            by_attribute.mul_(scale).T,
            to_attention.view_as(attention),
            *(None,) * 4,
        )


def _blocks(source: Tensor, nodes: int) -> Iterator[slice]:
    """As many edges as are held at a time; at least one for each node, as a sum over them is made for each."""
    edges = len(source)
    size = max(BLOCK, nodes) if source.device.type == "cpu" else max(edges, 1)
    return (slice(start, start + size) for start in range(0, edges, size))


def _mixed(
    sent: Tensor, asked: Tensor, weight: Tensor, attributes: Tensor, source: Tensor, target: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """What is scored of an edge, before the rectifier: ``(e, d)`` of some edges at a time."""
    table = torch.cat([sent, asked])
    pairs = torch.stack([source, target + len(sent)], dim=1)
    for rows in _blocks(source, len(sent)):
        yield rows, F.embedding_bag(pairs[rows], table, mode="sum").addmm_(attributes[rows], weight.T)


def _sums(values: Tensor, node: Tensor, nodes: int) -> Tensor:
    """For each of the nodes ``(N, d)`` the sum of the values ``(E, d)`` of its edges ``(E,)``."""
    order, starts = _bags(node, nodes)
    return F.embedding_bag(order, values, starts, mode="sum")


def _weighted_sums(values: Tensor, index: Tensor, weight: Tensor, node: Tensor, nodes: int) -> Tensor:
    """For each of the nodes the sum over its edges of a row of the values, by the edge's weight of each head.

    Args:
        values: ``(V, d)``.
        index: ``(E,)`` the row of each edge.
        weight: ``(H, E)``.
        node: ``(E,)`` the node of each edge.
        nodes: Number of nodes N.

    Returns:
        ``(N, d)``.
    """
    (heads, edges), width = weight.shape, values.shape[1] // len(weight)
    order, starts = _bags(node, nodes)
    head = torch.arange(heads, device=node.device)[:, None]
    sums: Tensor = F.embedding_bag(
        (index.index_select(0, order) * heads + head).flatten(),
        values.reshape(len(values) * heads, width),  # a head of a row is a row of its own
        (starts + edges * head).flatten(),
        mode="sum",
        per_sample_weights=weight.index_select(1, order).flatten(),
    )
    return sums.view(heads, nodes, width).transpose(0, 1).flatten(1)


def _bags(node: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """The edges in the order of their nodes, and where those of each node start."""
    order = node.argsort(stable=True)
    return order, torch.searchsorted(node.index_select(0, order), torch.arange(nodes, device=node.device))
