"""Feature tables in memory, and corpora that come with features: from a pickle, a table of numbers or the simulator."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merc.conversation import CORPUS_FILE, Corpus, CorpusError, UtteranceKey
from merc.store import FeatureStore


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """One vector per utterance, in memory, with its provenance.

    Args:
        keys: N utterances, each once.
        features: ``(N, d)``, finite.
        missing: Utterances without a vector, with reasons.
        provenance: Source, encoder, labels that the features were tuned on, as plain JSON values.

    Raises:
        CorpusError: A key is repeated, or has a vector and is missing, or features are not finite or do not match the
            keys.
    """

    keys: Sequence[UtteranceKey]
    features: Tensor
    missing: Mapping[UtteranceKey, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what a store would refuse, before anything is written."""
        if self.features.dim() != 2 or len(self.features) != len(self.keys):
            raise CorpusError(f"Expected features of shape ({len(self.keys)}, d), got {tuple(self.features.shape)}.")
        seen: set[UtteranceKey] = set()
        for key in self.keys:
            if key in seen or key in self.missing:
                found = "twice" if key in seen else "with a vector and as missing"
                raise CorpusError(
                    f"A table of features contains {'/'.join(key)} {found}. Expected one vector per utterance."
                )
            seen.add(key)
        finite = torch.isfinite(self.features).all(dim=1)
        if not finite.all():
            bad = [str(key) for key, fine in zip(self.keys, finite.tolist(), strict=True) if not fine]
            raise CorpusError(
                f"NaN or infinite features for {len(bad)} utterances ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)}): "
                "expected finite numbers. Record these utterances as missing, with the reason."
            )

    def standardized(self, train: Collection[UtteranceKey], bound: float = 10.0) -> FeatureTable:
        """The same table with columns of mean 0 and standard deviation 1 over the training utterances.

        Constant columns are only centred. Values beyond ``bound`` deviations are clipped.

        Args:
            train: The utterances that the statistics come from; those without a vector are ignored.
            bound: Largest absolute value.

        Raises:
            CorpusError: None of the training utterances has a vector.
            ValueError: ``bound`` is not positive.
        """
        check_bound(bound)
        rows = [row for row, key in enumerate(self.keys) if key in train]
        if not rows:
            raise CorpusError("No training utterance has a vector. Mean and deviation need at least one.")
        features = self.features.double()
        known = features[rows]
        deviation = known.std(0, correction=0)
        # Rounding gives a constant column a deviation near 1e-17; dividing by it would blow up rounding errors.
        deviation = torch.where((known == known[0]).all(0), 1.0, deviation)
        features = (features - known.mean(0)) / deviation
        note = {"over": "train split", "bound": bound, "set_to_it": int((features.abs() > bound).sum())}
        bounded = features.clamp(-bound, bound).to(self.features.dtype)
        return replace(self, features=bounded, provenance={**self.provenance, "standardized": note})

    def save(self, path: str | Path, corpus: Corpus | None = None) -> FeatureStore:
        """Write the table as a feature store and open it.

        Args:
            path: Folder of the store. An existing store is replaced when the new one is complete.
            corpus: The corpus whose utterances these are: the store will be refused with the keys of another one.
        """
        return FeatureStore.write(
            path,
            self.keys,
            self.features,
            corpus=None if corpus is None else corpus.digest,
            missing=dict(self.missing),
            provenance=dict(self.provenance),
        )


def check_bound(bound: float) -> None:
    """Refuse a bound of standardized values that would make all of them equal, or NaN.

    Raises:
        ValueError: It is not positive.
    """
    if not bound > 0:
        raise ValueError(f"The bound of standardized values is {bound}: expected a positive number, such as 10.")


@dataclass(frozen=True, eq=False)
class FeaturedCorpus:
    """A corpus with features by name.

    Args:
        corpus: The conversations.
        features: Tables by name (``text``, ``audio``, ``visual``, ...), for utterances of the corpus.

    Raises:
        CorpusError: A name cannot be the name of a folder, or a table contains an utterance that is not in the corpus.
    """

    corpus: Corpus
    features: Mapping[str, FeatureTable]

    def __post_init__(self) -> None:
        """Check that names can be folders and that every row belongs to an utterance."""
        known = {key for split in self.corpus.values() for conversation in split for key in conversation.keys}
        for name, table in self.features.items():
            if not re.fullmatch(r"\w[\w.+-]*", name):
                raise CorpusError(f"Features cannot be named {name!r}: expected letters, digits and . _ + - only.")
            for key in (*table.keys, *table.missing):
                if key not in known:
                    raise CorpusError(f"Features {name!r} contain {'/'.join(key)}, which is not in the corpus.")

    def save(self, out: str | Path) -> None:
        """Write ``out/features/<name>/`` for every table, then ``out/corpus.json``.

        An older corpus file is removed first and the new one is written last. An interrupted import is therefore never
        mistaken for a complete one, and old conversations are never read with new features.

        Args:
            out: Folder of the imported corpus; created if it does not exist.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / CORPUS_FILE).unlink(missing_ok=True)
        for name, table in self.features.items():
            table.save(out / "features" / name, self.corpus)
        self.corpus.save(out / CORPUS_FILE)
