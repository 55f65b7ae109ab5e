"""A finished run as a model: its networks, the fits that they need, and what is known of their worth."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from merc.conversation import Corpus
from merc.datamodules import (
    ConversationDataModule,
    FaceReader,
    MediaDataModule,
    SoundReader,
    TextDataModule,
    TrackReader,
)
from merc.features import fit_evidence
from merc.labels import LabelSet
from merc.media import FaceTracker
from merc.models.build import OWN, Maker
from merc.models.card import about_run, model_card
from merc.models.errors import ModelError
from merc.models.media import FIRST, Recorded, Speaker, Tracks
from merc.models.model import Model
from merc.models.steps import Encode, Evidence, Given, Mean, Network, Step, Writing
from merc.pipeline.apply import predicting_stage
from merc.pipeline.kinds import EnsembleStage, EvidenceStage, FitStage, ImportStage, NetworkStage, WritingStage
from merc.pipeline.lightning import MercParser, quiet_lightning
from merc.pipeline.plan import FinishedRun
from merc.pipeline.stage import BEST, PipelineError, Stage, StageRun, substitute
from merc.speaker import load_lipsync
from merc.store import MANIFEST, FeatureStore, StoreError, identity
from merc.tasks import ExtractTask, FacesTask, FusionTask, LipSyncTask, StudentTask, TeacherTask, TextEncoderTask
from merc.tasks.checkpoints import read_checkpoint
from merc.tasks.factory import initial_weights

_REFERENCE = re.compile(r"@(\w+)@/?(.*)")


def export_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    stage: str | None = None,
    with_encoders: bool = False,
    name: str | None = None,
    licence: str | None = None,
    data: str | None = None,
    trust_remote_code: bool = True,
) -> Model:
    """Make a model of a finished run; ``merc export`` does the same.

    The model holds the networks, the fitted evidence and the graph options that the emotions depend on, and no training
    data. An ensemble is one model, and so are several seeds: it answers with the mean of their probabilities and
    numbers. What can only be had of media or tables (voices, faces, numbers) is asked of who uses the model:
    :attr:`Model.given`.

    Args:
        run: The folder that ``merc run`` was given as ``--out``.
        out: Folder of the model. Default: nothing is written.
        seed: One of the run's seeds. Default: all of them together.
        stage: The ``fit`` or ``ensemble`` stage that predicts the emotions or the numbers. Default: the last that was
            tested.
        with_encoders: As for :meth:`Model.save_pretrained`.
        name: Name of the model, for its card. Default: that of ``out``, or of the run.
        licence: Under which licence the model may be used, for the card.
        data: What it was trained on, in words, for the card and the notes of annotations. Default: the name of the
            corpus.
        trust_remote_code: Whether networks of other packages than merc may be in it; who loads it must trust them too.

    Returns:
        The model; if it was written, as it is read from there.

    Raises:
        PipelineError: The run is not finished, or lacks the seed or the stage.
        ModelError: A stage cannot be part of a model; the message says why.
    """
    finished = FinishedRun.load(run)
    seeds = finished.seeds if seed is None else (seed,)
    if not set(seeds) <= set(finished.seeds):
        known = ", ".join(map(str, finished.seeds))
        raise PipelineError(f"The run in {finished.folder} has the seeds {known}, not {seed}.")
    target = predicting_stage(finished.pipeline.stages, stage)
    exporter = _Exporter(finished, Maker(trust_remote_code))
    seeds = seeds[:1] if target.once else seeds
    with quiet_lightning(quiet=True):
        answers = [exporter.value(one, f"@{target.name}@/logits") for one in seeds]
        corpus = exporter.corpus(seeds[0])
    steps = exporter.steps
    if len(answers) > 1:
        steps["mean"] = exporter.mean("mean", answers)
        answers = ["mean/logits"]
    width, numbers = exporter.outputs(answers[0])
    reports = [finished.place(target, one) for one in seeds]
    about = about_run(corpus, reports, target.name, seeds, licence, data)
    about["name"] = name or Path(out or run).resolve().name
    about["packages"] = sorted(exporter.packages)
    model = Model(
        corpus.labels if numbers < width else LabelSet("none", ()),
        list(steps.values()),
        answers[0].removesuffix("/logits"),
        about,
        dimensions=corpus.dimensions if numbers else None,
    )
    model.card = model_card(model)
    if out is None:
        return model
    model.save_pretrained(out, with_encoders=with_encoders)
    return Model.from_pretrained(out, trust_remote_code=trust_remote_code)  # what cannot be read is no model


class _Exporter:
    """Makes steps of the stages that an answer depends on.

    Args:
        run: The finished run.
        make: Makes networks.
    """

    def __init__(self, run: FinishedRun, make: Maker) -> None:
        self.run = run
        self.make = make
        self.steps: dict[str, Step] = {}
        self.packages: set[str] = set()
        self._corpora: dict[int, Path] = {}
        self._stages = {stage.name: stage for stage in run.pipeline.stages}
        self._parsed = cache(self._parse)

    def corpus(self, seed: int) -> Corpus:
        """The corpus of the networks."""
        return _load_corpus(self._corpora[seed])

    def value(self, seed: int, reference: str) -> str:
        """The value of a model that stands for an output of a stage, its step made if it is not there yet.

        Args:
            seed: The seed.
            reference: ``@stage@/output``.

        Raises:
            ModelError: The stage cannot be part of a model.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            return self._given(re.sub(r"\W+", "_", Path(reference).name), Path(reference))
        stage, output = self._stages[match[1]], match[2]
        name = stage.name if stage.once else f"seed-{seed}/{stage.name}"
        place = self.run.place(stage, seed)
        kind, importing = stage.kind, self._imports(stage)
        if isinstance(kind, EvidenceStage):
            return self._once(name, "features", lambda: self._evidence(stage, seed, name, place))
        if isinstance(kind, WritingStage) or importing == "writing":
            return self._once(name, "features", lambda: self._writing(stage, seed, name, place))
        if isinstance(kind, EnsembleStage):
            members = [self.value(seed, f"{member}/logits") for member in self._options(stage)["members"]]
            return self._once(name, "logits", lambda: self.mean(name, members))
        if isinstance(kind, NetworkStage):
            data = self._import(self._parsed(stage.name, seed)["data"]["class_path"])
            if issubclass(data, TextDataModule):
                return self._once(name, output, lambda: self._encode(stage, seed, name))
            if issubclass(data, ConversationDataModule):
                return self._once(name, output, lambda: self._network(stage, seed, name))
            if issubclass(data, MediaDataModule):
                return self._recorded(stage, seed, name, place / output)
            raise ModelError(f"Stage {stage.name!r} reads {data.__name__}: no model can hold it.")
        return self._given(Path(output).name if output else stage.name, place / output)

    def outputs(self, answer: str) -> tuple[int, int]:
        """How many outputs the logits of a step have, and how many of them are numbers."""
        step = self.steps[answer.removesuffix("/logits")]
        numbers = step.numbers if isinstance(step, Mean) else len(step.values) if isinstance(step, Network) else 0
        return step.widths["logits"], numbers

    def mean(self, name: str, members: Sequence[str]) -> Mean:
        """The mean of some logits.

        Raises:
            ModelError: They tell different things.
        """
        found = {member.removesuffix("/logits"): self.outputs(member) for member in members}
        if len(set(found.values())) > 1:
            told = ", ".join(f"{one}: {width - n} emotions and {n} numbers" for one, (width, n) in found.items())
            raise ModelError(
                f"The members of {name!r} tell different things ({told}), and a model has the mean of all of them: "
                "export a single stage, or an ensemble of stages that tell the same."
            )
        return Mean(name, members, *next(iter(found.values())))

    def _once(self, name: str, output: str, make: Any) -> str:  # noqa: ANN401 - a function without arguments
        if name not in self.steps:
            step = make()  # first what it reads
            self.steps[name] = step
        if output not in self.steps[name].widths:
            raise ModelError(f"Step {name!r} of the model gives no {output!r}.")
        return f"{name}/{output}"

    def _imports(self, stage: Stage) -> str:
        return str(stage.config) if isinstance(stage.kind, ImportStage) else ""

    def _options(self, stage: Stage) -> dict[str, Any]:
        """The options of a stage, with references in the place of folders."""
        given = {**self.run.sources, "seed": "0", **{name: f"@{name}@" for name in self._stages}}
        return {name: substitute(value, given) for name, value in stage.options.items()}

    def _place(self, seed: int, reference: str) -> Path:
        """The folder or file that a reference stands for."""
        match = _REFERENCE.fullmatch(reference)
        return Path(reference) if match is None else self.run.place(self._stages[match[1]], seed) / match[2]

    def _given(self, name: str, place: Path) -> str:
        """Features that whoever uses the model must give."""
        return self._once(name, "features", lambda: Given(name, *self._features(place)))

    @staticmethod
    def _features(place: Path) -> tuple[int, dict[str, Any]]:
        """Width and identity of features that are not made of transcripts."""
        store = FeatureStore(place, verify=False)
        if store.kind != "features":
            raise ModelError(f"{place} holds {store.kind}: a model can be given features alone.")
        return store.dim, identity(store.provenance)

    def _recorded(self, stage: Stage, seed: int, name: str, place: Path) -> str:
        """Features of recordings, with the recipe if merc can follow it elsewhere; else they must be given."""
        parsed = self._parsed(stage.name, seed)
        encoder = parsed["model"]["init_args"].get("encoder")
        reader = parsed["data"]["init_args"]["reader"]
        kind, options = self._import(reader["class_path"]), dict(reader["init_args"])
        if self._import(parsed["model"]["class_path"]) is not ExtractTask or _names_a_place(encoder):
            return self._given(stage.name, place)
        faces: str | None = None
        speaker = FIRST
        if kind is FaceReader:
            found = self._media(seed, str(options.pop("faces")), self._tracks)
            chosen = str(options.pop("speaker", FIRST))
            chooser = FIRST if chosen == FIRST else self._media(seed, chosen, self._speaker)
            if found is None or chooser is None:  # the true faces, or those of a tool of one's own
                return self._given(stage.name, place)
            faces, speaker = found, chooser
        elif kind is not SoundReader:
            return self._given(stage.name, place)
        width, identity = self._features(place)
        self._note(encoder)
        step = Recorded(name, width, identity, encoder, options, self.make, faces, speaker)
        return self._once(name, "features", lambda: step)

    def _media(self, seed: int, reference: str, make: Callable[[Stage, int, str], Step | None]) -> str | None:
        """The step of a stage that reads recordings; ``None`` if no model can hold it."""
        match = _REFERENCE.fullmatch(reference)
        stage = None if match is None else self._stages[match[1]]
        if stage is None or not isinstance(stage.kind, NetworkStage):
            return None
        name = stage.name if stage.once else f"seed-{seed}/{stage.name}"
        if name not in self.steps:
            step = make(stage, seed, name)
            if step is None:
                return None
            self.steps[name] = step
        return name

    def _tracks(self, stage: Stage, seed: int, name: str) -> Step | None:
        parsed = self._parsed(stage.name, seed)
        reader = parsed["data"]["init_args"].get("reader", {})
        tracker = reader.get("init_args", {}).get("tracker", {})
        kinds = (parsed["model"], reader, tracker)
        expected = (FacesTask, TrackReader, FaceTracker)
        if any(self._import(k["class_path"]) is not e for k, e in zip(kinds, expected, strict=True)):
            return None
        options = {n: value for n, value in reader["init_args"].items() if n != "tracker"}
        following = {n: value for n, value in tracker["init_args"].items() if n != "detector"}
        detector = tracker["init_args"]["detector"]
        if _names_a_place(detector):
            return None
        self._note(detector)
        return Tracks(name, detector, following, options, self.make)

    def _speaker(self, stage: Stage, seed: int, name: str) -> Step | None:
        parsed = self._parsed(stage.name, seed)
        if self._import(parsed["model"]["class_path"]) is not LipSyncTask:
            return None
        options = parsed["model"]["init_args"]
        source = next(one for one in parsed["data"]["init_args"]["sources"] if one.get("predict", True))
        faces = self._media(seed, str(source["faces"]).removesuffix("/faces") + "/faces", self._tracks)
        if faces is None:
            return None
        scorer = options.get("scorer") or {"class_path": "merc.speaker.LikelihoodScorer"}
        self._note([options["network"], scorer])
        checkpoint = self._checkpoint(stage, seed)
        with initial_weights():
            step = Speaker(name, faces, options["network"], scorer, self.make)
        if checkpoint is not None:
            state, step.trained_on = checkpoint["state_dict"], checkpoint["merc"]["trained_on"]
            own, step.calibration = {n: t for n, t in state.items() if n.startswith("network.")}, state["calibration"]
        else:
            lips = load_lipsync(self._place(seed, str(options["warm_start"])))
            step.trained_on = lips.trained_on
            own, step.calibration = {f"network.{n}": t for n, t in lips.network.state_dict().items()}, lips.calibration
        step.load_tensors(own)
        return step

    def _evidence(self, stage: Stage, seed: int, name: str, place: Path) -> Step:
        options = self._options(stage)
        store = FeatureStore(self._place(seed, options["features"]))
        made = FeatureStore(place, verify=False)
        if made.provenance["of"]["digest"] != store.digest:
            raise PipelineError(
                f"{store.path} is not what {made.path} was made from: give the `merc run` command of this run again."
            )
        fit = {option: bool(options[option]) for option in ("standardize", "noisy_labels") if option in options}
        _, evidence = fit_evidence(store, _load_corpus(self._place(seed, options["corpus"])), **fit)
        return Evidence.fitted(name, self.value(seed, options["features"]), evidence, bool(options.get("append")))

    def _writing(self, stage: Stage, seed: int, name: str, place: Path) -> Step:
        behind = self._options(stage).get("features")
        if behind is None:
            return Writing(name, None, 0)
        return Writing(name, self.value(seed, behind), FeatureStore(self._place(seed, behind), verify=False).dim)

    def _encode(self, stage: Stage, seed: int, name: str) -> Step:
        parsed = self._parsed(stage.name, seed)
        task = self._import(parsed["model"]["class_path"])
        if task not in (ExtractTask, TextEncoderTask):
            raise self._unknown(stage, task)
        checkpoint = self._checkpoint(stage, seed)
        state: dict[str, Tensor] = {}
        spec = parsed["model"]["init_args"]["encoder"]
        classes = 0
        if checkpoint is not None:
            spec, state = checkpoint["hyper_parameters"]["encoder"], checkpoint["state_dict"]
            classes = len(checkpoint["merc"]["facts"]["classes"])
        self._note(spec)
        step = Encode(name, self.make.make(spec, nn.Module), spec, tuned=bool(state), classes=classes, included=False)
        if state:
            own = {n.replace("classifier.1.", "classifier."): t for n, t in state.items()}
            step.load_tensors({n: own[n] for n in step.tensors() if n in own})
        else:
            self._same_weights(step, self.run.place(stage, seed) / "features")
        self._corpora.setdefault(seed, self._place(seed, parsed["data"]["init_args"]["corpus"]))
        return step

    @staticmethod
    def _same_weights(step: Encode, place: Path) -> None:
        """Refuse an encoder that is another one by now than the run had."""
        if not (place / MANIFEST).is_file():
            return
        before = FeatureStore(place, verify=False).provenance.get("weights")
        if before is not None and before != step.digest:
            raise ModelError(
                f"The encoder of step {step.name!r} has other weights than the run had: install those, or give the "
                "`merc run` command again."
            )

    def _network(self, stage: Stage, seed: int, name: str) -> Step:
        data = self._parsed(stage.name, seed)["data"]["init_args"]
        checkpoint = self._checkpoint(stage, seed)
        if checkpoint is None:
            raise ModelError(f"Stage {stage.name!r} predicts without trained weights: no model can be made of it.")
        given, facts = checkpoint["hyper_parameters"], checkpoint["merc"]["facts"]
        task = self._import(given["_class_path"])
        if task in (TeacherTask, StudentTask):
            spec, prefix, names = given["network"], "network.", [given["modality"]]
        elif task is FusionTask:
            named = given["modalities"]
            names = facts["modalities"] if named is None else [one for one in facts["widths"] if one in named]
            spec, prefix = given["head"], "head."
        else:
            raise self._unknown(stage, task)
        spec = {"class_path": spec} if isinstance(spec, str) else spec
        self._note(spec)
        graphs = {of: graph for of, graph in (data.get("graphs") or {}).items() if task is FusionTask or of in names}
        for graph in graphs.values():
            self._note(graph)
        # The order of the data decides in which order a head has its modalities.
        stores = {n: self.value(seed, str(data["stores"][n])) for n in dict.fromkeys([*names, *graphs])}
        dims = {one: facts["widths"][one] for one in names}
        self._corpora[seed] = self._place(seed, str(data["corpus"]))
        with initial_weights():
            targets = checkpoint["merc"]["targets"]
            values = {} if targets == "EmotionTargets" else facts["values"]
            outputs = len(values) + (0 if targets == "ValueTargets" else len(facts["classes"]))
            step = Network(name, spec, stores, dims, outputs, graphs, self.make, values)
        state = checkpoint["state_dict"]
        own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        step.load_tensors({f"network.{n}": t for n, t in own.items()})
        return step

    def _unknown(self, stage: Stage, task: type) -> ModelError:
        others = ", ".join(s.name for s in self.run.pipeline.stages if s.tested and s.name != stage.name)
        return ModelError(
            f"Stage {stage.name!r} is a {task.__name__}: expected TeacherTask, StudentTask, FusionTask or "
            f"TextEncoderTask. Export another stage ({others or 'there is none'})."
        )

    def _checkpoint(self, stage: Stage, seed: int) -> dict[str, Any] | None:
        """The chosen weights of a stage, or those that it was given; ``None`` for a network as it is."""
        if isinstance(stage.kind, FitStage):
            return read_checkpoint(self.run.place(stage, seed) / BEST)
        given = self._options(stage).get("ckpt_path")
        return None if given is None else read_checkpoint(self._place(seed, str(given)))

    def _parse(self, name: str, seed: int) -> dict[str, Any]:
        """What the configs and options of a stage say together, in plain values."""
        stage = self._stages[name]
        with TemporaryDirectory() as folder:
            configs = []
            for number, content in enumerate(self.run.configs[name]):
                configs.append(Path(folder, f"{number}.yaml"))
                configs[-1].write_text(content, encoding="utf-8")
            options = {n: value for n, value in self._options(stage).items() if n != "ckpt_path"}
            here = replace(stage, config=[str(config) for config in configs], options=options)
            kind = here.kind
            assert isinstance(kind, NetworkStage)
            parser = MercParser(kind.arguments(StageRun(here, Path(folder), seed, ""), ()))
            parsed: dict[str, Any] = parser.config.as_dict()
        return parsed

    def _import(self, path: str) -> type:
        module, _, name = path.rpartition(".")
        found: type = getattr(__import__(module, fromlist=[name]), name)
        return found

    def _note(self, spec: Any) -> None:  # noqa: ANN401 - nested plain values
        """Remember the packages, other than merc's, whose classes a model uses."""
        if isinstance(spec, Mapping):
            path = str(spec.get("class_path", "merc."))
            if not path.startswith(tuple(f"{package}." for package in OWN)):
                self.packages.add(path.partition(".")[0])
            spec = list(spec.values())
        for part in spec if isinstance(spec, Sequence) and not isinstance(spec, str) else ():
            self._note(part)


def _names_a_place(value: Any) -> bool:  # noqa: ANN401 - nested plain values
    """Whether an option is an absolute path, of which nobody else knows."""
    if isinstance(value, str):
        return value.startswith(("/", "~")) or re.match(r"[A-Za-z]:[/\\]", value) is not None
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(map(_names_a_place, parts))


def _load_corpus(path: Path) -> Corpus:
    try:
        return Corpus.load(path)
    except (FileNotFoundError, StoreError) as error:
        raise ModelError(f"The corpus of the run is not at {path} any more: put it back, or run again.") from error
