"""Annotation of a new video with its transcript: the speaker and the emotion of every line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import merc
from merc.annotation.files import format_of, save_annotation
from merc.annotation.film import PATIENCE, AnnotatedFilm
from merc.annotation.lines import Annotation, describe
from merc.annotation.page import EMBEDDED, as_html, page_fingerprint
from merc.annotation.persons import FilmPersons, PersonSearch, SpeakerNaming
from merc.annotation.steps import tell_step
from merc.annotation.teller import Teller
from merc.annotation.thumbnails import face_thumbnails
from merc.conversation import Corpus, CorpusError, Utterance
from merc.corpora.transcripts import TranscriptOptions, read_transcript
from merc.files import write_text
from merc.media.decode import MediaInfo, probe
from merc.media.film import film_comment, write_film
from merc.media.notes import media_notes
from merc.media.rates import FRAME_RATE
from merc.models import Model
from merc.pipeline.apply import AppliedRun
from merc.speech import Transcriber, VoiceActivity, transcribed, transcript_corpus

FORMATS_BY_DEFAULT = ("csv", "srt", "html")
"""Suffixes of the files that are written beside ``annotation.json``."""

TRANSCRIPT, PERSONS = "transcript.json", "persons.json"
"""Files of the results that keep what was heard and who was found."""


def annotate(
    video: str | Path,
    transcript: str | Path | None,
    model: str | Path | Model,
    out: str | Path,
    *,
    transcriber: Transcriber | None = None,
    seed: int | None = None,
    stage: str | None = None,
    reading: TranscriptOptions | None = None,
    persons: PersonSearch | bool | None = True,
    film: bool = True,
    formats: Sequence[str] = FORMATS_BY_DEFAULT,
    embed: float = EMBEDDED,
    trainer_options: Sequence[str] = (),
) -> Annotation:
    """Find the speaker and the emotion of every line of a video; ``merc annotate`` does the same.

    ``model`` can be ``"default"`` or another model that comes with merc, one from ``merc export``, or a finished
    ``merc run`` whose features come from encoders: of text alone, or of text, sound and the speaking face. A missing
    modality (nobody visible, no sound) is masked as in training, and recorded. Text alone needs nothing of the
    recording: without PyAV, which reads it, there is only no film.

    ``out`` gets ``annotation.json``, the same in the other formats, ``annotated.mp4`` in which the speaking face is
    framed above a bar for every emotion, and ``stages/`` with the stores of every stage.
    What is finished and unchanged is skipped, what was interrupted goes on. Memory does not grow with the film.

    Args:
        video: The recording.
        transcript: Lines with times (see :func:`merc.corpora.read_transcript`). ``None``: ``transcriber`` makes them,
            and ``out`` gets ``transcript.json``.
        model: The folder of a run or a model, the name of a model, or a model.
        out: Folder for the results.
        transcriber: Finds what is said where there is no transcript, such as
            :class:`merc.speech.WhisperTranscriber`. Default: :class:`merc.speech.VoiceActivity`, which cuts the sound
            into utterances without words; their text is missing, and the emotions are those of sound and face.
        seed: Which seed of a run. Default: the first.
        stage: The stage of a run that tells the emotions. Default: the last that was tested.
        reading: How the transcript is read, where its file alone does not say it: encoding, columns, who speaks when.
        persons: Links voices and faces to people, who are the speakers of lines without a name, for the networks too.
            ``True``: :class:`PersonSearch` with its defaults. ``False`` or ``None``: such lines are said by one
            ``unknown``.
        film: Whether to write ``annotated.mp4``; a recording without video gives none.
        formats: Suffixes of further files: see :data:`merc.annotation.FORMATS`.
        embed: Films of at most so many megabytes are inside ``annotation.html``, which else links to them.
        trainer_options: Options such as ``--trainer.accelerator=gpu``, for every stage.

    Raises:
        MediaError: The video cannot be read, or has neither transcript nor sound.
        CorpusError: The transcript cannot be read, or belongs to another video.
        PipelineError: The run is not finished, or cannot be applied to a new video.
        FileNotFoundError: There is no such model.
        ModelError: The model is damaged, does not tell how its features are made, or has no seeds and stages.
        ValueError: There is no such format.
    """
    formats = [format_of(name) for name in formats]
    teller = Teller.of(model, seed, stage)
    read = read_film(video, transcript, teller, reading, transcriber=transcriber, made=Path(out) / TRANSCRIPT)
    [conversation] = read.corpus["test"]
    naming = naming_of(persons, {conversation.id: Path(out) / PERSONS} if read.info is not None else {})
    stages = Path(out) / "stages"
    applied, notes = teller.tell(read.corpus, stages, trainer_options=trainer_options, speakers=naming)
    read = read.completed(naming, applied.corpus, notes)
    return write_results(read, applied, out, film=film, formats=formats, embed=embed)


def naming_of(persons: PersonSearch | bool | None, kept: Mapping[str, Path]) -> SpeakerNaming | None:
    """What names the speakers of recordings; ``None`` if nobody is to, or nothing can be read of them.

    Args:
        persons: As for :func:`annotate`.
        kept: By the id of a conversation, the file that keeps its people.
    """
    search = PersonSearch() if persons is True else persons or None
    return SpeakerNaming(search, kept) if search is not None and kept else None


@dataclass(frozen=True)
class ReadFilm:
    """A recording and its transcript, before any model sees them.

    Args:
        video: The recording.
        transcript: Its transcript.
        info: What the recording is; ``None`` if nothing can read it here and nothing needs to.
        corpus: One conversation, in split ``test``.
        notes: Remarks for readers of the results.
        people: Who is in it.
    """

    video: Path
    transcript: Path
    info: MediaInfo | None
    corpus: Corpus
    notes: list[str]
    people: FilmPersons = field(default_factory=FilmPersons)

    def completed(self, naming: SpeakerNaming | None, corpus: Corpus, notes: Sequence[str]) -> ReadFilm:
        """The same with what was found since.

        Args:
            naming: Has found its people.
            corpus: Has its conversation, with these people as speakers.
            notes: Further remarks.
        """
        [own] = self.corpus["test"]
        [named] = [conversation for conversation in corpus["test"] if conversation.id == own.id]
        people = FilmPersons() if naming is None else naming.found[own.id]
        splits = {"test": [named]}
        return replace(
            self,
            corpus=replace(self.corpus, splits=splits),
            people=people,
            notes=[*self.notes, *people.notes, *notes],
        )


def read_film(
    video: str | Path,
    transcript: str | Path | None,
    teller: Teller,
    reading: TranscriptOptions | None = None,
    *,
    transcriber: Transcriber | None = None,
    made: Path,
) -> ReadFilm:
    """Read a recording and its transcript; arguments and errors as for :func:`annotate`.

    Args:
        video: The recording.
        transcript: Its transcript, if there is one.
        teller: What will tell the emotions.
        reading: How the transcript is read.
        transcriber: Makes a transcript otherwise.
        made: The file that keeps it.
    """
    video = Path(video)
    info = _probe(video, teller)
    duration = None if info is None else info.duration
    options: dict[str, Any] = {"labels": teller.labels, "options": reading, "duration": duration}
    if transcript is None:
        transcript = made
        tell_step(f"transcript of {video.name}")
        corpus = transcript_corpus(transcribed(video, made, transcriber or VoiceActivity()), made, video, **options)
    else:
        corpus = read_transcript(transcript, video, **options)
    corpus = replace(corpus, dimensions=teller.dimensions)
    notes = [*corpus.notes]
    if info is None:
        notes.append("PyAV is not installed, so nothing was read of the recording: pip install 'merc[media]'.")
    else:
        notes += [*media_notes(video), *_beyond(corpus["test"][0].utterances, info, video, transcript)]
    return ReadFilm(video, Path(transcript), info, corpus, notes)


def write_results(
    read: ReadFilm,
    applied: AppliedRun,
    out: str | Path,
    *,
    film: bool = True,
    formats: Sequence[str] = FORMATS_BY_DEFAULT,
    embed: float = EMBEDDED,
) -> Annotation:
    """Write the annotation of a recording in all formats.

    Args:
        read: The recording.
        applied: The run, applied to it.
        out: Folder for the results.
        film: As for :func:`annotate`.
        formats: Likewise.
        embed: Likewise.
    """
    out, video, info = Path(out), read.video, read.info
    applied = replace(applied, corpus=read.corpus)  # its own part of what may be many
    lines, labels, dimensions = describe(applied, read.people), applied.labels, applied.dimensions
    annotation = Annotation(
        lines,
        labels,
        read.notes,
        applied.run,
        video=video,
        transcript=read.transcript,
        dimensions=dimensions,
    )
    for name in dict.fromkeys(["json", *formats]):
        if name != "html":
            save_annotation(annotation, out / f"annotation.{name}")
    state = video.stat()
    drawn = AnnotatedFilm(lines, applied)
    basis = [
        merc.__version__,
        [state.st_size, state.st_mtime_ns],
        [asdict(line) for line in lines],
        labels.report_order,
        list(dimensions.items()),
        drawn.faces.digest(drawn.keys),  # the boxes of all frames, of which a line has one
    ]
    fingerprint = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
    faces: dict[int, bytes] = {}
    if film and info is not None and info.height is not None:
        annotation = replace(annotation, film=out / "annotated.mp4")
        if film_comment(out / "annotated.mp4") != fingerprint:
            tell_step(f"film of {video.name}")
            fps = info.fps if info.fps is not None and 1 <= info.fps <= 60 else FRAME_RATE
            frames = drawn.frames(video, fps)
            write_film(out / "annotated.mp4", frames, fps=fps, sound_of=video, comment=fingerprint, time_limit=PATIENCE)
            faces = drawn.thumbnails
    if "html" in formats:
        # What the page is made of; finding faces in the film again takes time.
        made_of = hashlib.sha256(f"{fingerprint} {annotation.film} {embed} {annotation.notes}".encode()).hexdigest()
        if page_fingerprint(out / "annotation.html") != made_of:
            tell_step(f"page of {video.name}")
            faces = face_thumbnails(lines, applied, video, faces)
            page = as_html(annotation, beside=out, faces=faces, embed=embed, fingerprint=made_of)
            write_text(out / "annotation.html", page)
    return annotation


def _probe(video: Path, teller: Teller) -> MediaInfo | None:
    """What a recording is; ``None`` if PyAV is missing and the emotions can do without.

    Raises:
        MediaError: It cannot be read.
        ImportError: PyAV is missing.
    """
    try:
        return probe(video)
    except ImportError:
        if video.is_file() and teller.reads_words_alone:
            return None
        raise


def _beyond(utterances: Sequence[Utterance], info: MediaInfo, video: Path, transcript: str | Path) -> Iterator[str]:
    """A note about lines after the end of the video.

    Raises:
        CorpusError: All lines are after the end.
    """
    late = sum(utterance.start is not None and utterance.start >= info.duration for utterance in utterances)
    if late == len(utterances):
        raise CorpusError(
            f"All {late} lines of {transcript} begin after the end of {video}, {info.duration:.1f} s. Expected the "
            "transcript of this video."
        )
    if late:
        yield f"{late} lines begin after the end of the video, {info.duration:.1f} s, and have neither video nor sound."
