"""StoreWriter: safetensors shards, one by one, and in the end the manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from merc.conversation import UtteranceKey
from merc.files import parse_json, write_aside
from merc.store.kinds import SEQUENCES, Kind, StoreError
from merc.store.lock import take_lock
from merc.store.manifest import (
    FORMAT,
    MANIFEST,
    SHARDS,
    VERSION,
    VERSION_OF_SEQUENCES,
    count_like,
    digest_of,
    file_digest,
    manifest_bytes,
    shard_name,
)


@dataclass(frozen=True, eq=False)
class Sequences:
    """The rows of some utterances for a store of :data:`SEQUENCES`, and why others have none.

    Args:
        keys: N utterances.
        rows: For each of them its rows ``(n, d)``, perhaps none.
        missing: Utterances that the store is to lack, with reasons.
    """

    keys: Sequence[UtteranceKey]
    rows: Sequence[Tensor]
    missing: Mapping[UtteranceKey, str] = field(default_factory=dict)


class StoreWriter:
    """Writes a store shard by shard, so that a killed run resumes where it was.

    Use it as a context manager: leaving the block normally commits the manifest, leaving it by an
    exception (Ctrl-C among them) keeps what was added for the next run; a killed run leaves its full
    shards. A writer with the same kind and provenance takes those over. Until the commit, a store that
    was there before stays whole; after it, only its own shards are removed, never anybody's other files.

    A store has one writer at a time. It holds the lock of the folder until it has committed, was closed,
    or its process has ended in whatever way; a second one waits 10 seconds and is then refused. Readers need no lock.

    Several processes may write parts of one store, no utterance in two of them. One of them is the writer,
    and makes it first. The others make theirs with ``part=True``, before any of them adds, and flush in the end; then
    the writer calls :meth:`take_parts` and commits.

    Args:
        path: Folder of the store.
        kind: What the rows are.
        corpus: :attr:`merc.conversation.Corpus.digest` of the corpus whose keys the store uses, if it is known.
        provenance: Where the rows come from; also decides whether older shards fit.
        shard_rows: Utterances per shard.
        shard_bytes: Bytes after which a shard is closed though it has fewer utterances.
        resume: Take over the shards of an earlier run with the same kind and provenance.
        part: Write shards only, for another process that is the writer and holds the lock.

    Raises:
        StoreError: The provenance is not plain JSON, or another writer is at work in the folder.

    Attributes:
        done: Keys that the store holds: of shards that were taken over, and added.
        settled: Those, and what an interrupted run has recorded as missing: nothing of it needs more work.
            What a finished store lacks is not settled, so that a clip that was mended meanwhile is tried again.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: Kind = "features",
        corpus: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int = 4096,
        shard_bytes: int = 2**26,
        resume: bool = True,
        part: bool = False,
    ) -> None:
        self.path = Path(path)
        self.kind: Kind = kind
        self.corpus = corpus
        try:
            self.provenance: dict[str, Any] = json.loads(json.dumps(dict(provenance or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise StoreError(f"The provenance of {self.path} must be plain JSON values: {error}.") from error
        self.shard_rows = shard_rows
        self.shard_bytes = shard_bytes
        self.dim: int | None = None
        self.dtype: torch.dtype | None = None
        self.done: set[UtteranceKey] = set()
        self._fingerprint = digest_of([kind, self.provenance])
        self._parts: list[_Part] = []
        self._missing: dict[UtteranceKey, str] = {}
        self._pending_keys: list[UtteranceKey] = []
        self._pending_lengths: list[int] = []
        self._pending_rows: list[Tensor] = []
        self._pending_missing: dict[UtteranceKey, str] = {}
        self.pending_bytes = 0
        """Bytes of rows in memory that are in no shard yet."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock: FileLock | None = None if part else take_lock(self.path)
        self._open = True
        interrupted = not (self.path / MANIFEST).is_file()
        if resume:
            self.take_parts()
        self.settled = self.done | set(self._missing if interrupted else ())

    def take_parts(self) -> None:
        """Take over what other writers of this kind and provenance have flushed into the folder."""
        known = {part.entry["file"] for part in self._parts}
        files = [file for file in self.path.glob(SHARDS) if file.name not in known]
        parts = [part for file in files if (part := self._part(file))]
        for part in sorted(parts, key=_Part.place):
            self._take_over(part)

    def _part(self, file: Path) -> _Part | None:
        """What a shard holds, if it is whole, fits and is not made by somebody else; commit() removes any other."""
        try:
            sha256 = file_digest(file)
            if file.is_symlink() or file.name != shard_name(sha256):
                return None
            with safe_open(str(file), framework="pt") as shard:
                about = parse_json(shard.metadata()["merc"], strict=True)
                features: Tensor = shard.get_tensor("features")
            if about["fingerprint"] != self._fingerprint or features.dim() != 2:
                return None
            keys = [_checked(UtteranceKey(*key)) for key in about["keys"]]
            part = _Part(
                order=about["order"],
                entry={"file": file.name, "rows": len(features), "bytes": file.stat().st_size, "sha256": sha256},
                keys=keys,
                lengths=about["lengths"] if self.kind in SEQUENCES else [1] * len(keys),
                missing={_checked(UtteranceKey(*key)): str(reason) for *key, reason in about.get("missing", [])},
                dim=features.shape[1],
                dtype=features.dtype,
            )
            return part if part.holds_together() else None
        except (OSError, RuntimeError, SafetensorError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def _take_over(self, part: _Part) -> None:
        if part.keys:
            dim, dtype = self.dim or part.dim, self.dtype or part.dtype
            if self.done.intersection(part.keys) or (part.dim, part.dtype) != (dim, dtype):
                return
            self.dim, self.dtype = dim, dtype
            self._parts.append(part)
            self.done.update(part.keys)
        self._missing = {k: v for k, v in {**part.missing, **self._missing}.items() if k not in self.done}

    def _next_order(self) -> int:
        """The first place that no shard has: a shard that is made again gets its old place, and so its old name."""
        taken = {part.order for part in self._parts}
        return next(order for order in range(len(taken) + 1) if order not in taken)

    def add(
        self, keys: Sequence[UtteranceKey], features: Tensor, lengths: Sequence[int] | Tensor | None = None
    ) -> None:
        """Append rows.

        The rows are copied, so the caller may use its buffer again. If anything is wrong with them,
        none is taken.

        Args:
            keys: N utterances that the store does not hold yet.
            features: ``(N, d)``, finite floating-point numbers; for :data:`SEQUENCES` ``(sum of lengths, d)``,
                the rows of one utterance after those of the other, which may be uint8.
            lengths: For sequences ``(N,)``, how many rows each utterance has, perhaps 0.

        Raises:
            StoreError: A key repeats or is not made of strings, or features are not finite, of another
                width or type than before, or of another number than the keys or lengths say.
        """
        counts = self._counts(keys, features, lengths)
        dim, dtype = self.dim or features.shape[1], self.dtype or features.dtype
        if (features.shape[1], features.dtype) != (dim, dtype):
            raise StoreError(
                f"{self.path} holds vectors of width {dim} and type {dtype}, got width {features.shape[1]} and type "
                f"{features.dtype}: give all utterances the same, or remove the folder to start again."
            )
        named = [_checked(key) for key in keys]
        repeated = next((key for key, count in Counter(named).items() if count > 1 or key in self.done), None)
        if repeated is not None:
            raise StoreError(f"{self.path} was given {repeated} twice: keys must be unique.")
        finite = torch.isfinite(features).all(dim=1)
        if not finite.all():
            owners = torch.arange(len(named)).repeat_interleave(torch.tensor(counts))
            bad = [str(named[owner]) for owner in sorted(set(owners[~finite.cpu()].tolist()))]
            raise StoreError(
                f"NaN or infinite features for {len(bad)} utterances ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)}) "
                f"of {self.path}: expected finite numbers. Record such utterances as missing, with the reason."
            )
        self.dim, self.dtype = dim, dtype
        self.done.update(named)
        self.settled.update(named)
        for key in named:
            self._missing.pop(key, None)
            self._pending_missing.pop(key, None)
        self._pending_keys += named
        self._pending_lengths += counts
        self._pending_rows.append(features.detach().to("cpu", copy=True))
        self.pending_bytes += features.nbytes
        while len(self._pending_keys) >= self.shard_rows or self.pending_bytes >= self.shard_bytes:
            self._write_shard(self._fitting())

    def _counts(
        self, keys: Sequence[UtteranceKey], features: Tensor, lengths: Sequence[int] | Tensor | None
    ) -> list[int]:
        """Rows of every utterance, checked against what is given."""
        sequences = self.kind in SEQUENCES
        if sequences != (lengths is not None):
            raise StoreError(
                f"{self.path} is of kind {self.kind}, which has {'lengths' if sequences else 'one row per utterance'}: "
                f"got {'none' if lengths is None else 'lengths'}."
            )
        counts: list[int] = [1] * len(keys) if lengths is None else torch.as_tensor(lengths).tolist()
        fitting = len(counts) == len(keys) and min(counts, default=0) >= 0 and features.shape[:1] == (sum(counts),)
        typed = features.is_floating_point() or (sequences and features.dtype == torch.uint8)
        if features.dim() != 2 or not fitting or not typed:
            expected = "floating-point or uint8 features" if sequences else "floating-point features"
            raise StoreError(
                f"Expected {expected} of shape ({sum(counts)}, d) for {len(keys)} utterances of {self.path}, "
                f"got {features.dtype} of shape {tuple(features.shape)} and {len(counts)} lengths."
            )
        return counts

    @property
    def pending(self) -> int:
        """Number of utterances in memory that are in no shard yet."""
        return len(self._pending_keys)

    def skip(self, key: UtteranceKey, reason: str) -> None:
        """Record that the store lacks an utterance, and why."""
        if _checked(key) not in self.done:
            if self._missing.get(key) != reason:  # else a shard says so already
                self._missing[key] = self._pending_missing[key] = reason
            self.settled.add(key)

    def flush(self) -> None:
        """Write all that is pending to a shard, also what is recorded as missing."""
        if self._pending_keys or self._pending_missing:
            self._write_shard(len(self._pending_keys))

    def _fitting(self) -> int:
        """How many of the pending utterances make the next shard: those up to the first limit."""
        count = min(self.shard_rows, len(self._pending_keys))
        row = (self.dim or 0) * torch.empty(0, dtype=self.dtype).element_size()
        if self.kind not in SEQUENCES:
            return max(1, min(count, -(-self.shard_bytes // max(row, 1))))
        held = 0
        for index, length in enumerate(self._pending_lengths[:count]):
            held += length * row
            if held >= self.shard_bytes:
                return index + 1
        return count

    def _write_shard(self, count: int) -> None:
        """Write the first of the pending utterances to a shard."""
        self._require_open()
        if len(self._pending_rows) != 1:
            self._pending_rows = [torch.cat(self._pending_rows) if self._pending_rows else torch.zeros(0, 0)]
        keys, lengths = self._pending_keys[:count], self._pending_lengths[:count]
        rows, rest = self._pending_rows[0][: sum(lengths)], self._pending_rows[0][sum(lengths) :]
        order, missing = self._next_order(), self._pending_missing
        about: dict[str, Any] = {"fingerprint": self._fingerprint, "order": order, "keys": keys}
        if self.kind in SEQUENCES:
            about["lengths"] = lengths
        if missing:
            about["missing"] = [[*key, reason] for key, reason in missing.items()]
        # One entry: safetensors keeps several in no fixed order, and equal content must give an equal name.
        metadata = {"merc": json.dumps(about)}
        entry: dict[str, Any] = {}

        def by_content(aside: Path) -> Path:
            # A name made from the content can never overwrite a shard that the present manifest relies on.
            sha256 = file_digest(aside)
            name = shard_name(sha256)
            entry.update(file=name, rows=len(rows), bytes=aside.stat().st_size, sha256=sha256)
            return aside.with_name(name)

        with write_aside(self.path / "shard", rename=by_content) as aside:
            # Not save_file: it writes a temporary file of its own beside ours, which a kill would leave for good.
            aside.write_bytes(save({"features": rows}, metadata=metadata))
        if keys:  # a shard that only tells what is missing is of use after a kill, not to readers
            self._parts.append(_Part(order, entry, keys, lengths, missing, rows.shape[1], rows.dtype))
        self._pending_keys, self._pending_lengths = self._pending_keys[count:], self._pending_lengths[count:]
        self._pending_rows, self._pending_missing = [rest] if len(self._pending_keys) else [], {}
        self.pending_bytes = rest.nbytes

    def commit(self) -> None:
        """Write what is pending and the manifest, and let go of the lock; from here on the store can be opened.

        Raises:
            StoreError: A shard is gone, or this writer only writes parts.
        """
        self._require_open()
        if self._lock is None:
            raise StoreError(f"{self.path} is committed by its writer: this one writes parts of it (part=True).")
        if self._pending_keys:
            self.flush()
        parts = sorted(self._parts, key=_Part.place)
        kept = {part.entry["file"] for part in parts}
        lost = sorted(name for name in kept if not (self.path / name).is_file())
        if lost:
            raise StoreError(
                f"{self.path} has lost {', '.join(lost)} while it was written: something else removes files there. "
                "Run the same command again."
            )
        sequences = self.kind in SEQUENCES
        manifest = {
            "format": FORMAT,
            "version": VERSION_OF_SEQUENCES if sequences else VERSION,
            "kind": self.kind,
            "corpus": self.corpus,
            "dim": self.dim or 0,
            "dtype": str(self.dtype or torch.float32).removeprefix("torch."),
            "provenance": self.provenance,
            "missing": [[*key, reason] for key, reason in sorted(self._missing.items())],
            "shards": [part.entry for part in parts],
            "keys": [key for part in parts for key in part.keys],
            **({"lengths": [length for part in parts for length in part.lengths]} if sequences else {}),
        }
        with write_aside(self.path / MANIFEST) as aside:
            aside.write_bytes(manifest_bytes(manifest))
        for file in [*self.path.glob(SHARDS), *self.path.glob(".shard.*.tmp"), *self.path.glob(f".{MANIFEST}.*.tmp")]:
            if file.name not in kept:
                file.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let another writer have the folder; what was flushed is kept for it. Nothing can be added any more."""
        self._open = False
        if self._lock is not None:
            self._lock.release()

    def _require_open(self) -> None:
        if not self._open:
            raise StoreError(f"{self.path} was committed or closed by this writer: make a new one to write more.")

    def __enter__(self) -> StoreWriter:
        """Start writing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit after success; after an exception keep what was added for the next run."""
        try:
            if kind is None:
                self.commit()
            else:
                with suppress(OSError, SafetensorError):  # a full disk, perhaps: the first error is the one to see
                    self.flush()
        finally:
            self.close()


@dataclass(frozen=True)
class _Part:
    """A shard: its place in the order of writing, its entry in the manifest, and what it holds."""

    order: int
    entry: dict[str, Any]
    keys: list[UtteranceKey]
    lengths: list[int]
    missing: dict[UtteranceKey, str]
    dim: int
    dtype: torch.dtype

    def place(self) -> tuple[int, str]:
        """What shards are sorted by; processes that write parts of one store have the same orders."""
        return self.order, self.entry["file"]

    def holds_together(self) -> bool:
        """Whether the numbers fit each other, as they do in every shard that a writer has made."""
        counted = count_like(self.order) and all(map(count_like, self.lengths))
        unique = len(self.lengths) == len(self.keys) == len(set(self.keys))
        return counted and unique and sum(self.lengths) == self.entry["rows"]


def _checked(key: UtteranceKey) -> UtteranceKey:
    if len(key) != 3 or not all(isinstance(part, str) for part in key):
        raise StoreError(f"Expected a key of three strings (partition, dialogue, utterance), got {tuple(key)!r}.")
    return UtteranceKey(*key)
