"""Attention along a conversation, near turns first."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.batch import ConversationBatch
from merc.dropout import Dropout


class ConversationAttention(nn.Module):
    r"""Every utterance attends to the utterances of its own conversation.

    A learned bias for each head, for each distance in turns and for same or other speaker is added to the scores, as
    T5 does (arXiv 1910.10683) for positions:

    .. math:: a_{ij} = \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{d} + b_{h, j - i, [s_i = s_j]})

    It starts at :math:`-|j - i| / 2`, so that a corpus of some thousand utterances need not teach that near turns
    matter most. Distances beyond ``reach`` share one bias.

    Args:
        dim: Width, a multiple of ``heads``.
        heads: Attention heads.
        reach: Turns on either side with a bias of their own.
        dropout: Probability on the answer.
    """

    def __init__(self, dim: int, heads: int = 4, reach: int = 8, dropout: float = 0.35) -> None:
        super().__init__()
        self.heads = heads
        self.reach = reach
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.answer = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        near = -torch.arange(-reach, reach + 1).abs() / 2
        self.bias = nn.Parameter(near.repeat(2, 1)[..., None].repeat(1, 1, heads))

    def forward(self, values: Tensor, batch: ConversationBatch) -> Tensor:
        """Add to ``(N, dim)`` what the conversation says; memory is O(T^2) for T utterances in the longest one."""
        dense, real = batch.to_dense(self.query_key_value(self.norm(values)))
        speaker, _ = batch.to_dense(batch.speaker)
        query, key, value = torch.unflatten(dense, -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        turn = torch.arange(dense.shape[1], device=values.device)
        offset = (turn[None] - turn[:, None]).clamp(-self.reach, self.reach) + self.reach
        same = (speaker[:, :, None] == speaker[:, None]).long()
        bias = self.bias[same, offset].permute(0, 3, 1, 2)
        bias = bias.masked_fill(~real[:, None, None], torch.finfo(bias.dtype).min)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        answer = self.answer(batch.to_flat(mixed.transpose(1, 2).flatten(2)))
        added: Tensor = values + self.dropout(answer)
        return added
