"""What a transcriber gives: lines with times, with words or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from merc.conversation import Corpus, CorpusError
from merc.corpora.transcripts import Line, TranscriptOptions, Word, corpus_of_lines, read_transcript
from merc.files import parse_json, write_json
from merc.labels import LabelSet

Progress = Callable[[float, float], None]
"""Is called with the seconds that are done and the length of the recording."""


@dataclass(frozen=True)
class Transcript:
    """What was found in the sound of a recording.

    Args:
        lines: In order of time. Their text is empty if nobody has transcribed them.
        language: Code of the language, such as ``en``, if it is known.
        by: What made it, as plain values.
        notes: What readers of the results must know.
    """

    lines: list[Line]
    language: str | None = None
    by: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def has_words(self) -> bool:
        """Whether a line has text."""
        return any(line.text for line in self.lines)

    def save(self, path: str | Path) -> None:
        """Write it to JSON with ``segments``, as whisper does, whole or not at all."""
        segments = []
        for line in self.lines:
            words = [{"word": word.text, "start": word.start, "end": word.end} for word in line.words]
            segments.append({"start": line.start, "end": line.end, "text": line.text, "words": words})
        about = {"format": "merc.Transcript", "version": 1, "language": self.language, "by": dict(self.by)}
        write_json(path, {**about, "notes": self.notes, "segments": segments})

    @classmethod
    def load(cls, path: str | Path) -> Transcript:
        """Read what :meth:`save` wrote.

        Raises:
            CorpusError: The file is missing, damaged, or something else.
        """
        try:
            data = parse_json(Path(path).read_bytes())
            if data["format"] != "merc.Transcript" or data["version"] != 1:
                raise ValueError("not a merc.Transcript of version 1")
            lines = [
                Line(
                    float(part["start"]),
                    float(part["end"]),
                    str(part["text"]),
                    words=tuple(Word(str(w["word"]), float(w["start"]), float(w["end"])) for w in part["words"]),
                )
                for part in data["segments"]
            ]
            return cls(lines, data["language"], dict(data["by"]), list(data["notes"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path} is no transcript of merc ({type(error).__name__}: {error}).") from error


@runtime_checkable
class Transcriber(Protocol):
    """Finds what is said in a recording, and when."""

    def transcribe(self, media: str | Path, progress: Progress | None = None) -> Transcript:
        """The lines of a recording.

        Args:
            media: Any file with sound that FFmpeg reads.
            progress: Is called now and then.

        Raises:
            MediaError: The file cannot be read, or has no sound.
        """
        ...

    def provenance(self) -> dict[str, Any]:
        """What decides the result, as plain values: the same values on the same file give the same lines."""
        ...


def transcribed(
    video: str | Path, file: str | Path, transcriber: Transcriber, progress: Progress | None = None
) -> Transcript:
    """The transcript of a recording, from ``file`` if the same transcriber has written it for the same recording.

    Args:
        video: The recording.
        file: Where it is kept.
        transcriber: Makes it if it is not there.
        progress: As for :meth:`Transcriber.transcribe`.

    Raises:
        MediaError: The recording cannot be read, or has no sound.
        CorpusError: Nobody speaks in it.
    """
    state = Path(video).stat()
    by = {**transcriber.provenance(), "bytes": state.st_size, "modified": state.st_mtime_ns}
    try:
        kept = Transcript.load(file)
        if dict(kept.by) == by:
            return kept
    except CorpusError:
        pass  # none yet, or one of another program
    made = transcriber.transcribe(video, progress)
    if not made.lines:
        raise CorpusError(
            f"Nobody speaks in {video}, as far as the voice detector hears: there are no lines to annotate. Pass a "
            "--transcript if somebody does."
        )
    made = Transcript(made.lines, made.language, by, made.notes)
    made.save(file)
    return made


def transcript_corpus(
    transcript: Transcript,
    file: str | Path,
    video: str | Path,
    *,
    labels: LabelSet,
    duration: float | None = None,
    options: TranscriptOptions | None = None,
) -> Corpus:
    """The corpus of one conversation that a transcript is, as :func:`merc.corpora.read_transcript` makes it.

    Words go through the usual reader, which leaves out sounds and music. Lines without words stay, each an utterance
    without text.

    Args:
        transcript: The transcript.
        file: Where it is saved.
        video: The recording.
        labels: The emotions that are to be predicted for it.
        duration: Length of the recording in seconds.
        options: As for the usual reader: who speaks when. What concerns the file only is not used.
    """
    if transcript.has_words:
        corpus = read_transcript(file, video, labels=labels, options=options, duration=duration)
        return Corpus(corpus.name, labels, corpus.splits, corpus.protocol, [*transcript.notes, *corpus.notes])
    return corpus_of_lines(
        transcript.lines,
        video,
        labels=labels,
        protocol="voice activity, without words or labels",
        notes=transcript.notes,
        options=options,
        duration=duration,
    )
