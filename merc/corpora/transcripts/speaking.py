"""Who speaks when (RTTM, or words with speakers), and the lines of a transcript that get their names from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from merc.conversation import CorpusError
from merc.corpora.transcripts.lines import Line, TranscriptSource, parse_number
from merc.corpora.transcripts.speech_json import split_words
from merc.rows import shown, shown_names

_MOST_SPEAKERS = 1000
_LEAST = 0.1  # share of a line in which somebody must speak to be its speaker
_SHARED = 0.3  # share of the speech in a line that a second speaker has, if the line is of doubtful name


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """A time in which somebody speaks.

    Args:
        start: Seconds.
        end: Seconds.
        speaker: The speaker.
    """

    start: float
    end: float
    speaker: str


def read_rttm(source: TranscriptSource, recording: str | None = None) -> list[SpeakerTurn]:
    """The turns of an RTTM file (``SPEAKER talk 1 0.500 0.992 <NA> <NA> Ann <NA> <NA>``).

    Args:
        source: The file.
        recording: Name of the recording, which selects its turns if the file is about several.

    Raises:
        CorpusError: A row is not of this form, or none is about this recording.
    """
    turns: dict[str, list[SpeakerTurn]] = defaultdict(list)
    for number, row in enumerate(source.rows, start=1):
        cells = row.split()
        if not cells or cells[0].startswith(";") or cells[0] != "SPEAKER":
            continue
        start, length = (parse_number(cell) for cell in cells[3:5]) if len(cells) >= 8 else (None, None)
        if start is None or length is None:
            raise source.error(f"line {number}: {shown(row)} is not of the form SPEAKER file 1 start length - - name.")
        if length > 0:
            turns[cells[1]].append(SpeakerTurn(start, start + length, cells[7]))
    if not turns:
        raise source.error(": it has no SPEAKER row with a length. Expected an RTTM file.")
    if len(turns) > 1 and recording not in turns:
        raise source.error(
            f": it is about {shown_names(list(turns))}, and none is {recording!r}. Rename the recording."
        )
    return turns[recording] if recording is not None and recording in turns else next(iter(turns.values()))


def turns_of(lines: Iterable[Line]) -> list[SpeakerTurn]:
    """Who speaks when, from lines with speakers; where words have times, these count."""
    turns = []
    for line in lines:
        words = [word for word in line.words if word.end > word.start and (word.speaker or line.speaker)]
        turns += [SpeakerTurn(word.start, word.end, word.speaker or line.speaker or "") for word in words]
        if not words and line.speaker and line.end > line.start:
            turns.append(SpeakerTurn(line.start, line.end, line.speaker))
    return turns


def name_by_turns(
    lines: Sequence[Line], turns: Sequence[SpeakerTurn], source: TranscriptSource, path: Path
) -> list[Line]:
    """Lines without a name, with that of whoever speaks most in them.

    A line whose words have times is divided where the speaker changes. Names of the transcript stay.

    Args:
        lines: The lines.
        turns: Who speaks when.
        source: The transcript, for notes.
        path: Where the turns are from, for notes.
    """
    nameless = [line for line in lines if line.speaker is None]
    if not nameless:
        source.notes.append(f"All lines of {source.path.name} have names: {path.name} was not needed.")
        return list(lines)
    best, _ = _most(turns, [(word.start, word.end) for line in nameless for word in line.words], path)
    whole, doubtful = _most(turns, [(line.start, line.end) for line in nameless], path)
    named, at, count, shared = [], 0, 0, 0
    for line in lines:
        if line.speaker is not None:
            named.append(line)
            continue
        who = [speaker or whole[count] for speaker in best[at : at + len(line.words)]]
        at += len(line.words)
        parts = list(split_words(line, who)) if who else [replace(line, speaker=whole[count])]
        shared += doubtful[count] and len(parts) == 1
        named += parts
        count += 1
    silent = sum(line.speaker is None for line in named)
    source.notes.append(
        f"{len(nameless)} lines without a name got theirs from {path.name}"
        + (f"; in {silent} of them nobody speaks there" if silent else "")
        + (f"; {shared} are of two speakers and got the name of who speaks more" if shared else "")
        + "."
    )
    return named


def _most(
    turns: Sequence[SpeakerTurn], spans: Sequence[tuple[float, float]], path: Path
) -> tuple[list[str | None], list[bool]]:
    """Who speaks longest in every span, and whether a second one speaks nearly as long."""
    import numpy as np  # `merc annotate --help` needs none of it

    by_speaker: dict[str, list[SpeakerTurn]] = defaultdict(list)
    for turn in turns:
        by_speaker[turn.speaker].append(turn)
    if len(by_speaker) > _MOST_SPEAKERS:
        raise CorpusError(f"{path} names {len(by_speaker)} speakers, expected at most {_MOST_SPEAKERS}.")
    if not spans:
        return [], []
    edges = np.array(spans, dtype=np.float64)
    most, second = np.zeros(len(spans)), np.zeros(len(spans))
    names = np.full(len(spans), -1)
    for number, own in enumerate(by_speaker.values()):
        # Speech before a time, as a function of it, makes the speech in a span a difference.
        times, before = [0.0], [0.0]
        for turn in sorted(own, key=lambda turn: turn.start):
            start = max(turn.start, times[-1])
            if turn.end > start:
                times += [start, turn.end]
                before += [before[-1], before[-1] + turn.end - start]
        heard = np.interp(edges[:, 1], times, before) - np.interp(edges[:, 0], times, before)
        better = heard > most + 1e-9
        second = np.where(better, most, np.maximum(second, heard))
        most = np.where(better, heard, most)
        names[better] = number
    names[most < _LEAST * (edges[:, 1] - edges[:, 0])] = -1
    known = list(by_speaker)
    return [known[name] if name >= 0 else None for name in names.tolist()], (
        second > _SHARED * (most + second)
    ).tolist()
