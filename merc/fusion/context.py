"""Attention along a conversation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.batch import ConversationBatch
from merc.kernels import Dropout, dropout


def attend(
    attention: nn.MultiheadAttention,
    query: Tensor,
    source: Tensor,
    known: Tensor,
    batch: ConversationBatch | None = None,
) -> Tensor:
    """Compute the output of :class:`torch.nn.MultiheadAttention` with linear maps that skip the padding.

    Dialogues differ so much in length that most of a padded batch is empty. Only scores and weights, which cost little,
    are padded here. For a conversation without any known key the output is finite but meaningless.

    Args:
        attention: The layer, of one width and with biases.
        query: ``(N, dim)`` utterances of ``batch``, or without a batch ``(B, T, dim)``.
        source: ``(N, dim)``, keys and values; or ``(B, S, dim)``.
        known: ``(N,)`` booleans: which of the source may be attended to; or ``(B, S)``.
        batch: Whose conversations the utterances are.

    Returns:
        The shape of ``query``.
    """
    dim, heads = attention.embed_dim, attention.num_heads
    # Split, not sliced: the gradient of a slice is as large as the whole, and mostly zeros.
    weights = torch.split(attention.in_proj_weight, [dim, 2 * dim])
    biases = torch.split(attention.in_proj_bias, [dim, 2 * dim])
    query, key_value = F.linear(query, weights[0], biases[0]), F.linear(source, weights[1], biases[1])
    if batch is not None:
        query, key_value, known = (batch.to_dense(values)[0] for values in (query, key_value, known))
    query = torch.unflatten(query, -1, (heads, -1)).transpose(1, 2) * (dim // heads) ** -0.5
    key, value = torch.unflatten(key_value, -1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    score = query @ key.mT
    weight = score.masked_fill(~known[:, None, None], torch.finfo(score.dtype).min).softmax(-1)
    attended = (dropout(weight, attention.dropout, attention.training) @ value).transpose(1, 2).flatten(2)
    answer: Tensor = attention.out_proj(attended if batch is None else batch.to_flat(attended))
    return answer


class ConversationAttention(nn.Module):
    r"""Every utterance attends to the utterances of its own conversation.

    The scores have a learned bias per head, per distance in turns and for same or other speaker, like the position
    biases of T5 (arXiv 1910.10683):

    .. math:: a_{ij} = \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{d} + b_{h, j - i, [s_i = s_j]})

    The bias starts at :math:`-|j - i| / 2`, so that the network does not have to learn from some thousand utterances
    that near turns matter most. Distances beyond ``reach`` share one bias.

    Args:
        dim: Width, a multiple of ``heads``.
        heads: Attention heads.
        reach: Turns on either side that have their own bias.
        dropout: Probability on the output.
    """

    def __init__(self, dim: int, heads: int = 4, reach: int = 8, dropout: float = 0.35) -> None:
        super().__init__()
        self.heads = heads
        self.reach = reach
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        near = -torch.arange(-reach, reach + 1).abs() / 2
        self.bias = nn.Parameter(near.repeat(2, 1)[..., None].repeat(1, 1, heads))

    def forward(self, values: Tensor, batch: ConversationBatch) -> Tensor:
        """Add the attention to ``(N, dim)`` values; memory is O(T^2) for T utterances in the longest conversation."""
        dense, real = batch.to_dense(self.query_key_value(self.norm(values)))
        speaker, _ = batch.to_dense(batch.speaker)
        query, key, value = torch.unflatten(dense, -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        turn = torch.arange(dense.shape[1], device=values.device)
        offset = (turn[None] - turn[:, None]).clamp(-self.reach, self.reach) + self.reach
        same = (speaker[:, :, None] == speaker[:, None]).long()
        bias = self.bias[same, offset].permute(0, 3, 1, 2)
        bias = bias.masked_fill(~real[:, None, None], torch.finfo(bias.dtype).min)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        # Not by flatten(): of the attention that ONNX knows the heads cannot be viewed side by side.
        output = self.output(batch.to_flat(torch.cat(mixed.unbind(1), dim=-1)))
        added: Tensor = values + self.dropout(output)
        return added
