"""Graph encoders: networks that map the features of a modality to hidden states and logits."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from merc.batch import Edges
from merc.graphs.build import EDGE_ATTRIBUTES
from merc.kernels import Dropout, graph_attention, graph_convolution

with warnings.catch_warnings():
    # PyTorch Geometric calls torch.jit.script while it is imported, which PyTorch has deprecated.
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.script")
    from torch_geometric.nn import GATv2Conv, GCNConv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm


class GraphOutput(NamedTuple):
    """The output of a graph encoder.

    Attributes:
        logits: ``(N, C)``.
        hidden: ``(N, hidden_dim)``, the last hidden state, which the fusion takes.
    """

    logits: Tensor
    hidden: Tensor


class GraphEncoder(nn.Module):
    """Projection, message-passing layers with residual and LayerNorm, linear classifier.

    A learned vector replaces the features of an utterance that lacks the modality, so its neighbours determine its
    state. To write your own network, subclass it and implement :meth:`propagate`.

    Args:
        dim: Width d of the modality's features.
        num_classes: Number of emotions C.
        hidden_dim: Width of every layer.
        num_layers: Message-passing layers.
        dropout: Probability, after every layer.
        input_dropout: Probability on the input. Default: ``dropout``.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        hidden_dim: int = 256,
        num_layers: int = 3,
        dropout: float = 0.35,
        input_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_classes = num_classes
        self.hidden_dim = hidden_dim
        self.project = nn.Linear(dim, hidden_dim)
        self.absent = nn.Parameter(torch.zeros(hidden_dim))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_dim) for _ in range(num_layers))
        self.dropout = Dropout(dropout)
        self.input_dropout = Dropout(dropout if input_dropout is None else input_dropout)
        self.classify = nn.Linear(hidden_dim, num_classes)

    def prepare(self, edges: Edges, nodes: int) -> Edges:
        """Prepare the graph of ``nodes`` utterances once for all layers. Default: return it unchanged."""
        return edges

    @abstractmethod
    def propagate(self, layer: int, hidden: Tensor, edges: Edges) -> Tensor:
        """Messages ``(N, hidden_dim)`` that layer ``layer`` sends along the edges."""

    def forward(self, features: Tensor, present: Tensor, edges: Edges) -> GraphOutput:
        """Encode whole conversations.

        Args:
            features: ``(N, d)``.
            present: ``(N,)`` booleans: whether the utterance has features.
            edges: The graph.
        """
        edges = self.prepare(edges, features.shape[0])  # not len(): an export would fix it
        hidden = torch.where(present[:, None], self.project(self.input_dropout(features)), self.absent)
        for layer, norm in enumerate(self.norms):
            message = torch.relu(self.propagate(layer, hidden, edges))
            hidden = norm(hidden + self.dropout(message))
        return GraphOutput(self.classify(self.dropout(hidden)), hidden)


class GATEncoder(GraphEncoder):
    """Multi-head GATv2 (arXiv 2105.14491) whose attention reads the edge attributes.

    The text teacher has 4 layers of 256 with 4 heads, the visual student 3 (arXiv 2511.13731, section 3.4.1).

    Args:
        dim: Width d of the modality's features.
        num_classes: Number of emotions C.
        hidden_dim: Width of every layer, divisible by ``heads``.
        num_layers: Message-passing layers.
        heads: Attention heads of a layer.
        dropout: Probability, after every layer.
        input_dropout: Probability on the input. Default: ``dropout``.
        edge_dim: Edge attributes, those of :data:`EDGE_ATTRIBUTES` by default.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        hidden_dim: int = 256,
        num_layers: int = 4,
        heads: int = 4,
        dropout: float = 0.35,
        input_dropout: float | None = None,
        edge_dim: int = len(EDGE_ATTRIBUTES),
    ) -> None:
        super().__init__(dim, num_classes, hidden_dim, num_layers, dropout, input_dropout)
        if hidden_dim % heads:
            raise ValueError(f"hidden_dim must be divisible by heads, got {hidden_dim} and {heads}.")
        self.layers = nn.ModuleList(
            GATv2Conv(hidden_dim, hidden_dim // heads, heads=heads, edge_dim=edge_dim, add_self_loops=False)
            for _ in range(num_layers)
        )

    def propagate(self, layer: int, hidden: Tensor, edges: Edges) -> Tensor:
        """Attention over the incoming edges of every utterance."""
        return graph_attention(cast(GATv2Conv, self.layers[layer]), hidden, edges)


class GCNEncoder(GraphEncoder):
    """Graph convolution (arXiv 1609.02907) with the edge weights, the audio student of arXiv 2511.13731.

    Args:
        dim: Width d of the modality's features.
        num_classes: Number of emotions C.
        hidden_dim: Width of every layer.
        num_layers: Message-passing layers.
        dropout: Probability, after every layer.
        input_dropout: Probability on the input. Default: ``dropout``.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        hidden_dim: int = 256,
        num_layers: int = 3,
        dropout: float = 0.35,
        input_dropout: float | None = None,
    ) -> None:
        super().__init__(dim, num_classes, hidden_dim, num_layers, dropout, input_dropout)
        self.layers = nn.ModuleList(GCNConv(hidden_dim, hidden_dim, normalize=False) for _ in range(num_layers))

    def prepare(self, edges: Edges, nodes: int) -> Edges:
        """The edges with symmetrically normalised weights."""
        _, weight = gcn_norm(edges.index, edges.weight, nodes, add_self_loops=False)
        return replace(edges, weight=weight)

    def propagate(self, layer: int, hidden: Tensor, edges: Edges) -> Tensor:
        """Weighted sum over the incoming edges of every utterance."""
        return graph_convolution(cast(GCNConv, self.layers[layer]), hidden, edges)
