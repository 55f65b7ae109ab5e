"""The card of a model: what it was trained on, how often it is right, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchmetrics.functional.classification import multiclass_calibration_error

import merc
from merc.conversation import Corpus
from merc.evaluation import Predictions, ensemble, pooled, read_predictions, read_value_predictions
from merc.evaluation.ensembles import metrics_of
from merc.evaluation.report import METRICS, REPORT, of_emotions, of_values
from merc.evaluation.tables import markdown_table
from merc.evaluation.values import AGREEMENT, mean_ccc, mean_values, pooled_values
from merc.labels import IGNORE_INDEX
from merc.models.notes import word_profile

if TYPE_CHECKING:
    from merc.models.model import Model

_BINS = 15


def about_run(
    corpus: Corpus, stages: Sequence[Path], stage: str, seeds: Sequence[int], licence: str | None, data: str | None
) -> dict[str, Any]:
    """What is known of the stage that a model comes from, in plain values without a path.

    Args:
        corpus: The corpus of the run.
        stages: The folders of the stage, one for every seed.
        stage: Its name.
        seeds: The seeds.
        licence: Of the model.
        data: What it was trained on, in words.

    Returns:
        Name, protocol, sizes, notes and most frequent words of the corpus; stage and seeds; and, if the stage was
        tested, the scores of the model on the test split in percent, and of each of its seeds, with ``values`` those of
        the numbers that it tells, by dimension, and ``values_of_seeds`` the mean CCC of each seed. The model of a
        cross-validation has seen all of the corpus: its scores are those of its folds, pooled.
    """
    sizes = {
        split: {"dialogues": len(conversations), "utterances": sum(map(len, conversations))}
        for split, conversations in corpus.items()
    }
    about: dict[str, Any] = {
        "corpus": corpus.name,
        "protocol": corpus.protocol,
        "notes": list(corpus.notes),
        "splits": sizes,
        "stage": stage,
        "seeds": list(seeds),
        "licence": licence,
        "data": data,
        "words": word_profile(corpus.get("train", [])),
        "torch": torch.__version__.partition("+")[0],
    }
    reports = [folder / REPORT for folder in stages]
    if all((report / METRICS).is_file() for report in reports):
        metrics = {stage: [metrics_of(report) for report in reports]}
        if of_values(metrics):
            values = [read_value_predictions(report, corpus.dimensions) for report in reports]
            about["folds"] = len({frozenset(one.keys) for one in values}) > 1
            about["values"] = (pooled_values(values) if about["folds"] else mean_values(values)).scores()
            about["values_of_seeds"] = [round(mean_ccc([one]), 4) for one in values]
        if of_emotions(metrics):
            tested = [read_predictions(report, corpus.labels) for report in reports]
            folds = len({frozenset(one.keys) for one in tested}) > 1
            about["folds"] = folds
            about["scores"] = _scores(pooled(tested) if folds else ensemble(tested))
            about["scores_of_seeds"] = [_scores(one)["weighted_f1"] for one in tested]
    return about


def _scores(predictions: Predictions) -> dict[str, Any]:
    """Scores of predictions in percent, with the number of utterances and the calibration error."""
    scored = predictions.gold != IGNORE_INDEX
    metrics = {name: round(100 * value, 2) for name, value in predictions.metrics().items()}
    support = predictions.gold[scored].bincount(minlength=len(predictions.labels)).tolist()
    error = multiclass_calibration_error(
        predictions.probabilities[scored], predictions.gold[scored], len(predictions.labels), n_bins=_BINS
    )
    return {
        **metrics,
        "support": dict(zip(predictions.labels.names, support, strict=True)),
        "utterances": int(scored.sum()),
        "calibration_error": round(100 * float(error), 2),
    }


def model_card(model: Model) -> str:
    """The README of a model, in Markdown with the metadata of the Hugging Face hub.

    Args:
        model: The model.
    """
    about, name = model.about, model.name
    licence = about.get("licence")
    scales = [f"{dimension} ({low:g} to {high:g})" for dimension, (low, high) in model.dimensions.items()]
    emotions = f"the emotion of every utterance of a conversation: {', '.join(model.labels.report_order)}"
    numbers = f"numbers for every utterance of a conversation: {', '.join(scales)}"
    tells = " and ".join([emotions] * bool(len(model.labels)) + [numbers] * bool(scales))
    shown = "label" if len(model.labels) else "values"
    sections = [
        "---\nlibrary_name: merc\npipeline_tag: text-classification\ntags: [emotion-recognition, conversation]\n---",
        f"# {name}",
        f"Tells {tells}. Made by merc {merc.__version__} from a run on {about['corpus']}.",
        f'```python\nimport merc\n\nmodel = merc.load("{name}")\n'
        f'print(model.predict([("Ann", "That is wonderful!"), ("Ben", "Is it?")]).{shown})\n```',
        "## What it reads",
        "\n".join(_reads(model)),
        "## Training data",
        "\n".join(_data(about)),
        "## Scores",
        _evaluation(model, about),
        "## Intended use and limits",
        "\n".join(
            [
                f"- For conversations like those of {about['corpus']}. On others, in another language or of other "
                "people, it is right less often; nobody has measured how often.",
                "- It tells which emotion or number an annotator would write down, not what a person feels. Do not "
                "decide about people by it: not in hiring, policing, medicine, schools or insurance.",
                "- An utterance is judged in its conversation, also by what comes after it.",
                *[
                    "- Rare emotions are found least: see the scores by emotion. Probabilities are those of "
                    f"{about['corpus']}'s mix of emotions."
                ]
                * bool(len(model.labels)),
            ]
        ),
        "## Licence",
        f"{licence}." if licence else "Not stated by who exported the model.",
        f"The weights were learned from {about['corpus']}, and what a pretrained encoder had learned before: the "
        "licences of both apply to their use.",
    ]
    return "\n\n".join(sections) + "\n"


def _reads(model: Model) -> list[str]:
    lines = []
    for name, step in model.steps.items():
        plain = step.plain()
        if step.kind == "encode":
            spec = plain["encoder"]
            named = Path(str(spec.get("init_args", {}).get("model", spec["class_path"]))).name
            digest = f"frozen, digest {str(plain['digest'])[:12]}"
            how = "fine-tuned, its weights are in this folder" if plain["tuned"] else digest
            lines.append(f"- Text encoder `{named}` ({how}).")
        elif step.kind == "given":
            lines.append(
                f"- `{name}`: {step.widths['features']} numbers per utterance, given as a feature store: "
                f"`model.predict(..., features={{'{name}': ...}})`. Without it the emotions come from the rest."
            )
    networks = sum(step.kind == "network" for step in model.steps.values())
    weights = sum(tensor.numel() for step in model.steps.values() for tensor in step.tensors().values())
    return [*lines, f"- {networks} network{'s' * (networks > 1)}; {weights:,} numbers in model.safetensors."]


def _data(about: Mapping[str, Any]) -> list[str]:
    sizes = ", ".join(
        f"{split} {size['dialogues']} dialogues with {size['utterances']} utterances"
        for split, size in about["splits"].items()
    )
    lines = [f"- Corpus: {about.get('data') or about['corpus']} ({sizes})", f"- Protocol: {about['protocol']}"]
    return [*lines, *(f"- {note}" for note in about["notes"])]


def _how(about: Mapping[str, Any]) -> str:
    if about.get("folds"):
        return ", the folds of a cross-validation: each utterance by networks that have not seen it, not by all"
    return ", the mean of their answers" if len(about["seeds"]) > 1 else ""


def _evaluation(model: Model, about: Mapping[str, Any]) -> str:
    parts = [_emotion_scores(model, about)] if "scores" in about else []
    parts += [_value_scores(about)] if "values" in about else []
    seeds = ", ".join(map(str, about["seeds"]))
    untested = f"Stage `{about['stage']}` (seeds {seeds}) was not tested: nothing is known of its worth."
    return "\n\n".join(parts) or untested


def _value_scores(about: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, about["seeds"]))
    rows = [
        [name, *(f"{of[score]:.3f}" for score in AGREEMENT), str(of["utterances"])]
        for name, of in about["values"].items()
    ]
    lines = [
        f"Numbers, test split of {about['corpus']}, stage `{about['stage']}`, seeds {seeds}{_how(about)}. CCC: "
        "concordance correlation coefficient. MAE: mean absolute error, in the units of the scale."
    ]
    if len(about["seeds"]) > 1:
        lines.append(f"Mean CCC of the single seeds: {', '.join(f'{ccc:.3f}' for ccc in about['values_of_seeds'])}.")
    return " ".join(lines) + "\n\n" + markdown_table(["", "CCC", "Pearson", "MAE", "Utterances"], rows)


def _emotion_scores(model: Model, about: Mapping[str, Any]) -> str:
    scores = about["scores"]
    seeds = ", ".join(map(str, about["seeds"]))
    order = model.labels.report_order
    rows = [
        ["F1", *(f"{scores[f'f1/{name}']:.2f}" for name in order)],
        ["Utterances", *(str(scores["support"][name]) for name in order)],
    ]
    lines = [
        f"Test split of {about['corpus']}, stage `{about['stage']}`, seeds {seeds}"
        + _how(about)
        + f"; {scores['utterances']} utterances, in percent:",
        f"- weighted F1 {scores['weighted_f1']:.2f}, macro F1 {scores['macro_f1']:.2f}, accuracy "
        f"{scores['accuracy']:.2f}",
        f"- calibration error {scores['calibration_error']:.2f} ({_BINS} bins): by how much the probability of the "
        "chosen emotion differs from how often it is right",
    ]
    if len(about["seeds"]) > 1:
        each = ", ".join(f"{score:.2f}" for score in about["scores_of_seeds"])
        lines.append(f"- weighted F1 of the single seeds: {each}")
    return "\n".join(lines) + "\n\n" + markdown_table(["", *(name.capitalize() for name in order)], rows)
