"""The study of a search: what is searched, where it is kept, and who runs which trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

import merc
from merc.conversation import CORPUS_FILE
from merc.pipeline.ablation import changed_pipeline
from merc.pipeline.contents import file_digest, with_contents
from merc.pipeline.plan import FinishedRun, Pipeline
from merc.pipeline.space import Option
from merc.pipeline.stage import PipelineError
from merc.store.manifest import digest_of

JOURNAL = "study.log"
"""The study, in the folder of the results, unless it has a storage of its own."""

STAGES = "stages"
"""Folder of the stages of all trials, each named after everything that decides its result."""

BEGUN = "begun"
"""Attribute of trials whose process holds the lock, or did before it ended."""

_STALE = timedelta(days=1)
"""More than clocks of different time zones differ: nobody takes so long from asking for a trial to its lock."""


@dataclass(frozen=True)
class Search:
    """What to search, and where: all that a process needs to take part.

    Args:
        names: The pipeline, or the configs of a stage, as given.
        pipeline: The stages that lead to the judged one.
        given: By stage, the options that the command gives beside those of the pipeline.
        space: What to try.
        recipe: The pipeline as it is, as a draw from the space.
        judged: The stage whose score counts.
        score: The score, for example ``val/weighted_f1``.
        mode: Whether its ``max`` or its ``min`` is best.
        out: Folder for all results.
        sources: What stands for ``{root}`` and ``{corpus}``.
        seeds: The seeds of a trial.
        trials: How many trials there will be.
        storage: Where the study is, if not in ``out``.
        deadline: The time after which no trial begins.
        pruner: Ends trials early.
        sampler_seed: Seed of the sampler.
    """

    names: list[str]
    pipeline: Pipeline
    given: dict[str, dict[str, Any]]
    space: list[Option]
    recipe: dict[str, Any]
    judged: str
    score: str
    mode: str
    out: Path
    sources: dict[str, str]
    seeds: list[int]
    trials: int
    storage: str | None
    deadline: float | None
    pruner: BasePruner
    sampler_seed: int

    def join(self) -> None:
        """Make the study, or check that the one that is there is the same search.

        Raises:
            PipelineError: It is another one.
        """
        known = FinishedRun.of(self.pipeline, self.out, {}, ())
        identity = {
            "pipeline": digest_of(
                [
                    merc.__version__,
                    known.configs,
                    [[s.name, s.command, with_contents(s.options)] for s in known.pipeline.stages],
                ]
            ),
            "corpus": _content(self.sources.get("corpus")),
            "space": {option.key: str(option) for option in self.space},
            "seeds": self.seeds,
            "stage": self.judged,
        }
        with self.locked():
            study = self.study()
            there = study.user_attrs.get("search")
            if there is None:
                study.set_user_attr("search", identity)
                study.enqueue_trial(self.recipe, user_attrs={"recipe": True})
            elif there != identity:
                differs = ", ".join(name for name, value in identity.items() if there.get(name) != value)
                raise PipelineError(
                    f"The study in {self.storage or self.out / JOURNAL} is of another {differs}: its scores cannot "
                    "stand beside those of this search. Give the search an --out of its own"
                    f"{', and another --study' if self.storage else ''}."
                )

    def study(self) -> Study:
        """The study, as a connection of this process to its storage."""
        direction = StudyDirection.MAXIMIZE if self.mode == "max" else StudyDirection.MINIMIZE
        return optuna.create_study(
            storage=self._storage(),
            study_name="merc",
            direction=direction,
            pruner=self.pruner,
            load_if_exists=True,
        )

    @property
    def _journal(self) -> Path | None:
        """The file of the study, its folder made; ``None`` for a database."""
        if self.storage is not None and "://" in self.storage:
            return None
        file = (Path(self.storage) if self.storage else self.out / JOURNAL).absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _storage(self) -> str | BaseStorage | None:
        file = self._journal
        if file is None:
            return self.storage
        return JournalStorage(JournalFileBackend(str(file), JournalFileOpenLock(str(file))))

    def locked(self) -> FileLock:
        """Held by a process that looks for work, so that no two of them take the same.

        It lies beside the study, which is what processes with different ``out`` share. Those that share only a
        database are not kept apart.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        file = self._journal or self.out / "study"
        return FileLock(file.with_name(f".{file.name}.search.lock"))

    def running(self, number: int) -> FileLock:
        """Held by the process that runs a trial, and by none once that has ended, however it ended."""
        return FileLock(self.out / "running" / f"{number}.lock")

    def never_begun(self, trial: FrozenTrial) -> bool:
        """Whether the process that asked for a running trial has ended before it held the lock of that trial.

        Args:
            trial: The trial; the caller holds :meth:`locked`.
        """
        if BEGUN in trial.user_attrs:
            return False
        # Of a file, nobody else can be between the two now; of a database, those with another `out` can.
        return self._journal is not None or (
            trial.datetime_start is not None and datetime.now() - trial.datetime_start > _STALE
        )

    def changed(self, params: Mapping[str, Any]) -> Pipeline:
        """The pipeline of a trial."""
        return changed_pipeline(self.pipeline, self.changes(params))

    def changes(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The options of a trial, by stage."""
        changes: dict[str, dict[str, Any]] = {}
        for option in self.space:
            changes.setdefault(option.stage, {})[option.name] = option.value(params[option.key])
        return changes


def _content(corpus: str | None) -> dict[str, str]:
    """Digests of the files of a corpus, which may lie elsewhere on another machine."""
    place = None if corpus is None else Path(corpus)
    if place is None or not place.is_dir():
        return {} if place is None else {"": file_digest(place)}
    imported = place / CORPUS_FILE
    files = [imported] if imported.is_file() else sorted(file for file in place.glob("[!.]*") if file.is_file())
    return {file.name: file_digest(file) for file in files}


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: not one that was interrupted, which another repeats."""
    done = trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return done or (trial.state == TrialState.FAIL and "reason" in trial.user_attrs)


def state_of(trial: FrozenTrial) -> str:
    """How a trial ended, in words."""
    if trial.state == TrialState.PRUNED:
        return f"pruned at {trial.last_step} %"
    if trial.state == TrialState.FAIL:
        return f"failed: {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else "interrupted"
    return trial.state.name.lower()


def outcome(trial: FrozenTrial) -> str:
    """The score of a finished trial, or how another one ended."""
    return f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else state_of(trial)
