"""Folders of ``.npy`` files, one per utterance, as MERTools, emotion2vec and EmoBox write them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from merc.conversation import Corpus, CorpusError, UtteranceKey
from merc.features.numbers import KeyFinder
from merc.features.table import FeatureTable

FILE_PATTERN = r"(?:(?P<partition>[A-Za-z]+)[_-])?dia(?P<dialogue>\d+)_utt(?P<utterance>\d+)"
"""MELD's names of clips, perhaps behind a split: ``dia12_utt3``, ``train_dia12_utt3``."""


def import_arrays(folder: str | Path, corpus: Corpus, *, pattern: str = FILE_PATTERN) -> FeatureTable:
    """Read a folder of ``.npy`` files as features of a corpus.

    A file holds one vector, ``(d,)``, ``(1, d)`` or ``(d, 1)``, or those of frames, ``(T, d)``, which are averaged. Its
    name is the id of an utterance, such as ``Ses01F_impro01_F000.npy``, or matches ``pattern``. Folders inside may be
    named after partitions.

    Args:
        folder: The folder; folders inside it are searched too.
        corpus: The corpus that contains the utterances.
        pattern: Regular expression for the name of a file without ``.npy``, with the groups ``dialogue`` and
            ``utterance``, and ``partition`` if the name contains it.

    Returns:
        Features ``(N, d)`` in the order of the corpus. Utterances without a file, without frames or with NaN are
        missing.

    Raises:
        CorpusError: There are no such files, none is of an utterance or has a vector, two are of the same one, or a
            file is not a plain array of the same width as the others.
        ValueError: The pattern is not a regular expression with these groups.
    """
    folder = Path(folder)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from error
    if not {"dialogue", "utterance"} <= compiled.groupindex.keys():
        raise ValueError(f"{pattern!r} needs the groups (?P<dialogue>...) and (?P<utterance>...).")
    files = sorted(folder.rglob("*.npy")) if folder.is_dir() else []
    if not files:
        raise CorpusError(f"No .npy files in {folder}: expected a folder with one for every utterance.")
    order = [key for split in corpus.values() for conversation in split for key in conversation.keys]
    finder, by_id = KeyFinder(order), _unique_ids(order)
    places: dict[UtteranceKey, Path] = {}
    strange: list[Path] = []
    for file in files:
        key = by_id.get(file.stem) or _key(file, compiled, finder)
        if key is None or key not in finder.known:
            strange.append(file)
        elif key in places:
            raise CorpusError(f"{file} and {places[key]} are both of {key}: expected one file per utterance.")
        else:
            places[key] = file
    if not places:
        raise CorpusError(
            f"No file in {folder} is of an utterance of corpus {corpus.name!r}: the first is {files[0].name}, the "
            f"first utterance is {next(iter(order), None)}. Pass --pattern, a regular expression for the names with "
            "the groups dialogue and utterance."
        )
    missing: dict[UtteranceKey, str] = {}
    rows: list[np.ndarray[Any, Any]] = []
    kept: list[UtteranceKey] = []
    digest, framed = hashlib.sha256(), 0
    for key in order:
        if key not in places:
            missing[key] = "no file"
            continue
        array, frames = _read(places[key])
        digest.update(str(key).encode() + array.tobytes())
        framed += frames
        if not len(array) or not np.isfinite(array).all():
            missing[key] = "NaN or infinite in the file" if len(array) else "no frames in the file"
        else:
            if rows and len(array) != len(rows[0]):
                raise CorpusError(
                    f"{places[key]} has width {len(array)}, {places[kept[0]]} has {len(rows[0])}: expected one width."
                )
            kept.append(key)
            rows.append(array)
    if not rows:
        key, file = next(iter(places.items()))
        raise CorpusError(
            f"None of the {len(places)} files of utterances in {folder} has a vector: {file} has {missing[key]}. Check "
            "how they were made."
        )
    notes = [f"{framed} files hold frames: the mean over them was taken."] if framed else []
    if strange:
        notes.append(f"{len(strange)} files are of no utterance of the corpus, the first {strange[0].name}.")
    provenance = {
        "source": "folder of .npy files",
        "folder": folder.name,
        "sha256": digest.hexdigest(),
        "corpus": corpus.name,
        "notes": notes,
    }
    return FeatureTable(kept, torch.from_numpy(np.stack(rows)), missing, provenance)


def _unique_ids(order: list[UtteranceKey]) -> dict[str, UtteranceKey]:
    """Keys by the id of the utterance, where only one has it and it is more than a number."""
    found: dict[str, UtteranceKey | None] = {}
    for key in order:
        found[key.utterance] = None if key.utterance in found else key
    return {name: key for name, key in found.items() if key is not None and not name.isdigit()}


def _key(file: Path, pattern: re.Pattern[str], finder: KeyFinder) -> UtteranceKey | None:
    match = pattern.fullmatch(file.stem)
    if match is None:
        return None
    found = match.groupdict()
    said = found.get("partition")
    partition = finder.partition_of(file) if said is None else finder.canonical(said)
    return finder.find(partition, found["dialogue"], found["utterance"], str(file))


def _read(file: Path) -> tuple[np.ndarray[Any, np.dtype[np.float32]], bool]:
    """The vector of a file, empty without frames, and whether it is a mean over frames."""
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{file} is no plain array ({error}). Save it with numpy.save, without objects.") from error
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise CorpusError(
            f"{file} holds {getattr(array, 'shape', type(array).__name__)} of {getattr(array, 'dtype', 'no type')}: "
            "expected a vector (d,), (1, d) or (d, 1), or frames (T, d), of numbers."
        )
    if array.ndim == 1 or 1 in array.shape:
        return array.reshape(-1).astype(np.float32), False
    if not len(array):
        return np.zeros(0, np.float32), True
    return array.astype(np.float64).mean(0).astype(np.float32), True
