"""Annotation of many recordings: a folder or a list of them, in few passes through the stages of a run."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from merc.annotation.files import format_of, free_name
from merc.annotation.lines import Annotation
from merc.annotation.page import UNCERTAIN
from merc.annotation.persons import PersonSearch
from merc.annotation.teller import Teller
from merc.annotation.video import PERSONS, TRANSCRIPT, ReadFilm, naming_of, read_film, write_results
from merc.conversation import Corpus, CorpusError
from merc.corpora.films import FILM_SUFFIXES, SOUND_SUFFIXES
from merc.corpora.transcripts import READERS, TranscriptOptions
from merc.decoding import decode
from merc.files import parse_json, write_json, write_text
from merc.models import Model
from merc.rows import read_rows
from merc.speech import Transcriber

LIST_SUFFIXES = frozenset([".csv", ".tsv", ".txt"])
"""Suffixes of the files that are taken for lists of recordings."""

TOGETHER = 16
"""Recordings that go through the stages of a run together: each stage starts once for all of them."""

_STAGES = "_stages"

_BEGUN = "begun"
"""In the folder of a group while it is worked on, and afterwards if the process was killed meanwhile."""

_KILLED = "the process that annotated it was killed, perhaps because memory ran out: give fewer --jobs"


@dataclass(frozen=True)
class Recording:
    """A recording of a folder or a list.

    Args:
        name: Names its folder of results.
        video: The file.
        transcript: Its transcript; ``None`` if there is none.
    """

    name: str
    video: Path
    transcript: Path | None


@dataclass(frozen=True)
class Outcome:
    """What became of a recording.

    Args:
        recording: The recording.
        reason: Why there is no annotation; ``None`` if there is one.
        lines: How many lines it has.
        emotions: How many lines have each emotion; empty for a run that predicts numbers alone.
        values: The mean of each number, such as ``valence``, over the lines that have it.
        uncertain: Lines whose most probable emotion has less than a half.
        untold: Lines without an emotion and without numbers, as all their modalities are missing.
        faces: Lines with a speaking face.
        notes: Remarks for readers of the results.
    """

    recording: Recording
    reason: str | None = None
    lines: int = 0
    emotions: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    uncertain: int = 0
    untold: int = 0
    faces: int = 0
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _How:
    """How recordings are annotated: what :func:`annotate_many` was given."""

    out: Path
    teller: Teller
    reading: TranscriptOptions | None
    transcriber: Transcriber | None
    persons: PersonSearch | bool | None
    trainer_options: Sequence[str]
    results: Mapping[str, Any]


def is_many(source: str | Path) -> bool:
    """Whether a path is a folder or a list of recordings, not a recording."""
    return Path(source).is_dir() or Path(source).suffix.lower() in LIST_SUFFIXES


def find_recordings(source: str | Path, out: str | Path | None = None) -> list[Recording]:
    """The recordings of a folder or a list, in order of their names or rows.

    In a folder, all films and sounds count, in folders below it too. A sound beside a film of the same name is that of
    the film and left out, and so are hidden files. A list is a text file with one path per row, or a table with a
    column ``video`` and perhaps ``transcript``; its paths start at its own folder. The transcript of a recording that
    has none in the list is the file beside it with the same name, ``ann.srt`` for ``ann.mp4``; of several, the first
    of :data:`merc.corpora.transcripts.READERS`.

    Args:
        source: The folder or the list.
        out: A folder whose files are results and not looked at.

    Raises:
        FileNotFoundError: There is no such folder or file.
        CorpusError: It is a list that cannot be read, or there is no recording.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"No {source}: expected a recording, a folder of recordings, or a list of them.")
    found = list(_in_folder(source, out) if source.is_dir() else _in_list(source))
    if not found:
        raise CorpusError(f"{source} has no recordings: expected files such as talk.mp4 or talk.wav.")
    return found


def annotate_many(
    source: str | Path,
    model: str | Path | Model,
    out: str | Path,
    *,
    jobs: int = 1,
    seed: int | None = None,
    stage: str | None = None,
    reading: TranscriptOptions | None = None,
    transcriber: Transcriber | None = None,
    persons: PersonSearch | bool | None = True,
    progress: Callable[[list[Outcome]], None] | None = None,
    trainer_options: Sequence[str] = (),
    **results: Any,  # noqa: ANN401 - those of write_results
) -> list[Outcome]:
    """Annotate all recordings of a folder or a list; ``merc annotate FOLDER`` does the same.

    Up to 16 recordings go through the stages of the model together, so each of these starts, and loads its model, once
    for all of them. Results are those of :func:`merc.annotation.annotate`, in ``out/NAME`` for each recording, and
    ``out/summary.csv`` has a row for each. A recording that cannot be annotated, or whose process is killed, stops no
    other; its row says why. The same call again does only what is missing, has changed, or failed.

    Args:
        source: A folder or a list: see :func:`find_recordings`.
        model: As for :func:`merc.annotation.annotate`.
        out: Folder for the results.
        jobs: Processes that share the work.
        seed: As for :func:`merc.annotation.annotate`.
        stage: Likewise.
        reading: Likewise, for all transcripts.
        transcriber: Likewise, for recordings without a transcript.
        persons: Likewise; people are linked within a recording, not from one to another.
        progress: Is called with the outcomes of recordings when they are done.
        trainer_options: Likewise.
        results: ``film``, ``formats`` and ``embed``, likewise.

    Raises:
        FileNotFoundError: There is no such folder or list.
        CorpusError: There are no recordings.
        PipelineError: The run is not finished.
        ModelError: The model is damaged, or has no seeds and stages.
        ValueError: There is no such format.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: expected 1 or more processes.")
    if "formats" in results:
        results["formats"] = [format_of(name) for name in results["formats"]]
    teller = Teller.of(model, seed, stage)
    recordings = find_recordings(source, out)
    out = Path(out)
    groups = _groups(recordings, out / _STAGES / "groups.json", jobs)
    how = _How(out, teller, reading, transcriber, persons, tuple(trainer_options), results)
    work = partial(_annotate_group, how=how)
    outcomes: dict[str, Outcome] = {}
    for done in _worked(work, groups, jobs):
        outcomes |= {outcome.recording.name: outcome for outcome in done}
        write_text(out / "summary.csv", _summary(recordings, outcomes))
        if progress is not None:
            progress(done)
    return [outcomes[recording.name] for recording in recordings]


def _in_folder(folder: Path, out: str | Path | None) -> Iterator[Recording]:
    results = None if out is None else Path(out).resolve()
    films: list[Path] = []
    sounds: list[Path] = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != results)
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if not name.startswith(".") and suffix in FILM_SUFFIXES | SOUND_SUFFIXES:
                (films if suffix in FILM_SUFFIXES else sounds).append(here / name)
    seen = {film.with_suffix("") for film in films}
    files = sorted([*films, *(sound for sound in sounds if sound.with_suffix("") not in seen)])
    stems = Counter(file.with_suffix("") for file in files)
    for file in files:
        unique = file.with_suffix("") if stems[file.with_suffix("")] == 1 else file
        yield Recording(unique.relative_to(folder).as_posix(), file, transcript_beside(file))


def _in_list(path: Path) -> Iterator[Recording]:
    if path.suffix.lower() == ".txt":
        rows = [{"video": row.strip()} for row in decode(path).text.splitlines()]
    else:
        rows = [dict(row.cells) for row in read_rows(path, ["video"]).rows]
    taken: set[str] = set()
    for row in rows:
        if not row["video"]:
            continue
        video = path.parent / row["video"]
        given = row.get("transcript")
        yield Recording(free_name(video.stem, taken), video, path.parent / given if given else transcript_beside(video))


def transcript_beside(video: Path) -> Path | None:
    """The transcript of a recording: the file with the same name beside it, if there is one."""
    if not video.parent.is_dir():
        return None
    beside = {file.suffix.lower(): file for file in sorted(video.parent.iterdir()) if file.stem == video.stem}
    return next((beside[suffix] for suffix in READERS if suffix in beside), None)


def _groups(recordings: Sequence[Recording], file: Path, jobs: int) -> list[tuple[str, list[Recording]]]:
    """Recordings that go through the stages together, by the name of their folder of stages.

    Groups are kept from one call to the next, as another group would go through all stages again: what is new comes
    into new groups. A group that a process was killed over is not tried as a whole again, as memory would run out
    again: each of its recordings is a group of its own. One that a process was killed over alone comes last.
    """
    try:
        kept = parse_json(file.read_bytes())
        groups = {str(name): [str(member) for member in members] for name, members in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        groups = {}
    groups = {
        own: alone
        for name, members in groups.items()
        for own, alone in (_alone(name, members) if _was_killed(file.parent / name) else {name: members}).items()
    }
    known = {member for members in groups.values() for member in members}
    new = [recording.name for recording in recordings if recording.name not in known]
    size = min(TOGETHER, -(-len(new) // jobs) or 1)
    for at in range(0, len(new), size):
        groups[f"{len(groups) + 1:03}"] = new[at : at + size]
    write_json(file, groups)
    by_name = {recording.name: recording for recording in recordings}
    present = [(name, [by_name[member] for member in members if member in by_name]) for name, members in groups.items()]
    return sorted(
        ((name, members) for name, members in present if members), key=lambda group: _was_killed(file.parent / group[0])
    )


def _was_killed(stages: Path) -> bool:
    """Whether the process that worked on a group was killed, which no exception tells."""
    return (stages / _BEGUN).is_file()


_Member = TypeVar("_Member", str, Recording)


def _alone(name: str, members: Sequence[_Member]) -> dict[str, list[_Member]]:
    """The members of a group as groups of their own; one member stays as it is."""
    if len(members) == 1:
        return {name: list(members)}
    return {f"{name}-{at}": [member] for at, member in enumerate(members, start=1)}


def _worked(
    work: Callable[[tuple[str, list[Recording]]], list[Outcome]],
    groups: Sequence[tuple[str, list[Recording]]],
    jobs: int,
) -> Iterator[list[Outcome]]:
    if jobs == 1:
        yield from map(work, groups)
        return
    context = get_context("spawn")  # a fork of a process with threads of PyTorch can hang
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def pool() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, torch.set_num_threads, (threads,))

    pools = [pool() for _ in range(jobs)]  # of one process each: who has died tells what was being done
    free, waiting = deque(range(jobs)), deque(groups)
    running: dict[Future[list[Outcome]], tuple[int, tuple[str, list[Recording]]]] = {}
    try:
        while waiting or running:
            while waiting and free:
                number, group = free.popleft(), waiting.popleft()
                try:
                    future = pools[number].submit(work, group)
                except BrokenProcessPool:  # it has died while it had nothing to do
                    pools[number].shutdown()
                    pools[number] = pool()
                    future = pools[number].submit(work, group)
                running[future] = number, group
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, (name, members) = running.pop(future)
                free.append(number)
                try:
                    done = future.result()
                except BrokenProcessPool:
                    pools[number].shutdown()
                    pools[number] = pool()
                    if len(members) > 1:  # each alone: only one of them need be what it died of
                        waiting.extend(_alone(name, members).items())
                        continue
                    done = [Outcome(member, _KILLED) for member in members]
                yield done
    finally:
        for number in range(jobs):
            pools[number].shutdown(wait=not running, cancel_futures=True)


def _annotate_group(group: tuple[str, list[Recording]], how: _How) -> list[Outcome]:
    """Annotate some recordings in one pass, and record a failure for the recordings that it concerns."""
    name, recordings = group
    begun = how.out / _STAGES / name / _BEGUN
    write_text(begun, "")
    try:
        return _annotated(name, recordings, how)
    finally:  # also where it is interrupted: it goes on from there
        begun.unlink(missing_ok=True)


def _annotated(name: str, recordings: Sequence[Recording], how: _How) -> list[Outcome]:
    outcomes: dict[str, Outcome] = {}
    read: dict[str, ReadFilm] = {}
    for recording in recordings:
        try:
            read[recording.name] = _read(recording, how)
        except Exception as error:
            outcomes[recording.name] = Outcome(recording, _why(error))
    stages = how.out / _STAGES / name
    by_name = {recording.name: recording for recording in recordings}
    for members, folder in _passes(read, stages):
        try:
            files = {member: how.out / member / PERSONS for member, film in members.items() if film.info is not None}
            naming = naming_of(how.persons, files)
            applied, notes = how.teller.tell(
                _together(members), folder, trainer_options=how.trainer_options, speakers=naming
            )
        except Exception as error:
            if len(members) == 1:
                outcomes |= {member: Outcome(by_name[member], _why(error)) for member in members}
            continue
        for member, film in members.items():
            try:
                complete = film.completed(naming, applied.corpus, notes)
                annotation = write_results(complete, applied, how.out / member, **how.results)
                outcomes[member] = _outcome(by_name[member], annotation)
            except Exception as error:
                outcomes[member] = Outcome(by_name[member], _why(error))
        if len(members) == len(read):
            break
    return [outcomes[recording.name] for recording in recordings]


def _passes(read: Mapping[str, ReadFilm], stages: Path) -> Iterator[tuple[dict[str, ReadFilm], Path]]:
    """All recordings together, and if that fails, each alone: one of them may be what fails."""
    if read:
        yield dict(read), stages / "all"
    if len(read) > 1:
        for number, (name, film) in enumerate(read.items(), start=1):
            yield {name: film}, stages / str(number)


def _read(recording: Recording, how: _How) -> ReadFilm:
    made = how.out / recording.name / TRANSCRIPT
    film = read_film(
        recording.video, recording.transcript, how.teller, how.reading, transcriber=how.transcriber, made=made
    )
    [conversation] = film.corpus["test"]
    # Names of files repeat in other folders, those of conversations must not.
    return replace(film, corpus=replace(film.corpus, splits={"test": [replace(conversation, id=recording.name)]}))


def _together(films: Mapping[str, ReadFilm]) -> Corpus:
    first = next(iter(films.values())).corpus
    conversations = [conversation for film in films.values() for conversation in film.corpus["test"]]
    return Corpus(
        "recordings", first.labels, {"test": conversations}, "transcripts, without labels", dimensions=first.dimensions
    )


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _outcome(recording: Recording, annotation: Annotation) -> Outcome:
    return Outcome(
        recording,
        lines=len(annotation.lines),
        emotions=annotation.counts,
        values=annotation.means,
        uncertain=sum(
            line.emotion is not None and max(line.probabilities.values()) < UNCERTAIN for line in annotation.lines
        ),
        untold=annotation.untold,
        faces=sum(line.face is not None for line in annotation.lines),
        notes=tuple(annotation.notes),
    )


def _summary(recordings: Sequence[Recording], outcomes: Mapping[str, Outcome]) -> str:
    emotions = list(dict.fromkeys(name for outcome in outcomes.values() for name in outcome.emotions))
    numbers = list(dict.fromkeys(name for outcome in outcomes.values() for name in outcome.values))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    counts = ["lines", *(["uncertain"] if emotions else []), "untold", "faces"]
    means = [f"mean_{name}" for name in numbers]
    table.writerow(["name", "video", "transcript", "state", *counts, *emotions, *means, "reason", "notes"])
    for recording in recordings:
        about = [recording.name, recording.video, recording.transcript or ""]
        outcome = outcomes.get(recording.name)
        if outcome is None or outcome.reason is not None:
            state, reason = ("waiting", "") if outcome is None else ("failed", outcome.reason)
            table.writerow([*about, state, *[""] * (len(counts) + len(emotions) + len(means)), reason, ""])
            continue
        told = [*(outcome.emotions.get(name, 0) for name in emotions), *(outcome.values.get(name) for name in numbers)]
        row = [*about, "done", *(getattr(outcome, name) for name in counts), *told, "", " ".join(outcome.notes)]
        table.writerow(row)
    return text.getvalue()
