"""A model, applied to recordings: the features that it needs of them, and the emotions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

import merc
from merc.callbacks import StoreWriterCallback
from merc.conversation import CORPUS_FILE, Corpus, UtteranceKey
from merc.files import parse_yaml
from merc.models.errors import ModelError
from merc.models.media import MediaStep
from merc.pipeline.apply import FACES, AppliedRun, NameSpeakers, content_of
from merc.pipeline.lightning import quiet_lightning
from merc.pipeline.stage import Stage, StageRun
from merc.store import FeatureStore
from merc.weights import weights_digest

if TYPE_CHECKING:
    from merc.models.model import Model


def apply_model(
    model: Model,
    corpus: Corpus,
    out: str | Path,
    *,
    trainer_options: Sequence[str] = (),
    speakers: NameSpeakers | None = None,
) -> tuple[AppliedRun, list[str]]:
    """Apply a model to utterances of recordings, as :func:`merc.pipeline.apply.apply_pipeline` applies a run.

    Voices and faces are extracted by the steps that the model brings, into a folder of ``out`` for each. What is
    finished and unchanged there is skipped, what was interrupted goes on. A model of text alone reads no recording.

    Args:
        model: The model.
        corpus: The conversations, whose utterances name clips.
        out: Folder for the stores.
        trainer_options: Options of Lightning's Trainer, such as ``--trainer.accelerator=gpu``.
        speakers: Finds out who speaks, as for :func:`merc.pipeline.apply.apply_pipeline`.

    Returns:
        The stores and the emotions, and notes on what could not be extracted for lack of a package.

    Raises:
        ModelError: The emotions depend on recordings in a way that the model does not tell.
    """
    out = Path(out)
    stores, notes = _extract(model, corpus, out, trainer_options)
    if speakers is not None:
        seen = {kind: path for kind in FACES for name, path in stores.items() if name.endswith(f"/{kind}")}
        corpus = speakers(corpus, {kind: FeatureStore(path) for kind, path in seen.items()})
    features = {name: stores[f"{name}/features"] for name in model.given if f"{name}/features" in stores}
    opened = {name: FeatureStore(path) for name, path in features.items()}
    found = model.predict(corpus, features={name: store for name, store in opened.items() if len(store)})
    known = [bool(used) for used in found.used]
    logits = FeatureStore.write(
        out / "emotions" / "logits",
        [key for key, there in zip(found.keys, known, strict=True) if there],
        torch.cat([found.probabilities[known].clamp(min=1e-30).log(), found.values[known]], dim=1),
        kind="logits",
        corpus=corpus.digest,
        missing={key: "no modality" for key, there in zip(found.keys, known, strict=True) if not there},
        provenance={
            "classes": [*model.labels.names, *model.dimensions],
            **({"values": list(model.dimensions)} if model.dimensions else {}),
            "model": model.name,
            "merc": merc.__version__,
        },
    )
    missing = {}
    for modality, there in found.present.items():
        sources = model.sources(modality)
        lacking = [key for key, here in zip(found.keys, there.tolist(), strict=True) if not here]
        missing[modality] = {
            key: _why(key, [opened.get(name) for name in sources]) if sources else "no words" for key in lacking
        }
    parts = {
        part: {key: row for key, row in zip(found.keys, rows, strict=True) if bool(row.isfinite().all())}
        for part, rows in found.parts.items()
    }
    return AppliedRun(corpus, missing, logits, stores, {"model": model.name}, parts), notes


def _why(key: UtteranceKey, stores: Sequence[FeatureStore | None]) -> str:
    reasons = [reason for store in stores if store is not None for reason in store.why_missing([key]).values()]
    return "; ".join(dict.fromkeys(reasons)) or "not extracted"


def _extract(
    model: Model, corpus: Corpus, out: Path, trainer_options: Sequence[str]
) -> tuple[dict[str, Path], list[str]]:
    """The stores of all steps that read recordings, by step and what they hold; why steps were left out."""
    steps = [step for step in model.steps.values() if isinstance(step, MediaStep)]
    if unknown := [name for name in model.given if not isinstance(model.steps[name], MediaStep)]:
        raise ModelError(
            f"The model reads {', '.join(unknown)}, and does not tell how to make that of a recording: it came from a "
            "table, or from code of its author. Give stores to model.predict(..., features=...)."
        )
    console = Console(markup=False, highlight=False)
    stores: dict[str, Path] = {}
    runs: dict[str, StageRun] = {}
    notes: list[str] = []
    if steps:
        corpus.save(out / CORPUS_FILE)
    for number, step in enumerate(steps, start=1):
        if not set(step.needs) <= runs.keys():  # a step before it was left out
            continue
        run = _planned(step, corpus, out, runs, trainer_options)
        title = f"step {number} of {len(steps)}: {step.name}"
        if run.marked and run.damage() is None:
            console.print(f"{title}: finished before, unchanged", style="dim")
        else:
            console.print(title)
            try:
                _run(step, run, out / CORPUS_FILE, stores, trainer_options)
            except ImportError as error:
                if not model.does_without(step):
                    raise
                notes.append(f"The emotions come without {step.name}: {error}")
                continue
        runs[step.name] = run
        stores |= {f"{step.name}/{output}": run.folder / output for output in step.outputs}
    return stores, notes


def _planned(
    step: MediaStep, corpus: Corpus, out: Path, runs: Mapping[str, StageRun], trainer_options: Sequence[str]
) -> StageRun:
    """The step as a stage, which knows whether it is finished."""
    reads = {name: runs[name] for name in step.needs}
    basis = [
        merc.__version__,
        step.plain(),
        weights_digest(step),
        content_of(corpus),
        list(trainer_options),
        {name: run.fingerprint for name, run in reads.items()},
    ]
    fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()
    stage = Stage(step.name, "predict", outputs=list(step.outputs), report=False)
    return StageRun(stage, out / step.name, 0, fingerprint, {name: run.folder for name, run in reads.items()})


def _run(
    step: MediaStep, run: StageRun, corpus: Path, stores: Mapping[str, Path], trainer_options: Sequence[str]
) -> None:
    """Make the stores of a step."""
    from lightning import Trainer

    task, data = step.prepared(corpus, stores)
    run.begin()
    writer = StoreWriterCallback({output: str(run.folder / output) for output in step.outputs})
    options: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "devices": 1,
    }
    options |= _options(trainer_options)
    with quiet_lightning(quiet=True):
        trainer = Trainer(callbacks=[writer], default_root_dir=run.folder, **options)
        trainer.predict(task, datamodule=data, return_predictions=False)
    run.update_state(finished=True)


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Options such as ``--trainer.accelerator=gpu``, or in two words, as names and values."""
    words = iter(given)
    options = {}
    for word in words:
        name, equals, value = word.removeprefix("--trainer.").partition("=")
        options[name] = parse_yaml(value if equals else next(words, ""), word)
    return options
