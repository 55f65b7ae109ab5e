"""The order of the stages: what is finished and unchanged is skipped, what was cut goes on."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import merc
from merc.files import write_json
from merc.store import MANIFEST, FeatureStore, StoreError

MARK = "stage.json"
"""File in a stage's folder: what the stage was made from, and whether it is finished."""

BEST = "best.ckpt"
"""In a stage's folder: the way to its best checkpoint, ``{NAME}/best.ckpt`` for later stages."""

RECORD = "pipeline.json"
"""File in the folder of a run: the pipeline that was finished there, with all that later use of it needs."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class PipelineError(ValueError):
    """A pipeline's config does not hold together; the message says where."""


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Args:
        name: Names the stage, its folder, and the placeholder by which later stages refer to that folder.
        command: ``import`` calls a corpus import, ``doctor`` checks a corpus on disk and says what it found, ``fit``
            trains, tests and writes stores, ``predict`` writes stores with a network as it is, ``ensemble`` averages
            what earlier stages say.
        config: Config of the stage, a path or a short name (``fit``, ``predict``), or which corpus (``import``,
            ``doctor``); nothing for ``ensemble``.
        options: Options as on the command line. ``{root}`` and ``{seed}`` are those of the run, ``{NAME}`` is the
            folder of the earlier stage NAME.
        outputs: What ``fit`` and ``predict`` store for later stages, of features, hidden, logits; each becomes
            a feature store of that name in the stage's folder. ``ensemble`` stores logits if all its members do.
        once: Whether the stage is the same for every seed, and so is run once.
        report: Whether ``fit`` tests the best checkpoint and reports it, and whether an ensemble's report counts.
        optimum: Modalities by whose optimum the stage is judged on simulated data, for example ``text+audio``.
    """

    name: str
    command: Literal["import", "doctor", "fit", "predict", "ensemble"]
    config: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    once: bool = False
    report: bool = True
    optimum: str | None = None

    @property
    def on_data(self) -> bool:
        """Whether it calls a function, of :mod:`merc.corpora.commands` but for the ensemble, and not Lightning."""
        return self.command not in ("fit", "predict")

    @property
    def tested(self) -> bool:
        """Whether it leaves a report."""
        return self.report and self.command in ("fit", "ensemble")


@dataclass(frozen=True)
class Pipeline:
    """Stages in order.

    Args:
        stages: The stages; one may refer to the folders of those before it.

    Raises:
        PipelineError: Two stages share a name, or one refers to a stage that does not come before it.
    """

    stages: list[Stage]

    def __post_init__(self) -> None:
        """Check names and references."""
        known = {"root", "seed"}
        for stage in self.stages:
            if stage.name in known or not re.fullmatch(r"\w+", stage.name):
                raise PipelineError(f"Stage name {stage.name!r} is taken, reserved or not a plain word.")
            for reference in references(stage.options):
                if reference not in known:
                    raise PipelineError(
                        f"Stage {stage.name!r} refers to {{{reference}}}: expected {{root}}, {{seed}} or a stage "
                        f"before it ({', '.join(sorted(known - {'root', 'seed'})) or 'there is none'})."
                    )
            varying = {"seed"} | {other.name for other in self.stages if not other.once}
            if stage.once and varying & references(stage.options):
                raise PipelineError(f"Stage {stage.name!r} runs once, but refers to what differs between seeds.")
            if stage.command == "ensemble":
                self._check_members(stage)
            known.add(stage.name)

    def _check_members(self, stage: Stage) -> None:
        """Refuse an ensemble of what was not tested, or one that is to store more than its members do."""
        members = [other for other in self.stages if other.name in references(stage.options)]
        if untested := [member.name for member in members if not member.tested]:
            raise PipelineError(f"Stage {stage.name!r} averages {', '.join(untested)}, which is not tested.")
        stored = set.intersection(*(set(member.outputs) for member in members), {"logits"})
        if lacking := set(stage.outputs) - stored:
            raise PipelineError(
                f"Stage {stage.name!r} has the outputs {', '.join(sorted(lacking))}: expected logits, if every member "
                "has them among its outputs, or none."
            )


@dataclass(frozen=True)
class FinishedRun:
    """A pipeline with all its stages finished, as ``merc run`` records it in its folder.

    Args:
        folder: The folder of the run.
        pipeline: The stages, their options with placeholders.
        configs: Content of the config of every stage that has one, by the stage's name.
        root: The corpus on disk, if the pipeline reads one.
        seeds: The seeds that are finished.
    """

    folder: Path
    pipeline: Pipeline
    configs: dict[str, str]
    root: str | None
    seeds: tuple[int, ...]

    def place(self, stage: Stage, seed: int) -> Path:
        """The folder of a stage."""
        return _place(self.folder, stage, seed)

    def save(self) -> None:
        """Write the record, with the seeds that are recorded for the same stages already."""
        known = self._recorded()
        seeds = sorted({*self.seeds, *(known.get("seeds", ()) if self._agrees(known) else ())})
        record = {**self._plain(), "seeds": seeds}
        if known != json.loads(json.dumps(record)):
            write_json(self.folder / RECORD, record)

    def withdraw_others(self) -> None:
        """Remove the record of other stages in the folder: they are about to be replaced."""
        if not self._agrees(self._recorded()):
            (self.folder / RECORD).unlink(missing_ok=True)

    def _plain(self) -> dict[str, Any]:
        stages = [asdict(stage) for stage in self.pipeline.stages]
        return {"format": "merc.FinishedRun", "stages": stages, "configs": self.configs, "root": self.root}

    def _agrees(self, recorded: Mapping[str, Any]) -> bool:
        plain = json.loads(json.dumps(self._plain()))
        return all(recorded.get(name) == value for name, value in plain.items())

    def _recorded(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @classmethod
    def load(cls, folder: str | Path) -> FinishedRun:
        """The run that was finished in a folder.

        Raises:
            PipelineError: No run was finished there.
        """
        folder = Path(folder)
        try:
            raw = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            pipeline = Pipeline([Stage(**stage) for stage in raw["stages"]])
            return cls(folder, pipeline, raw["configs"], raw["root"], tuple(raw["seeds"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(
                f"{folder} holds no finished run ({type(error).__name__}: {error}): expected a folder that `merc run` "
                "wrote. Give the same `merc run` command again: it finishes what is left."
            ) from error


def _place(out: Path, stage: Stage, seed: int) -> Path:
    """The folder of a stage in that of a run."""
    return out / stage.name if stage.once else out / f"seed-{seed}" / stage.name


def lead_to(pipeline: Pipeline, name: str) -> set[str]:
    """The stages on which a stage depends, itself among them."""
    found = {name}
    for stage in reversed(pipeline.stages):
        if stage.name in found:
            found |= references(stage.options) - {"root", "seed"}
    return found


def references(value: object) -> set[str]:
    """The placeholders in the strings of a nested value."""
    if isinstance(value, str):
        return set(_PLACEHOLDER.findall(value))
    if isinstance(value, Mapping):
        return set().union(*(references(v) for v in value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*(references(v) for v in value)) if value else set()
    return set()


def fill(value: Any, places: Mapping[str, str]) -> Any:  # noqa: ANN401 - nested JSON values
    """``value`` with every placeholder in its strings replaced."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: places[match[1]], value)
    if isinstance(value, Mapping):
        return {k: fill(v, places) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, places) for v in value]
    return value


@dataclass
class StageRun:
    """A stage for one seed, with its folder and all that decides its result.

    Args:
        stage: The stage, its options filled in.
        folder: Where its results go.
        seed: Seed of the run; 0 for a stage that runs once.
        fingerprint: Digest of everything that decides the result; a finished stage with the same one is skipped.
    """

    stage: Stage
    folder: Path
    seed: int
    fingerprint: str

    @property
    def state(self) -> dict[str, Any]:
        """What the mark in the folder says; empty if there is none or it cannot be read."""
        try:
            state: dict[str, Any] = json.loads((self.folder / MARK).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state

    @property
    def finished(self) -> bool:
        """Whether the stage was finished from the very same inputs, and its results are still there."""
        state = self.state
        return bool(state.get("finished")) and state.get("fingerprint") == self.fingerprint and self._intact()

    def _intact(self) -> bool:
        """Whether the report is there and all stores are whole, as far as the sizes of their files tell."""
        promised = {self.folder / output for output in self.stage.outputs}
        try:
            for store in promised.union(manifest.parent for manifest in self.folder.rglob(MANIFEST)):
                FeatureStore(store, verify=False)
        except (FileNotFoundError, StoreError):
            return False
        return self.metrics.is_file() or not self.stage.tested

    @property
    def metrics(self) -> Path:
        """The scores of its test."""
        return self.folder / "report" / "metrics.json"

    def begin(self) -> None:
        """Make the folder ready: results of other inputs are set aside as ``<folder>.previous``, not lost.

        Raises:
            PipelineError: A folder is in the way that is not of a pipeline.
        """
        if self.state.get("fingerprint") == self.fingerprint:
            return
        if self.folder.exists():
            self._set_aside()
        self.mark(finished=False)

    def _set_aside(self) -> None:
        previous = self.folder.with_name(f"{self.folder.name}.previous")
        for folder in (self.folder, previous):
            if folder.exists() and not (folder / MARK).is_file() and any(folder.glob("[!.]*")):
                raise PipelineError(f"{folder} is not the result of a stage: move it away, or give another --out.")
        if previous.exists() and not self.state.get("finished"):
            _remove(self.folder)  # what was cut is worth less than the finished result that is aside already
            return
        _remove(previous)
        self.folder.rename(previous)

    def show_best(self, checkpoint: Path) -> None:
        """Let the best checkpoint be found under one name, whatever its epoch: a link for later stages.

        Args:
            checkpoint: Its path in the folder.
        """
        link = self.folder / f".{BEST}.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint)
        link.replace(self.folder / BEST)

    def mark(self, **values: Any) -> None:  # noqa: ANN401 - JSON values
        """Add to the mark in the folder."""
        state = {**self.state, "fingerprint": self.fingerprint, "stage": asdict(self.stage), "seed": self.seed}
        write_json(self.folder / MARK, {**state, **values})


def _remove(folder: Path) -> None:
    """Remove a folder; one that is removed in part, because of a kill, cannot be taken for whole."""
    if folder.exists():
        doomed = folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp"))
        shutil.rmtree(doomed)


def plan(
    pipeline: Pipeline,
    out: str | Path,
    root: str | Path | None,
    seeds: Sequence[int],
    find_config: Callable[[str], Path],
    extra: Sequence[str] = (),
    elsewhere: Mapping[str, Path] | None = None,
) -> Iterator[StageRun]:
    """The stages to run, for each seed, in order.

    Args:
        pipeline: The stages.
        out: Folder of the results: stages that run once lie in it, the others in ``seed-<n>``.
        root: The corpus on disk, for pipelines that read one.
        seeds: Seeds, each of which runs every stage that is not ``once``.
        find_config: From the name of a config to its file.
        extra: Command-line options for every Lightning stage.
        elsewhere: Folders, by fingerprint, of stages that are not run here: whatever is made from the very same inputs
            is the same stage, and lies there.

    Raises:
        PipelineError: The pipeline reads a corpus and ``root`` is not given, or not there.
    """
    from merc.corpora.commands import source_of  # `merc run --help` needs no readers

    out = Path(out)
    needs_root = any("root" in references(stage.options) for stage in pipeline.stages)
    if needs_root and root is None:
        raise PipelineError("This pipeline reads a corpus from disk: expected --root FOLDER.")
    if needs_root and root is not None and not Path(root).exists():
        raise PipelineError(f"No such root: {root}. Give the folder of the corpus with --root.")
    source = _listing(Path(root)) if needs_root and root is not None else ""
    for seed in seeds:
        places = {"root": str(root), "seed": str(seed)}
        prints = {"root": source, "seed": str(seed)}
        for stage in pipeline.stages:
            needed = sorted(references(stage.options))
            if stage.on_data:
                content = source_of(stage.config) if stage.command == "import" else ""
            else:
                content = find_config(stage.config).read_text(encoding="utf-8")
            basis = [
                merc.__version__,
                {**asdict(stage), "optimum": None},
                content,
                "" if stage.once else seed,
                [] if stage.on_data else list(extra),
                {name: prints[name] for name in needed},
            ]
            fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()
            folder = (elsewhere or {}).get(fingerprint, _place(out, stage, seed))
            places[stage.name], prints[stage.name] = str(folder), fingerprint
            filled = Stage(**{**asdict(stage), "options": fill(stage.options, places)})
            if not stage.once:
                yield StageRun(filled, folder, seed, fingerprint)
            elif seed == seeds[0]:
                yield StageRun(filled, folder, 0, fingerprint)


def _listing(root: Path) -> str:
    """A digest of names, sizes and times of all files below a folder, or of one file."""
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    entries = [[str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
