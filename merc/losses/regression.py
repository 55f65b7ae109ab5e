"""Losses between vectors: the distance of a representation from its target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from merc.losses._checks import full_precision


class MeanSquaredError(nn.Module):
    r"""Mean squared error over the utterances that have a vector.

    .. math:: L_{mse} = \frac{1}{|P| d} \sum_{i \in P} \lVert x_i - t_i \rVert^2

    where P are the utterances that are present. Labels are not used. Gradients flow into both arguments; detach the one
    that should stay fixed.
    """

    @full_precision
    def forward(self, values: Tensor, target: Tensor, present: Tensor | None = None) -> Tensor:
        """Mean over the present utterances and the d numbers of each.

        Args:
            values: ``(N, d)``; half precision is widened to float32.
            target: ``(N, d)``.
            present: ``(N,)`` booleans; other rows are not read. Default: everywhere.

        Returns:
            A scalar. If no utterance is present, it is 0 and still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match.
        """
        rows_differ = present is not None and present.shape[0] != values.shape[0]  # not len(): an export would fix it
        if values.dim() != 2 or target.shape != values.shape or rows_differ:
            rows = "" if present is None else f" and present {tuple(present.shape)}"
            raise ValueError(
                f"MeanSquaredError: values have shape {tuple(values.shape)}, target {tuple(target.shape)}{rows}, "
                "expected (N, d) twice and (N,). Flatten padded sequences with the batch's mask first."
            )
        if present is None:
            present = torch.ones(values.shape[0], dtype=torch.bool, device=values.device)
        gap = (values - target).masked_fill(~present[:, None], 0.0)
        return gap.square().sum() / (present.sum() * values.shape[1]).clamp(min=1)
