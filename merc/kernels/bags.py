"""Sums over the edges of each node as bags of rows: no array of one vector per edge is made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sums(values: Tensor, node: Tensor, nodes: int) -> Tensor:
    """For each of the nodes ``(N, d)`` the sum of the values ``(E, d)`` of its edges ``(E,)``."""
    order, starts = bags(node, nodes)
    return F.embedding_bag(order, values, starts, mode="sum")


def weighted_sums(values: Tensor, index: Tensor, weight: Tensor, node: Tensor, nodes: int) -> Tensor:
    """For each node the sum over its edges of a row of the values, times the edge's weight of each head.

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
    order, starts = bags(node, nodes)
    head = torch.arange(heads)[:, None]
    sums: Tensor = F.embedding_bag(
        (index.index_select(0, order) * heads + head).flatten(),
        values.reshape(len(values) * heads, width),  # a head of a row is a row of its own
        (starts + edges * head).flatten(),
        mode="sum",
        per_sample_weights=weight.index_select(1, order).flatten(),
    )
    return sums.view(heads, nodes, width).transpose(0, 1).flatten(1)


def bags(node: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """The edges in the order of their nodes, and where those of each node start."""
    order = node.argsort(stable=True)
    return order, torch.searchsorted(node.index_select(0, order), torch.arange(nodes))
