"""FeatureStore: what one stage leaves for the next, as safetensors shards under a checked manifest."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from merc.conversation import UtteranceKey
from merc.files import write_aside

Kind = Literal["features", "hidden", "logits", "faces", "crops", "sound", "speaker"]
"""What the rows of a store are.

``features`` of an encoder, ``hidden`` states of a network, class ``logits``, and the ``speaker`` on the picture (his
track or -1, score, margin to the second best, coverage) are one row an utterance. Sequences of rows are ``faces``
(track, frame at 25 a second, x1, y1, x2, y2 in pixels, detector score), ``crops`` (for every row of faces the grey
mouth, uint8) and ``sound`` (log-mel frames, 100 a second).
"""

SEQUENCES: frozenset[Kind] = frozenset({"faces", "crops", "sound"})
"""The kinds of which an utterance has any number of rows, perhaps none, instead of one."""

MANIFEST = "manifest.json"
_FORMAT = "merc.FeatureStore"
_VERSION, _VERSION_OF_SEQUENCES = 1, 2  # a store of vectors stays readable by every merc
_SHARDS = "shard-*.safetensors"


class StoreError(ValueError):
    """A store is damaged, is something else, or does not fit; the message says what to do."""


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as JSON, one member a line, closed by the checksum of every byte before it."""
    body = "{\n" + "".join(f"{json.dumps(name)}: {json.dumps(value)},\n" for name, value in manifest.items())
    return _sealed(body.encode())


def _sealed(body: bytes) -> bytes:
    return body + b'"checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FeatureStore:
    """One vector or one sequence of vectors per utterance, by key, with the story of where it came from.

    A store is a folder: safetensors shards named by their content, and ``manifest.json``, which is
    written last and by rename. So a store is whole or absent, whenever its writer is killed. Shards are
    opened memory-mapped; opening checks the manifest's checksum and, unless ``verify`` is off, the
    SHA-256 of every shard.

    A store of :data:`SEQUENCES` is read with :meth:`sequence`, any other with :meth:`gather`.

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
        self.dtype: torch.dtype = getattr(torch, self.manifest["dtype"])
        self.provenance: dict[str, Any] = self.manifest["provenance"]
        self.keys = [UtteranceKey(*key) for key in self.manifest["keys"]]
        self.lengths = torch.ones(len(self.keys), dtype=torch.long)
        """Rows of every utterance, ``(N,)``: 1, but in a store of sequences."""
        if self.kind in SEQUENCES:
            self.lengths = torch.tensor(self.manifest["lengths"], dtype=torch.long)
        self._ends = self.lengths.cumsum(0)
        self.missing = {UtteranceKey(*key): reason for *key, reason in self.manifest["missing"]}
        self._row = {key: row for row, key in enumerate(self.keys)}
        self._shards: list[tuple[int, Tensor]] = []
        """First row and content of every shard."""
        rows = 0
        for entry in self.manifest["shards"]:
            self._shards.append((rows, self._open_shard(entry, verify)))
            rows += entry["rows"]
        if rows != int(self.lengths.sum()) or len(self._row) != len(self.keys) or not self._cut_between_utterances():
            raise StoreError(
                f"{self.path} holds {rows} rows for {len(self._row)} distinct keys of {len(self.keys)}: "
                "the manifest does not fit its shards. Write the store again."
            )

    def _cut_between_utterances(self) -> bool:
        """Whether there is a length for every key, and no utterance lies in two shards."""
        if self.kind not in SEQUENCES:
            return True
        borders = torch.tensor([first for first, _ in self._shards[1:]], dtype=torch.long)
        fitting = len(self.lengths) == len(self.keys) and bool((self.lengths >= 0).all())
        return fitting and bool(torch.isin(borders, torch.cat([torch.zeros(1, dtype=torch.long), self._ends])).all())

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
        if tensor.shape != (entry["rows"], self.dim) or tensor.dtype != self.dtype:
            raise StoreError(
                f"{file} holds {tuple(tensor.shape)} of {tensor.dtype}, the manifest says "
                f"{(entry['rows'], self.dim)} of {self.dtype}: write the store again."
            )
        return tensor

    @property
    def digest(self) -> str:
        """A short digest of what the store holds, by which later stages name their inputs."""
        return _digest([self.manifest["keys"], self.manifest["shards"]])[:16]

    def __len__(self) -> int:
        """Number of utterances that the store holds."""
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        """Whether the store holds an utterance."""
        return key in self._row

    def __getitem__(self, key: UtteranceKey) -> Tensor:
        """The vector ``(d,)`` of one utterance.

        Raises:
            KeyError: The store lacks it; the message gives the recorded reason, if there is one.
            StoreError: The store holds sequences.
        """
        self._place(key)
        features, _ = self.gather([key])
        return features[0]

    def _place(self, key: UtteranceKey) -> int:
        if key not in self._row:
            raise KeyError(f"{self.path} has no {key}: {self.missing.get(key, 'it was never extracted')}.")
        return self._row[key]

    def sequence(self, key: UtteranceKey) -> Tensor:
        """The rows ``(n, d)`` of one utterance, as a memory-mapped view that must not be written to.

        A store with one row an utterance gives that row, ``(1, d)``.

        Raises:
            KeyError: The store lacks it; the message gives the recorded reason, if there is one.
        """
        place = self._place(key)
        end, length = int(self._ends[place]), int(self.lengths[place])
        if length == 0:
            return torch.zeros(0, self.dim, dtype=self.dtype)
        first, shard = self._shards[bisect_right(self._shards, end - length, key=itemgetter(0)) - 1]
        return shard[end - length - first : end - first]

    def gather(self, keys: Sequence[UtteranceKey]) -> tuple[Tensor, Tensor]:
        """The vectors of some utterances, in order.

        Keys that stand side by side in one shard, in the order asked for, come as a memory-mapped view
        that must not be written to; others come as a copy.

        Args:
            keys: Utterances to look up.

        Returns:
            Features ``(N, d)``, zero where the store lacks an utterance, and presence ``(N,)``.

        Raises:
            StoreError: The store holds sequences.
        """
        if self.kind in SEQUENCES:
            raise StoreError(
                f"{self.path} holds {self.kind}, a sequence of rows an utterance: expected a store with one row an "
                "utterance. Read it with sequence(key), or give another store."
            )
        rows = torch.tensor([self._row.get(key, -1) for key in keys], dtype=torch.long)
        present = rows >= 0
        for start, shard in self._shards:
            local = rows - start
            if len(rows) and bool(((local >= 0) & (local < len(shard))).all()):
                return _take(shard, local), present
        features = torch.zeros(len(rows), self.dim, dtype=self.dtype)
        for start, shard in self._shards:
            places = ((rows >= start) & (rows < start + len(shard))).nonzero().squeeze(1)
            features.index_copy_(0, places, shard.index_select(0, rows[places] - start))
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
            dim: Width that the reader expects.
            classes: For logits, the emotions that the columns must mean.

        Raises:
            StoreError: Something differs; the message gives expected, found and the file.
        """
        if kind is not None and kind != self.kind:
            raise StoreError(f"{self.path} holds {self.kind}, expected {kind}: give the store that fits.")
        if dim is not None and not len(self) and not self.dim:
            why = next(iter(self.missing.values()), "nothing was asked for")
            raise StoreError(
                f"{self.path} holds nothing: {len(self.missing)} utterances are missing, the first because: {why}. "
                "Mend what the stage before read, and run it again."
            )
        if dim is not None and dim != self.dim:
            raise StoreError(
                f"{self.path} has vectors of width {self.dim}, expected {dim}: "
                "give a store like the one that the network was trained on, or train a network on this one."
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
        lengths: Sequence[int] | Tensor | None = None,
        missing: Mapping[UtteranceKey, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> FeatureStore:
        """Write a whole store from memory and open it.

        Args:
            path: Folder of the store; a store that is there is replaced once the new one is whole.
            keys: N utterances.
            features: ``(N, d)``, finite; for sequences the rows of all utterances, one after the other.
            kind: What the rows are.
            lengths: For sequences, how many rows each utterance has.
            missing: Utterances that could not be had, with reasons.
            provenance: Encoder, weights, labels, splits: plain JSON values.

        Raises:
            StoreError: Keys repeat, or features are not finite or do not fit the keys.
        """
        whole = {"shard_rows": max(len(keys), 1), "shard_bytes": max(features.nbytes, 1)}
        with StoreWriter(path, kind=kind, provenance=provenance, resume=False, **whole) as writer:
            for key, reason in (missing or {}).items():
                writer.skip(key, reason)
            writer.add(keys, features, lengths)
        return cls(path, verify=False)


def _take(shard: Tensor, rows: Tensor) -> Tensor:
    first = int(rows[0])
    if torch.equal(rows, torch.arange(first, first + len(rows))):
        return shard[first : first + len(rows)]
    return shard.index_select(0, rows)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        unfinished = folder.is_dir() and any(folder.glob(_SHARDS))
        hint = "its extraction was cut: run the same command again" if unfinished else "write it with `merc predict`"
        raise FileNotFoundError(f"No feature store at {folder}: expected {MANIFEST} ({hint}).")
    data = file.read_bytes()
    try:
        manifest = json.loads(data.decode())
    except ValueError as error:
        raise StoreError(f"{file} is not a store's manifest ({error}). Write the store again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise StoreError(f"{file} is not the manifest of a feature store: expected format {_FORMAT!r}.")
    if manifest.get("version") not in (_VERSION, _VERSION_OF_SEQUENCES):
        raise StoreError(
            f"{file} has version {manifest.get('version')}, this merc reads {_VERSION} and {_VERSION_OF_SEQUENCES}: "
            "upgrade merc."
        )
    if _sealed(data[: data.rfind(b'"checksum": ')]) != data:
        raise StoreError(f"{file} does not match its checksum: it was damaged or altered. Write the store again.")
    return manifest


@dataclass(frozen=True)
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

    Several processes may write parts of one store, no utterance in two of them: each makes its writer
    before any of them adds, and flushes in the end; then one of them calls :meth:`take_parts` and commits.

    Args:
        path: Folder of the store.
        kind: What the rows are.
        provenance: Where the rows come from; also decides whether older shards fit.
        shard_rows: Utterances a shard.
        shard_bytes: Bytes after which a shard is closed though it has fewer utterances.
        resume: Take over the shards of an earlier run with the same kind and provenance.

    Raises:
        StoreError: The provenance is not plain JSON.

    Attributes:
        done: Keys that the store holds: of shards that were taken over, and added.
        settled: Those, and what a run that was cut has recorded as missing: nothing of it needs more work.
            What a finished store lacks is not settled, so that a clip that was mended meanwhile is tried again.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: Kind = "features",
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int = 4096,
        shard_bytes: int = 2**26,
        resume: bool = True,
    ) -> None:
        self.path = Path(path)
        self.kind: Kind = kind
        try:
            self.provenance: dict[str, Any] = json.loads(json.dumps(dict(provenance or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise StoreError(f"The provenance of {self.path} must be plain JSON values: {error}.") from error
        self.shard_rows = shard_rows
        self.shard_bytes = shard_bytes
        self.dim: int | None = None
        self.dtype: torch.dtype | None = None
        self.done: set[UtteranceKey] = set()
        self._fingerprint = _digest([kind, self.provenance])
        self._shards: list[dict[str, Any]] = []
        self._keys: list[UtteranceKey] = []
        self._lengths: list[int] = []
        self._missing: dict[UtteranceKey, str] = {}
        self._pending_keys: list[UtteranceKey] = []
        self._pending_lengths: list[int] = []
        self._pending_rows: list[Tensor] = []
        self._pending_missing: dict[UtteranceKey, str] = {}
        self.pending_bytes = 0
        """Bytes of rows in memory that are in no shard yet."""
        self._order = 0
        self.path.mkdir(parents=True, exist_ok=True)
        cut = not (self.path / MANIFEST).is_file()
        if resume:
            self.take_parts()
        self.settled = self.done | set(self._missing if cut else ())

    def take_parts(self) -> None:
        """Take over what other writers of this kind and provenance have flushed into the folder."""
        known = {shard["file"] for shard in self._shards}
        files = [file for file in self.path.glob(_SHARDS) if file.name not in known]
        parts = [part for file in files if (part := self._part(file))]
        for part in sorted(parts, key=lambda part: (part.order, part.entry["file"])):
            self._take_over(part)

    def _part(self, file: Path) -> _Part | None:
        """What a shard holds, if it is whole and fits."""
        sha256 = _file_digest(file)
        if file.stem != _shard_stem(sha256):
            return None  # damaged; commit() removes it
        with safe_open(str(file), framework="pt") as shard:
            about = json.loads(shard.metadata()["merc"])
            features: Tensor = shard.get_tensor("features")
        if about["fingerprint"] != self._fingerprint:
            return None
        keys = [UtteranceKey(*key) for key in about["keys"]]
        return _Part(
            order=about["order"],
            entry={"file": file.name, "rows": len(features), "bytes": file.stat().st_size, "sha256": sha256},
            keys=keys,
            lengths=about.get("lengths", [1] * len(keys)),
            missing={UtteranceKey(*key): reason for *key, reason in about.get("missing", [])},
            dim=features.shape[1],
            dtype=features.dtype,
        )

    def _take_over(self, part: _Part) -> None:
        if part.keys:
            dim, dtype = self.dim or part.dim, self.dtype or part.dtype
            if self.done.intersection(part.keys) or (part.dim, part.dtype) != (dim, dtype):
                return
            self.dim, self.dtype = dim, dtype
            self._note_shard(part.order, part.entry, part.keys, part.lengths)
            self.done.update(part.keys)
        self._missing = {k: v for k, v in {**part.missing, **self._missing}.items() if k not in self.done}

    def _note_shard(self, order: int, entry: dict[str, Any], keys: list[UtteranceKey], lengths: list[int]) -> None:
        self._shards.append(entry)
        self._keys += keys
        self._lengths += lengths
        self._order = order + 1

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
                f"{self.path} is of kind {self.kind}, which has {'lengths' if sequences else 'one row an utterance'}: "
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
        if key not in self.done:
            self._missing[_checked(key)] = reason
            self._pending_missing[key] = reason
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
        if len(self._pending_rows) != 1:
            self._pending_rows = [torch.cat(self._pending_rows) if self._pending_rows else torch.zeros(0, 0)]
        keys, lengths = self._pending_keys[:count], self._pending_lengths[:count]
        rows, rest = self._pending_rows[0][: sum(lengths)], self._pending_rows[0][sum(lengths) :]
        about: dict[str, Any] = {"fingerprint": self._fingerprint, "order": self._order, "keys": keys}
        if self.kind in SEQUENCES:
            about["lengths"] = lengths
        if self._pending_missing:
            about["missing"] = [[*key, reason] for key, reason in self._pending_missing.items()]
        # One entry: safetensors keeps several in no fixed order, and equal content must give an equal name.
        metadata = {"merc": json.dumps(about)}
        entry: dict[str, Any] = {}

        def by_content(aside: Path) -> Path:
            # A name made from the content can never overwrite a shard that the present manifest relies on.
            sha256 = _file_digest(aside)
            name = f"{_shard_stem(sha256)}.safetensors"
            entry.update(file=name, rows=len(rows), bytes=aside.stat().st_size, sha256=sha256)
            return aside.with_name(name)

        with write_aside(self.path / "shard", rename=by_content) as aside:
            # Not save_file: it writes a temporary file of its own beside ours, which a kill would leave for good.
            aside.write_bytes(save({"features": rows}, metadata=metadata))
        if keys:  # a shard that only tells what is missing is of use after a kill, not to readers
            self._note_shard(self._order, entry, keys, lengths)
        self._pending_keys, self._pending_lengths = self._pending_keys[count:], self._pending_lengths[count:]
        self._pending_rows, self._pending_missing = [rest] if len(self._pending_keys) else [], {}
        self.pending_bytes = rest.nbytes

    def commit(self) -> None:
        """Write what is pending and the manifest; from here on the store can be opened.

        Raises:
            StoreError: Another run has removed a shard of this one.
        """
        if self._pending_keys:
            self.flush()
        kept = {shard["file"] for shard in self._shards}
        lost = sorted(name for name in kept if not (self.path / name).is_file())
        if lost:
            raise StoreError(
                f"{self.path} has lost {', '.join(lost)} while it was written: let one run at a time write a store. "
                "Run the same command again."
            )
        sequences = self.kind in SEQUENCES
        manifest = {
            "format": _FORMAT,
            "version": _VERSION_OF_SEQUENCES if sequences else _VERSION,
            "kind": self.kind,
            "dim": self.dim or 0,
            "dtype": str(self.dtype or torch.float32).removeprefix("torch."),
            "provenance": self.provenance,
            "missing": [[*key, reason] for key, reason in sorted(self._missing.items())],
            "shards": self._shards,
            "keys": self._keys,
            **({"lengths": self._lengths} if sequences else {}),
        }
        with write_aside(self.path / MANIFEST) as aside:
            aside.write_bytes(_manifest_bytes(manifest))
        for file in [*self.path.glob(_SHARDS), *self.path.glob(".shard.*.tmp"), *self.path.glob(f".{MANIFEST}.*.tmp")]:
            if file.name not in kept:
                file.unlink()

    def __enter__(self) -> StoreWriter:
        """Start writing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit after success; after an exception keep what was added for the next run."""
        if kind is None:
            self.commit()
        else:
            with suppress(OSError, SafetensorError):  # a full disk, perhaps: the first error is the one to see
                self.flush()


@dataclass(frozen=True)
class _Part:
    """A shard that another writer has left: its place in the order of writing, and what it holds."""

    order: int
    entry: dict[str, Any]
    keys: list[UtteranceKey]
    lengths: list[int]
    missing: dict[UtteranceKey, str]
    dim: int
    dtype: torch.dtype


def _checked(key: UtteranceKey) -> UtteranceKey:
    if len(key) != 3 or not all(isinstance(part, str) for part in key):
        raise StoreError(f"Expected a key of three strings (partition, dialogue, utterance), got {tuple(key)!r}.")
    return UtteranceKey(*key)


def _shard_stem(sha256: str) -> str:
    return f"shard-{sha256[:20]}"
