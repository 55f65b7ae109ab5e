"""The manifest of a store: JSON with a checksum, and the names of its shards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from merc.files import parse_json
from merc.store.kinds import SEQUENCES, Kind, StoreError

MANIFEST = "manifest.json"
FORMAT = "merc.FeatureStore"
VERSION, VERSION_OF_SEQUENCES = 1, 2  # a store of vectors stays readable by every merc
SHARDS = "shard-*.safetensors"
AGAIN = "Write the store again; `merc run` does so when it is given the same command."
"""The way out of a damaged store, for messages."""

_LARGEST = 2**48
"""Above every number of rows and bytes that a store can have, and far below where products of them overflow."""


def digest_of(value: object) -> str:
    """The SHA-256 of a plain JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as JSON, one member per line, closed by the checksum of every byte before it."""
    body = "{\n" + "".join(f"{json.dumps(name)}: {json.dumps(value)},\n" for name, value in manifest.items())
    return _sealed(body.encode())


def _sealed(body: bytes) -> bytes:
    return body + b'"checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Version = tuple[int, int, int]
"""Tells a manifest from the one that replaces it, though their bytes may be the same: inode, time and size."""


def read_manifest(folder: Path) -> tuple[dict[str, Any], Version]:
    """The manifest of the store in a folder, checked against its checksum, with every member as its type says.

    Returns:
        The manifest, and which version of the file it is.

    Raises:
        FileNotFoundError: There is no manifest, so there is no store.
        StoreError: It is something else, damaged or altered.
    """
    file = folder / MANIFEST
    refuse_link(file)
    if not file.is_file():
        unfinished = folder.is_dir() and any(folder.glob(SHARDS))
        hint = (
            "its extraction was interrupted: run the same command again"
            if unfinished
            else "write it with `merc predict`"
        )
        raise FileNotFoundError(f"No feature store at {folder}: expected {MANIFEST} ({hint}).")
    with file.open("rb") as opened:
        data, version = opened.read(), _version(os.fstat(opened.fileno()))
    try:
        manifest = parse_json(data, strict=True)
    except ValueError as error:
        raise StoreError(f"{file} is not a store's manifest ({error}). {AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{file} is not the manifest of a feature store: expected format {FORMAT!r}.")
    if manifest.get("version") not in (VERSION, VERSION_OF_SEQUENCES):
        raise StoreError(
            f"{file} has version {reprlib.repr(manifest.get('version'))}, this merc reads {VERSION} and "
            f"{VERSION_OF_SEQUENCES}: upgrade merc."
        )
    if _sealed(data[: data.rfind(b'"checksum": ')]) != data:
        raise StoreError(f"{file} does not match its checksum: it was damaged or altered. {AGAIN}")
    _check(file, manifest)
    return manifest, version


def replaced_since(folder: Path, version: Version) -> bool:
    """Whether a writer has put another manifest in the place of one that was read."""
    try:
        return _version((folder / MANIFEST).stat()) != version
    except OSError:
        return False


def _version(state: os.stat_result) -> Version:
    return state.st_ino, state.st_mtime_ns, state.st_size


def refuse_link(file: Path) -> None:
    """Refuse a file of a store that lies elsewhere: a store that somebody gave must not show other files.

    Raises:
        StoreError: It is a link.
    """
    if file.is_symlink():
        raise StoreError(
            f"{file} is a link: expected the file itself, a store reads nothing outside its folder. Copy the store "
            "with the files that its links lead to (cp -rL)."
        )


def shard_stem(sha256: str) -> str:
    """The name of a shard, without its suffix: it follows from the content."""
    return f"shard-{sha256[:20]}"


def shard_name(sha256: str) -> str:
    """The name of a shard."""
    return f"{shard_stem(sha256)}.safetensors"


def count_like(value: object) -> bool:
    """Whether a value can be a number of rows or bytes."""
    return type(value) is int and 0 <= value < _LARGEST


def _strings(count: int) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        return isinstance(value, list) and all(
            isinstance(entry, list) and len(entry) == count and all(isinstance(part, str) for part in entry)
            for entry in value
        )

    return fits


def _is_shard(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(sha256 := entry.get("sha256"), str)
        and re.fullmatch("[0-9a-f]{64}", sha256) is not None
        and entry.get("file") == shard_name(sha256)  # so it cannot lead out of the folder
        and count_like(entry.get("rows"))
        and count_like(entry.get("bytes"))
    )


def _is_dtype(value: object) -> bool:
    dtype = getattr(torch, value, None) if isinstance(value, str) else None
    return isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype == torch.uint8)


def _is_digest(value: object) -> bool:
    return value is None or (isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None)


_MEMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "kind": (lambda value: value in get_args(Kind), f"one of {', '.join(get_args(Kind))}"),
    "corpus": (_is_digest, "the digest of a corpus, or null"),
    "dim": (count_like, "a width"),
    "dtype": (_is_dtype, "a floating-point type or uint8"),
    "provenance": (lambda value: isinstance(value, dict), "an object"),
    "keys": (_strings(3), "a list of keys of three strings"),
    "missing": (_strings(4), "a list of keys of three strings, each with a reason"),
    "shards": (
        lambda value: isinstance(value, list) and all(map(_is_shard, value)),
        "a list of shards, each with its SHA-256, the name that follows from it, rows and bytes",
    ),
    "lengths": (lambda value: isinstance(value, list) and all(map(count_like, value)), "a list of numbers of rows"),
}
"""What every member of a manifest must be, and how a message says that."""


def _check(file: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest with a member that is not what it should be: a checksum can be forged."""
    for name, (fits, expected) in _MEMBERS.items():
        if name == "lengths" and manifest["kind"] not in SEQUENCES:
            continue
        found = manifest.get(name)
        if not fits(found):
            raise StoreError(f"{file} has {name} {reprlib.repr(found)}, expected {expected}. {AGAIN}")
