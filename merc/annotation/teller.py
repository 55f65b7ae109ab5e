"""What tells the emotions of recordings: a model, or a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from merc.conversation import Corpus
from merc.labels import LabelSet
from merc.models import Model, ModelError, load
from merc.models.apply import apply_model
from merc.models.folder import CONFIG
from merc.models.notes import model_notes, run_notes
from merc.pipeline.apply import AppliedRun, NameSpeakers, apply_pipeline, corpus_of
from merc.pipeline.plan import RECORD, FinishedRun


@dataclass(frozen=True)
class Teller:
    """A model or a finished run, asked for the emotions of recordings.

    Args:
        source: The model, or the run.
        seed: Which seed of a run. Default: the first.
        stage: The stage of a run that tells the emotions. Default: the last that was tested.

    Raises:
        ModelError: A model has no seed or stage to choose.
    """

    source: Model | FinishedRun
    seed: int | None = None
    stage: str | None = None

    def __post_init__(self) -> None:
        """Refuse choices that a model does not have."""
        if isinstance(self.source, Model) and (self.seed is not None or self.stage is not None):
            raise ModelError("A model has no seed or stage to choose: give --seed and --stage to `merc export`.")

    @classmethod
    def of(cls, model: str | Path | Model, seed: int | None = None, stage: str | None = None) -> Teller:
        """The model or the finished run that a name stands for.

        Raises:
            FileNotFoundError: There is no such model.
            PipelineError: The run is not finished.
            ModelError: The model is damaged, or has no seed or stage.
        """
        if isinstance(model, Model):
            return cls(model, seed, stage)
        folder = Path(model)
        is_run = (folder / RECORD).is_file() or (folder.is_dir() and not (folder / CONFIG).is_file())
        return cls(FinishedRun.load(folder) if is_run else load(model), seed, stage)

    @cached_property
    def _trained(self) -> Model | Corpus:
        """The model, or the corpus of the run."""
        return self.source if isinstance(self.source, Model) else corpus_of(self.source, self.stage)

    @property
    def labels(self) -> LabelSet:
        """The emotions."""
        return self._trained.labels

    @property
    def dimensions(self) -> Mapping[str, tuple[float, float]]:
        """The numbers of the model or of the corpus of the run, with their scales."""
        return self._trained.dimensions

    @property
    def reads_words_alone(self) -> bool:
        """Whether the emotions can be told without the recording."""
        return isinstance(self.source, Model) and not self.source.needs_recordings

    def tell(
        self,
        corpus: Corpus,
        stages: str | Path,
        *,
        trainer_options: Sequence[str] = (),
        speakers: NameSpeakers | None = None,
    ) -> tuple[AppliedRun, list[str]]:
        """The stores and the emotions of some conversations.

        Args:
            corpus: The conversations, whose utterances name clips.
            stages: Folder for the stores.
            trainer_options: Options such as ``--trainer.accelerator=gpu``, for every stage.
            speakers: Finds out who speaks, once the faces are known.

        Returns:
            What the model or run says, and what a reader of it must know.

        Raises:
            PipelineError: The run cannot be applied to new recordings.
            ModelError: The model does not tell how its features are made.
        """
        if isinstance(self.source, Model):
            applied, notes = apply_model(
                self.source, corpus, stages, trainer_options=trainer_options, speakers=speakers
            )
            return applied, [*notes, *model_notes(self.source, applied)]
        applied = apply_pipeline(
            self.source.folder,
            corpus,
            stages,
            seed=self.seed,
            stage=self.stage,
            trainer_options=trainer_options,
            speakers=speakers,
        )
        assert isinstance(self._trained, Corpus)
        return applied, run_notes(self._trained, applied)
