"""How a task keeps what makes its network: callables, as Lightning takes those that make optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


class Factory(Generic[P, R]):
    """A callable that copies of its owner share.

    A callable from the command line reaches the parser, and through it the Trainer and the data. Callbacks that
    average weights copy the task: without this they would copy all of that too, or fail at a lock.

    Args:
        make: Makes an optimizer, a schedule, a network or a loss.
    """

    def __init__(self, make: Callable[P, R]) -> None:
        self.make: Callable[P, R] = make.make if isinstance(make, Factory) else make

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make one."""
        return self.make(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, object]) -> Factory[P, R]:
        """Itself."""
        return self


@contextmanager
def initial_weights() -> Iterator[None]:
    """Let networks be made on the CPU and in float32.

    So a seed gives the same first weights on every device and at every precision. Lightning moves and converts them
    afterwards.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def give_class_counts(network: nn.Module, counts: Sequence[int]) -> None:
    """Tell every loss that weighs emotions by how frequent they are, such as :class:`merc.losses.LogitAdjusted`.

    Args:
        network: Parts with a method ``set_class_counts`` are told.
        counts: Labelled utterances of the training split, by class.
    """
    for module in network.modules():
        tell = getattr(module, "set_class_counts", None)
        if callable(tell):
            tell(counts)
