"""FeatureStore: what one stage leaves for the next, as safetensors shards under a checked manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from merc.conversation import UtteranceKey
from merc.files import write_aside, write_json

Kind = Literal["features", "hidden", "logits"]
"""What the rows of a store are: encoder features, a network's hidden states, or class logits."""

MANIFEST = "manifest.json"
_FORMAT = "merc.FeatureStore"
_VERSION = 1


class StoreError(ValueError):
    """A store is damaged, is something else, or does not fit; the message says what to do."""


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FeatureStore:
    """One vector per utterance, by key, with the story of where it came from.

    A store is a folder: safetensors shards named by their content, and ``manifest.json``, which is
    written last and by rename. So a store is whole or absent, whenever its writer is killed. Shards are
    opened memory-mapped; opening checks the manifest's checksum and, unless ``verify`` is off, the
    SHA-256 of every shard.

    Args:
        path: The folder.
        verify: Check the content of the shards, not just their size. Costs one pass over the files.

    Raises:
        FileNotFoundError: There is no store.
        StoreError: It is something else, truncated, or altered.

    Example:
        >>> store = FeatureStore("run/features/text")  # doctest: +SKIP
        >>> features, present = store.gather(conversation.keys)  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        self.kind: Kind = self.manifest["kind"]
        self.dim: int = self.manifest["dim"]
        self.provenance: dict[str, Any] = self.manifest["provenance"]
        self.keys = [UtteranceKey(*key) for key in self.manifest["keys"]]
        self.missing = {UtteranceKey(*key): reason for *key, reason in self.manifest["missing"]}
        self._row = {key: row for row, key in enumerate(self.keys)}
        self._shards = [self._open_shard(entry, verify) for entry in self.manifest["shards"]]
        rows = sum(len(shard) for shard in self._shards)
        if rows != len(self.keys) or len(self._row) != len(self.keys):
            raise StoreError(
                f"{self.path} holds {rows} rows for {len(self._row)} distinct keys of {len(self.keys)}: "
                "the manifest does not fit its shards. Write the store again."
            )

    def _open_shard(self, entry: Mapping[str, Any], verify: bool) -> Tensor:
        file = self.path / entry["file"]
        if not file.is_file():
            raise StoreError(f"{self.path} lacks its shard {file.name}: write the store again.")
        if file.stat().st_size != entry["bytes"]:
            raise StoreError(
                f"{file} has {file.stat().st_size} bytes, expected {entry['bytes']}: it is truncated or altered. "
                "Write the store again."
            )
        if verify and _file_digest(file) != entry["sha256"]:
            raise StoreError(f"{file} does not match its checksum: it was damaged or altered. Write the store again.")
        try:
            with safe_open(str(file), framework="pt") as shard:
                tensor: Tensor = shard.get_tensor("features")
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{file} cannot be read ({error}). Write the store again.") from error
        if tensor.shape != (entry["rows"], self.dim):
            raise StoreError(
                f"{file} holds {tuple(tensor.shape)}, the manifest says {(entry['rows'], self.dim)}: write it again."
            )
        return tensor

    def __len__(self) -> int:
        """Number of utterances that have a vector."""
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        """Whether an utterance has a vector."""
        return key in self._row

    def __getitem__(self, key: UtteranceKey) -> Tensor:
        """The vector ``(d,)`` of one utterance.

        Raises:
            KeyError: The store lacks it; the message gives the recorded reason, if there is one.
        """
        if key not in self._row:
            raise KeyError(f"{self.path} has no {key}: {self.missing.get(key, 'it was never extracted')}.")
        features, _ = self.gather([key])
        return features[0]

    def gather(self, keys: Sequence[UtteranceKey]) -> tuple[Tensor, Tensor]:
        """The vectors of some utterances, in order.

        Keys that stand in the store in the order asked for come as a memory-mapped view, others as a copy.

        Args:
            keys: Utterances to look up.

        Returns:
            Features ``(N, d)``, zero where the store lacks an utterance, and presence ``(N,)``.
        """
        rows = torch.tensor([self._row.get(key, -1) for key in keys], dtype=torch.long)
        present = rows >= 0
        if len(self._shards) == 1 and len(rows) and bool(present.all()):
            first = int(rows[0])
            if torch.equal(rows, torch.arange(first, first + len(rows))):
                return self._shards[0][first : first + len(rows)], present
        dtype = self._shards[0].dtype if self._shards else torch.float32
        features = torch.zeros(len(rows), self.dim, dtype=dtype)
        start = 0
        for shard in self._shards:
            here = (rows >= start) & (rows < start + len(shard))
            if here.any():
                features[here] = shard[rows[here] - start]
            start += len(shard)
        return features, present

    def why_missing(self, keys: Iterable[UtteranceKey]) -> dict[UtteranceKey, str]:
        """The utterances among ``keys`` that the store lacks, each with its reason."""
        return {key: self.missing.get(key, "not in the store") for key in keys if key not in self._row}

    def require(
        self, *, kind: Kind | None = None, dim: int | None = None, classes: Sequence[str] | None = None
    ) -> None:
        """Refuse to be read as something that this store is not.

        Args:
            kind: What the rows must be.
            dim: Width that the reader's config expects.
            classes: For logits, the emotions that the columns must mean.

        Raises:
            StoreError: Something differs; the message gives expected, found and the file.
        """
        if kind is not None and kind != self.kind:
            raise StoreError(f"{self.path} holds {self.kind}, expected {kind}: give the store that fits.")
        if dim is not None and dim != self.dim:
            raise StoreError(
                f"{self.path} has vectors of width {self.dim}, the config expects {dim}: "
                "correct the width in the config or give another store."
            )
        found = self.provenance.get("classes")
        if classes is not None and list(classes) != found:
            raise StoreError(
                f"{self.path} has the classes {found}, expected {list(classes)}: give the store that fits."
            )

    @classmethod
    def write(
        cls,
        path: str | Path,
        keys: Sequence[UtteranceKey],
        features: Tensor,
        *,
        kind: Kind = "features",
        missing: Mapping[UtteranceKey, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> FeatureStore:
        """Write a whole store from memory and open it.

        Args:
            path: Folder of the store; a store that is there is replaced once the new one is whole.
            keys: N utterances.
            features: ``(N, d)``, finite.
            kind: What the rows are.
            missing: Utterances that could not be had, with reasons.
            provenance: Encoder, weights, labels, splits: plain JSON values.

        Raises:
            StoreError: Keys repeat, or features are not finite or do not fit the keys.
        """
        with StoreWriter(path, kind=kind, provenance=provenance, resume=False, shard_rows=max(len(keys), 1)) as writer:
            for key, reason in (missing or {}).items():
                writer.skip(key, reason)
            writer.add(keys, features)
        return cls(path, verify=False)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        unfinished = folder.is_dir() and any(folder.glob("*.safetensors"))
        hint = "its extraction was cut: run the same command again" if unfinished else "write it with `merc predict`"
        raise FileNotFoundError(f"No feature store at {folder}: expected {MANIFEST} ({hint}).")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        checksum = manifest.pop("checksum", None)
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise StoreError(f"{file} is not a store's manifest ({error}). Write the store again.") from error
    if manifest.get("format") != _FORMAT:
        raise StoreError(f"{file} is not the manifest of a feature store: expected format {_FORMAT!r}.")
    if manifest.get("version") != _VERSION:
        raise StoreError(f"{file} has version {manifest.get('version')}, this merc reads {_VERSION}: upgrade merc.")
    if checksum != _digest(manifest):
        raise StoreError(f"{file} does not match its checksum: it was damaged or altered. Write the store again.")
    return manifest


class StoreWriter:
    """Writes a store shard by shard, so that a killed run resumes where it was.

    Use it as a context manager: leaving the block normally commits the manifest, leaving it by an
    exception keeps the full shards for the next run. A writer with the same kind and provenance takes
    over the shards that an earlier, cut run left.

    Args:
        path: Folder of the store.
        kind: What the rows are.
        provenance: Where the rows come from; also decides whether older shards fit.
        shard_rows: Rows a shard.
        resume: Take over the shards of a cut run with the same kind and provenance.

    Attributes:
        done: Keys that need no more work: written to a shard already.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: Kind = "features",
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int = 4096,
        resume: bool = True,
    ) -> None:
        self.path = Path(path)
        self.kind: Kind = kind
        self.provenance = json.loads(json.dumps(dict(provenance or {})))
        self.shard_rows = shard_rows
        self.dim: int | None = None
        self.done: set[UtteranceKey] = set()
        self._fingerprint = _digest([kind, self.provenance])
        self._shards: list[dict[str, Any]] = []
        self._keys: list[UtteranceKey] = []
        self._missing: dict[UtteranceKey, str] = {}
        self._pending: list[tuple[UtteranceKey, Tensor]] = []
        self.path.mkdir(parents=True, exist_ok=True)
        if resume:
            for file in sorted(self.path.glob("*.safetensors")):
                self._take_over(file)

    def _take_over(self, file: Path) -> None:
        try:
            with safe_open(str(file), framework="pt") as shard:
                meta = shard.metadata() or {}
                shape = tuple(shard.get_slice("features").get_shape())
        except (SafetensorError, OSError):
            return  # not a whole shard; commit() removes it
        keys = [UtteranceKey(*key) for key in json.loads(meta.get("keys", "[]"))]
        sha256 = _file_digest(file)
        if meta.get("fingerprint") != self._fingerprint or not sha256.startswith(file.stem):
            return
        if self.done.intersection(keys) or (self.dim is not None and shape[1] != self.dim):
            return
        self.dim = shape[1]
        self._note_shard(file, len(keys), sha256)
        self._keys += keys
        self.done.update(keys)

    def _note_shard(self, file: Path, rows: int, sha256: str) -> None:
        self._shards.append({"file": file.name, "rows": rows, "bytes": file.stat().st_size, "sha256": sha256})

    def add(self, keys: Sequence[UtteranceKey], features: Tensor) -> None:
        """Append rows.

        Args:
            keys: N utterances that the store does not hold yet.
            features: ``(N, d)``, finite.

        Raises:
            StoreError: A key repeats, or features are not finite, of another width, or another number.
        """
        features = features.detach().cpu()
        if features.dim() != 2 or len(features) != len(keys):
            raise StoreError(
                f"Expected features of shape ({len(keys)}, d) for {self.path}, got {tuple(features.shape)}."
            )
        self.dim = features.shape[1] if self.dim is None else self.dim
        if features.shape[1] != self.dim:
            raise StoreError(f"{self.path} has vectors of width {self.dim}, got {features.shape[1]}.")
        finite = torch.isfinite(features).all(dim=1)
        if not finite.all():
            bad = [str(key) for key, fine in zip(keys, finite.tolist(), strict=True) if not fine]
            raise StoreError(
                f"NaN or infinite features for {len(bad)} utterances ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)}): "
                "expected finite numbers. Record such utterances as missing, with the reason."
            )
        for key in keys:
            if key in self.done:
                raise StoreError(f"{self.path} was given {UtteranceKey(*key)} twice: keys must be unique.")
            self._missing.pop(key, None)
            self.done.add(UtteranceKey(*key))
        self._pending += zip((UtteranceKey(*key) for key in keys), features, strict=True)
        while len(self._pending) >= self.shard_rows:
            self._flush(self.shard_rows)

    def skip(self, key: UtteranceKey, reason: str) -> None:
        """Record that an utterance has no vector, and why."""
        if key not in self.done:
            self._missing[UtteranceKey(*key)] = reason

    def _flush(self, rows: int) -> None:
        batch, self._pending = self._pending[:rows], self._pending[rows:]
        if not batch:
            return
        keys = [key for key, _ in batch]
        metadata = {"fingerprint": self._fingerprint, "keys": json.dumps(keys)}
        final: list[Path] = []

        def by_content(file: Path) -> Path:
            # A name made from the content can never overwrite a shard that the present manifest relies on.
            final.append(file.with_name(f"{_file_digest(file)[:20]}.safetensors"))
            return final[0]

        with write_aside(self.path / "shard", rename=by_content) as aside:
            save_file({"features": torch.stack([row for _, row in batch])}, str(aside), metadata=metadata)
        self._note_shard(final[0], len(keys), _file_digest(final[0]))
        self._keys += keys

    def commit(self) -> None:
        """Write what is pending and the manifest; from here on the store can be opened."""
        self._flush(len(self._pending))
        manifest = {
            "format": _FORMAT,
            "version": _VERSION,
            "kind": self.kind,
            "dim": self.dim or 0,
            "provenance": self.provenance,
            "shards": self._shards,
            "keys": [list(key) for key in self._keys],
            "missing": [[*key, reason] for key, reason in self._missing.items()],
        }
        write_json(self.path / MANIFEST, {**manifest, "checksum": _digest(manifest)})
        kept = {shard["file"] for shard in self._shards}
        for file in self.path.glob("*.safetensors"):
            if file.name not in kept:
                file.unlink()

    def __enter__(self) -> StoreWriter:
        """Start writing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit after success; after an exception keep the full shards for the next run."""
        if kind is None:
            self.commit()
