"""Conversation graphs: their edges, and the encoders that pass messages along them."""

from merc.graphs.build import EDGE_ATTRIBUTES, GraphBuilder
from merc.graphs.dag import DAGEncoder
from merc.graphs.encoders import GATEncoder, GCNEncoder, GraphEncoder, GraphOutput

__all__ = [
    "EDGE_ATTRIBUTES",
    "DAGEncoder",
    "GATEncoder",
    "GCNEncoder",
    "GraphBuilder",
    "GraphEncoder",
    "GraphOutput",
]
