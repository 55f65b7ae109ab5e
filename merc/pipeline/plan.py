"""Pipelines: what runs after what, in which folder, and what decides each result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import merc
from merc.files import parse_yaml, write_json
from merc.pipeline.contents import file_digest, listing, options_with_contents, with_contents
from merc.pipeline.stage import PipelineError, Stage, StageRun, references, substitute

RECORD = "pipeline.json"
"""File in the folder of a run: the pipeline that was finished there, with all that later use of it needs."""

SOURCES = ("root", "corpus")
"""Placeholders for what a run is given: a folder, and a corpus of any kind."""

_GIVEN = frozenset({*SOURCES, "seed"})


@dataclass(frozen=True)
class Pipeline:
    """Stages in order.

    Args:
        stages: The stages; one may refer to the folders of those before it.
        compare: Names of tested stages that are compared head to head when all is finished.

    Raises:
        PipelineError: Two stages share a name, one refers to a stage that does not come before it, or one that is not
            tested is to be compared.
    """

    stages: list[Stage]
    compare: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check names and references, and decide what runs once."""
        known: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.name in known or stage.name in _GIVEN or not re.fullmatch(r"\w+", stage.name):
                raise PipelineError(f"Stage name {stage.name!r} is taken, reserved or not a plain word.")
            needed = references(stage.options)
            for reference in sorted(needed - _GIVEN - known.keys()):
                raise PipelineError(
                    f"Stage {stage.name!r} refers to {{{reference}}}: expected {{root}}, {{corpus}}, {{seed}} or a "
                    f"stage before it ({', '.join(sorted(known)) or 'there is none'})."
                )
            varies = "seed" in needed or any(not known[name].once for name in needed - _GIVEN)
            if stage.once and varies:
                raise PipelineError(f"Stage {stage.name!r} runs once, but refers to what differs between seeds.")
            once = stage.once if stage.once is not None else not (varies or stage.kind.per_seed)
            known[stage.name] = replace(stage, once=once)
            if stage.command == "ensemble":
                _check_members(stage, [known[name] for name in needed - _GIVEN])
        object.__setattr__(self, "stages", list(known.values()))
        tested = [stage.name for stage in self.stages if stage.tested]
        if untested := [name for name in self.compare if name not in tested]:
            raise PipelineError(
                f"`compare` names {', '.join(untested)}: expected stages that are tested "
                f"({', '.join(tested) or 'there is none'})."
            )


def _check_members(stage: Stage, members: Sequence[Stage]) -> None:
    """Refuse an ensemble of what was not tested, or one that is to store more than its members do."""
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
        configs: By the name of the stage, the content of its configs, in order.
        sources: What the run was given in the place of ``{root}`` and ``{corpus}``.
        seeds: The seeds that are finished.
    """

    folder: Path
    pipeline: Pipeline
    configs: dict[str, list[str]]
    sources: dict[str, str]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, pipeline: Pipeline, out: str | Path, sources: Mapping[str, str], seeds: Sequence[int]) -> FinishedRun:
        """What will be finished, with the configs as they are now."""
        configs = {stage.name: found for stage in pipeline.stages if (found := stage.kind.configs(stage))}
        # What a config says is recorded, so where it lay does not matter: the same run elsewhere has the same record.
        stages = [replace(s, config=s.config_names) if s.name in configs else s for s in pipeline.stages]
        return cls(Path(out), Pipeline(stages), configs, dict(sources), tuple(seeds))

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
        return {"format": "merc.FinishedRun", "stages": stages, "configs": self.configs, "sources": self.sources}

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
            return cls(folder, pipeline, raw["configs"], raw["sources"], tuple(raw["seeds"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(
                f"{folder} holds no finished run ({type(error).__name__}: {error}): expected a folder that `merc run` "
                "wrote. Give the same `merc run` command again: it finishes what is left."
            ) from error


def _place(out: Path, stage: Stage, seed: int) -> Path:
    """The folder of a stage in that of a run."""
    return out / stage.name if stage.once else out / f"seed-{seed}" / stage.name


def ancestors(pipeline: Pipeline, name: str) -> set[str]:
    """The stages on which a stage depends, itself among them."""
    found = {name}
    for stage in reversed(pipeline.stages):
        if stage.name in found:
            found |= references(stage.options) - _GIVEN
    return found


def plan(
    pipeline: Pipeline,
    out: str | Path,
    sources: Mapping[str, str],
    seeds: Sequence[int],
    extra: Sequence[str] = (),
    place: Callable[[str, Path], Path] | None = None,
    results: Path | None = None,
) -> Iterator[StageRun]:
    """The stages to run, for each seed, in order.

    A stage's fingerprint covers all that decides its result: the version of merc, the stage itself, the content of its
    configs and of the files that it names, the source of classes that are not merc's, the given options, and the
    fingerprints of the stages that it reads (:func:`merc.pipeline.contents.with_contents`).

    Args:
        pipeline: The stages.
        out: Folder of the results: stages that run once lie in it, the others in ``seed-<n>``.
        sources: What stands for ``{root}`` and ``{corpus}``, as far as it is given.
        seeds: Seeds, each of which runs every stage that is not ``once``.
        extra: Command-line options for every Lightning stage.
        place: Chooses the folder of a stage from its fingerprint and its folder in ``out``: whatever is made from the
            very same inputs is the same stage, and may lie elsewhere.
        results: Where all results of the command go, which do not count among the files of a folder. Default: ``out``.

    Raises:
        PipelineError: The pipeline reads a source that is not given, or not there.
    """
    out = Path(out)
    results = out if results is None else results
    used = set().union(*(references(stage.options) for stage in pipeline.stages)).intersection(SOURCES)
    for name in sorted(used):
        if name not in sources:
            what = "a corpus from disk" if name == "root" else "a corpus"
            raise PipelineError(
                f"This pipeline reads {what}: expected --{name} {'FOLDER' if name == 'root' else 'FILE'}."
            )
        if not Path(sources[name]).exists():
            raise PipelineError(f"No such {name}: {sources[name]}. Give the files of the corpus with --{name}.")
    listings = {name: _content_of(Path(sources[name]), results) for name in sorted(used)}
    for seed in seeds:
        places = {**sources, "seed": str(seed)}
        prints = {**listings, "seed": str(seed)}
        for stage in pipeline.stages:
            configs = stage.kind.configs(stage)
            read = [parse_yaml(text, f"A config of stage {stage.name!r}") for text in configs]
            parsed = with_contents(read, results)
            basis = [
                merc.__version__,
                # Configs by content: the same ones in another place decide the same.
                {**asdict(stage), "options": None, "optimum": None, "config": "" if configs else stage.config},
                with_contents([stage.command, [] if configs else stage.config, stage.options], leave_out=results),
                parsed,
                "" if stage.once else seed,
                options_with_contents(extra) if configs else [],
                {name: prints[name] for name in sorted(references(stage.options))},
            ]
            fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()
            folder = _place(out, stage, seed)
            if place is not None:
                folder = place(fingerprint, folder)
            reads = {name: Path(places[name]) for name in references(stage.options) - _GIVEN}
            places[stage.name], prints[stage.name] = str(folder), fingerprint
            filled = replace(stage, options=substitute(stage.options, places))
            if not stage.once:
                yield StageRun(filled, folder, seed, fingerprint, reads)
            elif seed == seeds[0]:
                yield StageRun(filled, folder, 0, fingerprint, reads)


def _content_of(source: Path, out: Path) -> str:
    """A digest of one file, or of the names, sizes and times of all files below a folder without the results in it."""
    if source.is_file():
        return file_digest(source)
    if source.resolve() == out.resolve():
        raise PipelineError(f"{out} is both --root and --out: give the results a folder of their own.")
    return listing(source, out)
