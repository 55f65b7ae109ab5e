"""No object of merc that holds tensors is compared or hashed by value: == of tensors is a tensor, not an answer."""

import dataclasses
import importlib
import pkgutil
from collections import deque
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

import merc


def modules():
    """All modules of merc that the installed packages allow to import."""
    for found in pkgutil.walk_packages(merc.__path__, "merc."):
        try:
            yield importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "merc":
                raise


def holds_tensors(hint):
    """Whether a type is that of tensors or arrays, or of a container of them."""
    if isinstance(hint, type) and issubclass(hint, Tensor | np.ndarray):
        return True
    return getattr(hint, "__origin__", None) is np.ndarray or any(map(holds_tensors, get_args(hint)))


def compares_values(kind):
    """Whether == of a dataclass is the one that ``dataclass`` makes."""
    code = getattr(kind.__eq__, "__code__", None)
    return code is not None and code.co_filename == "<string>"


DATACLASSES = {
    f"{module.__name__}.{name}": kind
    for module in modules()
    for name, kind in vars(module).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
}


@pytest.mark.parametrize("name", DATACLASSES)
def test_dataclasses_that_hold_tensors_are_not_compared_by_value(name):
    kind = DATACLASSES[name]
    hints = get_type_hints(kind, localns={"array": list})  # array.array takes no types before Python 3.12
    held = [field.name for field in dataclasses.fields(kind) if holds_tensors(hints[field.name])]
    assert not (held and compares_values(kind)), (
        f"{name} holds tensors in {', '.join(held)}: write @dataclass(eq=False), or == and `in` fail on some of them."
    )


def test_the_test_knows_what_it_looks_for():
    assert {"merc.batch.ConversationBatch", "merc.media.tracks.FaceTrack", "merc.media.tracker._Head"} <= set(
        DATACLASSES
    )
    for hint in (Tensor, NDArray[np.float32], list[Tensor], dict[str, Tensor | None], deque[tuple[int, Tensor]]):
        assert holds_tensors(hint)
    for hint in (int, list[int], Any, dict[str, float], type(None)):
        assert not holds_tensors(hint)

    @dataclass
    class Plain:
        x: int

    @dataclass
    class Own:
        x: int

        def __eq__(self, other):
            return True

    @dataclass(eq=False)
    class Off:
        x: int

    assert [compares_values(kind) for kind in (Plain, Own, Off)] == [True, False, False]
