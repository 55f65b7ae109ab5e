"""``merc annotate``: the emotions of a new video, with what comes with merc, or a run or a model of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from merc.cli.run import split_trainer_options
from merc.corpora.transcripts import TranscriptColumns, TranscriptOptions
from merc.pipeline.problems import ShortParser

if TYPE_CHECKING:
    from argparse import Namespace

    from merc.annotation import Annotation, PersonSearch
    from merc.annotation.many import Outcome
    from merc.speech import Transcriber


def annotate_command(args: list[str]) -> int:
    """Parse the arguments of ``merc annotate`` and annotate a video; returns the exit status."""
    own, extra = split_trainer_options(args)
    parser = ShortParser(
        prog="merc annotate",
        description="Who speaks in every line of a video, and with which emotion: as JSON, CSV, subtitles and a film. "
        "What is finished and unchanged is skipped: after an interruption give the same command again. Options "
        "--trainer.* are Lightning's, and go to every stage.",
    )
    parser.add_argument(
        "video",
        type=Path,
        help="the recording, any file that FFmpeg reads; or a folder of recordings with their transcripts beside them, "
        "or a list of them: a text file, or a table with the columns `video` and `transcript`",
    )
    parser.add_argument(
        "--transcript",
        type=Path | None,
        default=None,
        help="its lines with times: subtitles, a table, JSON, ...; default: by --whisper, or by voice activity",
    )
    parser.add_argument(
        "--whisper",
        type=str | None,
        default=None,
        help="without a transcript: a Whisper model that writes it, by its name or folder. Default: voice activity "
        "cuts the sound into lines without words",
    )
    parser.add_argument("--language", type=str | None, default=None, help="of --whisper, such as en; default: detected")
    parser.add_argument(
        "--model",
        type=str,
        default="default",
        help="folder of a finished `merc run` or of `merc export`, or the name of a model",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seed", type=int | None, default=None, help="which seed of the run; default: the first")
    parser.add_argument("--stage", type=str | None, default=None, help="the stage that tells emotions; default: last")
    parser.add_argument(
        "--persons", type=bool, default=True, help="whether to link voices and faces to people, the speakers of lines"
    )
    parser.add_argument(
        "--voice",
        type=str | None,
        default=None,
        help="a speaker verification model (x-vectors) for --persons, by name or folder; default: Resemblyzer's",
    )
    parser.add_argument("--film", type=bool, default=True, help="whether to write the annotated film")
    parser.add_argument(
        "--formats",
        default="csv,srt,html",
        help="further files, such as csv,srt,vtt,eaf,TextGrid,rttm,html; json always is one",
    )
    parser.add_argument(
        "--embed", type=float, default=20.0, help="films of at most so many megabytes are inside the page; 0: none"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that share a folder or list of recordings")
    parser.add_class_arguments(TranscriptOptions)
    given = parser.parse_args(own)
    from merc.annotation import annotate, annotate_many, is_many  # as in merc.cli.run

    formats = [name.strip() for name in given.formats.split(",") if name.strip()]
    how = {
        "seed": given.seed,
        "stage": given.stage,
        "transcriber": _transcriber(given),
        "persons": _persons(given),
        "film": given.film,
        "formats": formats,
        "embed": given.embed,
        "reading": _options(given),
        "trainer_options": extra,
    }
    if is_many(given.video):
        if given.transcript is not None:
            raise ValueError(f"{given.video} stands for many recordings: their transcripts are beside them.")
        return _print_many(
            annotate_many(given.video, given.model, given.out, jobs=given.jobs, progress=_print_done, **how),
            Path(given.out),
        )
    annotation = annotate(given.video, given.transcript, given.model, given.out, **how)
    _print(annotation, Path(given.out), formats)
    return 0


def _transcriber(given: Namespace) -> Transcriber | None:
    if given.whisper is None:
        if given.language is not None:
            raise ValueError("--language is that of --whisper: give both, or a --transcript alone.")
        return None
    if given.transcript is not None:
        raise ValueError("--whisper writes a transcript, and --transcript has one: give one of the two.")
    from merc.speech import WhisperTranscriber

    return WhisperTranscriber(given.whisper, given.language)


def _persons(given: Namespace) -> PersonSearch | None:
    if not given.persons:
        if given.voice is not None:
            raise ValueError("--voice is that of --persons: leave out --persons false, or --voice.")
        return None
    from merc.annotation import PersonSearch
    from merc.encoders import XVectorEncoder

    return PersonSearch(None if given.voice is None else XVectorEncoder(given.voice))


def _options(given: Namespace) -> TranscriptOptions:
    values = {field.name: getattr(given, field.name) for field in fields(TranscriptOptions)}
    return TranscriptOptions(**values | {"columns": TranscriptColumns(**vars(given.columns))})


def _print(annotation: Annotation, out: Path, formats: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    told = _told(annotation.counts, annotation.means, annotation.untold)
    visible = sum(line.face is not None for line in annotation.lines)
    console.print(f"{len(annotation.lines)} lines: {told}; the speaker's face is known in {visible}.")
    for note in annotation.notes:
        console.print(f"- {note}", style="dim")
    console.print(f"Results: {out / 'annotation.json'}, {', '.join(f'.{name}' for name in formats)}")
    if annotation.film is not None:
        console.print(f"Film: {annotation.film}")


def _print_done(outcomes: list[Outcome]) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    for outcome in outcomes:
        if outcome.reason is not None:
            console.print(f"{outcome.recording.name}: failed. {outcome.reason}", style="yellow")
        else:
            console.print(
                f"{outcome.recording.name}: {outcome.lines} lines: "
                f"{_told(outcome.emotions, outcome.values, outcome.untold)}"
            )


def _told(emotions: Mapping[str, int], means: Mapping[str, float], untold: int) -> str:
    """The emotions by frequency, the means of the numbers, and how many lines have neither."""
    found = sorted({**emotions, "none": untold}.items(), key=lambda pair: -pair[1])
    counts = [f"{name} {count}" for name, count in found if count]
    return ", ".join([*counts, *(f"mean {name} {mean:.2f}" for name, mean in means.items())])


def _print_many(outcomes: list[Outcome], out: Path) -> int:
    """Print what became of all recordings; the exit status, 1 if one of them failed."""
    failed = sum(outcome.reason is not None for outcome in outcomes)
    also = f", {failed} failed" if failed else ""
    print(f"{len(outcomes) - failed} of {len(outcomes)} recordings are annotated{also}: {out / 'summary.csv'}")
    return 1 if failed else 0
