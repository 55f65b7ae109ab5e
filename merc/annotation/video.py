"""Annotation of a new video with its transcript: the speaker and the emotion of every line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import merc
from merc.annotation.files import as_csv, as_json, as_srt
from merc.annotation.film import PATIENCE, AnnotatedFilm
from merc.annotation.lines import Annotation, describe
from merc.annotation.persons import FilmPersons, PersonSearch, with_persons
from merc.conversation import Corpus, CorpusError, Utterance
from merc.corpora.transcripts import TranscriptOptions, read_transcript
from merc.files import write_json, write_text
from merc.media.decode import MediaInfo, probe
from merc.media.film import film_comment, write_film
from merc.media.notes import media_notes
from merc.media.rates import FRAME_RATE
from merc.pipeline.apply import apply_pipeline, labels_of
from merc.pipeline.plan import FinishedRun
from merc.speech import Transcriber, VoiceActivity, transcribed, transcript_corpus
from merc.store import FeatureStore


def annotate(
    video: str | Path,
    transcript: str | Path | None,
    model: str | Path,
    out: str | Path,
    *,
    transcriber: Transcriber | None = None,
    seed: int | None = None,
    stage: str | None = None,
    reading: TranscriptOptions | None = None,
    persons: PersonSearch | bool | None = True,
    film: bool = True,
    trainer_options: Sequence[str] = (),
) -> Annotation:
    """Find the speaker and the emotion of every line of a video; ``merc annotate`` does the same.

    ``model`` can be any finished ``merc run`` whose features come from encoders: of text alone, or of text, sound and
    the speaking face. A missing modality (nobody visible, no sound) is masked as in training, and recorded.

    ``out`` gets ``annotation.json``, ``annotation.csv``, ``annotation.srt`` with the emotions, ``annotated.mp4`` in
    which the speaking face is framed above a bar for every emotion, and ``stages/`` with the stores of every stage.
    What is finished and unchanged is skipped, what was interrupted goes on. Memory does not grow with the film.

    Args:
        video: The recording.
        transcript: Lines with times (see :func:`merc.corpora.read_transcript`). ``None``: ``transcriber`` makes them,
            and ``out`` gets ``transcript.json``.
        model: The folder of the run.
        out: Folder for the results.
        transcriber: Finds what is said where there is no transcript, such as
            :class:`merc.speech.WhisperTranscriber`. Default: :class:`merc.speech.VoiceActivity`, which cuts the sound
            into utterances without words; their text is missing, and the emotions are those of sound and face.
        seed: Which seed of the run. Default: the first.
        stage: The stage of the run that tells the emotions. Default: the last that was tested.
        reading: How the transcript is read, where its file alone does not say it: encoding, columns, who speaks when.
        persons: Links voices and faces to people, who are the speakers of lines without a name, for the networks too.
            ``True``: :class:`PersonSearch` with its defaults. ``False`` or ``None``: such lines are said by one
            ``unknown``.
        film: Whether to write ``annotated.mp4``; a recording without video gives none.
        trainer_options: Options such as ``--trainer.accelerator=gpu``, for every stage.

    Raises:
        MediaError: The video cannot be read, or has neither transcript nor sound.
        CorpusError: The transcript cannot be read, or belongs to another video.
        PipelineError: The run is not finished, or cannot be applied to a new video.
    """
    video, out = Path(video), Path(out)
    info = probe(video)
    labels = labels_of(FinishedRun.load(model), stage)
    if transcript is None:
        transcript = out / "transcript.json"
        said = transcribed(video, transcript, transcriber or VoiceActivity())
        corpus = transcript_corpus(said, transcript, video, labels=labels, options=reading, duration=info.duration)
    else:
        corpus = read_transcript(transcript, video, labels=labels, options=reading, duration=info.duration)
    utterances = corpus["test"][0].utterances
    notes = [*corpus.notes, *media_notes(video), *_beyond(utterances, info, video, transcript)]
    search = PersonSearch() if persons is True else persons or None
    people = FilmPersons()

    def speakers(corpus: Corpus, stores: Mapping[str, FeatureStore]) -> Corpus:
        nonlocal people
        assert search is not None
        people = search(corpus, stores, out / "persons.json")
        return with_persons(corpus, people)

    applied = apply_pipeline(
        model,
        corpus,
        out / "stages",
        seed=seed,
        stage=stage,
        trainer_options=trainer_options,
        speakers=None if search is None else speakers,
    )
    notes += people.notes
    lines = describe(applied, people)
    annotation = Annotation(lines, labels, notes, applied.run)
    target = out / "annotated.mp4" if film and info.height is not None else None
    write_json(out / "annotation.json", as_json(annotation, video, transcript))
    write_text(out / "annotation.csv", as_csv(annotation))
    write_text(out / "annotation.srt", as_srt(lines))
    if target is not None:
        state = video.stat()
        basis = [merc.__version__, state.st_size, state.st_mtime_ns, [asdict(line) for line in lines]]
        fingerprint = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
        if film_comment(target) != fingerprint:
            fps = info.fps if info.fps is not None and 1 <= info.fps <= 60 else FRAME_RATE
            frames = AnnotatedFilm(lines, applied, labels).frames(video, fps)
            write_film(target, frames, fps=fps, sound_of=video, comment=fingerprint, time_limit=PATIENCE)
    return Annotation(lines, labels, notes, applied.run, target)


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
