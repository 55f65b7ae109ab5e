"""The MELD reader: the three CSV files, with or without the clips beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from merc.conversation import SPLITS, Conversation, Corpus, CorpusError, Utterance
from merc.labels import MELD, UnknownLabelError
from merc.rows import CsvFile, Row, parse_time, read_rows, shown

CSV_FILES = {"train": "train_sent_emo.csv", "val": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
"""MELD's annotation file of every split."""

CLIP_FOLDERS = {"train": "train_splits", "val": "dev_splits_complete", "test": "output_repeated_splits_test"}
"""The folder of MELD.Raw that holds the clips of every split."""

CLIP_NAME = re.compile(r"dia(\d+)_utt(\d+)\.mp4")
"""Name of a clip; the groups are Dialogue_ID and Utterance_ID."""

_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
_MOST_DIGITS = 9
_ARCHIVES = {"train": "train", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class MeldFiles:
    """Where the parts of MELD lie under a root folder.

    Args:
        csv: Annotation file of every split.
        clips: Folder of clips, for the splits that have one.
    """

    csv: Mapping[str, Path]
    clips: Mapping[str, Path]


def find_meld(root: str | Path) -> MeldFiles:
    """Find MELD's files in the layouts in which people keep them.

    Looked for in ``root``, ``root/MELD.Raw`` and ``root/data/MELD`` (the public repository), there
    directly or in ``train/``, ``dev/``, ``test/`` (the unpacked archives).

    Raises:
        FileNotFoundError: There is no such folder.
        CorpusError: A split's CSV file is nowhere.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {root}: expected MELD's root, with {', '.join(CSV_FILES.values())}.")
    csv, clips = {}, {}
    for split in SPLITS:
        places = [
            base / sub for base in (root, root / "MELD.Raw", root / "data/MELD") for sub in ("", _ARCHIVES[split])
        ]
        files = [place / CSV_FILES[split] for place in places if (place / CSV_FILES[split]).is_file()]
        folders = [place / CLIP_FOLDERS[split] for place in places if (place / CLIP_FOLDERS[split]).is_dir()]
        if not files:
            raise CorpusError(
                f"MELD has no {CSV_FILES[split]} under {root}: looked in "
                f"{', '.join(str(place) for place in places)}. Download the CSV files of MELD into one folder."
            )
        csv[split] = files[0]
        if folders:
            clips[split] = folders[0]
    return MeldFiles(csv, clips)


def read_meld(root: str | Path) -> Corpus:
    """Read MELD (Poria et al. 2019, arXiv 1810.02508) with its own three splits.

    MELD's ``dev`` is the split ``val``; dialogue ids restart in every split, so the split is the
    partition too. Utterance ids keep their gaps. A clip is named where its file is there.

    Args:
        root: Folder with ``{train,dev,test}_sent_emo.csv``; ``MELD.Raw`` layouts are found as well.

    Returns:
        The corpus; times are seconds of the episode. Its notes say what the splits share, which files were not UTF-8 or
        had control characters in place of punctuation (copies from before the repair upstream), and how many
        utterances have no clip.

    Raises:
        FileNotFoundError: There is no such folder.
        CorpusError: A file or a column is missing, a label, number or time is malformed, or an utterance
            occurs twice; the message names file and line.
    """
    files = find_meld(root)
    tables = {split: read_rows(path, _COLUMNS, legacy="cp1252") for split, path in files.csv.items()}
    splits = {split: _conversations(split, table, files.clips.get(split)) for split, table in tables.items()}
    notes = [note for table in tables.values() for note in table.notes]
    notes += [*_shared_episodes(tables), _shared_speakers(splits)]
    for split in files.clips:
        total = [u for c in splits[split] for u in c.utterances]
        if lacking := sum(u.media is None for u in total):
            notes.append(f"{split}: {lacking} of {len(total)} utterances have no clip in {CLIP_FOLDERS[split]}.")
    protocol = "MELD's own train, dev (called val) and test splits; labels from *_sent_emo.csv"
    return Corpus("meld", MELD, splits, protocol, tuple(notes))


def _conversations(split: str, table: CsvFile, folder: Path | None) -> list[Conversation]:
    clips = {(int(m[1]), int(m[2])): f for f in _listing(folder) if (m := CLIP_NAME.fullmatch(f.name))}
    dialogues: dict[int, dict[int, tuple[int, Utterance]]] = {}
    for row in table.rows:
        dialogue, number = (_integer(row, name, table.path) for name in ("Dialogue_ID", "Utterance_ID"))
        try:
            label = MELD.canonical(row.cells["Emotion"])
        except UnknownLabelError as error:
            raise CorpusError(f"{table.path}, line {row.line}: {error}") from error
        if not row.cells["Speaker"]:
            raise CorpusError(f"{table.path}, line {row.line}: no speaker. Fill in the column Speaker.")
        utterance = Utterance(
            id=str(number),
            speaker=row.cells["Speaker"],
            text=row.cells["Utterance"],
            start=parse_time(row.cells["StartTime"], table.path, row.line),
            end=parse_time(row.cells["EndTime"], table.path, row.line),
            label=label,
            media=str(clips[dialogue, number].resolve()) if (dialogue, number) in clips else None,
        )
        first, _ = dialogues.setdefault(dialogue, {}).setdefault(number, (row.line, utterance))
        if first != row.line:
            raise CorpusError(
                f"{table.path}, line {row.line}: Dialogue_ID {dialogue}, Utterance_ID {number} stands on line {first} "
                "already: an utterance occurs once. Remove one of them."
            )
    return [
        Conversation(str(dialogue), tuple(utterances[number][1] for number in sorted(utterances)), split)
        for dialogue, utterances in sorted(dialogues.items())
    ]


def _listing(folder: Path | None) -> Sequence[Path]:
    return sorted(folder.iterdir()) if folder else ()


def _integer(row: Row, column: str, path: Path) -> int:
    cell = row.cells[column]
    if not (cell.isascii() and cell.isdigit() and len(cell) <= _MOST_DIGITS):
        raise CorpusError(f"{path}, line {row.line}: {column} is {shown(cell)}, expected a whole number from 0 on.")
    return int(cell)


def _shared_episodes(tables: Mapping[str, CsvFile]) -> list[str]:
    """What test shares with train: a reader of results must know that MELD does not test on unseen episodes."""
    if not all({"Season", "Episode"} <= set(tables[split].columns) for split in ("train", "test")):
        return ["The CSV files lack Season and Episode: how many test episodes occur in train was not counted."]
    train, test = (
        {(row.cells["Season"], row.cells["Episode"]) for row in tables[split].rows} for split in ("train", "test")
    )
    return [f"{len(test & train)} of {len(test)} test episodes also occur in train."]


def _shared_speakers(splits: Mapping[str, Sequence[Conversation]]) -> str:
    known = {u.speaker for c in splits["train"] for u in c.utterances}
    seen = [u.speaker in known for c in splits["test"] for u in c.utterances]
    return f"{sum(seen) / len(seen):.1%} of test utterances are by a speaker name seen in train."
