"""Files that are either whole or absent: write aside, flush to the disk, then rename."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_DEEPEST = 100
"""Levels of lists and objects in strict JSON and in YAML."""

_MOST_PARTS = 100_000
"""Values in YAML, with those that aliases repeat: whoever walks through it does so in reasonable time."""


@contextmanager
def write_aside(path: str | Path, *, rename: Callable[[Path], Path] | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path`` and rename it to ``path`` once the block has ended well.

    A reader sees the old file or the new one, never a part. If the block raises (a full disk, Ctrl-C),
    the temporary file is removed and ``path`` is as it was.

    Args:
        path: Final place of the file; its folder is created.
        rename: Chooses the final place once the file is written, for a name made from its content.

    Yields:
        The path to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    aside.touch(exist_ok=False)
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(rename(aside) if rename else path)
        _flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make renames survive a power cut, in the order in which they were made."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened, and the system keeps the order itself
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes, *, strict: bool = False) -> Any:  # noqa: ANN401 - JSON may be anything
    """Parse JSON from a file that may have been made by anyone.

    Args:
        text: The JSON.
        strict: Refuse what the standard has not, and other programs write: NaN and infinite numbers, a member that is
            given twice, and more than 100 levels of lists and objects.

    Raises:
        ValueError: It is not JSON in UTF-8, is nested too deeply, or contains halves of characters, which could not be
            written again.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number) if strict else json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if strict and _is_deep(value):
        raise ValueError(f"nested more than {_DEEPEST} levels deep")
    return value


def parse_yaml(text: str, name: str | Path) -> Any:  # noqa: ANN401 - YAML may be anything
    """Parse the YAML of a config.

    Args:
        text: The YAML.
        name: What it is, for the message: its file, or an option.

    Raises:
        ValueError: It is not YAML, has more than 100 levels of lists and mappings, or its aliases stand for more than
            100,000 values.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from error
    except RecursionError:
        value = None
    else:
        if not _is_deep(value):
            if (parts := _parts(value, {})) > _MOST_PARTS:
                raise ValueError(f"{name} has {parts} values where its aliases stand: expected at most {_MOST_PARTS}.")
            return value
    raise ValueError(f"{name} is nested too deeply: expected at most {_DEEPEST} levels of lists and mappings.")


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise ValueError("a member is given twice")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _is_deep(value: Any) -> bool:  # noqa: ANN401 - plain values
    """Whether there are too many levels; each part counts once on a level, however many aliases of YAML lead to it."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        outer = [part for part in {id(part): part for part in level}.values() if isinstance(part, dict | list)]
        level = [part for one in outer for part in (one.values() if isinstance(one, dict) else one)]
        if not outer:
            return False
    return True


def _parts(value: Any, known: dict[int, int]) -> int:  # noqa: ANN401 - plain values
    """How many values a value has with itself, those that aliases of YAML repeat counted each time."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_parts(part, known) for part in inner)
    return known[id(value)]


def write_json(path: str | Path, value: Any) -> None:  # noqa: ANN401 - JSON is what json.dumps takes
    """Write ``value`` to ``path`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
