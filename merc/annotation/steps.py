"""What is being done, for whoever waits."""

from __future__ import annotations

from rich.console import Console


def tell_step(name: str) -> None:
    """Print what begins now, as the steps of models and the stages of runs do; ``merc app`` shows these lines.

    Args:
        name: Such as ``film of talk.mp4``.
    """
    Console(markup=False, highlight=False).print(name)
