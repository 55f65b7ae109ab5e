"""The pickles of MMSA and MMSA-FET: CMU-MOSI, CMU-MOSEI and CH-SIMS with features and sentiment as a number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from merc.conversation import Conversation, Corpus, CorpusError, Utterance, UtteranceKey, split_name
from merc.corpora.layouts import text_of
from merc.corpora.unpickle import load_pickle
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.labels import LabelSet

SENTIMENT = LabelSet("sentiment", ("negative", "neutral", "positive"))
"""The annotations of MMSA, ids as in its ``classification_labels``."""

_MODALITIES = {"text": "text", "audio": "audio", "vision": "visual"}
_SEPARATOR = "$_$"
_LENGTHS = "{}_lengths"


def import_mmsa(
    file: str | Path, *, name: str | None = None, standardize: Sequence[str] = ("audio", "visual")
) -> FeaturedCorpus:
    """Read a pickle of MMSA: features over time, sentiment as a number and as negative, neutral or positive.

    A video is a dialogue of one speaker, whose clips are in the order of their numbers. Features are the mean over the
    frames of a clip; frames of zeros are padding. A clip without any other frame is missing. The tokens of
    ``text_bert`` are not read. The scale of sentiment is -3 to 3, or -1 to 1 if no number is beyond (CH-SIMS).

    Args:
        file: The pickle, for example ``aligned_50.pkl`` or ``unaligned_50.pkl``: a dict of train, valid and test, each
            a dict of ``id`` (``video$_$clip``), ``raw_text``, ``text``, ``audio``, ``vision`` ``(N, T, d)``, and
            ``regression_labels``.
        name: Name of the corpus, for reports. Default: that of the file's folder.
        standardize: Features whose columns get mean 0 and standard deviation 1 over train.

    Returns:
        Corpus with the dimension ``sentiment``, and the features ``text``, ``audio`` and ``visual`` that the file has.

    Raises:
        FileNotFoundError: The file is missing.
        UnsafePickleError: The pickle asks for more than arrays and containers.
        CorpusError: It has another layout, or is damaged.
        ValueError: There are no such features to standardize.
    """
    path = Path(file)
    if unknown := set(standardize) - set(_MODALITIES.values()):
        raise ValueError(f"Unknown features {sorted(unknown)} to standardize: expected text, audio or visual.")
    raw = load_pickle(path)
    splits = raw.items() if isinstance(raw, dict) else ()
    needed = ("id", "regression_labels")
    if not splits or not all(isinstance(of, dict) and all(part in of for part in needed) for _, of in splits):
        raise CorpusError(
            f"{path} is not of MMSA: expected a dict of train, valid and test, each a dict with id, raw_text, text, "
            "audio, vision and regression_labels. For other layouts use `merc import pickle`."
        )
    try:
        return _read(path, {split_name(str(split)): of for split, of in splits}, name, standardize)
    except CorpusError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise CorpusError(f"{path} is damaged ({type(error).__name__}: {error}). Download it again.") from error


def _read(
    path: Path, parts: Mapping[str, Mapping[str, Any]], name: str | None, standardize: Sequence[str]
) -> FeaturedCorpus:
    conversations: dict[str, list[Conversation]] = {}
    rows: dict[str, list[UtteranceKey]] = {}
    for split, of in parts.items():
        numbers = np.asarray(of["regression_labels"], dtype=np.float64).reshape(-1)
        ids = [_parts(path, str(one)) for one in of["id"]]
        texts = [text_of(one) for one in of.get("raw_text", [""] * len(ids))]
        classes = [str(one).strip().lower() for one in of.get("annotations", [""] * len(ids))]
        if not len(ids) == len(numbers) == len(texts) == len(classes):
            raise CorpusError(f"{path}: {split} has {len(ids)} ids and {len(numbers)} regression_labels: damaged?")
        rows[split] = [UtteranceKey(split, video, clip) for video, clip in ids]
        videos: dict[str, list[Utterance]] = {}
        for (video, clip), number, text, label in zip(ids, numbers.tolist(), texts, classes, strict=True):
            sentiment = {"sentiment": number} if np.isfinite(number) else None
            kept = label if label in SENTIMENT.names else None
            videos.setdefault(video, []).append(Utterance(clip, speaker=video, text=text, label=kept, values=sentiment))
        conversations[split] = [
            Conversation(video, tuple(sorted(clips, key=lambda clip: _order(clip.id))), split)
            for video, clips in videos.items()
        ]
    known = [
        abs(u.values["sentiment"]) for talks in conversations.values() for t in talks for u in t.utterances if u.values
    ]
    if not known:
        raise CorpusError(
            f"{path}: every regression_label is NaN or infinite: expected sentiment of some clips. Give a file with "
            "labels."
        )
    scale = (-1.0, 1.0) if max(known) <= 1 else (-3.0, 3.0)
    corpus = Corpus(
        name or path.resolve().parent.name or "mmsa",
        SENTIMENT,
        conversations,
        f"MMSA pickle {path.name}: its own train, validation and test clips",
        (
            "A video is a dialogue of one speaker. Features are means over the frames of a clip.",
            f"The scale of sentiment is {scale[0]:g} to {scale[1]:g}.",
        ),
        {"sentiment": scale},
    )
    train = {key for conversation in corpus.get("train", []) for key in conversation.keys}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    features = {}
    for element, modality in _MODALITIES.items():
        if not all(element in of for of in parts.values()):
            continue
        provenance = {"source": "MMSA pickle", "file": path.name, "sha256": digest, "element": element, "over": "mean"}
        table = _table(path, element, parts, rows, provenance)
        features[modality] = table.standardized(train) if modality in standardize else table
    return FeaturedCorpus(corpus, features)


def _parts(path: Path, name: str) -> tuple[str, str]:
    video, separator, clip = name.rpartition(_SEPARATOR)
    if not separator or not video or not clip:
        raise CorpusError(f"{path} has the id {name!r}: expected video{_SEPARATOR}clip.")
    return video, clip


def _order(clip: str) -> tuple[int, str]:
    return (int(clip), "") if clip.isascii() and clip.isdigit() and len(clip) < 19 else (1 << 62, clip)


def _table(
    path: Path,
    element: str,
    parts: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Sequence[UtteranceKey]],
    provenance: Mapping[str, Any],
) -> FeatureTable:
    keys: list[UtteranceKey] = []
    missing: dict[UtteranceKey, str] = {}
    means: list[NDArray[np.float32]] = []
    for split, of in parts.items():
        values = np.asarray(of[element])
        if values.ndim != 3 or len(values) != len(rows[split]):
            raise CorpusError(
                f"{path}: {element} of {split} has shape {values.shape}, expected ({len(rows[split])}, T, d)."
            )
        lengths = of.get(_LENGTHS.format(element))
        for index, key in enumerate(rows[split]):
            frames = np.asarray(values[index] if lengths is None else values[index][: int(lengths[index])], np.float64)
            frames = frames[frames.any(1)]
            mean = frames.mean(0) if len(frames) else None
            if mean is None:
                missing[key] = "all zeros in the file"
            elif not np.isfinite(mean).all():
                missing[key] = "NaN or infinite in the file"
            else:
                keys.append(key)
                means.append(mean.astype(np.float32))
    if not means:
        raise CorpusError(f"{path}: {element} has no clip that is not all zeros: damaged?")
    return FeatureTable(keys, torch.from_numpy(np.stack(means)), missing, dict(provenance))
