"""Finding configs: a path, or the short name of a shipped one."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

CONFIGS = Path(__file__).parent
"""The folder of the shipped configs; ``--config systems/lfvd.yaml`` finds them from any folder."""


def find_config(name: str) -> Path:
    """The file of a config, given as a path or by the short name of a shipped one.

    Raises:
        FileNotFoundError: It is neither.
    """
    for path in (Path(name), CONFIGS / name):
        if path.is_file():
            return path
    close = get_close_matches(name, shipped_configs(), n=3, cutoff=0.5)
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    raise FileNotFoundError(
        f"No config {name!r}: expected a file, or a shipped config, which `merc configs` lists.{meant}"
    )


def shipped_configs() -> list[str]:
    """The short names of all shipped configs, without the rows of ablations and the spaces of searches."""
    paths = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
    return sorted(path.as_posix() for path in paths if path.parts[0] not in ("ablations", "search"))


def expand_configs(args: Sequence[str]) -> list[str]:
    """Command-line arguments with the short name after every ``--config`` or ``-c`` replaced by its file."""
    expanded: list[str] = []
    for arg in args:
        option, equals, value = arg.partition("=")
        if expanded and expanded[-1] in ("--config", "-c"):
            arg = str(find_config(arg))
        elif option in ("--config", "-c") and equals:
            arg = f"{option}={find_config(value)}"
        expanded.append(arg)
    return expanded
