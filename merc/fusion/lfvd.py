"""LFVD: language-focused augmented transformer and variational distillation fusion (Zhu and Jiang 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from merc.batch import ConversationBatch
from merc.fusion.base import FusionHead, FusionOutput
from merc.fusion.context import attend
from merc.graphs.dag import DAGEncoder
from merc.kernels import Dropout
from merc.losses.lfvd import (
    EmotionContrastiveLoss,
    Gaussian,
    ModalityContrastiveLoss,
    VariationalDistillationLoss,
)


class ContextEncoder(nn.Module):
    """Encodes a modality along its conversation: Bi-GRU, then DAG-ERC (eq. 2-3).

    A learned vector replaces the features of an utterance that lacks the modality, so its neighbours determine its
    state.

    Args:
        dim_in: Width of the modality's features.
        dim: Width of the output, an even number: half of it for each direction.
        layers: Layers of the DAG.
        omega: Reach of the DAG, see :class:`~merc.graphs.DAGEncoder`.
        dropout: Probability, on the input and on the output of either part.
    """

    def __init__(self, dim_in: int, dim: int, layers: int, omega: int, dropout: float) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.zeros(dim_in))
        self.gru = nn.GRU(dim_in, dim // 2, batch_first=True, bidirectional=True)
        self.dag = DAGEncoder(dim, layers, omega)
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor, present: Tensor, batch: ConversationBatch) -> Tensor:
        """Encode the features ``(N, dim_in)`` that are ``present (N,)`` as ``(N, dim)``."""
        known = torch.where(present[:, None], self.dropout(features), self.absent)
        dense, _ = batch.to_dense(known)
        # Packed, because the backward direction would otherwise start in the padding.
        packed = pack_padded_sequence(dense, batch.lengths.cpu(), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        encoded: Tensor = self.dropout(self.dag(self.dropout(batch.to_flat(read)), batch))
        return encoded


class LanguageGuidedAttention(nn.Module):
    r"""Multi-head attention, residual, LayerNorm, feed-forward network, residual, LayerNorm (eq. 5-7, 9).

    .. math::
        \bar{X} &= \mathrm{LN}(\mathrm{MLA}(Q, K, V) + R) \\
        X &= \mathrm{LN}(\mathrm{FFN}(\bar{X}) + \bar{X})

    Args:
        dim: Width, a multiple of ``heads``.
        heads: Attention heads.
        dropout: Probability on the attention weights and before each residual.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), Dropout(dropout), nn.Linear(2 * dim, dim))
        self.feed_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, query: Tensor, key: Tensor, residual: Tensor, known: Tensor, batch: ConversationBatch | None = None
    ) -> Tensor:
        """Attend to a conversation.

        Args:
            query: ``(N, dim)`` utterances of ``batch``, or without a batch ``(B, T, dim)``.
            key: ``(N, dim)``, values too; or ``(B, S, dim)``.
            residual: As ``query``, R.
            known: ``(N,)`` booleans: which keys may be attended to, at least one in each conversation; or ``(B, S)``.
            batch: Whose conversations the utterances are.
        """
        attended = attend(self.attention, query, key, known, batch)
        middle = self.norm(self.dropout(attended) + residual)
        fed: Tensor = self.feed_norm(self.dropout(self.feed(middle)) + middle)
        return fed


class LFATransformer(nn.Module):
    r"""Language-focused augmented transformer (eq. 4-9); any modality can be the dominant one, l.

    .. math::
        X^m &= \textstyle\sum_{a \neq l} X^{a \to l} + \hat{X}^l + X^l \\
        X^a &\leftarrow X^a + t, \quad t = \mathrm{MLA}([t_0; X^m]) \text{ at } t_0

    In :math:`X^{a \to l}` the language attends to the auxiliary modality a, in :math:`\hat{X}^l` to itself. The learned
    token :math:`t_0` attends to the whole conversation: t is its emotional atmosphere, added to every modality of every
    utterance. No attention reads an utterance that lacks the modality, unless its whole conversation does, and such an
    utterance adds no :math:`X^{a \to l}`.

    Args:
        names: The modalities.
        dominant: The one that is the query, l.
        dim: Width, a multiple of ``heads``.
        heads: Attention heads.
        dropout: Probability.
        atmosphere: Ablation: without it, :math:`X^m` replaces :math:`X^l`, and the other modalities stay unchanged.
        residual: R of eq. 6: the ``auxiliary`` modality, as printed, or the ``dominant`` one, which is the query.
    """

    def __init__(
        self,
        names: list[str],
        dominant: str,
        dim: int,
        heads: int,
        dropout: float,
        atmosphere: bool,
        residual: Literal["auxiliary", "dominant"],
    ) -> None:
        super().__init__()
        self.dominant = dominant
        self.residual = residual
        self.attend = nn.ModuleDict({name: LanguageGuidedAttention(dim, heads, dropout) for name in names})
        self.token = nn.Parameter(torch.randn(dim) * dim**-0.5) if atmosphere else None
        self.attend_from_token = LanguageGuidedAttention(dim, heads, dropout) if atmosphere else None

    def forward(
        self, hidden: dict[str, Tensor], present: Mapping[str, Tensor], batch: ConversationBatch
    ) -> dict[str, Tensor]:
        """Enhance the modalities, each ``(N, dim)``, where they are ``present (N,)``."""
        language = hidden[self.dominant]
        mixed = language
        for name, attend_to in self.attend.items():
            here, key_value = present[name], hidden[name]
            known = here | ~batch.in_any(here)
            residual = key_value if self.residual == "auxiliary" else language
            answer = attend_to(language, key_value, residual, known, batch)
            mixed = mixed + (answer if name == self.dominant else answer * here[:, None])
        if self.attend_from_token is None or self.token is None:
            return {**hidden, self.dominant: mixed}
        dense, real = batch.to_dense(mixed)
        token = self.token.to(dense.dtype).expand(len(dense), 1, -1)
        # Of this attention only the token's answer is used, so only the token is a query.
        key_value = torch.cat([token, dense], dim=1)
        known = F.pad(real, (1, 0), value=True)
        atmosphere = self.attend_from_token(token, key_value, token, known)[batch.conversation, 0]
        return {name: x + atmosphere for name, x in hidden.items()}


class GaussianEncoder(nn.Module):
    """Maps a representation to a Gaussian (eq. 12): linear mean, linear standard deviation with a softplus.

    Args:
        dim: Width of the representation and of the distribution.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(dim, dim)
        self.scale = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Gaussian:
        """The Gaussians of representations ``(N, dim)``, in float32."""
        return Gaussian(self.mean(x).float(), F.softplus(self.scale(x).float()) + 1e-3)


class LFVDFusion(FusionHead):
    r"""LFVD (Zhu and Jiang 2025, Journal of Intelligent Information Systems); every part can be switched off.

    1. Every modality goes through a Bi-GRU and DAG-ERC along the conversation (eq. 2-3).
    2. The language attends to the other modalities and to itself; the atmosphere of the conversation that a token finds
       in the answers is added to every modality (eq. 4-9).
    3. Every modality becomes a Gaussian q (eq. 12), and a modality weighs the more, the further it is from the
       language, with divergences that are means over dimensions (eq. 14-17):

       .. math::
           w^a = \sigma((KL(q^l \| q^a) + KL(q^a \| q^l)) / 2), \quad x^f = x^l + \textstyle\sum_{a \neq l} w^a x^a

    4. A linear classifier (eq. 18).

    Other fusions in place of eq. 14-17, which Figure 2 compares: the ``sum`` has all weights 1; ``concatenation`` maps
    all modalities side by side to ``dim``; ``gate`` has for every modality and dimension a weight
    :math:`\sigma(W^a [x^l; x^a])` that sees representations, not distributions.

    The ``losses`` are ``self`` (eq. 10, with two modalities or more), ``full`` (eq. 11) and ``distillation`` (eq. 13);
    their weights are :math:`\gamma_1, \gamma_2, \gamma_3`.

    A modality that an utterance lacks is represented by what its neighbours say; no attention reads it, no loss reads
    it, and it has no share in the fusion. Only the dominant modality always has: any subset predicts.

    Args:
        dims: Width of every modality.
        num_classes: Number of emotions C.
        dim: Common width, a multiple of ``attention_heads`` and even.
        dominant: The modality that is the query, teaches and has weight 1; one of ``dims`` (ablation: another).
        dag_layers: Layers of DAG-ERC.
        omega: How many turns of the same speaker its past reaches back.
        attention_heads: Heads of every attention.
        lfa: Language-focused augmented transformer (ablation: off, which removes the atmosphere too).
        atmosphere: The conversation's emotional atmosphere (ablation: off).
        contrastive: The terms ``self`` and ``full`` (ablation: off).
        fusion: ``variational``, the weights of eq. 14-16; or ``sum`` (ablation: without CMVD-Fusion),
            ``concatenation`` or ``gate``.
        distillation: The term ``distillation`` (ablation: off; with another fusion too, there are no Gaussians).
        residual: Residual of eq. 6: the ``auxiliary`` modality, as printed, or the ``dominant`` one, the query.
        temperature: Temperature of both contrastive terms.
        dropout: Probability.

    Raises:
        ValueError: A width or number is invalid, or the dominant modality is not in ``dims``.
    """

    emotion_losses = ("full",)

    def __init__(
        self,
        dims: dict[str, int],
        num_classes: int,
        dim: int = 256,
        dominant: str = "text",
        dag_layers: int = 2,
        omega: int = 1,
        attention_heads: int = 4,
        lfa: bool = True,
        atmosphere: bool = True,
        contrastive: bool = True,
        fusion: Literal["variational", "sum", "concatenation", "gate"] = "variational",
        distillation: bool = True,
        residual: Literal["auxiliary", "dominant"] = "auxiliary",
        temperature: float = 0.5,
        dropout: float = 0.3,
    ) -> None:
        super().__init__(dims, num_classes)
        if dominant not in dims:
            raise ValueError(
                f"The dominant modality {dominant!r} is not in {sorted(dims)}. Set `dominant` to one of them."
            )
        if dim % 2 or dim % attention_heads:
            raise ValueError(f"dim must be even and divisible by attention_heads, got {dim} and {attention_heads}.")
        if residual not in ("auxiliary", "dominant"):
            raise ValueError(f"residual must be 'auxiliary' or 'dominant', got {residual!r}.")
        if fusion not in ("variational", "sum", "concatenation", "gate"):
            raise ValueError(f"fusion must be 'variational', 'sum', 'concatenation' or 'gate', got {fusion!r}.")
        names = list(dims)
        self.dominant = dominant
        self.context = nn.ModuleDict(
            {name: ContextEncoder(width, dim, dag_layers, omega, dropout) for name, width in dims.items()}
        )
        self.augment = (
            LFATransformer(names, dominant, dim, attention_heads, dropout, atmosphere, residual) if lfa else None
        )
        self.self_contrast = ModalityContrastiveLoss(temperature) if contrastive and len(names) > 1 else None
        self.full_contrast = EmotionContrastiveLoss(temperature) if contrastive else None
        self.distill = VariationalDistillationLoss(dominant) if distillation else None
        self.fusion = fusion if len(names) > 1 else "sum"
        auxiliary = [name for name in names if name != dominant]
        gated = auxiliary if self.fusion == "gate" else []
        self.gate = nn.ModuleDict({name: nn.Linear(2 * dim, dim) for name in gated})
        self.join = nn.Linear(len(names) * dim, dim) if self.fusion == "concatenation" else None
        uncertain = names if self.fusion == "variational" or distillation else []
        self.gaussian = nn.ModuleDict({name: GaussianEncoder(dim) for name in uncertain})
        self.dropout = Dropout(dropout)
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities of every utterance; losses, if switched on: ``self``, ``full``, ``distillation``."""
        present = {name: batch.present[name] for name in self.dims}
        hidden = {name: encode(batch.features[name], present[name], batch) for name, encode in self.context.items()}
        if self.augment is not None:
            hidden = self.augment(hidden, present, batch)
        gaussians = {name: encode(hidden[name]) for name, encode in self.gaussian.items()}
        fused = self._fused(hidden, gaussians, present)
        losses: dict[str, Tensor] = {}
        if self.self_contrast is not None:
            losses["self"] = self.self_contrast(hidden, present)
        if self.full_contrast is not None:
            losses["full"] = self.full_contrast(hidden, present, batch.label)
        if self.distill is not None:
            losses["distillation"] = self.distill(gaussians, present)
        return FusionOutput(logits=self.classify(self.dropout(fused)), losses=losses, embeddings=fused)

    def _fused(
        self, hidden: Mapping[str, Tensor], gaussians: Mapping[str, Gaussian], present: Mapping[str, Tensor]
    ) -> Tensor:
        """Eq. 14-17, or one of the other fusions."""
        fused = hidden[self.dominant]
        shared = {name: x * present[name][:, None] for name, x in hidden.items() if name != self.dominant}
        if self.join is not None:
            joined: Tensor = self.join(torch.cat([fused, *shared.values()], dim=-1))
            return joined
        for name, x in shared.items():
            if self.fusion == "variational":
                ours, theirs = gaussians[self.dominant], gaussians[name]
                gap = (ours.divergence(theirs) + theirs.divergence(ours)).mean(-1, keepdim=True)
                x = x * torch.sigmoid(gap / 2).to(x.dtype)
            elif self.fusion == "gate":
                x = x * torch.sigmoid(self.gate[name](torch.cat([hidden[self.dominant], hidden[name]], dim=-1)))
            fused = fused + x
        return fused
