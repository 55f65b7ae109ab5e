"""The report of a test: metrics.json, predictions.csv, confusion.png and report.md."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import merc
from merc.conversation import UtteranceKey
from merc.evaluation.metrics import class_scores
from merc.evaluation.plots import confusion_figure
from merc.evaluation.predictions import Predictions
from merc.files import write_aside
from merc.labels import IGNORE_INDEX, LabelSet

REPORT = "report"
"""Folder of a report, inside the folder of its stage or of the trainer's logs."""

METRICS = "metrics.json"
"""The file of a report that is written last: if it exists, the report is complete."""

_LISTED = 5  # missing utterances per modality in report.md; predictions.csv has all of them


class StoreInfo(NamedTuple):
    """A feature store that the model read: its path, and its own provenance (plain JSON values)."""

    path: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class ReportInfo:
    """Information for readers of the results, beside the numbers.

    Args:
        corpus: Name of the corpus.
        protocol: Its split rule and label source.
        notes: Remarks about the corpus: stray or missing files, leaks.
        split: The predicted split.
        seed: Seed of the training, if one was set.
        model: Description of the model.
        checkpoint: File with the weights.
        selected_on: How the checkpoint was selected, for example ``best weighted F1 on val, epoch 12``.
        resumed_at: Steps of the optimizer after which an interrupted training was resumed.
        stores: The feature stores that were read, by name.
        missing: By modality, the utterances without features and why.
        merc_version: Version of merc.
        torch_version: Version of PyTorch.
    """

    corpus: str
    split: str
    protocol: str = ""
    notes: Sequence[str] = ()
    seed: int | None = None
    model: str = ""
    checkpoint: str | None = None
    selected_on: str = ""
    resumed_at: Sequence[int] = field(default_factory=list)
    stores: Mapping[str, StoreInfo] = field(default_factory=dict)
    missing: Mapping[str, Mapping[UtteranceKey, str]] = field(default_factory=dict)
    merc_version: str = merc.__version__
    torch_version: str = torch.__version__


def write_report(
    folder: str | Path,
    *,
    labels: LabelSet,
    keys: Sequence[UtteranceKey],
    gold: Tensor | np.ndarray[Any, Any],
    probabilities: Tensor | np.ndarray[Any, Any],
    present: Mapping[str, Tensor | np.ndarray[Any, Any]],
    info: ReportInfo,
    lines: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Score predictions and write the report of a test.

    All files are written to temporary names before the first one is renamed, and ``metrics.json`` is renamed last. A
    full disk leaves the previous report as it was; if ``metrics.json`` is new, all other files are too.

    Args:
        folder: Folder of ``metrics.json``, ``predictions.csv``, ``confusion.png`` and ``report.md``.
        labels: The label set of the corpus.
        keys: N utterance keys, each once.
        gold: ``(N,)`` label ids, -100 for unlabelled; these have a prediction but no score.
        probabilities: ``(N, C)`` in the order of ids.
        present: By modality, ``(N,)`` booleans: whether the utterance had it.
        info: Description of the model and of its data.
        lines: The speaker and the text of N utterances, for ``predictions.csv``; empty if they are not known.

    Returns:
        The contents of ``metrics.json``: the scores as fractions in 0..1 (``weighted_f1``, ``macro_f1``, ``accuracy``,
        ``f1/<emotion>``), ``support/<emotion>``, the number of ``utterances`` and of those ``scored``, the
        ``missing`` ones by modality, the ``confusion`` matrix with its ``classes``, and ``info``.

    Raises:
        PredictionsError: The shapes do not match, keys are repeated, or probabilities are not finite.
        OSError: The files cannot be written; the previous report is unchanged.
    """
    predictions = Predictions(
        labels,
        [UtteranceKey(*key) for key in keys],
        torch.as_tensor(gold).cpu().long(),
        torch.as_tensor(probabilities).detach().cpu().float(),
        {name: torch.as_tensor(there).cpu().bool() for name, there in present.items()},
        lines,
    )
    confusion = predictions.confusion.long()
    order = labels.report_ids
    metrics: dict[str, Any] = {
        **predictions.metrics(),
        **{f"support/{labels.names[c]}": int(confusion[c].sum()) for c in order},
        "utterances": len(predictions.keys),
        "scored": int(confusion.sum()),
        "missing": {name: int((~there).sum()) for name, there in predictions.present.items()},
        "classes": list(labels.report_order),
        "confusion": confusion[order][:, order].tolist(),
        "info": _plain(info),
    }
    figure = confusion_figure(confusion, labels, f"{info.corpus}, {info.split}")
    folder = Path(folder)
    with ExitStack() as files:
        # Renamed in reverse order: the metrics come last, because they mark the report as complete.
        aside = {
            name: files.enter_context(write_aside(folder / name))
            for name in (METRICS, "report.md", "confusion.png", "predictions.csv")
        }
        text = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
        aside[METRICS].write_text(text + "\n", encoding="utf-8")
        aside["report.md"].write_text(_markdown(predictions, info), encoding="utf-8")
        aside["predictions.csv"].write_text(predictions.to_csv(), encoding="utf-8", newline="")
        figure.savefig(aside["confusion.png"], format="png", dpi=150)
    return metrics


def _plain(info: ReportInfo) -> dict[str, Any]:
    """``info`` as JSON values, with the reasons for missing utterances and their counts."""
    plain = {item.name: getattr(info, item.name) for item in dataclasses.fields(info)}
    plain["notes"] = list(info.notes)
    plain["stores"] = {
        name: {"path": store.path, "provenance": dict(store.provenance)} for name, store in info.stores.items()
    }
    plain["missing"] = {name: dict(Counter(missing.values())) for name, missing in info.missing.items()}
    return plain


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with the first column left-aligned and the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _markdown(predictions: Predictions, info: ReportInfo) -> str:
    metrics = predictions.metrics()
    total, scored = len(predictions.keys), int((predictions.gold != IGNORE_INDEX).sum())
    sections = [
        f"# {info.corpus}, {info.split}: weighted F1 {100 * metrics['weighted_f1']:.2f} %",
        _bullets(
            {
                "Model": info.model,
                "Checkpoint": info.checkpoint,
                "Selected on": info.selected_on,
                "Interrupted": _resumed(info.resumed_at),
                "Seed": info.seed,
                "Versions": f"merc {info.merc_version}, PyTorch {info.torch_version}",
            }
        ),
        "## Scores",
        "All in percent; the order of the columns is that of the published tables.",
        _score_table(predictions),
        f"Macro F1 is the mean over all {len(predictions.labels)} classes, including those without an utterance.",
        "![Confusion matrix](confusion.png)",
        "## Data",
        _bullets(
            {
                "Corpus": info.corpus,
                "Protocol": info.protocol,
                "Split": info.split,
                "Utterances": f"{total}, of which {scored} are labelled and scored"
                + (f"; {total - scored} are unlabelled: predicted, but not scored" if scored < total else ""),
            }
        ),
    ]
    if info.notes:
        sections += ["Notes on this corpus:", "\n".join(f"- {note}" for note in info.notes)]
    sections += ["## Missing modalities", "\n".join(_missing(predictions, info)) or "No modality was recorded."]
    if info.stores:
        sections += ["## Features", "\n".join(_stores(info.stores))]
    return "\n\n".join(section for section in sections if section) + "\n"


def _resumed(steps: Sequence[int]) -> str:
    return f"and resumed after step {', '.join(map(str, steps))}" if steps else ""


def _bullets(items: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in items.items() if value not in (None, ""))


def _score_table(predictions: Predictions) -> str:
    confusion, labels, metrics = predictions.confusion, predictions.labels, predictions.metrics()
    precision, recall, f1 = class_scores(confusion)
    rows = [
        [name, *(f"{100 * values[c]:.2f}" for c in labels.report_ids)]
        for name, values in (("F1", f1), ("Precision", precision), ("Recall", recall))
    ]
    rows[0] += [f"{100 * metrics[name]:.2f}" for name in ("accuracy", "weighted_f1", "macro_f1")]
    support = [str(int(confusion[c].sum())) for c in labels.report_ids]
    rows.append(["Support", *support, str(int(confusion.sum()))])
    header = ["", *(name.capitalize() for name in labels.report_order), "Acc.", "Weighted F1", "Macro F1"]
    return markdown_table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def _missing(predictions: Predictions, info: ReportInfo) -> Iterator[str]:
    """The number of utterances without each modality, and the first few with their reasons."""
    for name, there in predictions.present.items():
        lacking = [predictions.keys[row] for row in (~there).nonzero().flatten().tolist()]
        yield f"- {name}: {len(lacking)} of {len(predictions.keys)} utterances"
        reasons = info.missing.get(name, {})
        for key in lacking[:_LISTED]:
            yield f"  - {key}: {reasons.get(key, 'not in the store')}"
        if len(lacking) > _LISTED:
            yield f"  - and {len(lacking) - _LISTED} more, in `predictions.csv` under `has_{name}`"


def _stores(stores: Mapping[str, StoreInfo]) -> Iterator[str]:
    for name, store in stores.items():
        yield f"- {name}: `{store.path}`"
        for key, value in store.provenance.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"  - {key}: {text}"
