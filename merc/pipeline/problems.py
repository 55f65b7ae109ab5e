"""Parsers whose errors say in a few lines what was found, what is expected, and what to do."""

from __future__ import annotations

import re
import sys
from argparse import Action
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import isclass
from pkgutil import iter_modules
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

_LISTED = 16
"""How many names a message lists; of more, those that are like the given one."""

_NOT_A_CAUSE = re.compile(
    r"Does not validate against any|Subtypes: |Errors:|Given value|Expected a <class 'NoneType'>|Expected a path "
)
_CLASS = re.compile(r"class_path'? ?=?'([\w.]+)'")


class ShortParser(ArgumentParser):
    """A parser whose errors are short: no usage, the cause alone, and the names that are accepted."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and what to do, and exit; without ``exit_on_error`` raise ``ArgumentError`` as it is.

        The parsers of nested classes are of this class too: what they raise becomes a branch of the whole error.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        print(
            f"{_command(parser)}: {explain(message, parser)}\n`{_command(parser)} --help` lists all options.",
            file=sys.stderr,
        )
        self.exit(2)


def explain(message: str, parser: ArgumentParser | None = None) -> str:
    """What a parser found wrong, in a few lines: the causes, and the names that would have been accepted.

    Args:
        message: What jsonargparse says: a tree of all that it tried.
        parser: The parser that refused, for the names of its options.
    """
    lines = []
    for cause in _causes(message):
        where = f"--{cause.option}: " if cause.option else ""
        lines.append(f"{where}{cause.text}".rstrip(".") + ".")
        lines += _advice(cause, parser)
    return "\n".join(dict.fromkeys(lines))


@dataclass(frozen=True)
class _Cause:
    """A leaf of the tree of an error.

    Args:
        text: What is wrong.
        option: Dotted name of the option; empty where the text names it.
        class_path: The class whose option it is.
        given: How many of the class's first arguments the task gives.
    """

    text: str
    option: str = ""
    class_path: str = ""
    given: int = 0


def _causes(message: str) -> Iterator[_Cause]:
    """The leaves of an error's tree, each once."""
    if not message.startswith("Parser key"):
        yield _Cause(message)
        return
    branch: list[tuple[int, str, str]] = []  # indentation, option, class
    last = re.search(r"^  Given value: (.{1,60})$", message, re.MULTILINE)
    found = f", found {last[1]!r}" if last and "NestedArg" not in last[1] else ""
    seen = set()
    for line in filter(str.strip, message.splitlines()):
        text = line.strip().removeprefix("- ")
        depth = len(line) - len(text)
        branch = [part for part in branch if part[0] < depth]
        if key := re.fullmatch(r'(?:error: )?Parser key "(.*)":', text):
            branch.append((depth, key[1], ""))
        elif key := re.fullmatch(r"Problem with given class_path '(.*)':", text):
            branch.append((depth, "", key[1]))
        elif not _NOT_A_CAUSE.match(text):
            text, _, value = text.partition(". Got value: ")
            of_callable = re.match(r"Type [\w.]*Callable\[\[(.*)\], .* expects a function or a callable class: ", text)
            given = 0
            if of_callable:
                text = text.removeprefix(of_callable[0])
                given = 1 + re.sub(r"\[[^\[\]]*\]", "", of_callable[1]).count(",")
            classes = _CLASS.findall(value)[:1] or [name for _, _, name in branch if name][-1:] or [""]
            if text.startswith("Expected a <class"):
                text = re.sub(r"a <class '(\w+)'>", r"\1", text) + found
            if text not in seen:
                seen.add(text)
                yield _Cause(text, ".".join(name for _, name, _ in branch if name), classes[0], given)


def _advice(cause: _Cause, parser: ArgumentParser | None) -> Iterator[str]:
    """What would have been accepted."""
    unknown = re.search(r"Option '([\w.]+)' is not accepted", cause.text)
    if unknown and cause.class_path:
        yield f"{cause.class_path} accepts {_like(unknown[1], options_of(cause.class_path)[cause.given :])}"
        root = cause.option.partition(".")[0]
        if parser is not None and cause.option == root:
            yield f"`{_command(parser)} --{root}.help {cause.class_path}` explains them."
    elif found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", cause.text):
        module, name = found.groups()
        yield f"{module} has {_like(name, _content(module, name))}"
    elif parser is None:
        return
    elif unknown:  # of a function
        yield f"Accepted: {_like(unknown[1], _names(parser))}"
    elif found := re.search(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'", cause.text):
        name = found[1] or found[2].removesuffix(".class_path")
        group = name.rpartition(".")[0]
        known = [option for option in _names(parser) if option.rpartition(".")[0] == group]
        yield f"Accepted: {_like(name, known or _names(parser), '--')}"
    elif "arguments are required" in cause.text and hasattr(parser, "add_lightning_class_args"):
        yield "Expected configs, such as --config systems/lfvd.yaml --config corpora/meld_sdt.yaml."
        yield "`merc configs` lists those that are shipped."


def _like(name: str, known: Sequence[str], mark: str = "") -> str:
    """The names that are accepted, as the end of a sentence; the most similar one first."""
    close = get_close_matches(name, known, n=5, cutoff=0.5)
    listed = close if close and len(known) > _LISTED else known[:_LISTED]
    rest = f" and {len(known) - len(listed)} more" if len(known) > len(listed) else ""
    meant = f" Did you mean {mark}{close[0]}?" if close else ""
    return f"{', '.join(mark + option for option in listed) or 'no options'}{rest}.{meant}"


def options_of(class_path: str) -> list[str]:
    """The names of the options that a class takes, those of its parents too."""
    module, _, name = class_path.rpartition(".")
    try:
        taken: Any = getattr(import_module(module), name)
        parser = ArgumentParser()
        parser.add_class_arguments(taken, fail_untyped=False)
    except (ImportError, AttributeError, ValueError):
        return []
    return list(dict.fromkeys(option.partition(".")[0] for option in _names(parser)))


def _content(module: str, name: str) -> list[str]:
    """What a module has of the kind that a name tells: classes, or modules and functions."""
    content = import_module(module)
    public = getattr(content, "__all__", None) or [known for known in vars(content) if not known.startswith("_")]
    if name[0].isupper():
        return [known for known in public if isclass(getattr(content, known, None))]
    inner = [found.name for found in iter_modules(getattr(content, "__path__", []))]
    return [known for known in [*inner, *public] if known[0].islower()]


def _names(parser: ArgumentParser) -> list[str]:
    """The long options of a parser, without those that only help."""
    actions: Iterable[Action] = parser._actions
    names = [name.removeprefix("--") for action in actions for name in action.option_strings if name.startswith("--")]
    return [
        name for name in names if name != "help" and not name.endswith(("+", ".help", "print_config", "print_shtab"))
    ]


def _command(parser: ArgumentParser) -> str:
    return parser.prog.replace(" [options]", "")
