"""What the processes of a Trainer found, put together."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, TypeVar

import torch.distributed as dist

Part = TypeVar("Part")


def gather_in_order(parts: list[Part]) -> list[Part]:
    """What every process found, batch by batch, in the order in which one process would have found it.

    All processes of the Trainer must call this. Tensors should be on the CPU.

    Args:
        parts: What this process found, one for each of its batches
            (:class:`merc.datamodules.batches.SharedBatches` deals them out in turn).

    Returns:
        The parts of all processes, the same list in each of them.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return parts
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, [(part,) for part in parts])
    return [part[0] for turn in zip_longest(*everywhere) for part in turn if part is not None]
