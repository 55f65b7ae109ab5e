"""Corpora with features: what a pickle, a table of numbers or the simulator brings along, ready to be saved."""

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
    """One vector an utterance, in memory, with the story of where it came from.

    Args:
        keys: N utterances, each once.
        features: ``(N, d)``, finite.
        missing: Utterances that have no vector, with reasons.
        provenance: Source, encoder, labels that the features were tuned on: plain JSON values.

    Raises:
        CorpusError: Keys repeat or are missing as well, or features are not finite or do not fit the keys.
    """

    keys: Sequence[UtteranceKey]
    features: Tensor
    missing: Mapping[UtteranceKey, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check here what a store would refuse later, before anything is written."""
        if self.features.dim() != 2 or len(self.features) != len(self.keys):
            raise CorpusError(f"Expected features of shape ({len(self.keys)}, d), got {tuple(self.features.shape)}.")
        seen: set[UtteranceKey] = set()
        for key in self.keys:
            if key in seen or key in self.missing:
                found = "twice" if key in seen else "with a vector and as missing"
                raise CorpusError(f"A table of features holds {'/'.join(key)} {found}: an utterance has one vector.")
            seen.add(key)
        finite = torch.isfinite(self.features).all(dim=1)
        if not finite.all():
            bad = [str(key) for key, fine in zip(self.keys, finite.tolist(), strict=True) if not fine]
            raise CorpusError(
                f"NaN or infinite features for {len(bad)} utterances ({', '.join(bad[:3])}{', ...' * (len(bad) > 3)}): "
                "expected finite numbers. Record such utterances as missing, with the reason."
            )

    def standardized(self, train: Collection[UtteranceKey], bound: float = 10.0) -> FeatureTable:
        """The same table with columns of mean 0 and standard deviation 1 over the training utterances.

        What is constant there is only centred. Values beyond ``bound`` deviations are set to it.

        Args:
            train: The utterances that the statistics come from; those without a vector take no part.
            bound: Largest absolute value.

        Raises:
            CorpusError: None of the training utterances has a vector.
        """
        rows = [row for row, key in enumerate(self.keys) if key in train]
        if not rows:
            raise CorpusError("No training utterance has a vector, from which mean and deviation could come.")
        features = self.features.double()
        known = features[rows]
        deviation = known.std(0, correction=0)
        # Rounding gives a constant column a deviation near 1e-17, by which nothing may be divided.
        deviation = torch.where((known == known[0]).all(0), 1.0, deviation)
        features = (features - known.mean(0)) / deviation
        note = {"over": "train split", "bound": bound, "set_to_it": int((features.abs() > bound).sum())}
        bounded = features.clamp(-bound, bound).to(self.features.dtype)
        return replace(self, features=bounded, provenance={**self.provenance, "standardized": note})

    def save(self, path: str | Path) -> FeatureStore:
        """Write the table as a feature store and open it.

        Args:
            path: Folder of the store; a store that is there is replaced once the new one is whole.
        """
        return FeatureStore.write(
            path, self.keys, self.features, missing=dict(self.missing), provenance=dict(self.provenance)
        )


@dataclass(frozen=True, eq=False)
class FeaturedCorpus:
    """A corpus together with features by name.

    Args:
        corpus: The conversations.
        features: Tables by name (``text``, ``audio``, ``visual``, ...), about utterances of the corpus.

    Raises:
        CorpusError: A name cannot be a folder's, or a table holds an utterance that the corpus lacks.
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
                    raise CorpusError(f"Features {name!r} hold {'/'.join(key)}, which the corpus does not have.")

    def save(self, out: str | Path) -> None:
        """Write ``out/features/<name>/`` for every table, then ``out/corpus.json``.

        The corpus file comes last and an older one goes first, so that a cut import cannot be mistaken
        for a whole one, nor old conversations be read with new features.

        Args:
            out: Folder of the imported corpus; created if need be.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / CORPUS_FILE).unlink(missing_ok=True)
        for name, table in self.features.items():
            table.save(out / "features" / name)
        self.corpus.save(out / CORPUS_FILE)
