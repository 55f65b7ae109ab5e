"""How optimizers step fast on a CPU."""

from __future__ import annotations

from torch.optim import Optimizer


def fused_on_cpu(optimizer: Optimizer) -> Optimizer:
    """Let an optimizer on a CPU update a parameter in one pass over memory instead of about ten.

    Of PyTorch's optimizers those that can (Adam, AdamW, SGD, Adagrad) have an option ``fused``, which they leave off if
    nobody sets it. With a few conversations a batch the step then takes longer than forward and backward together
    (``benchmarks/systems_speed.py``). Here it is set after the fact, for parameters on a CPU only: on a GPU a fused
    optimizer cannot go with gradient clipping under ``16-mixed``. Whoever sets ``fused`` or ``foreach`` keeps it.

    Args:
        optimizer: Any optimizer; one that has no such option is left as it is.

    Returns:
        The same optimizer.
    """
    for group in optimizer.param_groups:
        free = all(group.get(option, False) is None for option in ("fused", "foreach"))
        if free and all(p.device.type == "cpu" and p.is_floating_point() for p in group["params"]):
            group["fused"] = True
    return optimizer
