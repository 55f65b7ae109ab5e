"""DAG-ERC along conversations: an utterance reads the utterances before it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from merc.batch import ConversationBatch
from merc.kernels.dag import DAGLayer, Turns, dag_layer


class DAGEncoder(nn.Module):
    r"""DAG-ERC (Shen et al. 2021, arXiv 2105.12907) along every conversation.

    Utterance i has edges from the utterances before it, back to and including the ``omega``-th latest of its own
    speaker, or back to the first utterance if there are fewer turns. The output is a linear map of the states of all
    layers, :math:`W [h_i^{(0)}; \dots; h_i^{(L)}]`, with :math:`h^{(0)}` the input. No edge comes from a later
    utterance.

    All conversations advance together: a batch takes O(layers T) steps for T utterances in the longest conversation.
    Memory is O(T^2) for the edges. Under autocast the recurrence keeps the precision of the parameters.

    Args:
        dim: Width of the input, of every layer and of the output.
        layers: DAG layers, at least 1.
        omega: How many turns of the same speaker the past reaches back, at least 1.

    Raises:
        ValueError: A number is below 1.
    """

    def __init__(self, dim: int, layers: int = 2, omega: int = 1) -> None:
        super().__init__()
        if min(dim, layers, omega) < 1:
            raise ValueError(f"DAGEncoder: dim, layers and omega must be at least 1, got {dim}, {layers}, {omega}.")
        self.omega = omega
        self.layers = nn.ModuleList(DAGLayer(dim) for _ in range(layers))
        self.join = nn.Linear((layers + 1) * dim, dim)

    def edges(self, batch: ConversationBatch) -> tuple[Tensor, Tensor]:
        """Mask of the edges between the utterances of every conversation.

        Returns:
            ``(B, T, T)`` booleans: whether utterance i (second axis) has an edge from j (third), and whether both have
            the same speaker. Padding has no edges.
        """
        speaker, real = batch.to_dense(batch.speaker)
        turn = torch.arange(speaker.shape[1], device=speaker.device)
        past = turn < turn[:, None]
        same = speaker[:, :, None] == speaker[:, None]
        kin = (same & past).long()
        between = kin.flip(-1).cumsum(-1).flip(-1) - kin  # turns of the speaker of i after j and before i
        return past & real[:, :, None] & (between < self.omega), same

    def forward(self, values: Tensor, batch: ConversationBatch) -> Tensor:
        """Encode ``(N, dim)`` values of whole conversations as ``(N, dim)``."""
        with torch.autocast(values.device.type, enabled=False):
            dtype = self.join.weight.dtype
            turns = Turns.of(batch, *self.edges(batch), dtype)
            states = [values.to(dtype).index_select(0, turns.row)]
            for layer in self.layers:
                states.append(dag_layer(cast(DAGLayer, layer), states[-1], turns))
        joined: Tensor = self.join(torch.cat(states, dim=-1)).index_select(0, turns.back)
        return joined
