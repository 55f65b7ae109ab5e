"""The reader of transcripts: one conversation along one recording, whatever its file format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from merc.conversation import Clip, Conversation, Corpus, CorpusError, Utterance
from merc.corpora.transcripts.lines import UNKNOWN, Line, TranscriptOptions, TranscriptSource, shown_places
from merc.corpora.transcripts.names import find_speakers
from merc.corpora.transcripts.plain_text import read_plain_text
from merc.corpora.transcripts.speaking import SpeakerTurn, name_by_turns, read_rttm, turns_of
from merc.corpora.transcripts.speech_json import read_speech_json
from merc.corpora.transcripts.substation import read_substation
from merc.corpora.transcripts.subtitles import read_subtitles
from merc.corpora.transcripts.tables import read_table
from merc.corpora.transcripts.tiers import read_eaf, read_textgrid
from merc.corpora.transcripts.timing import repair_times
from merc.labels import LabelSet

READERS: Mapping[str, Callable[[TranscriptSource], Iterable[Line]]] = {
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
    ".sbv": read_subtitles,
    ".ass": read_substation,
    ".ssa": read_substation,
    ".csv": read_table,
    ".tsv": read_table,
    ".json": read_speech_json,
    ".textgrid": read_textgrid,
    ".eaf": read_eaf,
    ".txt": read_plain_text,
}
"""The reader of every suffix. Each takes a source and gives lines; what it cannot read it drops with a reason."""

_SPLIT = "test"


def read_transcript(
    path: str | Path,
    video: str | Path,
    *,
    labels: LabelSet,
    options: TranscriptOptions | None = None,
    duration: float | None = None,
) -> Corpus:
    """Read the transcript of a recording: subtitles, tables, JSON of speech recognizers, tiers of ELAN and Praat.

    The suffix of the file selects the reader (:data:`READERS`). Names in the text become speakers, sounds and music are
    left out, rolling captions are read once, and broken times are repaired or their lines left out. The notes of the
    corpus name all of this. Lines may overlap; they are put in the order of their starts. Who has no name is
    :data:`UNKNOWN`.

    Args:
        path: The transcript.
        video: The recording that it belongs to; it need not be there.
        labels: The emotions that are to be predicted for it.
        options: Encoding, columns, who speaks when, a reader of your own.
        duration: Length of the recording in seconds. It helps to distinguish milliseconds from seconds.

    Returns:
        A corpus with one conversation, without labels, in split ``test``, that is named after the recording. Its
        utterances are called 1, 2, 3 ... and have their place in the recording as ``video``.

    Raises:
        CorpusError: The file is missing, of another format, in an encoding that is not certain, has no line with text,
            or more broken lines than whole ones; with file and line.

    Example:
        >>> from merc.labels import MELD
        >>> corpus = read_transcript("talk.vtt", "talk.mp4", labels=MELD)  # doctest: +SKIP
    """
    path, options = Path(path), options or TranscriptOptions()
    source = TranscriptSource(path, options, duration)
    return _corpus(read_lines(source), source, video, labels, f"transcript {path.name}, without labels")


def corpus_of_lines(
    lines: Sequence[Line],
    video: str | Path,
    *,
    labels: LabelSet,
    protocol: str,
    notes: Iterable[str] = (),
    options: TranscriptOptions | None = None,
    duration: float | None = None,
) -> Corpus:
    """The corpus of lines that no file holds, as :func:`read_transcript` makes it; their text may be empty.

    Args:
        lines: At least one.
        video: The recording that they belong to.
        labels: The emotions that are to be predicted for it.
        protocol: Where the lines are from.
        notes: Remarks for readers of the results.
        options: Who speaks when; the others concern files.
        duration: Length of the recording in seconds.

    Raises:
        CorpusError: There are no lines.
    """
    source = TranscriptSource(Path(video), options or TranscriptOptions(), duration, list(notes))
    return _corpus(list(lines), source, video, labels, protocol)


def _corpus(lines: list[Line], source: TranscriptSource, video: str | Path, labels: LabelSet, protocol: str) -> Corpus:
    video = Path(video)
    if source.options.speakers is not None:
        turns = read_turns(source.options.speakers, video, source.duration)
        lines = name_by_turns(lines, turns, source, Path(source.options.speakers))
    lines = sorted(lines, key=lambda line: (line.start, line.end))
    if nameless := sum(line.speaker is None for line in lines):
        source.notes.append(f"{nameless} of {len(lines)} lines have no speaker's name.")
    place = str(video.resolve())
    utterances = tuple(
        Utterance(
            id=str(number),
            speaker=line.speaker or UNKNOWN,
            text=line.text,
            start=line.start,
            end=line.end,
            video=Clip(place, line.start, line.end),
        )
        for number, line in enumerate(lines, start=1)
    )
    conversation = Conversation(video.stem, utterances, _SPLIT)
    return Corpus(video.stem, labels, {_SPLIT: [conversation]}, protocol, source.notes)


def read_lines(source: TranscriptSource) -> list[Line]:
    """The lines of a transcript, with speakers where it names them, in the order of the file.

    Args:
        source: The file; its notes say what was assumed, repaired and left out.

    Raises:
        CorpusError: As for :func:`read_transcript`.
    """
    reader = source.options.reader or READERS.get(source.path.suffix.lower())
    if reader is None:
        if source.path.suffix.lower() == ".rttm":
            raise source.error(": it says who speaks when, but not what. Give it as --speakers beside a transcript.")
        raise source.error(
            f": merc reads no transcript of this kind. Expected {', '.join(READERS)}, or a --reader of your own."
        )
    lines = list(reader(source))
    if source.exact:
        lines = [replace(line, speaker=None) if line.speaker == UNKNOWN else line for line in lines if line.text]
    else:
        lines = find_speakers(lines, source)
    lines = repair_times(lines, source)
    if len(source.dropped) > len(lines):
        raise source.error(
            f"{shown_places(source.dropped)}. {len(source.dropped)} lines are broken and {len(lines)} are not: "
            "expected most of them whole. Correct them, or check that the file is of the kind that its name says."
        )
    if source.dropped:
        source.notes.append(
            f"{len(source.dropped)} broken lines of {source.path.name} were left out. {shown_places(source.dropped)}."
        )
    if not lines:
        raise source.error(": it has no line with times and text: expected at least one.")
    return lines


def read_turns(path: str | Path, video: str | Path, duration: float | None = None) -> list[SpeakerTurn]:
    """Who speaks when: RTTM, or any transcript with speakers.

    Args:
        path: The file.
        video: The recording, whose name selects among several of an RTTM file.
        duration: Length of the recording in seconds, if it is known.

    Raises:
        CorpusError: The file cannot be read, or names nobody.
    """
    source = TranscriptSource(Path(path), duration=duration)
    if source.path.suffix.lower() == ".rttm":
        return read_rttm(source, Path(video).stem)
    turns = turns_of(read_lines(source))
    if not turns:
        raise CorpusError(f"{path} names no speakers. Expected an RTTM file, or a transcript with speakers.")
    return turns
