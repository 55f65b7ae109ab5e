"""Predictions of a model for every utterance, and their file predictions.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from merc.conversation import Corpus, UtteranceKey
from merc.evaluation.metrics import confusion_matrix, scores
from merc.labels import IGNORE_INDEX, LabelSet
from merc.store import FeatureStore

KEY = ("partition", "dialogue", "utterance")
"""The first columns of every table of predictions."""

SAID = ("speaker", "text")
"""The next columns, where they are known."""

OF_NUMBERS = ("gold_", "value_")
"""How the names of the columns of annotated and predicted numbers begin."""


class PredictionsError(ValueError):
    """Predictions are damaged or do not match; the message says where and what to do."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one model, or ensemble, for N utterances.

    Args:
        labels: The classes; ids and columns are in the order of its names.
        keys: N utterance keys, each once.
        gold: ``(N,)`` label ids, -100 for unlabelled.
        probabilities: ``(N, C)``, finite.
        present: By modality, ``(N,)`` booleans: whether the utterance had it.
        lines: Of N utterances the speaker and the text, for who reads the table; empty if they are not known.

    Raises:
        PredictionsError: The shapes do not match, keys are repeated, or probabilities are not finite.
    """

    labels: LabelSet
    keys: Sequence[UtteranceKey]
    gold: Tensor
    probabilities: Tensor
    present: Mapping[str, Tensor] = field(default_factory=dict)
    lines: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        """Check that every part covers the same utterances."""
        total = len(self.keys)
        if self.probabilities.shape != (total, len(self.labels)) or self.gold.shape != (total,):
            raise PredictionsError(
                f"{total} utterances have gold labels {tuple(self.gold.shape)} and probabilities "
                f"{tuple(self.probabilities.shape)}: expected ({total},) and ({total}, {len(self.labels)})."
            )
        for name, there in self.present.items():
            if there.shape != (total,):
                raise PredictionsError(f"Presence of {name!r} is {tuple(there.shape)}: expected ({total},).")
        if len(self.lines) not in (0, total):
            raise PredictionsError(f"{len(self.lines)} lines of {total} utterances: expected one each, or none.")
        if len(set(self.keys)) != total:
            twice = next(key for row, key in enumerate(self.keys) if key in self.keys[:row])
            raise PredictionsError(f"{UtteranceKey(*twice)} is predicted twice. Keys must be unique.")
        finite = self.probabilities.isfinite().all(dim=1)
        if not finite.all():
            bad = UtteranceKey(*self.keys[int(finite.int().argmin())])
            raise PredictionsError(
                f"Probabilities of {int((~finite).sum())} utterances are not finite (first: {bad}). "
                "Training has diverged. Lower the learning rate or check the features."
            )

    @property
    def predicted(self) -> Tensor:
        """``(N,)`` the most probable class; for ties, that with the smallest id."""
        return self.probabilities.argmax(dim=1)

    @property
    def confusion(self) -> Tensor:
        """``(C, C)`` counts in double precision; rows are labels; unlabelled utterances are not counted."""
        return confusion_matrix(self.predicted, self.gold, len(self.labels)).double()

    def metrics(self) -> dict[str, float]:
        """The scores of :func:`merc.evaluation.scores`, as plain numbers."""
        return {name: value.item() for name, value in scores(self.confusion, self.labels).items()}

    def to_csv(self) -> str:
        """The text of ``predictions.csv``, which :func:`read_predictions` reads back unchanged.

        Columns: partition, dialogue, utterance, speaker and text (where they are known), gold (empty if unlabelled),
        predicted, ``p_<emotion>`` in the column order of the published tables, ``has_<modality>`` (0 or 1).
        """
        return table_text(self, self.columns())

    def columns(self) -> dict[str, list[str]]:
        """The cells of ``gold``, ``predicted`` and ``p_<emotion>``."""
        names = self.labels.names
        return {
            "gold": ["" if gold == IGNORE_INDEX else names[gold] for gold in self.gold.tolist()],
            "predicted": [names[label] for label in self.predicted.tolist()],
            # Nine digits represent every float32 exactly.
            **{
                f"p_{names[c]}": [f"{p:.9g}" for p in self.probabilities[:, c].tolist()] for c in self.labels.report_ids
            },
        }


class Predicted(Protocol):
    """What predictions of emotions and of numbers have in common."""

    @property
    def keys(self) -> Sequence[UtteranceKey]:
        """N utterance keys."""

    @property
    def lines(self) -> Sequence[tuple[str, str]]:
        """Speaker and text of each, or nothing."""

    @property
    def present(self) -> Mapping[str, Tensor]:
        """By modality, ``(N,)`` booleans."""


def table_text(predictions: Predicted, columns: Mapping[str, Sequence[str]]) -> str:
    """The text of a ``predictions.csv``.

    Args:
        predictions: Whose keys, lines and presence are the first and the last columns.
        columns: By name, the N cells of each column between them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    said = SAID if predictions.lines else ()
    writer.writerow([*KEY, *said, *columns, *(f"has_{name}" for name in predictions.present)])
    lines: Sequence[Sequence[str]] = predictions.lines or [()] * len(predictions.keys)
    there = [column.int().tolist() for column in predictions.present.values()]
    for key, line, *cells in zip(predictions.keys, lines, *columns.values(), *there, strict=True):
        writer.writerow([*key, *line, *cells])
    return text.getvalue()


def is_table(path: Path, prefix: str) -> bool:
    """Whether a file is a table of merc's predictions, by its first line.

    Args:
        path: The file.
        prefix: What the names of its columns of predictions begin with.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline(1 << 16).strip().split(",")
    return header[:3] == list(KEY) and any(name.startswith(prefix) for name in header)


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """The cells of a ``predictions.csv``.

    Args:
        path: The file.
        keys: N utterance keys.
        lines: Speaker and text of each; empty if the file does not have them.
        columns: By name, the N cells of every column of predictions.
        present: By modality, ``(N,)`` booleans.
    """

    path: Path
    keys: Sequence[UtteranceKey]
    lines: Sequence[tuple[str, str]]
    columns: Mapping[str, Sequence[str]]
    present: Mapping[str, Tensor]

    def parsed(self, name: str, convert: Callable[[str], float]) -> list[float]:
        """The numbers of a column.

        Args:
            name: The column.
            convert: Makes a number of a cell; a :class:`ValueError` says that it is none.

        Raises:
            PredictionsError: A cell is no number.
        """
        found = []
        for line, cell in enumerate(self.columns[name], start=2):
            try:
                found.append(convert(cell))
            except ValueError as error:
                raise PredictionsError(f"{self.path}, line {line}: {error}. Run the test again.") from error
        return found


def read_table(path: str | Path) -> PredictionTable:
    """Read the cells of a ``predictions.csv``, of emotions, numbers or both.

    Args:
        path: The file, or the folder of the report.

    Raises:
        FileNotFoundError: The file does not exist.
        PredictionsError: It is no such table, or a row has another number of cells than the header.
    """
    path = Path(path)
    path = path / "predictions.csv" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"No predictions at {path}, expected a file from `merc test`.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise PredictionsError(f"{path} is not a table of predictions ({error}). Run the test again.") from error
    said = SAID if header[len(KEY) : len(KEY) + len(SAID)] == list(SAID) else ()
    first = len(KEY) + len(said)
    modalities = [name.removeprefix("has_") for name in header[first:] if name.startswith("has_")]
    last = len(header) - len(modalities)
    names = header[first:last]
    if header != [*KEY, *said, *names, *(f"has_{name}" for name in modalities)] or len(set(header)) < len(header):
        raise PredictionsError(
            f"{path} is not a table of predictions: it has the columns {', '.join(header)}, expected {', '.join(KEY)}, "
            "p_<emotion>, gold_<dimension> or value_<dimension>, and has_<modality>..., each once. Run the test again."
        )
    keys, lines, present = [], [], []
    for line, row in enumerate(rows, start=2):
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells, expected {len(header)}")
            keys.append(UtteranceKey(*row[: len(KEY)]))
            if said:
                speaker, text = row[len(KEY) : first]
                lines.append((speaker, text))
            present.append([bool(int(cell)) for cell in row[last:]])
        except ValueError as error:
            raise PredictionsError(f"{path}, line {line}: {error}. Run the test again.") from error
    there = torch.tensor(present, dtype=torch.bool).reshape(len(rows), len(modalities))
    return PredictionTable(
        path,
        keys,
        lines,
        {name: [row[column] for row in rows] for column, name in enumerate(names, start=first)},
        {name: there[:, index] for index, name in enumerate(modalities)},
    )


def read_predictions(path: str | Path, labels: LabelSet | None = None) -> Predictions:
    """Read the ``predictions.csv`` of a report.

    Args:
        path: The file, or the folder of the report.
        labels: The label set that it was written with. Default: the emotions in the file, with ids in the order of its
            columns.

    Raises:
        FileNotFoundError: The file does not exist.
        PredictionsError: The file has another format, is damaged, or has other classes.
    """
    table = read_table(path)
    columns = [name for name in table.columns if not name.startswith(OF_NUMBERS)]
    if len(columns) < len(table.columns) and "predicted" not in columns:
        raise PredictionsError(f"{table.path} holds predicted numbers: expected predictions of emotions, p_<emotion>.")
    if labels is None:
        names = [name.removeprefix("p_") for name in columns if name.startswith("p_")]
        if not names:
            raise PredictionsError(
                f"{table.path} is not a table of predictions: expected one column p_<emotion> per emotion."
            )
        labels = LabelSet("predictions", tuple(names))
    expected = ["gold", "predicted", *(f"p_{name}" for name in labels.report_order)]
    if columns != expected:
        raise PredictionsError(
            f"{table.path} has the columns {', '.join(columns)}: expected {', '.join(expected)}. "
            "Use predictions of this label set."
        )
    index, total = labels.index, len(table.keys)
    gold = table.parsed("gold", lambda cell: index(cell or None))
    probabilities = [table.parsed(f"p_{name}", float) for name in labels.names]
    return Predictions(
        labels,
        table.keys,
        torch.tensor(gold, dtype=torch.long),
        torch.tensor(probabilities, dtype=torch.float32).reshape(len(labels), total).T.contiguous(),
        table.present,
        table.lines,
    )


def lines_of(corpus: Corpus, keys: Iterable[UtteranceKey]) -> list[tuple[str, str]]:
    """Speaker and text of some utterances.

    Raises:
        KeyError: The corpus does not have one of them.
    """
    said = {key: (utterance.speaker, utterance.text) for key, utterance in corpus.utterances()}
    return [said[key] for key in keys]


def stored_predictions(logits: FeatureStore, corpus: Corpus) -> Predictions:
    """The emotions that a store of logits holds of the utterances of a corpus, in the order of the corpus.

    Args:
        logits: A store of logits; an utterance that it lacks is left out.
        corpus: The corpus, labelled or not.

    Raises:
        StoreError: The store holds something else, or has other emotions than the corpus.
        PredictionsError: The logits are not finite.
    """
    logits.require(kind="logits", classes=[*corpus.labels.names, *logits.dimensions])
    known = [(key, utterance) for key, utterance in corpus.utterances() if key in logits]
    keys = [key for key, _ in known]
    values = logits.gather(keys)[0][:, : len(corpus.labels)]
    return Predictions(
        corpus.labels,
        keys,
        torch.tensor([corpus.labels.index(utterance.label) for _, utterance in known], dtype=torch.long),
        values.float().softmax(-1),
        lines=[(utterance.speaker, utterance.text) for _, utterance in known],
    )
