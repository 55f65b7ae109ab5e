"""What ``merc import`` and ``merc doctor`` run: one function a subcommand, with plain arguments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from merc.conversation import CORPUS_FILE, Conversation, Corpus, CorpusError, split_name
from merc.corpora import csv_corpus, iemocap, meld, pickles
from merc.corpora.doctor import check_iemocap, check_meld
from merc.corpora.rendered import RenderConfig, render
from merc.corpora.simulated import SimulationConfig, simulate
from merc.features import numbers
from merc.features.evidence import evidence_table
from merc.features.table import FeaturedCorpus
from merc.features.writing import writing_table
from merc.store import FeatureStore


def import_meld(root: Path, *, out: Path) -> None:
    """Import MELD from its CSV files, with the clips that lie beside them.

    Args:
        root: Folder with train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv, or MELD.Raw.
        out: Folder to write the corpus to.
    """
    _save(FeaturedCorpus(meld.read_meld(root), {}), out)


def import_iemocap(
    root: Path,
    *,
    out: Path,
    protocol: Literal["session5", "loso"] = "session5",
    fold: int | None = None,
    merge: Literal["six", "excited-as-happy", "excited-dropped"] = "six",
    validation: Literal["usual"] | float | list[str] = "usual",
    seed: int = 0,
) -> None:
    """Import IEMOCAP from the folders of its release.

    Args:
        root: Folder with Session1 to Session5.
        out: Folder to write the corpus to.
        protocol: Test on session 5, or leave one session out.
        fold: Test session 1..5 of loso.
        merge: Six emotions, or four with excited merged into happy or dropped.
        validation: The usual dialogues, a fraction of those that are not test, or dialogue ids.
        seed: Decides drawn validation dialogues.
    """
    corpus = iemocap.read_iemocap(root, protocol=protocol, fold=fold, merge=merge, validation=validation, seed=seed)
    _save(FeaturedCorpus(corpus, {}), out)


def import_csv(
    files: list[Path],
    *,
    out: Path,
    labels: list[str],
    name: str = "csv",
    dialogue: str = "dialogue",
    utterance: str = "utterance",
    speaker: str = "speaker",
    text: str | None = "text",
    label: str | None = "label",
    split: str = "split",
    partition: str | None = None,
    start: str | None = None,
    end: str | None = None,
    media: str | None = None,
    video: str | None = None,
) -> None:
    """Import conversations from CSV files of your own, one row an utterance.

    Args:
        files: One file with a split column, or one for every split, whose names say it (train.csv, dev.csv).
        out: Folder to write the corpus to.
        labels: Emotion names in the order of their ids.
        name: Name of the corpus.
        dialogue: Column of the dialogue id.
        utterance: Column of the utterance id.
        speaker: Column of the speaker.
        text: Column of the transcript.
        label: Column of the emotion.
        split: Column of train, val (dev) or test; not read if there is a file for every split.
        partition: Column inside which dialogue ids are unique.
        start: Column of the start, in seconds or as h:mm:ss,mmm.
        end: Column of the end.
        media: Column of the clip's path, relative to the CSV file.
        video: Column of a longer recording's path, likewise, in which start and end say where the utterance is.
    """
    columns = csv_corpus.CsvColumns(
        *(dialogue, utterance, speaker, text, label, split, partition, start, end, media, video)
    )
    paths = [Path(file) for file in files]
    source = paths[0] if len(paths) == 1 else _by_split(paths)
    _save(FeaturedCorpus(csv_corpus.read_csv(source, labels=labels, columns=columns, name=name), {}), out)


def import_pickle(file: Path, *, out: Path, layout: str, standardize: Sequence[str] = ("audio", "visual")) -> None:
    """Import a community feature pickle.

    Args:
        file: The pickle; for MultiEMO the folder with its four files.
        out: Folder to write the corpus and its features to.
        layout: mmgcn-iemocap, mmgcn-meld, bclstm-meld, sdt-iemocap, sdt-meld, cosmic-iemocap, cosmic-meld,
            multiemo-iemocap or multiemo-meld.
        standardize: Features whose columns get mean 0 and standard deviation 1 over train; '[]' leaves all as they are.
    """
    _save(pickles.import_pickle(file, layout=layout, standardize=standardize), out)


def import_table(
    files: list[Path],
    *,
    corpus: Path,
    out: Path,
    key: str | None = None,
    pattern: str = numbers.CLIP_PATTERN,
    partition: str | None = None,
    dialogue: str | None = None,
    utterance: str | None = None,
    values: list[str] | None = None,
    standardize: bool = True,
    bound: float | None = 10.0,
) -> None:
    """Import a table of numbers as a feature store of a corpus.

    Args:
        files: CSV files, one row an utterance; their names or rows say the split.
        corpus: An imported corpus: its folder, or its corpus.json.
        out: Folder of the store, for example OUT/features/audio.
        key: Column that names the utterance. Default: the first.
        pattern: Regular expression for that column, with the groups dialogue, utterance and perhaps partition.
        partition: Column of the partition.
        dialogue: Column of the dialogue id, instead of the pattern; goes with utterance.
        utterance: Column of the utterance id, instead of the pattern; goes with dialogue.
        values: Columns of numbers. Default: all others.
        standardize: Scale by mean and standard deviation of the train split.
        bound: Largest absolute standardized value; null for none.
    """
    loaded = Corpus.load(corpus)
    keys = numbers.KeyColumns(key, pattern, partition, dialogue, utterance)
    features = numbers.import_table(files, loaded, keys=keys, values=values, standardize=standardize, bound=bound)
    store = features.save(out)
    console = _console()
    _print_store(console, Path(out).name, store)
    for note in features.provenance["notes"]:
        console.print(f"- {note}", style="dim")
    console.print(f"Wrote {out}")


def import_evidence(
    features: Path,
    *,
    corpus: Path,
    out: Path,
    append: bool = False,
    standardize: bool = False,
    noisy_labels: bool = False,
) -> None:
    """Turn a feature store into the evidence of each emotion: linear discriminants, honest on the train split.

    Args:
        features: The feature store of one modality.
        corpus: An imported corpus: its folder, or its corpus.json. Its train split gives the labels.
        out: Folder of the new store.
        append: Keep the features in front of the evidence.
        standardize: Measure every column by its deviation within the emotions: for numbers with units.
        noisy_labels: Estimate which annotations are wrong, if that foretells the annotations of others better.
    """
    loaded = Corpus.load(corpus)
    table = evidence_table(
        FeatureStore(features), loaded, append=append, standardize=standardize, noisy_labels=noisy_labels
    )
    store = table.save(out)
    console = _console()
    _print_store(console, Path(out).name, store)
    console.print(f"Wrote {out}")


def import_writing(corpus: Path, *, out: Path, features: Path | None = None) -> None:
    """Measure how every utterance is written: length, punctuation, capitals.

    Args:
        corpus: An imported corpus: its folder, or its corpus.json.
        out: Folder of the new store.
        features: A feature store, of a text encoder for example, that stands in front of the numbers.
    """
    store = writing_table(Corpus.load(corpus), None if features is None else FeatureStore(features)).save(out)
    console = _console()
    _print_store(console, Path(out).name, store)
    console.print(f"Wrote {out}")


def import_simulated(*, out: Path, **parameters: Any) -> None:  # noqa: ANN401 - those of SimulationConfig
    """Draw a simulated corpus whose best possible score is known.

    Args:
        out: Folder to write the corpus, its features and its optimum to.
        **parameters: Parameters of the simulation.
    """
    config = SimulationConfig(**parameters)
    _save(simulate(config), out)


def import_rendered(*, out: Path, workers: int = 2, **parameters: Any) -> None:  # noqa: ANN401 - of RenderConfig
    """Render a corpus of talking heads: real mp4 files, with the truth about who speaks. Goes on where it was cut.

    Args:
        out: Folder to write the corpus, its clips and its truth to.
        workers: Processes that draw.
        **parameters: Parameters of the corpus.
    """
    config = RenderConfig(**parameters)
    _summarise(render(out, config, workers=workers), out)


def import_lips(
    *,
    out: Path,
    talking: dict[str, int] | None = None,
    silent: dict[str, int] | None = None,
    seconds: float = 3.0,
    crop_size: int = 32,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Draw talking and silent mouths, as stores for LipSyncNet. Goes on where it was cut.

    Args:
        out: Folder to write the corpus and its stores to.
        talking: Talking heads by split.
        silent: Silent heads by split.
        seconds: Duration of each.
        crop_size: Height and width of the mouth crops in pixels.
        seed: Decides everything.
        workers: Processes that draw.
    """
    from merc.corpora.rendered.lips import render_lips

    corpus = render_lips(out, talking, silent, seconds=seconds, crop_size=crop_size, seed=seed, workers=workers)
    _summarise(corpus, out)


def doctor_meld(root: Path) -> int:
    """Check a copy of MELD: counts, encodings, missing, stray, broken and wrongly cut clips.

    Args:
        root: Folder with the CSV files, or MELD.Raw.

    Returns:
        1 if something needs mending, else 0.
    """
    report = check_meld(root)
    report.print()
    return report.exit_code


def doctor_iemocap(root: Path) -> int:
    """Check a copy of IEMOCAP: counts, encodings, unparsable lines, missing and broken sound and video.

    Args:
        root: Folder with Session1 to Session5.

    Returns:
        1 if something needs mending, else 0.
    """
    report = check_iemocap(root)
    report.print()
    return report.exit_code


IMPORTS: Mapping[str, Callable[..., None]] = {
    "meld": import_meld,
    "iemocap": import_iemocap,
    "csv": import_csv,
    "pickle": import_pickle,
    "table": import_table,
    "evidence": import_evidence,
    "writing": import_writing,
    "simulated": import_simulated,
    "rendered": import_rendered,
    "lips": import_lips,
}
"""The subcommands of ``merc import``."""

DOCTORS: Mapping[str, Callable[..., int]] = {"meld": doctor_meld, "iemocap": doctor_iemocap}
"""The subcommands of ``merc doctor``; each returns the exit status."""


def _by_split(paths: list[Path]) -> dict[str, Path]:
    """Files by the split that a word of their name says."""
    found: dict[str, Path] = {}
    for path in paths:
        splits = {split for word in re.split(r"[^a-z]+", path.stem.lower()) if (split := _as_split(word))}
        if len(splits) != 1 or splits & found.keys():
            raise CorpusError(
                f"{path}: its name should say one split, of which there is no other file: expected train, val (or "
                "dev) or test in it. Rename it, or give one file with a split column."
            )
        found[splits.pop()] = path
    return found


def _as_split(word: str) -> str | None:
    try:
        return split_name(word)
    except ValueError:
        return None


def _save(featured: FeaturedCorpus, out: Path) -> None:
    featured.save(out)
    _summarise(featured.corpus, out, features=list(featured.features))


def _summarise(corpus: Corpus, out: Path, features: Sequence[str] = ()) -> None:
    console = _console()
    summary = Table("split", "dialogues", "utterances", "labelled", "speakers", "with a clip", title=corpus.name)
    for split, conversations in corpus.items():
        summary.add_row(split, *map(str, _numbers(conversations)))
    console.print(summary)
    for name in features:
        _print_store(console, name, FeatureStore(Path(out) / "features" / name, verify=False))
    console.print(f"Protocol: {corpus.protocol}")
    for note in corpus.notes:
        console.print(f"- {note}", style="dim")
    console.print(f"Wrote {Path(out) / CORPUS_FILE}")


def _console() -> Console:
    """A console that prints names and paths as they are, though they hold brackets."""
    return Console(markup=False, highlight=False)


def _numbers(conversations: list[Conversation]) -> tuple[int, int, int, int, int]:
    utterances = [utterance for conversation in conversations for utterance in conversation.utterances]
    return (
        len(conversations),
        len(utterances),
        sum(utterance.label is not None for utterance in utterances),
        len({utterance.speaker for utterance in utterances}),
        sum(utterance.sound is not None for utterance in utterances),
    )


def _print_store(console: Console, name: str, store: FeatureStore) -> None:
    reasons = Counter(store.missing.values())
    lacking = "; ".join(f"{count} missing: {reason}" for reason, count in reasons.items()) or "none missing"
    console.print(f"features {name}: {len(store)} utterances, width {store.dim}; {lacking}")
