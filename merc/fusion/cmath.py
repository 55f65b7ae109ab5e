"""CMATH: cross-modality augmented transformer and hierarchical variational distillation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.batch import ConversationBatch
from merc.fusion.base import FusionHead, FusionOutput
from merc.fusion.context import attend
from merc.kernels import Dropout
from merc.losses import DistillationLoss, MeanSquaredError


def sinusoidal_position(position: Tensor, dim: int) -> Tensor:
    r"""Encode positions by sines and cosines (eq. 6, 7).

    .. math:: p_i^{2k} = \sin(i / 10000^{2k / d}), \qquad p_i^{2k + 1} = \cos(i / 10000^{2k / d})

    Args:
        position: ``(N,)`` index of the utterance in its conversation.
        dim: Width d.

    Returns:
        ``(N, d)`` in float32.
    """
    even = torch.arange(0, dim, 2, device=position.device, dtype=torch.float32)
    angle = position[:, None] / 10000 ** (even / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim]


class ModalityReconstruction(nn.Module):
    """Compresses a modality along its conversation and reconstructs it (eq. 1, 2).

    Both convolutions pad conversations with zeros.

    Args:
        dim_in: Width of the modality.
        dim: Common width.
        kernel_size: Utterances in the window of a convolution, an odd number.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.
    """

    def __init__(self, dim_in: int, dim: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be an odd number of utterances, got {kernel_size}.")
        self.down = nn.Conv1d(dim_in, dim, kernel_size, padding=kernel_size // 2)
        self.up = nn.Conv1d(dim, dim_in, kernel_size, padding=kernel_size // 2)

    def forward(self, values: Tensor, batch: ConversationBatch) -> tuple[Tensor, Tensor]:
        """Map ``(N, dim_in)`` to the compressed ``(N, dim)`` and the reconstructed ``(N, dim_in)``."""
        compressed = self._convolve(self.down, values, batch)
        # In flat form: the second convolution must not read what the first one writes past the end of a conversation.
        return compressed, self._convolve(self.up, compressed, batch)

    @staticmethod
    def _convolve(convolution: nn.Conv1d, values: Tensor, batch: ConversationBatch) -> Tensor:
        # One matrix product over the windows of all utterances, because a padded batch would be mostly padding.
        reach = convolution.kernel_size[0] // 2
        windows = F.pad(values, (0, 0, reach, reach)).unfold(0, 2 * reach + 1, 1)
        position = batch.position[:, None] + torch.arange(-reach, reach + 1, device=values.device)
        outside = (position < 0) | (position >= batch.lengths[batch.conversation][:, None])
        windows = windows.masked_fill(outside[:, None], 0.0)
        return F.linear(windows.flatten(1), convolution.weight.flatten(1), convolution.bias)


class MaskedAttention(nn.Module):
    """Multi-head attention from one sequence to another; the output is 0 if no key of the sequence is known.

    Args:
        dim: Width, a multiple of ``heads``.
        heads: Attention heads.
        dropout: Probability on the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)

    def forward(self, query: Tensor, source: Tensor, known: Tensor, batch: ConversationBatch) -> Tensor:
        """Attend from ``query`` to the utterances of the same conversation in ``source`` that are ``known``.

        Args:
            query: ``(N, dim)``.
            source: ``(N, dim)``.
            known: ``(N,)`` booleans.
            batch: The batch that defines the conversations.

        Returns:
            ``(N, dim)``.
        """
        attended = attend(self.attend, query, source, known, batch)
        return attended.masked_fill(~batch.in_any(known)[:, None], 0.0)


class Refinement(nn.Module):
    """The layers after an attention: ``Norm(x + centre)``, then ``Norm(FFN(x) + x)`` (the last two lines of eq. 9-11).

    Args:
        dim: Width.
        dropout: Probability, on the output of the attention and within and after the feed-forward network.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.ReLU(), Dropout(dropout), nn.Linear(2 * dim, dim), Dropout(dropout)
        )
        self.last_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, attended: Tensor, centre: Tensor) -> Tensor:
        """Refine the output ``(N, dim)`` of an attention with the query ``centre (N, dim)``."""
        middle = self.first_norm(self.dropout(attended) + centre)
        refined: Tensor = self.last_norm(self.feed_forward(middle) + middle)
        return refined


class CMATransformer(nn.Module):
    r"""One modality in the centre, augmented by the others along the conversation (eq. 9-14).

    .. math::
        \tilde H_{a \to c} = CA(H_c, H_a, H_a), \qquad
        \tilde H_{c \to c} = SA(H_c, H_c, H_c) + \sum_a \tilde H_{a \to c} \\
        H_{m \to c} = \mathrm{Refine}(\tilde H_{m \to c}, H_c), \qquad
        H'_c = \sum_m \mathrm{softmax}_m(W H_{m \to c}) \odot H_{m \to c}

    with a the other modalities and m all of them. The last line is the gate, which the paper names but does not
    define. If a whole conversation lacks a modality, the modality has no share in the gate.

    Args:
        centre: The modality in the centre.
        names: All modalities, including the centre.
        dim: Width, a multiple of ``heads``.
        heads: Heads of every attention.
        dropout: Probability.
    """

    def __init__(self, centre: str, names: list[str], dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.centre = centre
        self.names = names
        self.attend = nn.ModuleDict({m: MaskedAttention(dim, heads, dropout) for m in names})
        self.refine = nn.ModuleDict({m: Refinement(dim, dropout) for m in names})
        # No bias: it would add the same to every score, and the softmax would cancel it. One source needs no gate.
        self.gate = nn.Linear(dim, dim, bias=False) if len(names) > 1 else None

    def forward(self, hidden: dict[str, Tensor], known: dict[str, Tensor], batch: ConversationBatch) -> Tensor:
        """The augmented centre ``(N, dim)``.

        Args:
            hidden: ``(N, dim)`` by modality.
            known: ``(N,)`` by modality: which utterances have it.
            batch: The batch that defines the conversations.
        """
        query = hidden[self.centre]
        attended = {m: self.attend[m](query, hidden[m], known[m], batch) for m in self.names}
        attended[self.centre] = torch.stack(list(attended.values())).sum(0)
        sources = torch.stack([self.refine[m](attended[m], query) for m in self.names], dim=1)
        if self.gate is None:
            return sources[:, 0]
        in_conversation = torch.stack([batch.in_any(known[m]) for m in self.names], dim=1)
        score = self.gate(sources)
        score = score.masked_fill(~in_conversation[..., None], torch.finfo(score.dtype).min)
        mixed: Tensor = (score.softmax(1) * sources).sum(1)
        return mixed


class VariationalFusion(nn.Module):
    r"""Averages the Gaussians of the modalities (eq. 15-17).

    .. math::
        \mu_x = \mathrm{mean}_m\, MLP^\mu_m(H'_m), \quad \sigma_x = \mathrm{mean}_m\, MLP^\sigma_m(H'_m), \quad
        H'_x = \mu_x + \epsilon \odot \sigma_x, \quad \epsilon \sim N(0, I)

    with the means over the modalities that the utterance has. A softplus keeps the deviations positive. In evaluation,
    :math:`H'_x = \mu_x`.

    Args:
        names: The modalities.
        dim: Width.
        dropout: Probability within the perceptrons.
    """

    def __init__(self, names: list[str], dim: int, dropout: float) -> None:
        super().__init__()
        self.mean = nn.ModuleDict({m: _perceptron(dim, dropout) for m in names})
        self.deviation = nn.ModuleDict({m: _perceptron(dim, dropout) for m in names})

    def forward(self, augmented: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Fuse ``(N, dim)`` by modality, those of ``present (N,)``; zeros for an utterance that has none."""
        there = torch.stack([present[m] for m in augmented], dim=1)
        mean = torch.stack([self.mean[m](values) for m, values in augmented.items()], dim=1)
        share = there.to(mean) / there.sum(1, keepdim=True).clamp(min=1)
        mean = (share[..., None] * mean).sum(1)
        if not self.training:
            return mean
        deviation = torch.stack([self.deviation[m](values) for m, values in augmented.items()], dim=1)
        deviation = (share[..., None] * F.softplus(deviation)).sum(1)
        return mean + torch.randn_like(deviation) * deviation


class CMATHFusion(FusionHead):
    r"""CMATH (Zhu et al., arXiv 2411.10060): asymmetric fusion, then a Gaussian of all modalities that teaches each.

    1. Modality reconstruction (eq. 1-4): a convolution projects to the common width and another one back; the error
       is the loss ``reconstruction``. Speaker embedding and sinusoidal position are added (eq. 5-8).
    2. A CMA-Transformer along the conversation for each modality as the centre (eq. 9-14).
    3. Variational fusion (eq. 15-17) and a linear classifier. Each modality also has its own (``aux_logits``).
    4. Hierarchical distillation: each modality learns from the fusion. Its representation has the mean squared error
       ``low_level`` (eq. 18), its decision the divergence ``high_level`` (eq. 23). No gradient reaches the teacher.

    Each loss is a sum over modalities of means over the utterances that have the modality. With ``head_weights``
    of :math:`\gamma_1` for ``low_level`` and :math:`\gamma_2` for ``high_level``, and ``aux_weight`` the number of
    modalities, the task adds up eq. 24; a weight of 0 is the ablation of a distillation.

    A missing modality is never read. Every subset of the modalities gives a prediction; for the empty one, the logits
    are the bias of the classifier.

    Args:
        dims: Width of every modality.
        num_classes: Number of emotions C.
        dim: Common width, a multiple of ``attention_heads``.
        kernel_size: Utterances in the window of a convolution, an odd number.
        reconstruct: Modality reconstruction (ablation: off, a linear layer and no loss).
        transform: CMA-Transformer (ablation: off, each modality is passed on unchanged).
        speakers: Rows of the speaker embedding. Speakers are numbered in the order in which they first speak in the
            conversation; those beyond the last row share it.
        attention_heads: Heads of every attention.
        dropout: Probability.

    Raises:
        ValueError: ``attention_heads`` does not divide ``dim``, ``kernel_size`` is even, or there are no speakers.
    """

    emotion_losses = ("high_level",)

    def __init__(
        self,
        dims: dict[str, int],
        num_classes: int,
        dim: int = 400,
        kernel_size: int = 3,
        reconstruct: bool = True,
        transform: bool = True,
        speakers: int = 9,
        attention_heads: int = 8,
        dropout: float = 0.3,
    ) -> None:
        super().__init__(dims, num_classes)
        if dim % attention_heads or speakers < 1:
            raise ValueError(
                "dim must be divisible by attention_heads and speakers positive, "
                f"got dim={dim}, attention_heads={attention_heads}, speakers={speakers}."
            )
        names = list(dims)
        self.compress = nn.ModuleDict(
            {
                m: ModalityReconstruction(d, dim, kernel_size) if reconstruct else nn.Linear(d, dim)
                for m, d in dims.items()
            }
        )
        self.reconstruct = reconstruct
        self.speaker = nn.Embedding(speakers, dim)
        self.transform = (
            nn.ModuleDict({m: CMATransformer(m, names, dim, attention_heads, dropout) for m in names})
            if transform
            else None
        )
        self.fuse = VariationalFusion(names, dim, dropout)
        self.auxiliary = nn.ModuleDict({m: nn.Linear(dim, num_classes) for m in names})
        self.classify = nn.Linear(dim, num_classes)
        self.dropout = Dropout(dropout)
        self.error = MeanSquaredError()
        self.divergence = DistillationLoss(alpha=0.0, temperature=1.0)

    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities; losses: ``reconstruction``, ``low_level``, ``high_level``."""
        present = {m: batch.present[m] for m in self.dims}
        hidden, losses = self._hidden(batch, present)
        augmented = self._augmented(batch, hidden, present)
        fused = self.fuse(augmented, present)
        logits = self.classify(fused)
        aux_logits = {m: self.auxiliary[m](values) for m, values in augmented.items()}
        losses["low_level"] = _total([self.error(augmented[m], fused.detach(), present[m]) for m in self.dims])
        if self.num_values < self.num_classes:  # numbers alone are no decision
            teacher, students = self.emotion_logits(logits), {m: self.emotion_logits(x) for m, x in aux_logits.items()}
            losses["high_level"] = _total(
                [self.divergence(students[m], batch.label, teacher, present[m])["kl"] for m in self.dims]
            )
        return FusionOutput(logits=logits, losses=losses, aux_logits=aux_logits, embeddings=fused)

    def _hidden(
        self, batch: ConversationBatch, present: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        who = self.speaker(batch.speaker.clamp(max=self.speaker.num_embeddings - 1))
        place = who + sinusoidal_position(batch.position, who.shape[1]).to(who)
        hidden: dict[str, Tensor] = {}
        errors: list[Tensor] = []
        for name in self.dims:
            values = batch.features[name].masked_fill(~present[name][:, None], 0.0)
            if self.reconstruct:
                compressed, rebuilt = cast(ModalityReconstruction, self.compress[name])(values, batch)
                errors.append(self.error(rebuilt, values, present[name]))
            else:
                compressed = self.compress[name](values)
            hidden[name] = self.dropout(compressed + place)
        return hidden, {"reconstruction": _total(errors)} if errors else {}

    def _augmented(
        self, batch: ConversationBatch, hidden: dict[str, Tensor], present: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.transform is None:
            return hidden
        return {m: self.transform[m](hidden, present, batch) for m in hidden}


def _perceptron(dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, dim))


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()
