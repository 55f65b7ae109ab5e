"""``merc import`` and ``merc doctor``: functions of the corpora, exposed as subcommands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import signature
from itertools import islice
from typing import Any

from jsonargparse import auto_cli

from merc.corpora import commands

_WITHOUT_VALUE = ("-h", "--help", "--print_config")


def data_command(command: str, args: list[str]) -> int:
    """Run ``import`` or ``doctor``; returns the exit status."""
    functions = commands.IMPORTS if command == "import" else commands.DOCTORS
    result = auto_cli(dict(functions), args=_join_files(functions, args), prog=f"merc {command}", as_positional=True)
    return int(result or 0)


def _join_files(functions: Mapping[str, Callable[..., Any]], args: list[str]) -> list[str]:
    """The arguments with all files of a subcommand that takes several as one list.

    A shell makes many words of ``*.csv``, where jsonargparse reads one list, and takes a single name for that of a
    file with names.
    """
    if not args or args[0] not in functions or "files" not in signature(functions[args[0]]).parameters:
        return args
    files: list[str] = []
    options: list[str] = []
    words = iter(args[1:])
    for word in words:
        if not word.startswith("-"):
            files.append(word)
            continue
        options.append(word)
        if "=" not in word and not word.startswith(_WITHOUT_VALUE):
            options += islice(words, 1)
    if files and not files[0].startswith("["):
        files = [json.dumps(files)]
    return [args[0], *files, *options]
