"""Kinds of stages: how each is checked, run, and applied to conversations that the run has never seen."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
from abc import ABC, abstractmethod
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from merc.configs.lookup import read_config
from merc.conversation import CORPUS_FILE, Corpus, CorpusError
from merc.corpora.commands import import_evidence, import_kind, import_writing, resolve_doctor, resolve_import
from merc.evaluation import ensemble_logits, ensemble_systems
from merc.features import evidence_table
from merc.pipeline.lightning import (
    MercCLI,
    MercParser,
    add_store_writer,
    callbacks_of,
    check_checkpoint,
    end_averaging,
    run_folder,
)
from merc.pipeline.problems import explain
from merc.pipeline.stage import PipelineError, Stage, StageRun
from merc.store import FeatureStore
from merc.tasks import export_lipsync
from merc.tasks.classifier import ClassifierTask

if TYPE_CHECKING:  # an application applies kinds
    from merc.pipeline.apply import Application


class StageKind(ABC):
    """What a stage does. Subclass it for a kind of your own; a pipeline names it by its import path.

    Attributes:
        per_seed: Whether a stage of this kind runs for every seed unless it says otherwise.
        reports: Whether it can leave a report of a test.
    """

    per_seed: ClassVar[bool] = False
    reports: ClassVar[bool] = False

    @abstractmethod
    def check(self, run: StageRun, trainer_options: Sequence[str]) -> None:
        """Refuse options that the stage does not know, before the first stage runs.

        Raises:
            PipelineError: There is one; the message says which.
        """

    @abstractmethod
    def run(self, run: StageRun, trainer_options: Sequence[str], console: Console) -> None:
        """Make the results of the stage in ``run.folder``."""

    def tells(self, run: StageRun, trainer_options: Sequence[str]) -> frozenset[str]:
        """What a tested stage predicts: ``emotions``, ``numbers``, or both."""
        return frozenset({"emotions"})

    def corpus_option(self, stage: Stage) -> str | None:
        """The option that takes the pipeline's corpus; ``None`` for a stage that reads none."""
        return None

    def brings_corpus(self, stage: Stage) -> bool:
        """Whether the stage writes the corpus that others read."""
        return False

    def configs(self, stage: Stage) -> list[str]:
        """The content of the stage's config files, in the order in which they override each other."""
        return []

    def why_not_new(self, stage: Stage) -> str | None:
        """Why the stage cannot be applied to new conversations; ``None`` if it can."""
        return f"is of the kind {type(self).__name__}, which has no way to do it"

    def apply(self, run: StageRun, application: Application) -> None:
        """Make of a new corpus what :meth:`run` makes of that of the run, and train nothing.

        Only called where :meth:`why_not_new` gives ``None``.

        Args:
            run: The stage, with the folder for the new results.
            application: Knows the new corpus, and the results of the finished run.
        """
        raise NotImplementedError


class FunctionStage(StageKind):
    """Calls a function; its options are those of the function, as its types say."""

    takes_out: ClassVar[bool] = True
    """Whether the function writes into a folder, its argument ``out``."""

    by_config: ClassVar[bool] = False
    """Whether the stage's ``config`` names the function; if not, the stage has none."""

    @abstractmethod
    def function(self, stage: Stage) -> Callable[..., Any]:
        """What to call.

        Raises:
            PipelineError: The stage names no such function.
        """

    def parsed(self, run: StageRun) -> tuple[ArgumentParser, Any]:
        """The arguments as the types of the function say, with the parser that knows them."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_function_arguments(self.function(run.stage), skip={"out"})
        try:
            return parser, parser.parse_object(deepcopy(run.stage.options))  # which it fills with paths, in place
        except ArgumentError as error:
            text = explain(str(error), parser)
            if "arguments are required" in text and self.brings_corpus(run.stage):
                text += " Give them to the command as options: --NAME VALUE."
            raise PipelineError(f"Stage {run.stage.name!r}, {run.stage.command}: {text}") from error

    def check(self, run: StageRun, trainer_options: Sequence[str]) -> None:
        """Parse the options."""
        if run.stage.config and not self.by_config:
            raise PipelineError(
                f"Stage {run.stage.name!r} ({run.stage.command}) has the config {run.stage.config_names[0]!r}: "
                "expected no config."
            )
        self.parsed(run)

    def run(self, run: StageRun, trainer_options: Sequence[str], console: Console) -> None:
        """Call the function."""
        parser, options = self.parsed(run)
        where = {"out": run.folder} if self.takes_out else {}
        self.function(run.stage)(**parser.instantiate_classes(options), **where)


class ImportStage(FunctionStage):
    """Imports a corpus, or features of one (``merc import``)."""

    by_config = True

    def function(self, stage: Stage) -> Callable[..., Any]:
        """The import that ``config`` names: a short name or an import path."""
        try:
            return resolve_import(str(stage.config))
        except CorpusError as error:
            raise PipelineError(f"Stage {stage.name!r}: {error}") from error

    def corpus_option(self, stage: Stage) -> str | None:
        """Features are those of a corpus."""
        return "corpus" if "corpus" in signature(self.function(stage)).parameters else None

    def brings_corpus(self, stage: Stage) -> bool:
        """Whether the import returns or writes conversations."""
        self.function(stage)  # refuses one that is not there
        return import_kind(str(stage.config)) == "corpus"

    def why_not_new(self, stage: Stage) -> str | None:
        """Numbers of which only their source knows cannot be had of new conversations."""
        known = import_kind(str(stage.config)) != "numbers"
        return None if known else f"only copies numbers ({stage.config})"

    def apply(self, run: StageRun, application: Application) -> None:
        """Put the new corpus in the place of the imported one, or compute the features of the new one."""
        if self.brings_corpus(run.stage):
            application.corpus.save(run.folder / CORPUS_FILE)
        else:
            super().run(run, (), application.console)


class DoctorStage(FunctionStage):
    """Checks a corpus on disk and says what it found, which is for the user to judge (``merc doctor``)."""

    takes_out = False
    by_config = True

    def function(self, stage: Stage) -> Callable[..., Any]:
        """The doctor that ``config`` names: a short name or an import path."""
        try:
            return resolve_doctor(str(stage.config))
        except CorpusError as error:
            raise PipelineError(f"Stage {stage.name!r}: {error}") from error


class WritingStage(FunctionStage):
    """Measures how utterances are written (:func:`merc.features.writing_table`)."""

    def function(self, stage: Stage) -> Callable[..., Any]:
        """What ``merc import writing`` calls."""
        return import_writing

    def corpus_option(self, stage: Stage) -> str | None:
        """The corpus whose utterances are measured."""
        return "corpus"

    def why_not_new(self, stage: Stage) -> str | None:
        """Nothing is in the way."""
        return None

    def apply(self, run: StageRun, application: Application) -> None:
        """Measure how the new utterances are written."""
        self.run(run, (), application.console)


class EvidenceStage(FunctionStage):
    """Turns features into the evidence of each emotion (:func:`merc.features.evidence_table`)."""

    def corpus_option(self, stage: Stage) -> str | None:
        """The corpus whose labels the evidence is fitted on."""
        return "corpus"

    def function(self, stage: Stage) -> Callable[..., Any]:
        """What ``merc import evidence`` calls."""
        return import_evidence

    def why_not_new(self, stage: Stage) -> str | None:
        """Nothing is in the way."""
        return None

    def apply(self, run: StageRun, application: Application) -> None:
        """Evidence of the new features, by the fit to those that the run was trained on."""
        trained, folder = application.trained(run.stage.name)
        options = trained.options
        source, made = FeatureStore(options["features"]), FeatureStore(folder)
        if made.provenance["of"]["digest"] != source.digest:
            raise PipelineError(
                f"{source.path} is not what {made.path} was made from: give the `merc run` command of this run again."
            )
        fit = {name: options[name] for name in ("append", "standardize", "noisy_labels") if name in options}
        table = evidence_table(
            FeatureStore(run.stage.options["features"]),
            application.corpus,
            fitted_on=(source, Corpus.load(options["corpus"])),
            **fit,
        )
        table.save(run.folder, application.corpus)


class ExportLipSyncStage(FunctionStage):
    """Puts the weights of a trained LipSyncNet into a folder with a card (:func:`merc.tasks.export_lipsync`)."""

    def function(self, stage: Stage) -> Callable[..., Any]:
        """The export."""
        return export_lipsync


class EnsembleStage(FunctionStage):
    """Averages the probabilities of earlier stages that were tested (:func:`merc.evaluation.ensemble_systems`)."""

    per_seed = True
    reports = True

    def function(self, stage: Stage) -> Callable[..., Any]:
        """What ``merc ensemble`` calls."""
        return ensemble_systems

    def why_not_new(self, stage: Stage) -> str | None:
        """Nothing is in the way."""
        return None

    def apply(self, run: StageRun, application: Application) -> None:
        """Average the logits of the members."""
        members = [Path(member) for member in run.stage.options["members"]]
        stores = {member.name: FeatureStore(member / "logits") for member in members}
        ensemble_logits(stores, out=run.folder / "logits")


_CHECKED: dict[tuple[str, ...], Namespace] = {}
"""What the arguments of stages that were checked mean, until they run: parsing takes longer than making the network."""


class NetworkStage(StageKind):
    """Runs a network by its config, as LightningCLI does."""

    def corpus_option(self, stage: Stage) -> str | None:
        """The corpus of the datamodule."""
        return "data.corpus"

    def configs(self, stage: Stage) -> list[str]:
        """The content of the files that the stage names, in which what lies beside them has absolute paths."""
        return [read_config(name) for name in stage.configs]

    def check(self, run: StageRun, trainer_options: Sequence[str]) -> None:
        """Parse the configs with the options."""
        if not run.stage.configs:
            raise PipelineError(f"Stage {run.stage.name!r} ({run.stage.command}) names no config.")
        arguments = self.arguments(run, trainer_options)
        try:
            _CHECKED[tuple(arguments)] = MercParser(arguments).config
        except ArgumentError as error:
            text = explain(str(error))
            raise PipelineError(f"Stage {run.stage.name!r}, {', '.join(run.stage.config_names)}: {text}") from error

    def tells(self, run: StageRun, trainer_options: Sequence[str]) -> frozenset[str]:
        """What the targets of its task say."""
        arguments = self.arguments(run, trainer_options)
        model = (_CHECKED.get(tuple(arguments)) or MercParser(arguments).config).as_dict()["model"]
        targets = (model.get("init_args") or {}).get("targets")
        if not targets:
            return super().tells(run, trainer_options)
        told: frozenset[str] = resolve_name(targets["class_path"]).told
        return told

    def arguments(self, run: StageRun, trainer_options: Sequence[str]) -> list[str]:
        """The stage as it would stand on the command line, with its results in the folder of the stage."""
        # Absolute: a run that goes on from another working directory must find its checkpoints again.
        folder = run.folder.absolute()
        options: dict[str, Any] = {
            "seed_everything": run.seed,
            **{f"trainer.{name}": value for name, value in run_folder(folder).items()},
            "trainer.enable_model_summary": False,
            **run.stage.options,
        }
        configs = [word for name in run.stage.configs for word in ("--config", name)]
        given = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]
        return [*configs, *given, *trainer_options]

    def run(self, run: StageRun, trainer_options: Sequence[str], console: Console) -> None:
        """Train if the kind does, then write the stores; what was done before an interruption is not done again."""
        arguments = self.arguments(run, trainer_options)
        cli = MercCLI(arguments, run=False, parsed=_CHECKED.pop(tuple(arguments), None))
        if cli.trainer.world_size > 1:
            raise PipelineError(
                f"`merc run` uses one device, the options ask for {cli.trainer.world_size}: train that stage with "
                "`merc fit`."
            )
        callbacks_of(cli.trainer).extend(run.callbacks)
        checkpoint = self.weights(run, cli, console)
        if run.stage.outputs:
            self._predict(cli, run, checkpoint)

    @abstractmethod
    def weights(self, run: StageRun, cli: MercCLI, console: Console) -> str | None:
        """The checkpoint with which the stage predicts; ``None`` for the weights of the config."""

    def why_not_new(self, stage: Stage) -> str | None:
        """Nothing is in the way."""
        return None

    def apply(self, run: StageRun, application: Application) -> None:
        """Stores of the network with the weights that the run left."""
        checkpoint = application.checkpoint(run.stage)
        if checkpoint is not None:
            check_checkpoint(checkpoint)
        configs = []
        for number, content in enumerate(application.run.configs[run.stage.name], start=1):
            configs.append(run.folder / f"config-{number}.yaml")
            configs[-1].write_text(content, encoding="utf-8")
        # One device: what a conversation gives does not depend on how many there are, and one is enough for it.
        options = {"trainer.devices": 1, **run.stage.options, "trainer.logger": False}
        here = replace(run, stage=replace(run.stage, config=[str(config) for config in configs], options=options))
        cli = MercCLI(PredictStage().arguments(here, application.trainer_options), run=False)
        self._predict(cli, run, checkpoint)
        for name in run.stage.outputs:
            application.complete(run, name)

    @staticmethod
    def _predict(cli: MercCLI, run: StageRun, checkpoint: str | None) -> None:
        end_averaging(cli.trainer)
        add_store_writer(cli.trainer, run.folder, run.stage.outputs)
        cli.trainer.predict(
            cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True, return_predictions=False
        )


class PredictStage(NetworkStage):
    """Writes stores with a network as it is, or with the checkpoint that the option ``ckpt_path`` names."""

    def arguments(self, run: StageRun, trainer_options: Sequence[str]) -> list[str]:
        """Without ``ckpt_path``, an option of Trainer.predict that no parser of models and trainers knows."""
        options = {name: value for name, value in run.stage.options.items() if name != "ckpt_path"}
        return super().arguments(replace(run, stage=replace(run.stage, options=options)), trainer_options)

    def weights(self, run: StageRun, cli: MercCLI, console: Console) -> str | None:
        """The checkpoint that was given, if any."""
        given: str | None = run.stage.options.get("ckpt_path")
        return given


class FitStage(NetworkStage):
    """Trains, tests the best checkpoint, and writes stores with it."""

    per_seed = True
    reports = True

    def weights(self, run: StageRun, cli: MercCLI, console: Console) -> str | None:
        """Train unless that is done, and test."""
        if isinstance(cli.model, ClassifierTask):
            cli.model.ledger, cli.model.will_test = run.root, run.stage.tested
        checkpoint = _trained(run, cli, console)
        end_averaging(cli.trainer)
        if run.stage.tested:
            how: dict[str, Any] = {"ckpt_path": checkpoint, "weights_only": True, "verbose": False}
            if isinstance(cli.model, ClassifierTask):
                cli.trainer.validate(cli.model, datamodule=cli.datamodule, **how)  # the report compares both splits
            cli.trainer.test(cli.model, datamodule=cli.datamodule, **how)
            if not run.metrics.is_file():
                raise PipelineError(
                    f"{type(cli.model).__name__} writes no report: set `report: false` for {run.stage.name!r}."
                )
        return checkpoint


def _trained(run: StageRun, cli: MercCLI, console: Console) -> str:
    """The best checkpoint of a stage; the training goes on where it was interrupted, unless it is finished."""
    chosen, last = run.state.get("best"), run.folder / "checkpoints" / "last.ckpt"
    if chosen and _is_whole(run.folder / chosen, console):
        return str(run.folder / chosen)
    if chosen or not _is_whole(last, console):
        shutil.rmtree(last.parent, ignore_errors=True)  # of no use any more, and in the way of new ones
    start = str(last) if last.is_file() else None
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=start, weights_only=True)
    kept = cli.trainer.checkpoint_callback
    path, score = getattr(kept, "best_model_path", ""), getattr(kept, "best_model_score", None)
    if not path:
        raise PipelineError(
            f"Stage {run.stage.name!r} ended without a checkpoint: its config needs a ModelCheckpoint that monitors "
            "val/weighted_f1."
        )
    if score is not None and not math.isfinite(score):  # Lightning's stand-in where it was never a number
        monitor = getattr(kept, "monitor", "score")
        raise PipelineError(
            f"Stage {run.stage.name!r} never had a finite {monitor} on val: its training has diverged, or val has "
            "nothing to score. Lower the learning rate, set trainer.gradient_clip_val, or check the features and val."
        )
    best = Path(os.path.relpath(path, run.folder))
    run.link_best(best)
    run.update_state(best=str(best), score=None if score is None else float(score))
    return str(run.folder / best)


def _is_whole(checkpoint: Path, console: Console) -> bool:
    """Whether a checkpoint is there and can be read; says so if only the latter fails."""
    if not checkpoint.is_file():
        return False
    try:
        check_checkpoint(checkpoint)
    except ValueError as error:
        console.print(f"{error} It is left aside.", style="yellow", markup=False)
        return False
    return True


KINDS: Mapping[str, type[StageKind]] = {
    "import": ImportStage,
    "doctor": DoctorStage,
    "evidence": EvidenceStage,
    "writing": WritingStage,
    "fit": FitStage,
    "predict": PredictStage,
    "ensemble": EnsembleStage,
    "export_lipsync": ExportLipSyncStage,
}
"""The kinds of stages that have a short name."""


def kind_of(stage: Stage) -> StageKind:
    """What a stage does.

    Raises:
        PipelineError: ``command`` is neither a short name nor the import path of a :class:`StageKind`.
    """
    known = KINDS.get(stage.command)
    if known is not None:
        return known()
    module, _, name = stage.command.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PipelineError(
            f"Stage {stage.name!r} has the command {stage.command!r}: expected one of {', '.join(KINDS)}, or the "
            f"import path of a StageKind ({error})."
        ) from error
    if not (isinstance(found, type) and issubclass(found, StageKind)):
        raise PipelineError(f"Stage {stage.name!r}: {stage.command} is {found!r}, not a subclass of StageKind.")
    return found()
