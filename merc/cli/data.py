"""``merc import`` and ``merc doctor``: functions by short name or import path, exposed as subcommands."""

from __future__ import annotations

import json
from argparse import Action
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docstring_parser import parse
from jsonargparse import ArgumentParser

from merc.corpora import commands
from merc.pipeline.problems import ShortParser

_WITHOUT_VALUE = ("-h", "--help", "--print_config")


def data_command(command: str, args: list[str]) -> int:
    """Run ``import`` or ``doctor``; returns the exit status."""
    names = commands.IMPORTS if command == "import" else commands.DOCTORS
    resolve = commands.resolve_import if command == "import" else commands.resolve_doctor
    if not args or args[0] in ("-h", "--help"):
        print(_usage(command, names, resolve))
        return 0 if args else 2
    function = resolve(args[0])
    parser = ShortParser(prog=f"merc {command} {args[0]}", description=parse(function.__doc__ or "").short_description)
    parser.add_argument("--config", action="config", help="File with these options.")
    if command == "import":
        parser.add_argument("--out", type=Path, required=True, help="Folder to write to.")
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={"out"})
    given = parser.instantiate_classes(parser.parse_args(join_lists(parser, args[1:])))
    options = {name: value for name, value in given.as_dict().items() if name != "config"}
    status = function(**options)
    return int(status or 0) if command == "doctor" else 0


def _usage(command: str, names: Mapping[str, str], resolve: Callable[[str], Callable[..., Any]]) -> str:
    """The short names with what they do."""
    kind, example = ("corpus reader", "read_emorynlp") if command == "import" else ("doctor", "check_emorynlp")
    lines = [f"usage: merc {command} NAME ...", ""]
    lines += [f"  {name:<10} {parse(resolve(name).__doc__ or '').short_description}" for name in names]
    lines += ["", f"NAME can also be the import path of a {kind} of your own: my_package.{example}."]
    return "\n".join([*lines, f"`merc {command} NAME --help` lists its options."])


def join_lists(parser: ArgumentParser, args: Sequence[str]) -> list[str]:
    """The arguments with the words of every list as one, as jsonargparse reads it.

    A shell makes many words of ``*.csv``, and people write ``--labels joy anger``.
    """
    actions = {name: action for action in parser._actions for name in action.option_strings}
    words: list[str] = []
    joined: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        joined.append(word)
        if "=" in word or word.startswith(_WITHOUT_VALUE):
            continue
        given = list(takewhile(lambda following: not following.startswith("-"), rest))
        if word not in actions or not _takes_list(actions[word]) or (given and given[0].startswith("[")):
            given = rest[:1]
        del rest[: len(given)]
        joined += _joined(given, actions.get(word))
    positional = [action for action in parser._actions if not action.option_strings]
    if positional and _takes_list(positional[0]):
        several = max(0, len(words) - len(positional) + 1)
        words = [*_joined(words[:several], positional[0]), *words[several:]]
    return [*words, *joined]


def _joined(words: list[str], action: Action | None) -> list[str]:
    """Several words, or the only one of what is never a single word, as a list in brackets."""
    if len(words) == 1:
        word, types = words[0], list(_members(getattr(action, "_typehint", None)))
        if word == "null" or word.startswith(("[", "{")) or not any(map(_is_list, types)) or any(map(_is_word, types)):
            return words
    return [json.dumps(words)] if words else []


def _takes_list(action: Action) -> bool:
    return any(map(_is_list, _members(getattr(action, "_typehint", None))))


def _is_list(hint: object) -> bool:
    return get_origin(hint) in (list, Sequence)


def _is_word(hint: object) -> bool:
    return hint in (str, int, float, bool, Path, Any) or get_origin(hint) is Literal


def _members(hint: object) -> Iterator[object]:
    """The types of a union, or the one type."""
    if get_origin(hint) in (Union, UnionType):
        yield from get_args(hint)
    else:
        yield hint
