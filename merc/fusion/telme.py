"""TelME's fusion: the students' hidden states shift that of their teacher (arXiv 2401.12987, section 3.2.4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from merc.batch import ConversationBatch
from merc.fusion.base import FusionHead, FusionOutput
from merc.kernels import Dropout


class TelMEFusion(FusionHead):
    r"""Attention-based modality shifting fusion (eq. 16-19 of arXiv 2401.12987).

    Multi-head self-attention with residual and LayerNorm over the students' vectors gives :math:`F_{att}`, in which
    these are concatenated. Gated by the teacher, it becomes a displacement of the teacher's vector :math:`F_T`:

    .. math::
        g &= \mathrm{ReLU}(W_1 [F_T; F_{att}] + b_1) \\
        H &= g \odot (W_2 F_{att} + b_2) \\
        Z &= F_T + \lambda H, \quad \lambda = \min(\theta \|F_T\|_2 / \|H\|_2, 1)

    LayerNorm, dropout and a linear layer classify Z. The paper does not say what the attention runs over; in its public
    code, the utterances of a shuffled batch attend to each other, so a prediction depends on the rest of the batch.
    Here it runs over the students of one utterance, or over the utterances of one conversation.

    A student that an utterance lacks is masked in the attention. Without any student nothing is displaced; without its
    teacher an utterance is represented by H alone, which the scale :math:`\lambda` would make 0; without either, the
    bias predicts.

    Args:
        dims: Width of every modality, including the teacher's; all others are students.
        num_classes: Number of emotions C.
        teacher: The modality that the others shift. The paper's appendix A.1 compares them.
        dim: Common width. A linear layer projects modalities of another width; those of this width are used unchanged,
            as in the paper, where all have 768. Default: the width of the teacher.
        attention_over: ``modalities``: a token is a student, and the tokens of one utterance attend to each other.
            ``conversation``: a token is an utterance, with its students concatenated, and attends to all utterances of
            its conversation, including later ones.
        heads: Attention heads, a divisor of the width of a token: ``dim``, or ``dim`` times the number of students
            over a conversation. The paper: 3 on MELD, 4 on IEMOCAP.
        theta: :math:`\theta`, above 0: maximal length of the displacement, relative to the teacher's vector. The paper:
            0.1 on MELD, 0.01 on IEMOCAP.
        dropout: Probability, before the shift and before the classifier. The paper: 0.2 on MELD, 0.1 on IEMOCAP.

    Raises:
        ValueError: The teacher is not among ``dims``, or an option is out of its range.
    """

    def __init__(
        self,
        dims: dict[str, int],
        num_classes: int,
        teacher: str = "text",
        dim: int | None = None,
        attention_over: Literal["modalities", "conversation"] = "modalities",
        heads: int = 3,
        theta: float = 0.1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(dims, num_classes)
        if teacher not in dims:
            raise ValueError(f"TelMEFusion needs its teacher {teacher!r} among dims, got {sorted(dims)}. Add it.")
        if attention_over not in ("modalities", "conversation"):
            raise ValueError(f"attention_over must be 'modalities' or 'conversation', got {attention_over!r}.")
        if theta <= 0:
            raise ValueError(f"theta must be above 0, got {theta}. To leave the students out, remove them from dims.")
        self.teacher = teacher
        self.students = [name for name in dims if name != teacher]
        self.over_conversation = attention_over == "conversation"
        self.theta = theta
        dim = dim or dims[teacher]
        self.project = nn.ModuleDict(
            {name: nn.Identity() if width == dim else nn.Linear(width, dim) for name, width in dims.items()}
        )
        self.dropout = Dropout(dropout)
        together = dim * len(self.students)
        if self.students:
            token = together if self.over_conversation else dim
            if heads < 1 or token % heads:
                raise ValueError(f"heads must divide the width of a token, got {heads} heads and a width of {token}.")
            self.attend = nn.MultiheadAttention(token, heads, batch_first=True)
            self.attended_norm = nn.LayerNorm(together)
            self.gate = nn.Linear(dim + together, dim)
            self.shift = nn.Linear(together, dim)
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities of every utterance."""
        hidden = {name: self.project[name](batch.features[name]) * batch.present[name][:, None] for name in self.dims}
        fused = hidden[self.teacher]
        if self.students:
            fused = self._shifted(fused, torch.stack([hidden[name] for name in self.students], dim=1), batch)
        fused = self.norm(fused)
        return FusionOutput(logits=self.classify(self.dropout(fused)), embeddings=fused)

    def _shifted(self, teacher: Tensor, students: Tensor, batch: ConversationBatch) -> Tensor:
        """Z from the teacher's vectors ``(N, d)`` and those of S students ``(N, S, d)``."""
        present = torch.stack([batch.present[name] for name in self.students], dim=1)
        any_student = present.any(1, keepdim=True)
        attended = (
            self._over_conversation(students, any_student, batch)
            if self.over_conversation
            else self._over_modalities(students, present)
        )
        attended = self.dropout(self.attended_norm((students + attended).flatten(1)))
        gate = torch.relu(self.gate(torch.cat([teacher, attended], dim=-1)))
        displacement = gate * self.shift(attended) * any_student
        # The floor keeps the gradient finite for a displacement of 0.
        length = torch.linalg.vector_norm(displacement.float(), dim=-1, keepdim=True).clamp(min=1e-6)
        allowed = self.theta * torch.linalg.vector_norm(teacher.float(), dim=-1, keepdim=True)
        scale = (allowed / length).clamp(max=1.0).masked_fill(~batch.present[self.teacher][:, None], 1.0)
        shifted: Tensor = teacher + scale.to(teacher.dtype) * displacement
        return shifted

    def _over_modalities(self, students: Tensor, present: Tensor) -> Tensor:
        """What the students ``(N, S, d)`` of one utterance attend to in each other."""
        return self._attention(students, present) * present[..., None]

    def _over_conversation(self, students: Tensor, any_student: Tensor, batch: ConversationBatch) -> Tensor:
        """What the utterances, with their students ``(N, S, d)`` side by side, attend to along their conversation."""
        tokens, _ = batch.to_dense(students.flatten(1))
        present, _ = batch.to_dense(any_student[:, 0])
        return batch.to_flat(self._attention(tokens, present)).view_as(students)

    def _attention(self, tokens: Tensor, present: Tensor) -> Tensor:
        # Attention without any key is undefined. If all are absent, none is masked, and the output is not used.
        padding = ~present & present.any(1, keepdim=True)
        attended: Tensor = self.attend(tokens, tokens, tokens, key_padding_mask=padding, need_weights=False)[0]
        return attended
