"""A finished run, applied to conversations that it has never seen: every stage again, and none of them trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor

import merc
from merc.conversation import CORPUS_FILE, Corpus, UtteranceKey
from merc.labels import LabelSet
from merc.pipeline.contents import with_contents
from merc.pipeline.lightning import quiet_lightning
from merc.pipeline.plan import FinishedRun
from merc.pipeline.stage import STATE, PipelineError, Stage, StageRun, references, substitute
from merc.store import MANIFEST, SEQUENCES, FeatureStore

FACES = ("faces", "speaker", "turns")
"""Stores that tell who is seen to speak."""

NameSpeakers = Callable[[Corpus, Mapping[str, FeatureStore]], Corpus]
"""Finds out who speaks, from a corpus and its stores of :data:`FACES`; the same corpus with these speakers."""


@dataclass(frozen=True, eq=False)
class AppliedRun:
    """The stores that a finished run makes of a new corpus.

    Args:
        corpus: The corpus.
        missing: By input modality, the utterances that lack it, each with the reason.
        logits: The predictions.
        stores: Every store that was written, by its stage and what it holds: ``faces/faces``, ``fusion/logits``.
        run: What was applied, in plain values: folder, seed, stage, and its checkpoint, or those of the members of an
            ensemble; or the name of a model.
        parts: Of a model that fuses late, the probabilities of each part, where it says something.
    """

    corpus: Corpus
    missing: Mapping[str, Mapping[UtteranceKey, str]]
    logits: FeatureStore
    stores: Mapping[str, Path]
    run: Mapping[str, Any]
    parts: Mapping[str, Mapping[UtteranceKey, Tensor]] = field(default_factory=dict)

    @property
    def dimensions(self) -> dict[str, tuple[float, float]]:
        """The numbers that the run predicts, with their scales."""
        return {name: self.corpus.dimensions[name] for name in self.logits.dimensions}

    @property
    def labels(self) -> LabelSet:
        """The emotions that the run predicts; empty for one of numbers alone, even if its corpus has emotions."""
        own = self.corpus.labels
        return own if self.logits.dim > len(self.logits.dimensions) else LabelSet(own.name, ())

    def find(self, kind: str) -> FeatureStore | None:
        """The store of one kind, if a stage that leads to the emotions has written one."""
        paths = [path for name, path in self.stores.items() if name.endswith(f"/{kind}")]
        return FeatureStore(paths[0]) if paths else None


def corpus_of(run: FinishedRun, stage: str | None = None) -> Corpus:
    """The corpus that a run was trained on, whose emotions it predicts.

    Args:
        run: The run.
        stage: The stage that predicts them, as in :func:`apply_pipeline`.

    Raises:
        PipelineError: That stage builds on no imported corpus.
    """
    stages = run.pipeline.stages
    for needed in _needed(stages, predicting_stage(stages, stage)):
        if needed.kind.brings_corpus(needed):
            return Corpus.load(run.place(needed, run.seeds[0]))
    raise PipelineError(f"The run in {run.folder} imports no corpus: nothing says which emotions it predicts.")


def apply_pipeline(
    run_folder: str | Path,
    corpus: Corpus,
    out: str | Path,
    *,
    seed: int | None = None,
    stage: str | None = None,
    trainer_options: Sequence[str] = (),
    speakers: NameSpeakers | None = None,
) -> AppliedRun:
    """Apply a finished run of ``merc run`` to a new corpus, which needs no labels.

    The new corpus takes the place of the imported one. Stages of ``predict`` run as they did, stages of ``fit`` predict
    with their best checkpoint, an ensemble averages its members, evidence uses the fit to the training split, and
    writing is measured. Only the stages that the chosen one builds on run. Stages that are finished and unchanged in
    ``out`` are skipped, an interrupted one is resumed.

    Args:
        run_folder: The folder that ``merc run`` was given as ``--out``.
        corpus: The new conversations; their emotions must be those of the run.
        out: Folder for the stores, one folder per stage.
        seed: Which of the run's seeds. Default: the first.
        stage: The ``fit`` or ``ensemble`` stage that predicts the emotions. Default: the last.
        trainer_options: Options such as ``--trainer.accelerator=gpu``, for every stage.
        speakers: Finds out who speaks, and returns the corpus with these speakers. It is called with the corpus and
            with the stores of faces, of the choice among them and of their turns, as far as the run has them, before
            the stages that do not lead to these.

    Raises:
        PipelineError: The run is not finished, or has a stage that cannot be applied to a new corpus, such as one that
            reads a corpus which no `import` stage brings; or a result lacks an utterance.
    """
    run = FinishedRun.load(run_folder)
    seed = run.seeds[0] if seed is None else seed
    if seed not in run.seeds:
        raise PipelineError(f"The run in {run.folder} has the seeds {', '.join(map(str, run.seeds))}, not {seed}.")
    target = predicting_stage(run.pipeline.stages, stage)
    needed = _needed(run.pipeline.stages, target)
    if not any(one.kind.brings_corpus(one) for one in needed):
        raise PipelineError(
            f"The run in {run.folder} imports no corpus that {target.name} builds on, so there is nothing for the new "
            "conversations to replace: expected an `import` stage in its pipeline."
        )
    application = Application(run, corpus, Path(out), seed, tuple(trainer_options))
    seeing = [] if speakers is None else _leading_to(FACES, needed)
    order = [*seeing, *(one for one in needed if one not in seeing)]
    with quiet_lightning(quiet=True):
        for number, one in enumerate(order, start=1):
            if speakers is not None and number == len(seeing) + 1:
                application.name_speakers(speakers)
            application.apply(one, f"stage {number} of {len(needed)}: {one.name}")
    networks = _networks({stage.name: stage for stage in needed}, target)
    checkpoints = {stage.name: application.checkpoint(stage) for stage in networks}
    stores = {f"{run.stage.name}/{name}": run.folder / name for run in application.runs for name in run.stage.outputs}
    logits = FeatureStore(application.applied[target.name].folder / "logits")
    if lacking := [key for key in _keys_of(corpus) if key not in logits and key not in logits.missing]:
        raise PipelineError(
            f"{logits.path} says nothing about {len(lacking)} of the given utterances, the first is {lacking[0]}: "
            f"remove {out} and apply the run again."
        )
    return AppliedRun(
        corpus=application.corpus,
        missing=_missing([application.applied[network.name].stage for network in networks], corpus, logits),
        logits=logits,
        stores=stores,
        run={
            "folder": str(run.folder),
            "seed": seed,
            "stage": target.name,
            **({"members": checkpoints} if target.command == "ensemble" else {"checkpoint": checkpoints[target.name]}),
        },
    )


def _missing(networks: Sequence[Stage], corpus: Corpus, logits: FeatureStore) -> dict[str, dict[UtteranceKey, str]]:
    """By modality that networks read, which utterances lack it, and why."""
    named: dict[str, str] = {}
    for stage in networks:
        named |= stage.options.get("data.stores", {})
        prefix = "data.stores."
        named |= {name.removeprefix(prefix): p for name, p in stage.options.items() if name.startswith(prefix)}
    opened = {name: FeatureStore(path) for name, path in named.items()}
    inputs = {name: store for name, store in opened.items() if store.kind != "logits"}
    usual = ("text", "audio", "visual")
    names = sorted(inputs, key=lambda name: usual.index(name) if name in usual else len(usual))
    # A text encoder that predicts emotions itself reads no store.
    return {n: inputs[n].why_missing(_keys_of(corpus)) for n in names} or {"text": logits.why_missing(_keys_of(corpus))}


def _keys_of(corpus: Corpus) -> list[UtteranceKey]:
    return [key for split in corpus.values() for conversation in split for key in conversation.keys]


def predicting_stage(stages: Sequence[Stage], name: str | None) -> Stage:
    """The stage that predicts the emotions, with its logits among its outputs.

    Args:
        stages: The stages of a run.
        name: Its name. Default: the last that was tested.

    Raises:
        PipelineError: There is none, or none of that name.
    """
    predicting = [stage for stage in stages if stage.kind.reports]
    if not predicting:
        raise PipelineError("The run trains nothing: expected a stage `fit` that predicts emotions.")
    # What is not tested predicts something else, such as LipSyncNet, unless nothing is.
    predicting = [stage for stage in predicting if stage.tested] or predicting
    chosen = predicting if name is None else [stage for stage in predicting if stage.name == name]
    if not chosen:
        raise PipelineError(
            f"No stage {name!r} of the run predicts emotions: expected one of {', '.join(s.name for s in predicting)}."
        )
    target = _with_logits(chosen[-1])
    return replace(target, options=inference_options(target.options))


def _needed(stages: Sequence[Stage], target: Stage) -> list[Stage]:
    """The stages that the target builds on, in order, and itself.

    Raises:
        PipelineError: One of them cannot be applied to a new corpus.
    """
    new = {stage.name: replace(stage, options=inference_options(stage.options)) for stage in stages}
    new |= {target.name: target}
    corpora = {name for name, stage in new.items() if stage.kind.brings_corpus(stage)}
    names = {target.name}
    for stage in reversed(new.values()):
        if stage.name not in names:
            continue
        if why := stage.kind.why_not_new(stage):
            raise _not_of_new(stage, why, stages)
        if foreign := _of_corpus_alone(stage.options, corpora):
            raise _not_of_new(stage, f"reads {foreign}, which came with the corpus", stages)
        if stage.name not in corpora:
            _require_new_corpus(stage, corpora)
            names |= references(stage.options)
    members = {member.name for stage in new.values() if stage.name in names for member in _members(new, stage)}
    return [_with_logits(stage) if stage.name in members else stage for stage in new.values() if stage.name in names]


def _require_new_corpus(stage: Stage, corpora: set[str]) -> None:
    """Refuse a stage whose corpus would stay that of the run: its rows would be taken for those of new utterances."""
    option = stage.kind.corpus_option(stage)
    if option is None:
        return
    given = stage.options.get(option, stage.options)
    if not references(given) & corpora:
        found = repr(given) if option in stage.options else "that of its config"
        raise PipelineError(
            f"Stage {stage.name!r} reads the corpus {found}, in whose place new conversations cannot be put: expected "
            f"--{option} of an `import` stage of the run, such as {{data}}/{CORPUS_FILE}."
        )


def _leading_to(kinds: Sequence[str], stages: Sequence[Stage]) -> list[Stage]:
    """The stages that store one of some kinds, and those that they build on."""
    names: set[str] = set()
    for stage in reversed(stages):
        if stage.name in names or set(stage.outputs) & set(kinds):
            names |= {stage.name, *references(stage.options)}
    return [stage for stage in stages if stage.name in names]


def _members(stages: Mapping[str, Stage], stage: Stage) -> list[Stage]:
    """The stages that an ensemble averages; none of any other stage."""
    averaged = references(stage.options) if stage.command == "ensemble" else set()
    return [other for name, other in stages.items() if name in averaged]


def _with_logits(stage: Stage) -> Stage:
    """A stage with its logits among its outputs."""
    return replace(stage, outputs=list(dict.fromkeys([*stage.outputs, "logits"])))


def _networks(stages: Mapping[str, Stage], stage: Stage) -> list[Stage]:
    """The networks that predict the emotions: the stage itself, or those that its ensemble is made of."""
    found = [network for member in _members(stages, stage) for network in _networks(stages, member)]
    return found or [stage]


def _not_of_new(stage: Stage, why: str, stages: Sequence[Stage]) -> PipelineError:
    others = ", ".join(stage.name for stage in stages if stage.tested)
    return PipelineError(
        f"Stage {stage.name!r} {why}: nobody can compute that of new clips. Apply a run whose features come from "
        f"encoders, or choose another of its stages ({others}) if one does without."
    )


def inference_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without what only training needs: who truly speaks, other corpora to learn lips from, where to start."""
    options = {name: value for name, value in options.items() if not name.endswith(".warm_start")}
    for name, sources in options.items():
        if name.endswith(".sources") and isinstance(sources, list):
            own = [source for source in sources if references(source) and source.get("predict", True)][:1]
            options[name] = [{k: v for k, v in source.items() if k != "speaker"} for source in own]
    return options


def _of_corpus_alone(options: Any, corpora: set[str]) -> str | None:  # noqa: ANN401 - nested JSON values
    """The first string that refers to something of an imported corpus other than its ``corpus.json``."""
    if isinstance(options, str):
        fine = {f"{{{name}}}{rest}" for name in corpora for rest in ("", "/", f"/{CORPUS_FILE}")}
        return options if references(options) & corpora and options not in fine else None
    parts = options.values() if isinstance(options, Mapping) else options if isinstance(options, list) else ()
    return next((found for part in parts if (found := _of_corpus_alone(part, corpora))), None)


class Application:
    """Applies the stages of a finished run, one after the other.

    Args:
        run: The finished run.
        corpus: The new corpus.
        out: Folder for the results, one folder per stage.
        seed: The seed of the run.
        trainer_options: Options for every Lightning stage.
    """

    def __init__(
        self, run: FinishedRun, corpus: Corpus, out: Path, seed: int, trainer_options: tuple[str, ...]
    ) -> None:
        self.run = run
        self.corpus = corpus
        self.out = out
        self.seed = seed
        self.trainer_options = trainer_options
        self.applied: dict[str, StageRun] = {}
        self.console = Console(markup=False, highlight=False)

    @property
    def runs(self) -> list[StageRun]:
        """The stages that were applied, in order."""
        return list(self.applied.values())

    def trained(self, name: str) -> tuple[Stage, Path]:
        """A stage as it was trained, with its placeholders replaced, and its folder.

        Args:
            name: The name of the stage.
        """
        [stage] = [stage for stage in self.run.pipeline.stages if stage.name == name]
        places = self._trained_places()
        return replace(stage, options=substitute(stage.options, places)), self.run.place(stage, self.seed)

    def checkpoint(self, stage: Stage) -> str | None:
        """The weights of a stage: those that were chosen on the validation split, or those that it was given."""
        trained, folder = self.trained(stage.name)
        if not stage.kind.reports:
            given = trained.options.get("ckpt_path")
            return None if given is None else str(given)
        best = self._state(stage).get("best")
        if best is None:
            raise PipelineError(f"{folder} names no best checkpoint: give the `merc run` command of this run again.")
        return str(folder / best)

    def _state(self, stage: Stage) -> dict[str, Any]:
        file = self.run.place(stage, self.seed) / STATE
        try:
            state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PipelineError(f"{file} cannot be read ({error}): give the `merc run` command again.") from error
        return state

    def _trained_places(self) -> dict[str, str]:
        """What placeholders stood for in training."""
        folders = {stage.name: str(self.run.place(stage, self.seed)) for stage in self.run.pipeline.stages}
        return {**self.run.sources, "seed": str(self.seed), **folders}

    def apply(self, stage: Stage, title: str) -> None:
        """Apply a stage, unless that was finished before."""
        run = self._planned(stage)
        self.applied[stage.name] = run
        there = stage.outputs or any((run.folder / name).is_file() for name in (CORPUS_FILE, MANIFEST))
        damage = run.damage() if run.marked else None
        if run.marked and there and damage is None:
            self.console.print(f"{title}: finished before, unchanged", style="dim")
            return
        self.console.print(title)
        if damage is not None:
            self.console.print(f"{damage} This stage is made again.", style="yellow")
        run.begin()
        stage.kind.apply(run, self)
        run.update_state(finished=True)

    def name_speakers(self, speakers: NameSpeakers) -> None:
        """Let the stages that follow read a corpus with the speakers that were found.

        Args:
            speakers: As for :func:`apply_pipeline`.
        """
        stores = {kind: run.folder / kind for run in self.runs for kind in FACES if kind in run.stage.outputs}
        self.corpus = speakers(self.corpus, {kind: FeatureStore(path) for kind, path in stores.items()})
        for name, run in self.applied.items():
            if run.stage.kind.brings_corpus(run.stage):
                basis = [run.fingerprint, content_of(self.corpus)]
                fingerprint = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
                named = StageRun(run.stage, self.out / f"{name}-persons", self.seed, fingerprint)
                if not (named.marked and (named.folder / CORPUS_FILE).is_file()):
                    named.begin()
                    run.stage.kind.apply(named, self)
                    named.update_state(finished=True)
                self.applied[name] = named

    def _planned(self, stage: Stage) -> StageRun:
        folder = self.out / stage.name
        places = self._trained_places() | {name: str(run.folder) for name, run in self.applied.items()}
        filled = replace(stage, options=substitute(stage.options, places), report=False)
        state = self._state(stage)
        before = [name for name in sorted(references(stage.options)) if name in self.applied]
        corpus = stage.kind.brings_corpus(stage)
        configs = [yaml.safe_load(config) for config in self.run.configs.get(stage.name, [])]
        basis = [
            merc.__version__,
            state["fingerprint"],
            state.get("best"),
            # What classes and files are now: they may have changed since the run.
            [] if corpus else with_contents([stage.command, stage.config, stage.options, configs]),
            self.seed,
            list(self.trainer_options),
            stage.outputs,
            content_of(self.corpus) if corpus else "",
            {name: self.applied[name].fingerprint for name in before},
        ]
        fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()
        return StageRun(filled, folder, self.seed, fingerprint, {name: self.applied[name].folder for name in before})

    def complete(self, run: StageRun, output: str) -> None:
        """Let a store of a stage know every utterance, and have the width that the following stages expect.

        Lips are compared with sound only where there is both, and a network says nothing of an utterance that has none
        of its inputs: in training such an utterance is one of many and nothing needs to be recorded. Here it may be
        all there is.

        Args:
            run: The stage.
            output: The output that the store holds.

        Raises:
            PipelineError: The stage left out an utterance that has what it reads.
        """
        store = FeatureStore(run.folder / output)
        trained = self.trained(run.stage.name)[1] / output
        unknown = [key for key in _keys_of(self.corpus) if key not in store and key not in store.missing]
        widthless = not store.dim and (trained / MANIFEST).is_file()
        if (store.kind in SEQUENCES and len(store)) or not (unknown or widthless):
            return
        like = FeatureStore(trained, verify=False) if widthless else store
        nothing = torch.zeros(0, like.dim, dtype=like.dtype)
        rows = store.gather(store.keys)[0] if len(store) else nothing
        inputs = [FeatureStore(place) for place in _stores_in(run.stage.options)]
        why = {key: _why_missing(key, inputs) for key in unknown}
        if silent := [key for key in unknown if not why[key]]:
            raise PipelineError(
                f"Stage {run.stage.name!r} says nothing about {len(silent)} of the given utterances, the first is "
                f"{silent[0]}, and nothing that it reads tells why: does it leave out a split, as with "
                "data.predict_splits?"
            )
        missing = {**store.missing, **why}
        FeatureStore.write(
            store.path,
            store.keys,
            rows,
            kind=store.kind,
            lengths=[] if store.kind in SEQUENCES else None,
            corpus=store.corpus,
            missing=missing,
            provenance=store.provenance,
        )


def _stores_in(options: Any) -> list[str]:  # noqa: ANN401 - nested JSON values
    """The stores that the options of a stage name."""
    if isinstance(options, str):
        return [options] if (Path(options) / MANIFEST).is_file() else []
    parts = options.values() if isinstance(options, Mapping) else options if isinstance(options, list) else ()
    return [found for part in parts for found in _stores_in(part)]


def _why_missing(key: UtteranceKey, inputs: Sequence[FeatureStore]) -> str:
    """Why a stage says nothing of an utterance, as its inputs tell; empty if they do not."""
    reasons = dict.fromkeys(reason for store in inputs for reason in store.why_missing([key]).values())
    return "; ".join(reasons)


def content_of(corpus: Corpus) -> str:
    """What decides the results of a corpus: its words and times, and the size and time of its media files."""
    conversations = [conversation for split in corpus.values() for conversation in split]
    clips = [clip for c in conversations for u in c.utterances for clip in (u.sound, u.picture) if clip is not None]
    files = [Path(path) for path in sorted({clip.path for clip in clips})]
    states = [(file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None for file in files]
    return repr([[(c.partition, c.id, c.utterances) for c in conversations], states])
