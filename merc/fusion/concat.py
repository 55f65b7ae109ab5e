"""Early fusion: concatenate and classify. The baseline, and a template for your own head."""

from __future__ import annotations

import torch
from torch import nn

from merc.batch import ConversationBatch
from merc.fusion.base import FusionHead, FusionOutput
from merc.kernels import Dropout


class ConcatFusion(FusionHead):
    """Concatenate the modalities, one hidden layer, classify.

    A missing modality is replaced by zeros, and a flag per modality says whether it is present.

    Args:
        dims: Width of every modality.
        num_classes: Number of emotions C.
        hidden_dim: Width of the hidden layer.
        dropout: Probability, on the input and on the hidden layer.
    """

    def __init__(self, dims: dict[str, int], num_classes: int, hidden_dim: int = 256, dropout: float = 0.35) -> None:
        super().__init__(dims, num_classes)
        self.hidden = nn.Sequential(
            Dropout(dropout), nn.Linear(sum(dims.values()) + len(dims), hidden_dim), nn.ReLU(), Dropout(dropout)
        )
        self.classify = nn.Linear(hidden_dim, num_classes)

    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities of every utterance."""
        parts = [batch.features[name] * batch.present[name][:, None] for name in self.dims]
        flags = torch.stack([batch.present[name].to(parts[0].dtype) for name in self.dims], dim=-1)
        fused = self.hidden(torch.cat([*parts, flags], dim=-1))
        return FusionOutput(logits=self.classify(fused), embeddings=fused)
