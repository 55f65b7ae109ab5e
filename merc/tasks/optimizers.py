"""The optimizer of a task with its learning-rate schedule, and how optimizers step fast on a CPU."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer

from merc.callbacks import training_steps
from merc.tasks.schedules import PlannedLR


def scheduled(
    task: L.LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerCallable | None, monitor: str
) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` of a task returns.

    A :class:`~merc.tasks.schedules.PlannedLR` is given the number of steps of the training and is stepped after each of
    them; a scheduler of PyTorch is stepped once per epoch.

    Args:
        task: The task, with its Trainer.
        optimizer: The optimizer of the task.
        lr_scheduler: Makes the schedule from the optimizer; ``None`` for a constant learning rate.
        monitor: The metric by which ``ReduceLROnPlateau`` lowers the learning rate, if it names none itself.

    Raises:
        ValueError: The schedule needs the number of steps, and the training has no end.
    """
    optimizer = fused_on_cpu(optimizer)
    if lr_scheduler is None:
        return optimizer
    scheduler = lr_scheduler(optimizer)
    if isinstance(scheduler, PlannedLR):
        scheduler.plan(training_steps(task.trainer, type(scheduler).__name__))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
    monitor = getattr(scheduler, "monitor", monitor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}


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
