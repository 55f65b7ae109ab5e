"""GATv2 along edges, with a gradient by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.batch import Edges
from merc.kernels.bags import sums, weighted_sums
from merc.kernels.choose import Kernel, Tensors, run

if TYPE_CHECKING:
    from torch_geometric.nn import GATv2Conv

BLOCK = 4096
"""Edges whose vectors are held at a time, or as many as there are nodes, if that is more."""

KEPT = 4096
"""How many edges a graph may have for their vectors to be kept for the gradient."""


def graph_attention(layer: GATv2Conv, hidden: Tensor, edges: Edges) -> Tensor:
    """The messages of a :class:`torch_geometric.nn.GATv2Conv`, ``(N, d)``.

    An edge costs what its vectors of width d cost to read and write, far more than their arithmetic. PyTorch Geometric
    makes an array of ``(E, d)`` at each step, and keeps many for the gradient. In the kernel sums over edges are bags
    of rows, of which no array is made. The one that is left, and three more for the gradient, are made of some edges at
    a time. If it is small the one is kept for the gradient, else it is computed again.

    Args:
        layer: The layer, with edge attributes, heads side by side, and no dropout of its own: it defines the result.
        hidden: ``(N, d)``.
        edges: The graph.
    """
    kernel = Kernel(partial(_forward, layer.negative_slope), partial(_backward, layer.negative_slope))
    return run(layer, kernel, hidden, edges.index, edges.attributes.to(hidden.dtype))


def _forward(
    slope: float, parameters: Tensors, hidden: Tensor, index: Tensor, attributes: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Scores, softmax over the incoming edges of each target, and the weighted sum of the sources' vectors.

    Each node has one vector that is both key and value, and one that is the query.
    """
    assert slope >= 0  # so that the backward pass can tell from what is rectified here which side it was on
    source, target = index
    key_value = F.linear(hidden, parameters["lin_l.weight"], parameters["lin_l.bias"])
    query = F.linear(hidden, parameters["lin_r.weight"], parameters["lin_r.bias"])
    attention = parameters["att"][0]  # (H, d / H)
    nodes = len(hidden)
    score = hidden.new_empty(len(attention), len(source))
    mixed = hidden.new_empty(0, 0)
    for rows, mixed in _mixed(key_value, query, parameters["lin_edge.weight"], attributes, source, target):
        by_head = F.leaky_relu_(mixed, slope).view(-1, *attention.shape)
        score[:, rows] = (attention[:, None] @ by_head.permute(1, 2, 0))[:, 0]
    to_target = target.expand_as(score)
    top = score.new_full((len(attention), nodes), -torch.inf).scatter_reduce_(1, to_target, score, "amax")
    share = (score - top.index_select(1, target)).exp_()
    share /= share.new_zeros(len(attention), nodes).scatter_add_(1, to_target, share).index_select(1, target)
    messages = weighted_sums(key_value, source, share, target, nodes).add_(parameters["bias"])
    kept = mixed if len(mixed) == len(source) <= KEPT else hidden.new_empty(0, 0)
    return messages, (key_value, query, share, kept)


def _backward(
    slope: float,
    to_messages: Tensor,
    saved: tuple[Tensor, ...],
    parameters: Tensors,
    hidden: Tensor,
    index: Tensor,
    attributes: Tensor,
) -> tuple[Tensor, Tensors]:
    r"""Gradients from sums over edges.

    With k the vectors that are keys and values, q the queries and W the weight of the attributes, the edge e from s to
    t has :math:`x_e = k_s + q_t + W a_e`, whose score is :math:`\alpha \cdot \mathrm{leaky}(x_e)`. With :math:`D_e`
    the slopes of the rectifier, which are 1 or ``slope``, :math:`\mathrm{leaky}(x_e) = D_e x_e`. With :math:`r_e` the
    gradient of the score, the gradients need only the sums of :math:`r_e D_e` by source, by target and by attribute:
    times :math:`\alpha` they are the gradients of k, q and W; times k, q and W, and added up, they are the gradient of
    :math:`\alpha`.
    """
    key_value, query, share, kept = saved
    source, target = index
    attention, weight = parameters["att"][0], parameters["lin_edge.weight"]
    heads, nodes = len(attention), len(hidden)
    to_share = torch.empty_like(share)
    for rows in _blocks(source, nodes):
        product = key_value.index_select(0, source[rows]).mul_(to_messages.index_select(0, target[rows]))
        to_share[:, rows] = product.view(-1, *attention.shape).sum(-1).T
    to_share *= share
    total = share.new_zeros(heads, nodes).scatter_add_(1, target.expand_as(share), to_share)
    to_score = to_share - share * total.index_select(1, target)

    by_source, by_target = torch.zeros_like(key_value), torch.zeros_like(query)
    by_attribute = torch.zeros_like(weight.T, memory_format=torch.contiguous_format)
    one = hidden.new_ones(1, 1)
    again = _mixed(key_value, query, weight, attributes, source, target)
    for rows, mixed in [(slice(None), kept)] if len(kept) else again:
        slopes = torch.ops.aten.leaky_relu_backward(one.expand_as(mixed), mixed, slope, False)
        slopes.view(-1, *attention.shape).mul_(to_score[:, rows].T[..., None])
        by_attribute.addmm_(attributes[rows].T, slopes)
        by_target += sums(slopes, target[rows], nodes)
        by_source += sums(slopes, source[rows], nodes)
    to_attention = (key_value * by_source).sum(0) + (query * by_target).sum(0) + (weight.T * by_attribute).sum(0)

    scale = attention.flatten()
    to_key_value = weighted_sums(to_messages, target, share, source, nodes).addcmul_(by_source, scale)
    to_query = by_target.mul_(scale)
    to_hidden = (to_key_value @ parameters["lin_l.weight"]).addmm_(to_query, parameters["lin_r.weight"])
    return to_hidden, {
        "lin_l.weight": to_key_value.T @ hidden,
        "lin_l.bias": to_key_value.sum(0),
        "lin_r.weight": to_query.T @ hidden,
        "lin_r.bias": to_query.sum(0),
        "lin_edge.weight": by_attribute.mul_(scale).T,
        "att": to_attention.view_as(attention)[None],
        "bias": to_messages.sum(0),
    }


def _blocks(source: Tensor, nodes: int) -> Iterator[slice]:
    """The edges that are held at a time: at least one for each node, as a sum over them is made for each."""
    size = max(BLOCK, nodes)
    return (slice(start, start + size) for start in range(0, len(source), size))


def _mixed(
    key_value: Tensor, query: Tensor, weight: Tensor, attributes: Tensor, source: Tensor, target: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """What is scored of an edge, before the rectifier: ``(e, d)`` of some edges at a time."""
    table = torch.cat([key_value, query])
    pairs = torch.stack([source, target + len(key_value)], dim=1)
    for rows in _blocks(source, len(key_value)):
        yield rows, F.embedding_bag(pairs[rows], table, mode="sum").addmm_(attributes[rows], weight.T)
