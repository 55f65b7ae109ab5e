"""One utterance under several systems: frame, label, and the probabilities of each (arXiv 2511.13731, Figure 4)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from merc.conversation import Corpus, Utterance, UtteranceKey
from merc.evaluation.predictions import PredictionsError
from merc.evaluation.systems import System
from merc.files import write_aside
from merc.labels import IGNORE_INDEX


def write_utterances(
    keys: list[str], systems: Mapping[str, System], out: str | Path, corpus: str | Path | None = None
) -> list[Path]:
    """Draw utterances under several systems, a PNG for each.

    Args:
        keys: ``dialogue/utterance`` or ``partition/dialogue/utterance``, as in ``predictions.csv``.
        systems: From :func:`merc.evaluation.read_systems`, all of the same data.
        out: Folder of the figures.
        corpus: The ``corpus.json`` or its folder, from which come frame, speaker and words. Default: none of them.

    Returns:
        The files, ``utterance-<dialogue>-<utterance>.png``.

    Raises:
        PredictionsError: An utterance was not predicted, or a name fits several.
        MediaError: The frame cannot be read.
        ImportError: The clip needs PyAV, which is missing.
    """
    files = []
    read = None if corpus is None else Corpus.load(corpus)
    for name in keys:
        key = _key_of(name, systems)
        utterance = None if read is None else _utterance_of(key, read)
        figure = utterance_figure(key, systems, utterance, None if utterance is None else frame_of(utterance))
        file = Path(out) / f"utterance-{key.dialogue}-{key.utterance}.png".replace("/", "_")
        with write_aside(file) as aside:
            figure.savefig(aside, format="png", dpi=150)
        files.append(file)
    return files


def utterance_figure(
    key: UtteranceKey, systems: Mapping[str, System], utterance: Utterance | None = None, frame: Tensor | None = None
) -> Figure:
    """Draw an utterance: a bar for its label and one for each system, whose parts are probabilities of emotions.

    Args:
        key: The utterance.
        systems: The systems; of several runs, the mean of their probabilities is shown.
        utterance: Speaker and words, if known.
        frame: ``(3, H, W)`` uint8, if there is one.
    """
    first = next(iter(systems.values())).runs[0]
    labels = first.labels
    gold = int(first.gold[list(first.keys).index(key)])
    rows = (
        {} if gold == IGNORE_INDEX else {"label": torch.nn.functional.one_hot(torch.tensor(gold), len(labels)).float()}
    )
    for name, system in systems.items():
        rows[name] = torch.stack([run.probabilities[list(run.keys).index(key)] for run in system.runs]).mean(0)
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(rows) + (0 if frame is None else 0.6)), layout="constrained")
    FigureCanvasAgg(figure)
    if frame is None:
        axes = figure.add_subplot()
    else:
        image, axes = figure.subplots(1, 2, width_ratios=[1, 2.2])
        image.imshow(frame.permute(1, 2, 0).numpy())
        image.set_axis_off()
    for place, values in enumerate(reversed(rows.values())):
        left = 0.0
        for index, emotion in zip(labels.report_ids, labels.report_order, strict=True):
            width = float(values[index])
            shown = emotion if place == 0 else None
            axes.barh(place, width, left=left, color=f"C{index % 10}", label=shown, edgecolor="white", linewidth=0.5)
            if width >= 0.12:
                axes.text(left + width / 2, place, f"{emotion}\n{width:.2f}", ha="center", va="center", fontsize=7)
            left += width
    axes.set_yticks(range(len(rows)), list(rows)[::-1])
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=len(labels))
    said = "" if utterance is None else f"\n{utterance.speaker}: {utterance.text}"
    figure.suptitle(f"{key.dialogue}/{key.utterance}" + textwrap.fill(said, 100, replace_whitespace=False), fontsize=10)
    return figure


def frame_of(utterance: Utterance) -> Tensor | None:
    """The frame in the middle of an utterance, ``(3, H, W)`` uint8; ``None`` if it has no video, or that ends before.

    Raises:
        MediaError: The clip cannot be read.
        ImportError: PyAV is missing.
    """
    from merc.media.decode import frames_at, probe
    from merc.media.rates import FRAME_RATE

    clip = utterance.picture
    if clip is None:
        return None
    end = probe(clip.path).duration if clip.end is None else clip.end
    middle = next(frames_at(clip, [int((end - clip.start) / 2 * FRAME_RATE)]), None)
    return None if middle is None else middle.images[0]


def _key_of(name: str, systems: Mapping[str, System]) -> UtteranceKey:
    for system in systems.values():
        fitting = [key for key in system.runs[0].keys if name in (f"{key.dialogue}/{key.utterance}", str(key))]
        if len(fitting) != 1:
            example = system.runs[0].keys[0]
            raise PredictionsError(
                f"{len(fitting)} utterances of {system.name} are {name!r}: expected dialogue/utterance of one, for "
                f"example {example.dialogue}/{example.utterance}."
            )
    return UtteranceKey(*fitting[0])


def _utterance_of(key: UtteranceKey, corpus: Corpus) -> Utterance | None:
    return dict(corpus.utterances()).get(key)
