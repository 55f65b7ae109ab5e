"""Every network that maps a batch of conversations to logits, small, for tests of precision, compiler and device."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from merc.batch import ConversationBatch
from merc.fusion import CMATHFusion, ConcatFusion, HierarchicalFusion, LFVDFusion, TelMEFusion
from merc.graphs import DAGEncoder, GATEncoder, GCNEncoder, GraphBuilder
from support.made_batches import make_batch

DIMS = {"text": 8, "audio": 6, "visual": 4}
NETWORKS = {
    "GATEncoder": lambda: GATEncoder(8, 4, hidden_dim=8, num_layers=2),
    "GCNEncoder": lambda: GCNEncoder(8, 4, hidden_dim=8, num_layers=2),
    "DAGEncoder": lambda: DAGEncoder(8, omega=2),
    "ConcatFusion": lambda: ConcatFusion(DIMS, 4, hidden_dim=8),
    "HierarchicalFusion": lambda: HierarchicalFusion(DIMS, 4, dim=8, scope="conversation"),
    "LFVDFusion": lambda: LFVDFusion(DIMS, 4, dim=8),
    "CMATHFusion": lambda: CMATHFusion(DIMS, 4, dim=8),
    "TelMEFusion": lambda: TelMEFusion(DIMS, 4, dim=8, heads=2),
    "TelMEFusion over conversations": lambda: TelMEFusion(DIMS, 4, dim=8, heads=2, attention_over="conversation"),
}


def batch_of_three(lengths: Sequence[int] = (4, 1, 6)) -> ConversationBatch:
    """Three conversations with all modalities, some of them absent, and the graph of the text."""
    batch = make_batch(lengths, DIMS)
    batch.edges["text"] = GraphBuilder(past=2, future=2, speaker=1, similar=1)(batch, "text")
    return batch


def to_dtype(batch: ConversationBatch, dtype: torch.dtype) -> ConversationBatch:
    """The batch as Lightning's true half precision hands it over: every float in ``dtype``."""

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    return replace(
        batch,
        features={name: cast(x) for name, x in batch.features.items()},
        edges={name: edges.map(cast) for name, edges in batch.edges.items()},
    )


def outputs(network: nn.Module, batch: ConversationBatch) -> tuple[Tensor, Tensor]:
    """Logits of a network, and the sum of its own losses."""
    if isinstance(network, DAGEncoder):
        logits = network(batch.features["text"], batch)
    elif isinstance(network, (GATEncoder, GCNEncoder)):
        logits = network(batch.features["text"], batch.present["text"], batch.edges["text"]).logits
    else:
        output = network(batch)
        logits = output.logits
        own = [*output.losses.values(), *(x.float().square().mean() for x in output.aux_logits.values())]
        if own:
            return logits, torch.stack([x.float() for x in own]).sum()
    return logits, logits.new_zeros((), dtype=torch.float32)


def loss(network: nn.Module, batch: ConversationBatch) -> Tensor:
    """A scalar that every parameter has a part in."""
    logits, own = outputs(network, batch)
    return nn.functional.cross_entropy(logits.float()[:, :4], batch.label) + own
