"""Hand-written CPU kernels, each beside the plain PyTorch or PyTorch Geometric layer that defines its result.

:func:`merc.kernels.choose.hand_written` says when a kernel runs. Everywhere else the plain layer runs.
"""

from merc.kernels.attention import graph_attention
from merc.kernels.convolution import graph_convolution
from merc.kernels.dag import DAGLayer, Turns, dag_layer
from merc.kernels.dropout import Dropout, dropout

__all__ = ["DAGLayer", "Dropout", "Turns", "dag_layer", "dropout", "graph_attention", "graph_convolution"]
