"""FeatureStore: what one stage leaves for the next, as safetensors shards under a checked manifest."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from merc.conversation import Corpus, UtteranceKey
from merc.store.kinds import SEQUENCES, Kind, StoreError
from merc.store.manifest import AGAIN, digest_of, file_digest, read_manifest, refuse_link, replaced_since
from merc.store.writer import StoreWriter


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
        while True:
            self.manifest, version = read_manifest(self.path)
            try:
                self._open(verify)
            except StoreError:
                # A writer that has replaced the store meanwhile has removed the shards that this manifest names. Each
                # further attempt needs another commit, so this ends.
                if not replaced_since(self.path, version):
                    raise
            else:
                return

    def _open(self, verify: bool) -> None:
        """Take the manifest's word, and open the shards."""
        self.kind: Kind = self.manifest["kind"]
        self.corpus: str | None = self.manifest.get("corpus")
        """The digest of the corpus whose keys the store uses, if it is known."""
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
        if rows != sum(self.lengths.tolist()) or len(self._row) != len(self.keys) or not self._cut_between_utterances():
            raise StoreError(
                f"{self.path} holds {rows} rows for {len(self._row)} distinct keys of {len(self.keys)}: "
                f"the manifest does not fit its shards. {AGAIN}"
            )

    def _cut_between_utterances(self) -> bool:
        """Whether there is a length for every key, and no utterance lies in two shards."""
        if self.kind not in SEQUENCES:
            return True
        borders = torch.tensor([first for first, _ in self._shards[1:]], dtype=torch.long)
        if len(self.lengths) != len(self.keys):
            return False
        return bool(torch.isin(borders, torch.cat([torch.zeros(1, dtype=torch.long), self._ends])).all())

    def _open_shard(self, entry: Mapping[str, Any], verify: bool) -> Tensor:
        file = self.path / entry["file"]
        refuse_link(file)
        if not file.is_file():
            raise StoreError(f"{self.path} lacks its shard {file.name}. {AGAIN}")
        try:
            size = file.stat().st_size
            if size != entry["bytes"]:
                raise StoreError(
                    f"{file} has {size} bytes, expected {entry['bytes']}: it is truncated or altered. {AGAIN}"
                )
            if verify and file_digest(file) != entry["sha256"]:
                raise StoreError(f"{file} does not match its checksum: it was damaged or altered. {AGAIN}")
            with safe_open(str(file), framework="pt") as shard:
                tensor: Tensor = shard.get_tensor("features")
        except (SafetensorError, OSError, RuntimeError) as error:  # the last from a file that goes while it is mapped
            raise StoreError(f"{file} cannot be read ({error}). {AGAIN}") from error
        if tensor.shape != (entry["rows"], self.dim) or tensor.dtype != self.dtype:
            raise StoreError(
                f"{file} holds {tuple(tensor.shape)} of {tensor.dtype}, the manifest says "
                f"{(entry['rows'], self.dim)} of {self.dtype}. {AGAIN}"
            )
        return tensor

    @property
    def digest(self) -> str:
        """A short digest of what the store holds, by which later stages name their inputs."""
        return digest_of([self.manifest["keys"], self.manifest["shards"]])[:16]

    @property
    def dimensions(self) -> list[str]:
        """The numbers, such as ``valence``, that a store of logits holds behind those of the emotions; or none."""
        return list(self.provenance.get("values", []))

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

        A store with one row per utterance gives that row, ``(1, d)``.

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
                f"{self.path} holds {self.kind}, a sequence of rows per utterance: expected a store with one row per "
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

    def require_corpus(self, corpus: Corpus) -> None:
        """Refuse to be read with another corpus than that whose keys the store uses.

        Corpora of one name may count utterances by position or by id, or dialogues in another order. Keys that are the
        same by accident would give some utterances the vectors of others. A part of the corpus will do, in whole
        dialogues. A store that does not say whose keys it uses is taken if it has any utterance of the corpus.

        Args:
            corpus: The corpus that the store is read with.

        Raises:
            StoreError: The store has no utterance of the corpus, or uses the keys of another one.
        """
        held: dict[tuple[str, str], set[str]] = {}
        for key in (*self.keys, *self.missing):
            held.setdefault(key[:2], set()).add(key.utterance)
        conversations = [conversation for split in corpus.values() for conversation in split]
        if not any(key.utterance in held.get(key[:2], ()) for c in conversations for key in c.keys):
            raise StoreError(
                f"{self.path} has no utterance of corpus {corpus.name!r}: expected keys such as "
                f"{next((key for c in conversations for key in c.keys), None)}, found {next(iter(self.keys), None)}. "
                "Give the store of this corpus."
            )
        if self.corpus is None or self.corpus == corpus.digest:
            return
        for conversation in conversations:
            here = {key.utterance for key in conversation.keys}
            there = held.get((conversation.partition, conversation.id), set())
            if here != there:
                raise StoreError(
                    f"{self.path} uses the keys of another corpus than this {corpus.name!r}, and would fit it in part "
                    f"only: dialogue {conversation.partition}/{conversation.id} has the utterances "
                    f"{_some(here)} here, {_some(there)} in the store. Give the corpus that was imported with the "
                    "store, or make the store for this one."
                )

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
        corpus: str | None = None,
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
            corpus: The digest of the corpus whose keys these are, if it is known.
            lengths: For sequences, how many rows each utterance has.
            missing: Utterances that could not be had, with reasons.
            provenance: Encoder, weights, labels, splits: plain JSON values.

        Raises:
            StoreError: Keys repeat, or features are not finite or do not fit the keys.
        """
        rows, size = max(len(keys), 1), max(features.nbytes, 1)
        with StoreWriter(
            path,
            kind=kind,
            corpus=corpus,
            provenance=provenance,
            resume=False,
            shard_rows=rows,
            shard_bytes=size,
        ) as writer:
            for key, reason in (missing or {}).items():
                writer.skip(key, reason)
            writer.add(keys, features, lengths)
        return cls(path, verify=False)


def _some(names: set[str], most: int = 12) -> str:
    """The names in order, not all of very many."""
    ordered = sorted(names, key=lambda name: (len(name), name))
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most else "") or "none"


def _take(shard: Tensor, rows: Tensor) -> Tensor:
    first = int(rows[0])
    if torch.equal(rows, torch.arange(first, first + len(rows))):
        return shard[first : first + len(rows)]
    return shard.index_select(0, rows)
