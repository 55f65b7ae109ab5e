"""Dropout that is as fast on a CPU as the layers around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.kernels.choose import hand_written


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero a share ``p`` of the elements in training, and scale up the others; see :class:`Dropout`."""
    dropped = round(p * 256)
    if not training or dropped in (0, 256) or x.numel() == 0 or not hand_written(x):
        return F.dropout(x, p, training)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    random = words.view(torch.uint8)[: x.numel()].view(x.shape).to(x.dtype)
    return x * random.ge_(dropped).mul_(256 / (256 - dropped))  # in place, as making booleans takes four times as long


class Dropout(nn.Dropout):
    """Dropout whose mask on a CPU takes one random byte per element instead of a Bernoulli draw.

    PyTorch draws the mask element by element on a CPU, which takes a sixth of a training step of the GAT encoder
    and two fifths of one of the GCN encoder (``benchmarks/dropout.py``). Here eight bytes of each random 64-bit number
    serve eight elements; the probability is rounded to a multiple of 1/256, and kept values are scaled by
    exactly what is kept. Where :func:`~merc.kernels.choose.hand_written` is false it is :class:`torch.nn.Dropout`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share ``p`` of the elements in training, and scale up the others."""
        return dropout(x, self.p, self.training)
