"""Finished systems to compare: runs of merc, and the predictions of any other code as CSV or JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merc.conversation import CorpusError, UtteranceKey
from merc.evaluation.comparison import pooled
from merc.evaluation.ensembles import metrics_of, names_of, report_of
from merc.evaluation.predictions import Predictions, PredictionsError, is_table, read_predictions
from merc.evaluation.report import METRICS
from merc.evaluation.values import ValuePredictions, holds_values, pooled_values, read_value_predictions
from merc.files import parse_json
from merc.labels import IEMOCAP4, IEMOCAP6, IGNORE_INDEX, MELD, LabelSet, UnknownLabelError
from merc.rows import read_rows

_TABLE = "predictions.csv"
_COLUMNS = {
    "dialogue": ("dialogueid", "dialogue", "dialogid", "diaid", "dialog", "conversationid", "conversation", "convid"),
    "utterance": ("utteranceid", "uttid", "turnid", "utterance", "utt", "turn"),
    "id": ("id", "key", "uttname", "filename", "file", "name", "segment"),
    "split": ("partition", "split"),
    "predicted": ("predicted", "prediction", "predictions", "pred", "preds", "ypred", "predictedlabel", "predlabel"),
    "gold": ("gold", "goldlabel", "label", "labels", "target", "true", "truelabel", "ytrue", "gt", "emotion"),
    "seed": ("seed", "run"),
    "probabilities": ("probabilities", "probs", "prob", "softmax"),
}
"""Names of columns, without case and punctuation, the first that is there counts."""

_OF_CLASS = re.compile(r"(?:p|prob|probability)[_\s-]+(.+)", re.IGNORECASE)
_SPLITS = {"dev": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class System:
    """A system that was tested, once or with several seeds. The folds of a cross-validation are one run.

    Args:
        name: How tables name it.
        runs: The predictions of each run, all for the same utterances.
        seeds: The seed of each run, if known.
        info: What its reports say of the data: ``corpus``, ``split`` and ``protocol``; empty for other code.
        probabilities: Whether the predictions have probabilities; if not, the predicted emotion has 1.
    """

    name: str
    runs: Sequence[Predictions]
    seeds: Sequence[int | None]
    info: Mapping[str, str]
    probabilities: bool = True


@dataclass(frozen=True)
class _Run:
    """One run to read: the file, the system it belongs to, and the folder or file that names this system."""

    path: Path
    system: str | Path


def read_systems(
    sources: Sequence[str | Path], *, stages: Sequence[str] = (), labels: Sequence[str] = ()
) -> dict[str, System]:
    """Read the systems that ``merc compare`` is given.

    A source is one of these, and ``NAME=SOURCE`` names the system; sources of one name are runs of one system:

    - a folder of ``merc run``: all stages that were tested, with all seeds;
    - ``RUN/STAGE``: one stage of it, with all seeds; ``RUN/seed-0/STAGE``: one seed, where several are one system;
    - a folder of a report, or a ``predictions.csv``;
    - a CSV, TSV, JSON or JSON lines file of other code, see :func:`read_other_predictions`.

    Args:
        sources: At least one.
        stages: Stages to take of the folders of runs. Default: all.
        labels: The emotions in the order of the numbers by which other code names them. Default: found by comparing
            the gold labels.

    Returns:
        The systems by name, in the order given.

    Raises:
        FileNotFoundError: A source does not exist or was not tested.
        PredictionsError: A file is damaged, or does not match the others.
        ValueError: A source is given twice.
    """
    grouped = _grouped(sources, stages)
    paths = [path for files in grouped.values() for path in files]
    if numbers := [path for path in paths if holds_values(path) and not _is_ours(path)]:
        raise PredictionsError(
            f"{numbers[0]} holds predicted numbers: expected emotions. Read numbers with "
            "merc.evaluation.read_value_systems."
        )
    own = {name: [p for p in files if _is_ours(p)] for name, files in grouped.items()}
    ours = {name: _read_own(name, files) for name, files in own.items() if files}
    reference = next((system.runs[0] for system in ours.values()), None)
    found: dict[str, System] = {}
    for name, files in grouped.items():
        others = [path for path in files if path not in own[name]]
        if name in ours and others:
            raise PredictionsError(f"{name} has runs of merc and of other code ({others[0]}): give them other names.")
        found[name] = ours[name] if name in ours else _read_others(name, others, reference, labels)
        reference = reference or found[name].runs[0]
    return found


def read_value_systems(
    sources: Sequence[str | Path], *, stages: Sequence[str] = ()
) -> dict[str, list[ValuePredictions]] | None:
    """Read systems that predict numbers, such as sentiment, for :func:`merc.evaluation.compare_values`.

    Args:
        sources: As for :func:`read_systems`, all of merc.
        stages: Stages to take of the folders of runs. Default: all.

    Returns:
        By name the predictions of each run, the folds of a cross-validation pooled; ``None`` if some source holds no
        predicted numbers, and all hold emotions.

    Raises:
        FileNotFoundError: A source does not exist or was not tested.
        PredictionsError: Some sources hold numbers alone and others emotions alone, or a system has runs on different
            data.
        ValueError: A source is given twice.
    """
    grouped = _grouped(sources, stages)
    paths = [path for files in grouped.values() for path in files]
    others = [path for path in paths if not holds_values(path)]
    alone = [path for path in paths if path not in others and not _is_ours(path)]
    if others and not alone:
        return None
    if others:
        raise PredictionsError(
            f"{others[0]} holds predictions of emotions, {alone[0]} of numbers: "
            "compare one kind at a time, with --stages for a run that has both."
        )
    found, data = {}, []
    for name, files in grouped.items():
        runs = [read_value_predictions(path) for path in files]
        rounds, info = _rounds(name, files)
        found[name] = [pooled_values([runs[index] for index in members]) for members in rounds]
        data.append(info)
    if differing := [info for info in data if info and data[0] and info != data[0]]:
        raise PredictionsError(
            f"The systems were tested on different data ({data[0]['protocol']!r} and {differing[0]['protocol']!r}). "
            "Compare systems on the same one."
        )
    return found


def tell_emotions(sources: Sequence[str | Path], *, stages: Sequence[str] = ()) -> bool:
    """Whether all systems predict emotions, alone or beside numbers.

    Args:
        sources: As for :func:`read_systems`.
        stages: Likewise.
    """
    paths = [path for files in _grouped(sources, stages).values() for path in files]
    return all(_is_ours(path) or not holds_values(path) for path in paths)


def _info(table: Path) -> dict[str, Any]:
    """What the report of a table says of it; nothing for other files."""
    return dict(metrics_of(table.parent)["info"]) if (table.parent / METRICS).is_file() else {}


def _rounds(name: str, tables: Sequence[Path]) -> tuple[list[tuple[int, ...]], dict[str, str]]:
    """The runs that are folds of one cross-validation, by their protocols; each run by itself if there is one protocol.

    Args:
        name: The system.
        tables: The predictions of its runs.

    Returns:
        The indices of the runs, and what the reports say of their data: ``corpus``, ``split`` and ``protocol``; nothing
        for files without a report.

    Raises:
        PredictionsError: The runs are of different data, or the folds ran a different number of times.
    """
    folds: dict[str, list[int]] = {}
    data: list[dict[str, str]] = []
    for index, info in enumerate(map(_info, tables)):
        folds.setdefault(str(info.get("protocol", "")), []).append(index)
        data.append({key: str(info[key]) for key in ("corpus", "split") if key in info})
    if differing := [table for table, this in zip(tables, data, strict=True) if this != data[0]]:
        raise PredictionsError(f"The runs of {name} were tested on different data: {tables[0]} and {differing[0]}.")
    if len({len(members) for members in folds.values()}) > 1:
        times = ", ".join(f"{len(members)} times {protocol}" for protocol, members in folds.items())
        raise PredictionsError(f"The folds of {name} ran a different number of times: {times}.")
    return list(zip(*folds.values(), strict=True)), data[0] and {**data[0], "protocol": "; ".join(sorted(folds))}


def _grouped(sources: Sequence[str | Path], stages: Sequence[str]) -> dict[str, list[Path]]:
    """The files of the runs, by the name of their system."""
    runs = [run for source in sources for run in _runs(str(source), stages)]
    if twice := [str(path) for path, count in Counter(run.path.resolve() for run in runs).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice: expected every run once.")
    paths = [run.system for run in runs if isinstance(run.system, Path)]
    named = dict(zip(dict.fromkeys(paths), names_of(list(dict.fromkeys(paths))), strict=True)) if paths else {}
    grouped: dict[str, list[Path]] = {}
    for run in runs:
        name = named[run.system] if isinstance(run.system, Path) else run.system
        grouped.setdefault(name, []).append(run.path)
    return grouped


def _runs(source: str, stages: Sequence[str]) -> Iterator[_Run]:
    """The runs of a source; one that is named belongs to the system of that name."""
    name, equals, rest = source.partition("=")
    path = Path(rest if equals and name and not Path(source).exists() else source)
    name = name if path != Path(source) else ""
    if path.is_file():
        report = path.name == _TABLE and (path.parent / METRICS).is_file()
        yield _Run(path, name or (_system_of(path.parent) if report else path.with_suffix("")))
        return
    if (report_of(path) / _TABLE).is_file():
        yield _Run(report_of(path) / _TABLE, name or _system_of(path))
        return
    run, stage = (path, "*") if path.is_dir() else (path.parent, path.name)
    tables = [*sorted(run.glob(f"seed-*/{stage}/report/{_TABLE}"), key=_seed_number)]
    tables += sorted(run.glob(f"{stage}/report/{_TABLE}"))
    names = {table.parents[1].name for table in tables}
    wanted = set(stages) if stages else {name for name in names if re.fullmatch(r"\w+", name)}  # not NAME.previous
    tables = [table for table in tables if table.parents[1].name in wanted]
    if not tables:
        only = f" of the stages {', '.join(stages)}" if stages else ""
        raise FileNotFoundError(
            f"No predictions{only} in {path}: expected a folder of `merc run`, RUN/STAGE, a report, or a file of "
            "predictions."
        )
    several = len({table.parents[1].name for table in tables}) > 1
    for table in tables:
        stage = table.parents[1].name
        yield _Run(table, (f"{name}/{stage}" if several else name) if name else _system_of(table.parents[1]))


def _system_of(folder: Path) -> Path:
    """The folder that names the system of a report or a stage: without ``report`` and the seed."""
    folder = folder.absolute()
    folder = folder.parent if folder.name == "report" else folder
    return folder.parents[1] / folder.name if re.fullmatch(r"seed-\d+", folder.parent.name) else folder


def _seed_number(table: Path) -> tuple[str, int]:
    return table.parents[1].name, int(table.parents[2].name.removeprefix("seed-"))


def _is_ours(path: Path) -> bool:
    """Whether a file is a table of merc with probabilities, by its first line."""
    return is_table(path, "p_")


def _read_own(name: str, tables: Sequence[Path]) -> System:
    rounds, info = _rounds(name, tables)
    runs, seeds = [read_predictions(table) for table in tables], [_info(table).get("seed") for table in tables]
    if all(len(members) == 1 for members in rounds):
        return System(name, runs, seeds, info)
    together = [pooled([runs[index] for index in members]) for members in rounds]
    return System(name, together, [seeds[members[0]] for members in rounds], info)


def _read_others(name: str, files: Sequence[Path], reference: Predictions | None, labels: Sequence[str]) -> System:
    runs: list[Predictions] = []
    seeds: list[int | None] = []
    sure = True
    for file in files:
        for seed, predictions, with_probabilities in read_other_predictions(file, reference, labels=labels):
            reference = reference or predictions
            runs.append(predictions)
            seeds.append(seed)
            sure = sure and with_probabilities
    return System(name, runs, seeds, {}, sure)


def read_other_predictions(
    path: str | Path, reference: Predictions | None = None, *, labels: Sequence[str] = ()
) -> list[tuple[int | None, Predictions, bool]]:
    """Read the predictions of code that is not merc.

    CSV or TSV with a line of column names; JSON with a list of objects, an object of columns, or an object from
    utterances to predictions; or JSON lines. Columns, whatever their case and punctuation:

    - the utterance: ``Dialogue_ID`` and ``Utterance_ID``, or one ``id`` such as ``dia3_utt7``, ``dia3_utt7.mp4``,
      ``3/7`` or an utterance's own name. Without any, rows are matched by their order, if the gold labels prove it;
    - ``predicted`` (``pred``, ``prediction``, ...): an emotion, or its number;
    - ``gold`` (``label``, ``target``, ...), optional beside a reference: it must agree with it;
    - ``p_<emotion>``, or ``probabilities`` in JSON, optional; ``split``, rows of other splits are left out; ``seed``.

    Numbers for emotions are translated by ``labels``, or by what the gold labels show.

    Args:
        path: The file.
        reference: Predictions for the utterances that are compared. Default: the file, which must have gold labels.
        labels: The emotions in the order of their numbers.

    Returns:
        For every seed in the file: the seed (``None`` without a column), the predictions in the order of the reference,
        and whether the file has probabilities.

    Raises:
        FileNotFoundError: The file does not exist.
        PredictionsError: The file is not such a table, or its utterances, emotions or gold labels are not those of the
            reference.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No predictions at {path}: expected a CSV or JSON file.")
    try:
        rows = _json_rows(path) if path.suffix.lower() in (".json", ".jsonl") else _csv_rows(path)
    except (CorpusError, ValueError) as error:
        raise PredictionsError(f"{path} is not a table of predictions: {error}") from error
    table = _Table(path, rows, labels)
    runs: dict[int | None, list[dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault(table.seed(row), []).append(row)
    found = []
    for seed, part in runs.items():
        predictions = table.predictions(part, reference)
        reference = reference or predictions
        found.append((seed, predictions, table.with_probabilities))
    return found


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    return [dict(row.cells) for row in read_rows(path).rows]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file, one per utterance.

    Raises:
        ValueError: The file has none of the shapes that are known.
    """
    data = path.read_bytes()
    if path.suffix.lower() == ".jsonl":
        raw: Any = [parse_json(line) for line in data.splitlines() if line.strip()]
    else:
        raw = parse_json(data)
    if isinstance(raw, dict) and raw and all(isinstance(column, list) for column in raw.values()):
        if len({len(column) for column in raw.values()}) == 1 and not isinstance(next(iter(raw.values()))[0], dict):
            raw = [dict(zip(raw, cells, strict=True)) for cells in zip(*raw.values(), strict=True)]
        elif len(raw) == 1:
            raw = next(iter(raw.values()))
    elif isinstance(raw, dict):
        raw = [{"id": key, **(row if isinstance(row, dict) else {"predicted": row})} for key, row in raw.items()]
    if not isinstance(raw, list) or not raw or not all(isinstance(row, dict) for row in raw):
        raise ValueError("expected a list of objects, an object of columns, or an object from utterances to emotions")
    return raw


def _fold(column: str) -> str:
    return re.sub(r"[\W_]+", "", str(column).lower())


class _Table:
    """The rows of a file of other code, and what its columns mean."""

    def __init__(self, path: Path, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
        self.path = path
        self.names = list(labels)
        columns = {_fold(name): name for row in reversed(rows) for name in reversed(list(row))}
        self.columns = {
            role: next((columns[name] for name in names if name in columns), None) for role, names in _COLUMNS.items()
        }
        self.of_class = {name: match[1] for name in columns.values() if (match := _OF_CLASS.fullmatch(name))}
        if self.columns["predicted"] is None and not self.of_class and self.columns["probabilities"] is None:
            raise PredictionsError(
                f"{path} has the columns {', '.join(columns.values())}: expected one named predicted (or pred, "
                "prediction), with an emotion per utterance."
            )

    @property
    def with_probabilities(self) -> bool:
        """Whether every emotion has a number."""
        return bool(self.of_class) or self.columns["probabilities"] is not None

    def _cell(self, row: Mapping[str, Any], role: str) -> str:
        column = self.columns[role]
        value = None if column is None else row.get(column)
        return "" if value is None else str(value).strip()

    def seed(self, row: Mapping[str, Any]) -> int | None:
        """The seed of a row."""
        cell = self._cell(row, "seed")
        if cell and not re.fullmatch(r"-?\d{1,18}", cell):
            raise PredictionsError(f"{self.path} has the seed {cell!r}: expected a whole number.")
        return int(cell) if cell else None

    def predictions(self, rows: list[dict[str, Any]], reference: Predictions | None) -> Predictions:
        """The predictions of one run, in the order of the reference."""
        if reference is None:
            keys = [self._own_key(row, number) for number, row in enumerate(rows, start=1)]
            names = self.names or sorted({self._cell(row, "gold").lower() for row in rows} - {""})
            if not names or all(name.lstrip("-").isdigit() for name in names):
                raise PredictionsError(
                    f"{self.path} names its emotions by numbers, and no predictions of merc say what they mean: "
                    "expected --labels with the emotions in their order, or gold labels by name."
                )
            known = _with_aliases(names)
            gold = [self._label(self._cell(row, "gold"), known, {}) for row in rows]
            order = list(range(len(rows)))
        else:
            known = _with_aliases(reference.labels.names)
            keys = list(reference.keys)
            order = self._matched(rows, reference)
            gold = reference.gold.tolist()
        rows = [rows[index] for index in order]
        numbers = self._numbers(rows, gold, known)
        if reference is not None and self.columns["gold"]:
            theirs = [self._label(self._cell(row, "gold"), known, numbers) for row in rows]
            differing = [i for i, (a, b) in enumerate(zip(theirs, gold, strict=True)) if a != b and a != IGNORE_INDEX]
            if differing:
                key = UtteranceKey(*keys[differing[0]])
                raise PredictionsError(
                    f"{self.path}: the gold labels of {len(differing)} of {len(keys)} utterances differ from the "
                    f"other predictions (first: {key}). Expected predictions for the same annotation."
                )
        table = torch.tensor([self._probabilities(row, known, numbers) for row in rows])
        labels = known if reference is None else reference.labels
        return Predictions(labels, keys, torch.tensor(gold, dtype=torch.long), table)

    def _own_key(self, row: Mapping[str, Any], number: int) -> UtteranceKey:
        """The key of a row as the file itself gives it."""
        dialogue, utterance, name = (self._cell(row, role) for role in ("dialogue", "utterance", "id"))
        if not (dialogue and utterance):
            split = re.fullmatch(r"(?:dia)?(.+?)(?:_utt|/|_)([^_/]+)", _stem(name))
            if split is None:
                raise PredictionsError(
                    f"{self.path}, row {number}: expected the columns Dialogue_ID and Utterance_ID, or an id such as "
                    f"dia3_utt7, found {name!r}."
                )
            dialogue, utterance = split[1], split[2]
        return UtteranceKey(_split(self._cell(row, "split")) or "test", dialogue, utterance)

    def _matched(self, rows: Sequence[Mapping[str, Any]], reference: Predictions) -> list[int]:
        """For every utterance of the reference, the index of its row."""
        if not (self.columns["id"] or (self.columns["dialogue"] and self.columns["utterance"])):
            return self._by_position(rows, reference)
        partitions = {key[0] for key in reference.keys}
        spellings = _spellings(reference.keys)
        found: dict[UtteranceKey, int] = {}
        strange: list[str] = []
        for index, row in enumerate(rows):
            split = _split(self._cell(row, "split"))
            if split and split not in partitions and split in ("train", "val", "test"):
                continue  # of another split
            dialogue, utterance = self._cell(row, "dialogue"), self._cell(row, "utterance")
            name = f"{dialogue}/{utterance}" if dialogue and utterance else _stem(self._cell(row, "id"))
            key = spellings.get(f"{split}/{name}" if split in partitions else name) or spellings.get(name)
            if key is None:
                strange.append(name)
            elif key in found:
                raise PredictionsError(f"{self.path} predicts {key} twice. Give one prediction per utterance and run.")
            else:
                found[key] = index
        missing = [key for key in reference.keys if UtteranceKey(*key) not in found]
        if missing or strange:
            raise PredictionsError(
                f"{self.path} has other utterances than the predictions it is compared with: {len(missing)} of "
                f"{len(reference.keys)} are missing{f' (first: {UtteranceKey(*missing[0])})' if missing else ''}, "
                f"{len(strange)} are unknown{f' (first: {strange[0]!r})' if strange else ''}. Expected the same split "
                "of the same corpus."
            )
        return [found[UtteranceKey(*key)] for key in reference.keys]

    def _by_position(self, rows: Sequence[Mapping[str, Any]], reference: Predictions) -> list[int]:
        """Rows in the order of the reference, which equal gold labels all along prove."""
        advice = "Add the columns Dialogue_ID and Utterance_ID."
        if not self.columns["gold"] or len(rows) != len(reference.keys):
            raise PredictionsError(
                f"{self.path} does not say which utterance a row is of, and has {len(rows)} rows for "
                f"{len(reference.keys)} utterances{'' if self.columns['gold'] else ' and no gold labels'}. {advice}"
            )
        meanings: dict[str, set[int]] = {}
        for row, gold in zip(rows, reference.gold.tolist(), strict=True):
            meanings.setdefault(self._cell(row, "gold").lower(), set()).add(gold)
        if any(len(meant) > 1 for meant in meanings.values()):
            raise PredictionsError(
                f"{self.path} does not say which utterance a row is of, and its gold labels are not those of the other "
                f"predictions in their order. {advice}"
            )
        return list(range(len(rows)))

    def _numbers(self, rows: Sequence[Mapping[str, Any]], gold: Sequence[int], known: LabelSet) -> dict[str, int]:
        """What numbers in the place of emotions mean: the given order, or what the gold labels show."""
        if self.names:
            return {str(number): known.index(name) for number, name in enumerate(self.names)}
        meanings: dict[str, set[int]] = {}
        for row, label in zip(rows, gold, strict=True):
            cell = _whole(self._cell(row, "gold"))
            if cell.lstrip("-").isdigit() and label != IGNORE_INDEX:
                meanings.setdefault(cell, set()).add(label)
        return {cell: meant.pop() for cell, meant in meanings.items() if len(meant) == 1}

    def _label(self, cell: str, known: LabelSet, numbers: Mapping[str, int]) -> int:
        whole = _whole(cell)
        if cell == "" or (whole.startswith("-") and whole[1:].isdigit()):
            return IGNORE_INDEX
        if whole.isdigit():
            if whole not in numbers:
                raise PredictionsError(
                    f"{self.path} names an emotion by the number {whole}, whose meaning the gold labels do not show: "
                    "expected --labels with the emotions in the order of their numbers."
                )
            return numbers[whole]
        try:
            return known.index(cell)
        except UnknownLabelError as error:
            raise PredictionsError(f"{self.path}: {error}") from error

    def _probabilities(self, row: Mapping[str, Any], known: LabelSet, numbers: Mapping[str, int]) -> list[float]:
        """The probabilities of a row, or 1 for its emotion."""
        column = self.columns["probabilities"]
        given: Any = {name: row.get(column) for column, name in self.of_class.items()}
        if not given and column is not None:
            given = row[column]
            if isinstance(given, list):
                given = dict(zip(self.names or map(str, range(len(given))), given, strict=False))
        values = [0.0] * len(known)
        if isinstance(given, Mapping) and given:
            if len(given) != len(known):
                raise PredictionsError(
                    f"{self.path} gives probabilities of {len(given)} emotions: expected {', '.join(known.names)}."
                )
            for name, value in given.items():
                try:
                    values[self._label(str(name), known, numbers)] = float(value)
                except (TypeError, ValueError) as error:
                    raise PredictionsError(f"{self.path}: {value!r} is not a probability of {name}.") from error
            return values
        label = self._label(self._cell(row, "predicted"), known, numbers)
        if label == IGNORE_INDEX:
            raise PredictionsError(f"{self.path} has a row without a prediction: expected an emotion in every row.")
        values[label] = 1.0
        return values


def _whole(cell: str) -> str:
    """A number without ``.0``, which pandas adds where a column has an empty cell."""
    return cell.removesuffix(".0")


def _split(cell: str) -> str:
    return _SPLITS.get(cell.lower(), cell.lower())


def _stem(name: str) -> str:
    """The name of an utterance without folder and ending of its file."""
    return re.sub(r"\.(mp4|wav|avi|npy|pt|mp3|flac)$", "", name, flags=re.IGNORECASE)


def _spellings(keys: Sequence[UtteranceKey]) -> dict[str, UtteranceKey]:
    """How other code writes the keys, where that means one utterance only."""
    found: dict[str, UtteranceKey | None] = {}
    for partition, dialogue, utterance in keys:
        key = UtteranceKey(partition, dialogue, utterance)
        names = {str(key), f"{dialogue}/{utterance}", f"{dialogue}_{utterance}", f"dia{dialogue}_utt{utterance}"}
        names |= {utterance, f"{partition}/dia{dialogue}_utt{utterance}"}
        for name in names:
            found[name] = None if name in found else key
    return {name: key for name, key in found.items() if key is not None}


def _with_aliases(names: Sequence[str]) -> LabelSet:
    """A label set of these names, with the other spellings that merc knows of them."""
    same = (known for known in (MELD, IEMOCAP6, IEMOCAP4) if set(known.names) == set(names))
    aliases = next((known.aliases for known in same), {})
    try:
        return LabelSet("predictions", tuple(names), aliases=aliases)
    except ValueError as error:
        raise PredictionsError(str(error)) from error
