"""What ``merc import`` and ``merc doctor`` run: functions by short name or import path, with plain arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from rich.console import Console
from rich.table import Table

from merc.conversation import CORPUS_FILE, Conversation, Corpus, CorpusError
from merc.corpora.doctor import Report
from merc.corpora.rendered import RenderConfig, render
from merc.corpora.simulated import SimulatedCorpus, SimulationConfig, simulate
from merc.features import numbers
from merc.features.arrays import FILE_PATTERN, import_arrays
from merc.features.evidence import evidence_table
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.features.writing import writing_table
from merc.store import FeatureStore

_F = TypeVar("_F", bound=Callable[..., Any])


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
    frames: Literal["mean", "mean-std"] | None = None,
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
        frames: What to make of several rows of an utterance, such as those of OpenFace: mean, or mean-std.
    """
    loaded = Corpus.load(corpus)
    keys = numbers.KeyColumns(key, pattern, partition, dialogue, utterance)
    features = numbers.import_table(
        files, loaded, keys=keys, values=values, standardize=standardize, bound=bound, frames=frames
    )
    _save_numbers(features, loaded, out)


def import_npy(
    folder: Path, *, corpus: Path, out: Path, pattern: str = FILE_PATTERN, standardize: bool = False
) -> None:
    """Import a folder of .npy files, one an utterance, as a feature store of a corpus.

    Args:
        folder: Folder of the files; those of frames are averaged.
        corpus: An imported corpus: its folder, or its corpus.json.
        out: Folder of the store, for example OUT/features/audio.
        pattern: Regular expression for names without .npy, with the groups dialogue, utterance and perhaps partition.
        standardize: Scale by mean and standard deviation of the train split.
    """
    loaded = Corpus.load(corpus)
    features = import_arrays(folder, loaded, pattern=pattern)
    if standardize:
        features = features.standardized({key for c in loaded["train"] for key in c.keys})
    _save_numbers(features, loaded, out)


def _save_numbers(features: FeatureTable, corpus: Corpus, out: Path) -> None:
    store = features.save(out, corpus)
    console = _console()
    _print_store(console, Path(out).name, store)
    for note in features.provenance["notes"]:
        console.print(f"- {note}", style="dim")
    console.print(f"Wrote {out}")


def recomputable(function: _F) -> _F:
    """Mark an import whose features can be computed again for conversations that it has never seen.

    Such a function takes all it needs from its option ``corpus`` and from stores that other options name:
    ``merc annotate`` calls it with those of the new conversations.
    """
    function.recomputable = True  # type: ignore[attr-defined]
    return function


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

    It is fitted to labels. In a pipeline write ``command: evidence``, which keeps the fit for new conversations.

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
    store = table.save(out, loaded)
    console = _console()
    _print_store(console, Path(out).name, store)
    console.print(f"Wrote {out}")


@recomputable
def import_writing(corpus: Path, *, out: Path, features: Path | None = None) -> None:
    """Measure how every utterance is written: length, punctuation, capitals.

    Args:
        corpus: An imported corpus: its folder, or its corpus.json.
        out: Folder of the new store.
        features: A feature store, of a text encoder for example, that stands in front of the numbers.
    """
    loaded = Corpus.load(corpus)
    store = writing_table(loaded, None if features is None else FeatureStore(features)).save(out, loaded)
    console = _console()
    _print_store(console, Path(out).name, store)
    console.print(f"Wrote {out}")


def import_simulated(**parameters: Any) -> SimulatedCorpus:  # noqa: ANN401 - those of SimulationConfig
    """Draw a simulated corpus whose best possible score is known.

    Args:
        **parameters: Parameters of the simulation.
    """
    return simulate(SimulationConfig(**parameters))


def import_rendered(*, out: Path, workers: int = 2, **parameters: Any) -> Corpus:  # noqa: ANN401 - of RenderConfig
    """Render a corpus of talking heads: real mp4 files, with the truth about who speaks. Goes on where it was cut.

    Args:
        out: Folder to write the corpus, its clips and its truth to.
        workers: Processes that draw.
        **parameters: Parameters of the corpus.
    """
    config = RenderConfig(**parameters)
    corpus = render(out, config, workers=workers)
    _summarise(corpus, out)
    return corpus


def import_film(*, out: Path, split: str = "test", dialogue: int = 0, **parameters: Any) -> None:  # noqa: ANN401
    """Draw a dialogue as one film with a transcript, for `merc annotate` (merc.corpora.rendered.film.render_film).

    Args:
        out: Folder for film.mp4 and film.srt.
        split: Split of the dialogue.
        dialogue: Its number, from 0.
        **parameters: Parameters of the rendered corpus; another seed has other people.
    """
    from merc.corpora.rendered.film import render_film

    film, transcript = render_film(out, RenderConfig(**parameters), split=split, dialogue=dialogue)
    _console().print(f"Film: {film}\nTranscript: {transcript}")


def import_lips(
    *,
    out: Path,
    talking: dict[str, int] | None = None,
    silent: dict[str, int] | None = None,
    seconds: float = 3.0,
    crop_size: int = 32,
    seed: int = 0,
    workers: int = 2,
) -> Corpus:
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
    return corpus


IMPORTS: Mapping[str, str] = {
    "corpus": "merc.corpora.read_corpus",
    "csv": "merc.corpora.read_csv",
    "meld": "merc.corpora.read_meld",
    "iemocap": "merc.corpora.read_iemocap",
    "films": "merc.corpora.read_films",
    "folds": "merc.corpora.read_folds",
    "pickle": "merc.corpora.import_pickle",
    "mmsa": "merc.corpora.import_mmsa",
    "table": "merc.corpora.commands.import_table",
    "npy": "merc.corpora.commands.import_npy",
    "evidence": "merc.corpora.commands.import_evidence",
    "writing": "merc.corpora.commands.import_writing",
    "simulated": "merc.corpora.commands.import_simulated",
    "rendered": "merc.corpora.commands.import_rendered",
    "film": "merc.corpora.commands.import_film",
    "lips": "merc.corpora.commands.import_lips",
}
"""The short names of ``merc import``, for import paths that anyone's own reader has as well."""

DOCTORS: Mapping[str, str] = {
    "meld": "merc.corpora.doctor.check_meld",
    "iemocap": "merc.corpora.doctor.check_iemocap",
}
"""The short names of ``merc doctor``, likewise."""


def resolve_import(name: str) -> Callable[..., None]:
    """What ``merc import NAME`` runs.

    Args:
        name: A short name of :data:`IMPORTS`, or the import path of a function, for example
            ``my_package.read_emorynlp``. It returns a :class:`~merc.conversation.Corpus` or
            :class:`~merc.features.table.FeaturedCorpus`, or has a parameter ``out`` and writes into that folder itself.

    Returns:
        A function with the parameters of that one, and ``out``, the folder to write to. It prints what was imported.

    Raises:
        CorpusError: There is no such function; the message lists the short names.
    """
    reader = _find(name, IMPORTS, "import", "corpus reader")
    if "out" in signature(reader).parameters:
        return reader

    @wraps(reader)  # so that its parameters are the options of the command
    def run(*args: Any, out: str | Path, **options: Any) -> None:  # noqa: ANN401 - those of the reader
        found = reader(*args, **options)
        if isinstance(found, Corpus):
            found = FeaturedCorpus(found, {})
        if not isinstance(found, FeaturedCorpus):
            raise CorpusError(f"{name} returned {type(found).__name__}: expected a Corpus or a FeaturedCorpus.")
        found.save(out)
        _summarise(found.corpus, Path(out), features=list(found.features))

    return run


def resolve_doctor(name: str) -> Callable[..., int]:
    """What ``merc doctor NAME`` runs.

    Args:
        name: A short name of :data:`DOCTORS`, or the import path of a function that returns a
            :class:`~merc.corpora.doctor.Report`.

    Returns:
        A function with the parameters of that one. It prints the report, and returns 1 if something needs mending.

    Raises:
        CorpusError: There is no such function; the message lists the short names.
    """
    check = _find(name, DOCTORS, "doctor", "doctor")

    @wraps(check)
    def run(*args: Any, **options: Any) -> int:  # noqa: ANN401 - those of the doctor
        report = check(*args, **options)
        if not isinstance(report, Report):
            raise CorpusError(f"{name} returned {type(report).__name__}: expected a merc.corpora.doctor.Report.")
        report.print()
        return report.exit_code

    return run


def import_kind(name: str) -> Literal["corpus", "features", "numbers"]:
    """What an import brings.

    Args:
        name: As for :func:`resolve_import`.

    Returns:
        ``corpus``: conversations, perhaps with features. ``features``: a store of a given corpus that can be computed
        again for conversations that it has never seen, because it is marked as :func:`recomputable`. ``numbers``: a
        store that cannot, because it holds what only its source knows.
    """
    reader = _find(name, IMPORTS, "import", "corpus reader")
    if "out" not in signature(reader).parameters:
        return "corpus"
    returned = get_type_hints(reader).get("return")
    if isinstance(returned, type) and issubclass(returned, Corpus | FeaturedCorpus):
        return "corpus"
    return "features" if getattr(reader, "recomputable", False) else "numbers"


def _find(name: str, short: Mapping[str, str], command: str, kind: str) -> Callable[..., Any]:
    """The function of a short name or an import path."""
    module, _, attribute = short.get(name, name).rpartition(".")
    expected = f"expected one of {', '.join(short)}, or the import path of a {kind} of your own"
    if not module:
        raise CorpusError(f"There is no {command} {name!r}: {expected}.")
    try:
        found: Callable[..., Any] | None = getattr(import_module(module), attribute, None)
    except ImportError as error:
        raise CorpusError(
            f"Module {module!r} of {command} {name!r} cannot be imported ({error}): {expected}. Install it, or add its "
            "folder to PYTHONPATH."
        ) from error
    if not callable(found):
        raise CorpusError(
            f"There is no {command} {name!r}: module {module!r} has no function {attribute!r}; {expected}."
        )
    return found


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
