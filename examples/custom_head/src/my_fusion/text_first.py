"""The text decides, unless another modality has good reason to correct it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from merc.batch import ConversationBatch
from merc.fusion import FusionHead, FusionOutput


class TextFirst(FusionHead):
    r"""Starts from the text and lets every other modality correct it through a gate.

    With the text :math:`t = W_t x^{text}`, every other modality m offers a correction, the low-rank bilinear
    product of the text and itself (arXiv 1610.04325), and a gate says how much of it is taken:

    .. math::
        c^m = \tanh(U_m t) \odot \tanh(V_m x^m), \quad g^m = \sigma(w_m [t; c^m]), \quad
        h = t + \sum_m g^m c^m

    A modality that an utterance lacks corrects nothing; an utterance without text starts from a learned vector.
    The loss term ``gate`` is the mean gate: the price of not trusting the text.

    Args:
        dims: Width of every modality; ``text`` must be one of them.
        num_classes: Number of emotions C.
        dim: Common width, that of the embeddings.
        dropout: Probability, on the inputs and before the classifier.

    Raises:
        ValueError: There is no ``text``.
    """

    def __init__(self, dims: dict[str, int], num_classes: int, dim: int = 256, dropout: float = 0.35) -> None:
        super().__init__(dims, num_classes)
        if "text" not in dims:
            raise ValueError(f"TextFirst starts from the text, but dims has only {', '.join(dims)}.")
        self.others = [name for name in dims if name != "text"]
        self.text = nn.Linear(dims["text"], dim)
        self.no_text = nn.Parameter(torch.randn(dim) * 0.02)
        self.context = nn.ModuleDict({m: nn.Linear(dim, dim) for m in self.others})
        self.evidence = nn.ModuleDict({m: nn.Linear(dims[m], dim) for m in self.others})
        self.gate = nn.ModuleDict({m: nn.Linear(2 * dim, 1) for m in self.others})
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities of every utterance."""
        text = self.text(self.dropout(batch.features["text"]))
        text = torch.where(batch.present["text"][:, None], text, self.no_text.to(text))
        fused = text
        prices: list[Tensor] = []
        for name in self.others:
            evidence = self.evidence[name](self.dropout(batch.features[name]))
            correction = torch.tanh(self.context[name](text)) * torch.tanh(evidence)
            gate = torch.sigmoid(self.gate[name](torch.cat([text, correction], dim=-1)))
            gate = gate * batch.present[name][:, None]
            fused = fused + gate * correction
            prices.append(gate.sum() / batch.present[name].sum().clamp(min=1))
        embeddings = self.norm(fused)
        return FusionOutput(
            logits=self.classify(self.dropout(embeddings)),
            losses={"gate": torch.stack(prices).mean()} if prices else {},
            embeddings=embeddings,
        )
