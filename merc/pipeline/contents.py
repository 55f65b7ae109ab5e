"""What decides a result beside the words of a config: the content of files, and the source of classes."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

_LIBRARIES = frozenset({"merc", "torch", "torch_geometric", "torchvision", "torchaudio", "lightning", "transformers"})
"""Packages that are not part of a fingerprint: merc's version is, and the others are what it is built on.

Another version of these rarely changes what a training comes to by more than another seed does, and an upgrade must not
throw away days of work. :func:`libraries` lets a run say so instead.
"""


def with_contents(value: Any, leave_out: Path | None = None) -> Any:  # noqa: ANN401 - nested JSON values
    """A nested value in which what decides a result stands in the place of its name.

    - A string that names a file becomes the digest of its content, which is read once per process as long as size and
      time of the file stay.
    - A string with a ``/`` that names a folder becomes a digest of the names, sizes and times of the files in it.
      Without a ``/`` a folder is not told from a word such as ``text``.
    - A string that is the import path of a class or function which belongs neither to merc nor to the libraries that it
      is built on gets the version of its distribution. If it is of no installed one, it gets a digest of the source of
      its package or module, and of all others of its kind that these import.

    Args:
        value: Nested plain values.
        leave_out: The results of a run, which do not count among the files of a folder.
    """
    if isinstance(value, Mapping):
        return {name: with_contents(part, leave_out) for name, part in value.items()}
    if isinstance(value, list):
        return [with_contents(part, leave_out) for part in value]
    if not isinstance(value, str) or not value:
        return value
    try:
        path = Path(value)
        if path.is_file():
            return file_digest(path)
        if "/" in value and path.is_dir() and path.resolve() != Path(path.anchor or "/"):
            return listing(path, leave_out)
    except (OSError, ValueError):  # a text that no file system takes for a name
        pass
    if "." in value and all(part.isidentifier() for part in value.split(".")):
        return f"{value} {' '.join(_source_of(value))}".rstrip()
    return value


def options_with_contents(options: Sequence[str]) -> list[Any]:
    """:func:`with_contents` of options as on the command line, ``--name=value`` or ``--name value``.

    Args:
        options: The options.
    """
    found: list[Any] = []
    for option in options:
        name, _, value = option.partition("=") if option.startswith("--") else ("", "", option)
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value
        found.append([name, value, with_contents(parsed if isinstance(parsed, dict | list) else value)])
    return found


@cache
def libraries() -> Mapping[str, str]:
    """The versions of the libraries that decide a result and are not part of its fingerprint, as far as installed."""
    found = {}
    for name in sorted(_LIBRARIES - {"merc"}):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content; read again only if its size or its time has changed in this process."""
    state = path.stat()
    return _digest_of_state(path.absolute(), state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _digest_of_state(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(folder: Path, leave_out: Path | None = None) -> str:
    """A digest of names, sizes and times of all files below a folder: reading films would take too long.

    Args:
        folder: The folder.
        leave_out: Results that lie below it and do not count.
    """
    results = None if leave_out is None else leave_out.resolve()
    entries = []
    for place, inner, files in os.walk(folder):
        inner.sort()
        if results is not None:
            inner[:] = [name for name in inner if Path(place, name).resolve() != results]
        for file in map(Path(place).joinpath, sorted(files)):
            if file.is_file():  # no link to what is gone
                state = file.stat()
                entries.append([str(file.relative_to(folder)), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _source_of(path: str) -> list[str]:
    """The versions of the distribution that an import path leads to, or the digests of its source."""
    spec, top = _spec_of(path), path.partition(".")[0]
    if spec is None:
        return []
    if _is_installed(spec) and (names := _distributions().get(top)):
        return sorted(f"{name} {version(name)}" for name in names)
    found: dict[Path, str] = {}
    left = _files_of(spec)
    while left:
        found |= {file: file_digest(file) for file in left}
        names = sorted({name for file in left for name in _imports(file, file_digest(file))})
        own = [spec for name in names if (spec := _spec_of(name)) is not None and not _is_installed(spec)]
        left = sorted({file for spec in own for file in _files_of(spec)} - found.keys())
    return list(found.values())


def _spec_of(path: str) -> ModuleSpec | None:
    """The package or module that an import path leads through; nothing is imported to find it.

    ``None`` if there is none, or it is of a library.
    """
    parts = path.split(".")
    if parts[0] in _LIBRARIES or parts[0] in sys.stdlib_module_names:
        return None
    places: Sequence[str] = ()
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        try:
            spec = find_spec(name) if length == 1 else PathFinder.find_spec(name, places)
        except (ImportError, ValueError, AttributeError):  # such as __main__, which has none
            return None
        if spec is None or (spec.origin is not None and not spec.origin.endswith(".py")):
            return None
        if spec.origin is not None:
            return spec
        places = list(spec.submodule_search_locations or ())  # of a folder without __init__
    return None


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module was installed, not as editable, so that its version tells what it is."""
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(spec.origin or "").parts)


def _files_of(spec: ModuleSpec) -> list[Path]:
    """The source of a module, or of a whole package: what its __init__ only passes on is defined elsewhere in it."""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.rglob("*.py")) or [Path(spec.origin or "")]
    return [file for file in files if file.is_file()]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def _imports(source: Path, digest: str) -> frozenset[str]:
    """The names that a file of this content imports, those of its own package by a relative path excepted."""
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError):
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)
