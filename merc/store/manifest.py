"""The manifest of a store: JSON with a checksum, and the names of its shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merc.store.kinds import StoreError

MANIFEST = "manifest.json"
FORMAT = "merc.FeatureStore"
VERSION, VERSION_OF_SEQUENCES = 1, 2  # a store of vectors stays readable by every merc
SHARDS = "shard-*.safetensors"


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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the store in a folder, checked against its checksum.

    Raises:
        FileNotFoundError: There is no manifest, so there is no store.
        StoreError: It is something else, damaged or altered.
    """
    file = folder / MANIFEST
    if not file.is_file():
        unfinished = folder.is_dir() and any(folder.glob(SHARDS))
        hint = (
            "its extraction was interrupted: run the same command again"
            if unfinished
            else "write it with `merc predict`"
        )
        raise FileNotFoundError(f"No feature store at {folder}: expected {MANIFEST} ({hint}).")
    data = file.read_bytes()
    try:
        manifest = json.loads(data.decode())
    except ValueError as error:
        raise StoreError(f"{file} is not a store's manifest ({error}). Write the store again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{file} is not the manifest of a feature store: expected format {FORMAT!r}.")
    if manifest.get("version") not in (VERSION, VERSION_OF_SEQUENCES):
        raise StoreError(
            f"{file} has version {manifest.get('version')}, this merc reads {VERSION} and {VERSION_OF_SEQUENCES}: "
            "upgrade merc."
        )
    if _sealed(data[: data.rfind(b'"checksum": ')]) != data:
        raise StoreError(f"{file} does not match its checksum: it was damaged or altered. Write the store again.")
    return manifest


def shard_stem(sha256: str) -> str:
    """The name of a shard, without its suffix: it follows from the content."""
    return f"shard-{sha256[:20]}"
