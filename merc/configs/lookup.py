"""Finding configs: a path, or the short name of a shipped one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from merc.files import parse_yaml

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
    """Command-line arguments with what stands after every ``--config`` or ``-c`` replaced.

    By the file of a short name; or, if the config names files that lie beside it, by its content with their paths.
    """
    expanded: list[str] = []
    for arg in args:
        option, equals, value = arg.partition("=")
        if expanded and expanded[-1] in ("--config", "-c"):
            arg = _file_or_content(arg)
        elif option in ("--config", "-c") and equals:
            arg = f"{option}={_file_or_content(value)}"
        expanded.append(arg)
    return expanded


def _file_or_content(name: str) -> str:
    path = find_config(name)
    text = path.read_text(encoding="utf-8")
    content = _with_paths(text, path)
    return str(path) if content == text else content


def read_config(name: str) -> str:
    """The content of a config, in which files and folders that lie beside it have absolute paths.

    So a config means the same from any working directory. What does not lie beside it stays as it is written, and is
    looked for in the working directory.

    Args:
        name: The file of the config, or the short name of a shipped one.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It is not YAML.
    """
    path = find_config(name)
    return _with_paths(path.read_text(encoding="utf-8"), path)


def _with_paths(text: str, path: Path) -> str:
    """The text of a config with absolute paths of what lies beside it, as for :func:`read_config`."""
    if path.is_relative_to(CONFIGS):
        return text
    parse_yaml(text, path)
    # In the text, not in what it means: numbers such as 1e-3 are words to PyYAML, and numbers to jsonargparse.
    for node in sorted(_values(yaml.compose(text)), key=lambda node: -node.start_mark.index):
        if (found := beside(node.value, path.parent)) is not None:
            start, end = node.start_mark.index, node.end_mark.index
            written = text[start:end]
            marks = re.match(r"([&!]\S*\s+)*", written)
            rest = written[len(written.rstrip()) :] + text[end:]  # a block ends where the next line begins
            text = text[:start] + (marks[0] if marks else "") + json.dumps(found) + rest
    return text


def _values(document: yaml.Node | None) -> list[yaml.ScalarNode]:
    """The scalars of a document that are no keys, each once, however many aliases lead to it."""
    seen: dict[int, yaml.Node] = {}
    waiting = [] if document is None else [document]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for _, part in node.value]
    return [node for node in seen.values() if isinstance(node, yaml.ScalarNode)]


def beside(value: str, folder: Path) -> str | None:
    """The absolute path of what a relative path names in a folder; ``None`` if nothing is there.

    A folder is known by a ``/`` in its path, such as ``./clips``, a file by that or by the ``.`` of its ending: without
    them they are not told from a word, as ``text`` may be a modality.
    """
    try:
        place = folder / value
        there = ("/" in value and place.exists()) or ("." in value and place.is_file())
    except (OSError, ValueError):  # a text that no file system takes for a name
        return None
    return str(place.absolute()) if there else None
