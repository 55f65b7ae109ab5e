"""Annotation of a new video with its transcript: the speaker and the emotion of every line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import merc
from merc.annotation.files import as_csv, as_json, as_srt
from merc.annotation.film import PATIENCE, AnnotatedFilm
from merc.annotation.lines import Annotation, describe
from merc.conversation import CorpusError, Utterance
from merc.corpora.transcripts import TranscriptOptions, read_transcript
from merc.files import write_json, write_text
from merc.media.decode import MediaInfo, probe
from merc.media.film import film_comment, write_film
from merc.media.notes import media_notes
from merc.media.rates import FRAME_RATE
from merc.models import Model, ModelError, load
from merc.models.apply import apply_model
from merc.models.folder import CONFIG
from merc.models.notes import model_notes, run_notes
from merc.pipeline.apply import apply_pipeline, corpus_of
from merc.pipeline.plan import RECORD, FinishedRun


def annotate(
    video: str | Path,
    transcript: str | Path,
    model: str | Path | Model,
    out: str | Path,
    *,
    seed: int | None = None,
    stage: str | None = None,
    reading: TranscriptOptions | None = None,
    film: bool = True,
    trainer_options: Sequence[str] = (),
) -> Annotation:
    """Find the speaker and the emotion of every line of a video; ``merc annotate`` does the same.

    ``model`` can be ``"default"`` or another model that comes with merc, one from ``merc export``, or a finished
    ``merc run`` whose features come from encoders: of text alone, or of text, sound and the speaking face. A missing
    modality (nobody visible, no sound) is masked as in training, and recorded. Text alone needs nothing of the
    recording: without PyAV, which reads it, there is only no film.

    ``out`` gets ``annotation.json``, ``annotation.csv``, ``annotation.srt`` with the emotions, ``annotated.mp4`` in
    which the speaking face is framed above a bar for every emotion, and ``stages/`` with the stores of every stage.
    What is finished and unchanged is skipped, what was interrupted goes on. Memory does not grow with the film.

    Args:
        video: The recording.
        transcript: Lines with times (see :func:`merc.corpora.read_transcript`).
        model: The folder of a run or a model, the name of a model, or a model.
        out: Folder for the results.
        seed: Which seed of a run. Default: the first.
        stage: The stage of a run that tells the emotions. Default: the last that was tested.
        reading: How the transcript is read, where its file alone does not say it: encoding, columns, who speaks when.
        film: Whether to write ``annotated.mp4``; a recording without video gives none.
        trainer_options: Options such as ``--trainer.accelerator=gpu``, for every stage.

    Raises:
        MediaError: The video cannot be read.
        CorpusError: The transcript cannot be read, or belongs to another video.
        PipelineError: The run is not finished, or cannot be applied to a new video.
        FileNotFoundError: There is no such model.
        ModelError: The model is damaged, does not tell how its features are made, or has no seeds and stages.
    """
    video, out = Path(video), Path(out)
    applies = _opened(model)
    info = _probe(video, applies)
    trained = applies if isinstance(applies, Model) else corpus_of(applies, stage)
    labels = trained.labels
    duration = None if info is None else info.duration
    corpus = read_transcript(transcript, video, labels=labels, options=reading, duration=duration)
    utterances = corpus["test"][0].utterances
    notes = [*corpus.notes]
    if info is None:
        notes.append("PyAV is not installed, so nothing was read of the recording: pip install 'merc[media]'.")
    else:
        notes += [*media_notes(video), *_beyond(utterances, info, video, transcript)]
    stages = out / "stages"
    if isinstance(trained, Model):
        if seed is not None or stage is not None:
            raise ModelError("A model has no seed or stage to choose: give --seed and --stage to `merc export`.")
        applied, of_model = apply_model(trained, corpus, stages, trainer_options=trainer_options)
        notes += [*of_model, *model_notes(trained, applied)]
    else:
        applied = apply_pipeline(str(model), corpus, stages, seed=seed, stage=stage, trainer_options=trainer_options)
        notes += run_notes(trained, applied)
    lines = describe(applied)
    annotation = Annotation(lines, labels, notes, applied.run)
    target = out / "annotated.mp4" if film and info is not None and info.height is not None else None
    write_json(out / "annotation.json", as_json(annotation, video, transcript))
    write_text(out / "annotation.csv", as_csv(annotation))
    write_text(out / "annotation.srt", as_srt(lines))
    if target is not None and info is not None:
        state = video.stat()
        basis = [merc.__version__, state.st_size, state.st_mtime_ns, [asdict(line) for line in lines]]
        fingerprint = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
        if film_comment(target) != fingerprint:
            fps = info.fps if info.fps is not None and 1 <= info.fps <= 60 else FRAME_RATE
            frames = AnnotatedFilm(lines, applied, labels).frames(video, fps)
            write_film(target, frames, fps=fps, sound_of=video, comment=fingerprint, time_limit=PATIENCE)
    return Annotation(lines, labels, notes, applied.run, target)


def _opened(model: str | Path | Model) -> Model | FinishedRun:
    """The model or the finished run that a name stands for."""
    if isinstance(model, Model):
        return model
    folder = Path(model)
    is_run = (folder / RECORD).is_file() or (folder.is_dir() and not (folder / CONFIG).is_file())
    return FinishedRun.load(folder) if is_run else load(model)


def _probe(video: Path, applies: Model | FinishedRun) -> MediaInfo | None:
    """What a recording is; ``None`` if PyAV is missing and the emotions can do without.

    Raises:
        MediaError: It cannot be read.
        ImportError: PyAV is missing.
    """
    try:
        return probe(video)
    except ImportError:
        if video.is_file() and isinstance(applies, Model) and not applies.needs_recordings:
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
