"""The reader of anyone's own conversations: a CSV file, or one a split, with columns by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from merc.conversation import Clip, Conversation, Corpus, CorpusError, Utterance, split_name
from merc.labels import LabelSet, UnknownLabelError
from merc.rows import CsvFile, Row, parse_time, read_rows


@dataclass(frozen=True)
class CsvColumns:
    """Which column holds what; ``None`` for what the file does not have.

    Args:
        dialogue: Dialogue id.
        utterance: Utterance id, unique in its dialogue.
        speaker: Who speaks.
        text: Transcript.
        label: Emotion by name; an empty cell is an utterance without a label.
        split: ``train``, ``val`` (or ``dev``) or ``test``; not read if there is a file for every split.
        partition: Part of the corpus inside which dialogue ids are unique. Default: the split.
        start: Start, in seconds or as ``h:mm:ss,mmm``.
        end: End, likewise.
        media: Path of the utterance's clip, relative to the CSV file.
        video: Path of a longer recording, likewise, in which ``start`` and ``end`` say where the utterance is.
    """

    dialogue: str = "dialogue"
    utterance: str = "utterance"
    speaker: str = "speaker"
    text: str | None = "text"
    label: str | None = "label"
    split: str = "split"
    partition: str | None = None
    start: str | None = None
    end: str | None = None
    media: str | None = None
    video: str | None = None

    def required(self, *, split: bool) -> list[str]:
        """The columns that a file must have."""
        optional = (self.text, self.label, self.partition, self.start, self.end, self.media, self.video)
        named = [self.dialogue, self.utterance, self.speaker, *([self.split] if split else [])]
        return named + [column for column in optional if column is not None]


def read_csv(
    files: str | Path | Mapping[str, str | Path],
    *,
    labels: LabelSet | Sequence[str],
    columns: CsvColumns | None = None,
    name: str = "csv",
) -> Corpus:
    """Read conversations from CSV files, one row an utterance.

    The utterances of a dialogue are taken in the order of their rows, which need not be adjacent.

    Args:
        files: One file with a split column, or a file for every split.
        labels: The label set, or the emotion names in the order of their ids.
        columns: Which column holds what.
        name: Name of the corpus, for reports.

    Returns:
        The corpus. Its notes count utterances without a label, clips that are not there, and dialogues
        whose numeric ids do not ascend in the order of the rows.

    Raises:
        CorpusError: A file or column is missing, a label, split or time is unknown, an id or speaker is
            empty, an utterance occurs twice, or a dialogue lies in two splits; with file and line.
    """
    columns = columns or CsvColumns()
    if not isinstance(labels, LabelSet):
        labels = LabelSet(name, tuple(label.strip().lower() for label in labels))
    reader = _Reader(labels, columns)
    if isinstance(files, Mapping):
        tables = {split_name(split): read_rows(path, columns.required(split=False)) for split, path in files.items()}
        if len(tables) < len(files):
            raise CorpusError(f"Two of the files {', '.join(files)} are the same split: give one file a split.")
        for split, table in tables.items():
            reader.read(table, ((split, row) for row in table.rows))
    else:
        table = read_rows(files, columns.required(split=True))
        tables = {"": table}
        reader.read(table, ((_split(table, row, columns.split), row) for row in table.rows))
    notes = [note for table in tables.values() if (note := table.encoding_note)] + reader.notes()
    origin = ", ".join(table.path.name for table in tables.values())
    return Corpus(name, labels, reader.splits(), f"splits and labels as given in {origin}", tuple(notes))


def _split(table: CsvFile, row: Row, column: str) -> str:
    try:
        return split_name(row.cells[column])
    except ValueError as error:
        raise CorpusError(f"{table.path}, line {row.line}, column {column!r}: {error}") from error


class _Reader:
    """Collects the rows of all files, so that ids are unique and dialogues whole across files."""

    def __init__(self, labels: LabelSet, columns: CsvColumns) -> None:
        self.labels = labels
        self.columns = columns
        self.dialogues: dict[tuple[str, str], list[Utterance]] = {}
        self.split_of: dict[tuple[str, str], str] = {}
        self.places: dict[tuple[str, str, str], str] = {}
        self.lost_clips = 0

    def read(self, table: CsvFile, rows: Iterable[tuple[str, Row]]) -> None:
        columns = self.columns
        split_of_id: dict[str, str] = {}
        for split, row in rows:
            where = f"{table.path}, line {row.line}"
            for column in (columns.dialogue, columns.utterance, columns.speaker, columns.partition):
                if column is not None and not row.cells[column]:
                    raise CorpusError(f"{where}: column {column!r} is empty. Fill it in.")
            dialogue = row.cells[columns.dialogue]
            partition = split if columns.partition is None else row.cells[columns.partition]
            identity = (partition, dialogue)
            # Without a partition column the same id in two splits of one file is a leak, not two dialogues.
            held = self.split_of.setdefault(identity, split)
            if columns.partition is None:
                held = split_of_id.setdefault(dialogue, split)
            if held != split:
                raise CorpusError(
                    f"{where}: dialogue {dialogue!r} is of split {split!r}, its earlier rows are of {held!r}: "
                    "a dialogue belongs to one split. Name a partition column if ids are unique only inside it."
                )
            utterance = self._utterance(table, row, where)
            first = self.places.setdefault((*identity, utterance.id), where)
            if first != where:
                raise CorpusError(
                    f"{where}: utterance {utterance.id!r} of dialogue {dialogue!r} stands in {first} already: "
                    "an utterance occurs once. Remove one of them."
                )
            self.dialogues.setdefault(identity, []).append(utterance)

    def _utterance(self, table: CsvFile, row: Row, where: str) -> Utterance:
        def cell(column: str | None) -> str:
            return "" if column is None else row.cells[column]

        columns = self.columns
        try:
            label = self.labels.canonical(cell(columns.label)) if cell(columns.label) else None
        except UnknownLabelError as error:
            raise CorpusError(f"{where}: {error}") from error
        media, video = (self._file(table.path.parent, cell(column)) for column in (columns.media, columns.video))
        start, end = (parse_time(cell(column), table.path, row.line) for column in (columns.start, columns.end))
        try:
            clip = None if video is None else Clip(video, start or 0.0, end)
        except CorpusError as error:
            raise CorpusError(f"{where}: {error}") from error
        return Utterance(
            id=cell(columns.utterance),
            speaker=cell(columns.speaker),
            text=cell(columns.text),
            start=start,
            end=end,
            label=label,
            media=media,
            video=clip,
        )

    def _file(self, folder: Path, name: str) -> str | None:
        """A file that a cell names, or ``None`` if the cell is empty or the file is not there."""
        if not name:
            return None
        if not (folder / name).is_file():
            self.lost_clips += 1
            return None
        return str((folder / name).resolve())

    def splits(self) -> dict[str, list[Conversation]]:
        splits: dict[str, list[Conversation]] = {}
        for (partition, dialogue), utterances in self.dialogues.items():
            conversation = Conversation(dialogue, tuple(utterances), partition)
            splits.setdefault(self.split_of[partition, dialogue], []).append(conversation)
        return splits

    def notes(self) -> list[str]:
        notes = []
        utterances = [u for dialogue in self.dialogues.values() for u in dialogue]
        if unlabelled := sum(u.label is None for u in utterances):
            notes.append(f"{unlabelled} of {len(utterances)} utterances have no label and serve as context only.")
        if self.lost_clips:
            notes.append(f"{self.lost_clips} clips that the file names are not there.")
        if unsorted := sum(map(_descends, self.dialogues.values())):
            notes.append(f"{unsorted} dialogues have numeric utterance ids that do not ascend; rows give the order.")
        return notes


def _descends(dialogue: Sequence[Utterance]) -> bool:
    ids = [utterance.id for utterance in dialogue]
    if not all(name.isascii() and name.isdigit() for name in ids):
        return False
    numbers = [int(name) for name in ids]
    return numbers != sorted(numbers)
