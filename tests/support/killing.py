"""Kills a process at a line of merc that its number chooses: the same line in every run, on any machine."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def die_of(group: tuple[str, list[str]]) -> list[str]:
    """The members of a group; kills the process if one of them is ``dead``."""
    if "dead" in group[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return group[1]


def number_of_process(group: tuple[str, list[str]]) -> list[int]:
    """The number of the process that does a group."""
    return [os.getpid()]


def die_at(moment: int | None, *parts: str) -> Callable[[], int]:
    """Counts the lines run in files of the parts (``merc/store/writer.py``), and kills the process at a number.

    Args:
        moment: The process is killed when so many lines have run; None only counts.

    Returns:
        Says how many lines have run until now.
    """
    lines = 0

    def line(frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def called(frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        return line if frame.f_code.co_filename.endswith(parts) else None

    sys.settrace(called)
    return lambda: lines
