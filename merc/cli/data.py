"""``merc import`` and ``merc doctor``: functions of the corpora, exposed as subcommands."""

from __future__ import annotations

from jsonargparse import auto_cli

from merc.corpora import commands


def data_command(command: str, args: list[str]) -> int:
    """Run ``import`` or ``doctor``; returns the exit status."""
    functions = commands.IMPORTS if command == "import" else commands.DOCTORS
    result = auto_cli(dict(functions), args=args, prog=f"merc {command}", as_positional=True)
    return int(result or 0)
