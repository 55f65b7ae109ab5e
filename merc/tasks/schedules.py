"""Learning-rate schedules over all steps of a training, however many these are."""

from __future__ import annotations

import math
from abc import abstractmethod

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class PlannedLR(LambdaLR):
    """A schedule that learns how long the training is after it was made.

    A config names the shape of the schedule; the task calls :meth:`plan` with the number of steps, and the schedule is
    stepped after every step of the optimizer. The learning rate rises linearly over the share ``warmup`` of the steps,
    then falls from that of the optimizer to its share ``final``, as the subclass says.

    Args:
        optimizer: The optimizer whose learning rates are scaled.
        warmup: Share of the steps over which the learning rate rises, in [0, 1).
        final: Share of the learning rate that is left at the end, in [0, 1].

    Raises:
        ValueError: A share is out of its range.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.0, final: float = 0.0) -> None:
        if not (0 <= warmup < 1 and 0 <= final <= 1):
            raise ValueError(
                f"{type(self).__name__} takes shares: expected warmup in [0, 1) and final in [0, 1], found {warmup} "
                f"and {final}."
            )
        self.warmup = warmup
        self.final = final
        self.total_steps: int | None = None
        super().__init__(optimizer, self.factor)

    @abstractmethod
    def shape(self, progress: float) -> float:
        """What is left of the way from 1 to ``final``, after a share ``progress`` of the steps behind the warm-up."""

    def plan(self, total_steps: int) -> None:
        """Set the length of the schedule, and the learning rate of the first step.

        Args:
            total_steps: Steps of the optimizer in the whole training.
        """
        self.total_steps = total_steps
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self.factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def factor(self, step: int) -> float:
        """By how much the learning rate is multiplied in a step, counted from 0.

        Raises:
            RuntimeError: A step is asked for, and nobody has called :meth:`plan`.
        """
        if self.total_steps is None:
            if step == 0:  # asked by the constructor
                return 1.0
            raise RuntimeError(f"{type(self).__name__} does not know its length: call plan(total_steps) first.")
        warm = round(self.warmup * self.total_steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        progress = min(1.0, (step - warm) / max(1, self.total_steps - warm))
        return self.final + (1 - self.final) * self.shape(progress)

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on where the state was taken; the length stays that of the training at hand."""
        planned = self.total_steps
        super().load_state_dict(state_dict)
        self.total_steps = planned


class WarmupCosineLR(PlannedLR):
    r"""Linear warm-up, then half a cosine: :math:`\tfrac12 (1 + \cos \pi p)` of the learning rate, p from 0 to 1.

    Args:
        optimizer: The optimizer whose learning rates are scaled.
        warmup: Share of the steps over which the learning rate rises, in [0, 1).
        final: Share of the learning rate that is left at the end, in [0, 1].

    Raises:
        ValueError: A share is out of its range.
    """

    def shape(self, progress: float) -> float:
        """Half a cosine from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * progress))


class WarmupLinearLR(PlannedLR):
    """Linear warm-up, then linear decay.

    Args:
        optimizer: The optimizer whose learning rates are scaled.
        warmup: Share of the steps over which the learning rate rises, in [0, 1).
        final: Share of the learning rate that is left at the end, in [0, 1].

    Raises:
        ValueError: A share is out of its range.
    """

    def shape(self, progress: float) -> float:
        """A line from 1 to 0."""
        return 1 - progress
