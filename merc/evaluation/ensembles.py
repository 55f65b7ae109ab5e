"""Ensembles: averaged predictions of several systems, with a report and a store like those of one system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merc.conversation import UtteranceKey
from merc.evaluation.comparison import ensemble
from merc.evaluation.predictions import PredictionsError, read_predictions
from merc.evaluation.report import METRICS, REPORT, VAL, ReportInfo, StoreInfo, write_report
from merc.files import parse_json
from merc.store import MANIFEST, FeatureStore, StoreError

LOGITS = "logits"


def ensemble_systems(members: Sequence[Path], *, out: Path) -> dict[str, Any]:
    """Average the probabilities of systems that were tested: other systems, or one trained with several seeds.

    Every member has the same weight, so nothing is chosen on any split. The report is in ``out/report``. If every
    member has a store of logits, the ensemble's logits, the log of its probabilities, are stored in ``out/logits``.

    Args:
        members: Two or more folders of finished stages of ``merc run``, or of their reports.
        out: Folder of the ensemble.

    Returns:
        The contents of ``out/report/metrics.json``.

    Raises:
        ValueError: There are fewer than two members, or a member is repeated.
        FileNotFoundError: A member was not tested.
        PredictionsError: The members were tested on different utterances, emotions or labels.
        StoreError: A store of logits is damaged, or has other emotions.
    """
    folders = [Path(member) for member in members]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ValueError(
            f"An ensemble of {', '.join(map(str, folders)) or 'nothing'}: expected two different members or more."
        )
    infos = [metrics_of(folder)["info"] for folder in folders]
    first = infos[0]
    for folder, info in zip(folders, infos, strict=True):
        if differing := [name for name in ("corpus", "split", "protocol") if info[name] != first[name]]:
            found = "; ".join(f"{name}: {first[name]!r} and {info[name]!r}" for name in differing)
            raise PredictionsError(f"{folders[0]} and {folder} were tested on different data ({found}).")
    together = ensemble([read_predictions(report_of(folder)) for folder in folders])
    tables = [report_of(folder) / VAL for folder in folders]
    val = ensemble([read_predictions(table) for table in tables]) if all(map(Path.is_file, tables)) else None
    names = names_of(folders)
    stores = {name: folder / LOGITS for name, folder in zip(names, folders, strict=True)}
    if all((path / MANIFEST).is_file() for path in stores.values()):
        ensemble_logits({name: FeatureStore(path) for name, path in stores.items()}, out=out / LOGITS)
    info_of_ensemble = ReportInfo(
        corpus=first["corpus"],
        split=first["split"],
        protocol=first["protocol"],
        notes=first["notes"],
        seed=first["seed"] if all(info["seed"] == first["seed"] for info in infos) else None,
        model=f"Mean of the probabilities of {', '.join(names)}",
        selected_on="; ".join(f"{name}: {info['selected_on']}" for name, info in zip(names, infos, strict=True)),
        stores={
            f"{name}: {store}": StoreInfo(found["path"], found["provenance"])
            for name, info in zip(names, infos, strict=True)
            for store, found in info["stores"].items()
        },
        missing={
            modality: {
                key: "the reports of the members say why"
                for key, here in zip(together.keys, there.tolist(), strict=True)
                if not here
            }
            for modality, there in together.present.items()
        },
    )
    return write_report(
        out / REPORT,
        labels=together.labels,
        keys=together.keys,
        gold=together.gold,
        probabilities=together.probabilities,
        present=together.present,
        info=info_of_ensemble,
        lines=together.lines,
        val=val,
    )


def ensemble_logits(members: Mapping[str, FeatureStore], *, out: Path) -> FeatureStore:
    """The log of the mean probability of several systems, as a store of logits.

    If some members lack an utterance, it has the mean of the others. The numbers of members that predict some beside
    the emotions are left out.

    Args:
        members: Stores of logits by name.
        out: Folder of the new store.

    Raises:
        StoreError: A member does not contain logits of emotions, or has other emotions than the first.
    """
    first = next(iter(members.values()))
    first.require(kind="logits")
    emotions = _emotions_of(first)
    if not emotions:
        raise StoreError(f"{first.path} tells no emotions: expected a store of their logits.")
    for store in members.values():
        store.require(kind="logits", classes=[*emotions, *store.dimensions])
    keys = list(dict.fromkeys(key for store in members.values() for key in store.keys))
    logits = _mean_probabilities(list(members.values()), keys, len(emotions)).clamp(min=1e-30).log().float()
    nowhere = {key for store in members.values() for key in store.missing}.difference(keys)
    missing = {
        key: "; ".join(dict.fromkeys(store.why_missing([key])[key] for store in members.values()))
        for key in sorted(nowhere)
    }
    provenance = {
        "source": "mean of probabilities",
        "classes": emotions,
        "of": {
            name: {"path": str(store.path), "digest": store.digest, **store.provenance}
            for name, store in members.items()
        },
    }
    known = {store.corpus for store in members.values()}
    corpus = known.pop() if len(known) == 1 else None
    return FeatureStore.write(out, keys, logits, kind="logits", corpus=corpus, missing=missing, provenance=provenance)


def _emotions_of(logits: FeatureStore) -> list[str]:
    """The emotions that a store of logits tells; behind them it may have numbers."""
    classes = logits.provenance.get("classes", [])
    return list(classes[: len(classes) - len(logits.dimensions)])


def _mean_probabilities(stores: Sequence[FeatureStore], keys: Sequence[UtteranceKey], emotions: int) -> Tensor:
    """Mean probabilities ``(N, C)`` over the stores that have the utterance."""
    total, there = torch.zeros(len(keys), emotions, dtype=torch.double), torch.zeros(len(keys), 1)
    for store in stores:
        logits, present = store.gather(keys)
        total += torch.where(present[:, None], logits[:, :emotions].double().softmax(-1), 0.0)
        there += present[:, None]
    return total / there


def report_of(folder: Path) -> Path:
    """The report of a finished stage, or the folder itself if it is one."""
    return folder if (folder / METRICS).is_file() else folder / REPORT


def metrics_of(folder: Path) -> dict[str, Any]:
    """The scores in the report of a finished stage, with its description under ``info``."""
    file = report_of(folder) / METRICS
    if not file.is_file():
        raise FileNotFoundError(f"No report in {folder}, expected a stage that `merc run` tested, or its report.")
    try:
        metrics = parse_json(file.read_bytes())
    except ValueError as error:
        raise PredictionsError(f"{file} is not JSON ({error}). Test the system again.") from error
    if not isinstance(metrics, dict):
        raise PredictionsError(f"{file} is not a report: expected an object with scores. Test the system again.")
    return metrics


def names_of(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as needed to distinguish the members."""
    for depth in range(1, max(len(folder.resolve().parts) for folder in folders) + 1):
        names = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names
