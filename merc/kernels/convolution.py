"""Graph convolution without an array of one vector per edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.batch import Edges
from merc.kernels.bags import bags
from merc.kernels.choose import Kernel, Tensors, run

if TYPE_CHECKING:
    from torch_geometric.nn import GCNConv


def graph_convolution(layer: GCNConv, hidden: Tensor, edges: Edges) -> Tensor:
    """The messages of a :class:`torch_geometric.nn.GCNConv`, ``(N, d)``.

    Args:
        layer: The layer, with ``normalize=False``: it defines the result.
        hidden: ``(N, d)``.
        edges: The graph, with normalised weights.
    """
    return run(layer, Kernel(_forward, _backward), hidden, edges.index, edges.weight.to(hidden.dtype))


def _forward(parameters: Tensors, hidden: Tensor, index: Tensor, weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    source, target = index
    sent = F.linear(hidden, parameters["lin.weight"])
    starts = torch.searchsorted(target, torch.arange(len(hidden)))  # edges are sorted by target
    messages = F.embedding_bag(source, sent, starts, mode="sum", per_sample_weights=weight)
    return messages.add_(parameters["bias"]), ()


def _backward(
    to_messages: Tensor, saved: tuple[()], parameters: Tensors, hidden: Tensor, index: Tensor, weight: Tensor
) -> tuple[Tensor, Tensors]:
    source, target = index
    order, starts = bags(source, len(hidden))
    to_sent = F.embedding_bag(target[order], to_messages, starts, mode="sum", per_sample_weights=weight[order])
    return to_sent @ parameters["lin.weight"], {"lin.weight": to_sent.T @ hidden, "bias": to_messages.sum(0)}
