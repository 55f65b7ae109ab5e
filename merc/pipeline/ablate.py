"""Ablations: a full model and its ablations, and what each part is worth, next to the papers' own numbers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from merc.datamodules.made_up import made_up_batch
from merc.evaluation import BootstrapResult, Predictions, paired_bootstrap, read_predictions
from merc.evaluation.ledger import LEDGER
from merc.evaluation.tables import latex_table, markdown_table
from merc.files import parse_yaml, write_json, write_text
from merc.pipeline.ablation import (
    Ablation,
    Reported,
    changed_pipeline,
    parts_of,
    rows_of,
    shipped_tables,
    what_differs,
)
from merc.pipeline.configured import EMOTIONS, Configured, build
from merc.pipeline.kinds import NetworkStage
from merc.pipeline.lightning import quiet_lightning
from merc.pipeline.plan import Pipeline, ancestors, plan
from merc.pipeline.read import absolute, read_stack, with_import_options
from merc.pipeline.run import run_in_order, run_in_parallel, run_stages, sources_of
from merc.pipeline.stage import PipelineError, StageRun
from merc.tasks.base import EmotionTask
from merc.tasks.encoder import EncoderTask

_ONLY_HOW = {"optimizer", "lr_scheduler", "batch_size", "eval_batch_size", "workers"}
"""Options that say how to train, and not what."""


def run_ablations(
    pipeline: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    root: str | Path | None = None,
    corpus: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    rows: Sequence[str | Path] = (),
    stages: Sequence[str] = (),
    trainer_options: Sequence[str] = (),
    jobs: int = 1,
    imports: Mapping[str, Any] | None = None,
) -> Path:
    """Run a full model and its ablations from Python; ``merc ablate`` does the same.

    Args:
        pipeline: Config of the pipeline, a file or the short name of a shipped one; or those of a single stage, of
            which later ones override earlier ones.
        out: Folder for all results: the full model in ``full``, as ``merc run`` leaves it, each row in ``rows/NAME``,
            the table in ``report.md``, ``report.tex`` and ``ablation.json``.
        root: The folder of a corpus on disk, ``{root}`` in the pipeline.
        corpus: An imported corpus or CSV files, ``{corpus}`` in the pipeline.
        seeds: The seeds; every stage that depends on the seed runs once for each.
        rows: Shipped rows by a part of their name (``table3``, ``table3/gating``), or files or folders of rows.
            Default: all shipped rows of the system that the pipeline trains.
        stages: Stages to compare. Default: the last one that is tested.
        trainer_options: Options such as ``--trainer.precision=bf16-mixed``, for every Lightning stage.
        jobs: Seeds that are trained at once, of the full model and then of the rows, each in a process of its own.
        imports: Further options of the import that brings the corpus, such as ``file``, ``layout`` and ``validation``.

    Returns:
        The report.

    Raises:
        FileNotFoundError: There is no such config.
        PipelineError: The pipeline does not hold together, or a row cannot be run with it or would change neither
            parameters nor loss nor data. Nothing has run then.
    """
    console, out, sources = Console(), Path(out), sources_of(root, corpus)
    names = [pipeline] if isinstance(pipeline, str | Path) else list(pipeline)
    full = with_import_options(read_stack(names), imports or {})
    runs = list(plan(full, out / "full", sources, seeds, trainer_options, results=out))
    planner = _Planner(full, runs, out, sources, seeds, trainer_options, stages)
    with quiet_lightning(quiet=True):
        for run in runs[: len(full.stages)]:
            if not run.finished:
                run.stage.kind.check(run, trainer_options)
        planned = planner.plan_all(_choose(rows, planner.system))
    run_stages(full, out / "full", sources, seeds, trainer_options, console, jobs, results=out)
    with quiet_lightning(quiet=True):
        if jobs == 1:
            for number, row in enumerate(planned, start=1):
                run_in_order(
                    row.own, trainer_options, console, of=f"row {number} of {len(planned)}, {row.ablation.title}: "
                )
        else:
            run_in_parallel(_chains(planned, seeds), trainer_options, console, jobs)
    return _write(out, " ".join(map(str, names)), planner, planned, console)


def read_ablations(file: str | Path, name: str) -> dict[str, Ablation]:
    """Read and check a file with a row, or with a table of rows.

    Files and folders with relative paths are those beside the file, if they are there.

    Args:
        file: The file.
        name: What names begin with: that of a single row, ``name/row`` in a table.

    Raises:
        PipelineError: The file has a key or a value that a row does not have.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Ablation, "row")
    found: dict[str, Ablation] = {}
    try:
        content = absolute(parse_yaml(Path(file).read_text(encoding="utf-8"), file), Path(file).parent)
        for row, raw in rows_of(content, name).items():
            # The parser checks names and types. It would also turn the changes into options of its own.
            parser.parse_object({"row": deepcopy(raw)})
            reported = {corpus: Reported(**numbers) for corpus, numbers in raw.get("reported", {}).items()}
            found[row] = Ablation(**{**raw, "reported": reported})
    except Exception as error:  # jsonargparse wraps what it finds in classes of its own
        raise PipelineError(f"{file} is not a row of ablations, nor a table of them: {error}") from error
    return found


def _choose(asked: Sequence[str | Path], system: str | None) -> dict[str, Ablation]:
    """The rows that are asked for, by name; by default all shipped ones of a system."""
    shipped = _shipped()
    fitting = [name for name, row in shipped.items() if row.system == system]
    chosen = {} if asked else {name: shipped[name] for name in fitting}
    for value in map(str, asked):
        path = Path(value)
        found = dict.fromkeys(parts_of(fitting, value)) or dict.fromkeys(parts_of(list(shipped), value))
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path] if path.is_file() else []
        if found and not files:
            chosen |= {name: shipped[name] for name in found}
        elif files:
            for file in files:
                read = read_ablations(file, file.stem)
                if twice := sorted(read.keys() & chosen.keys()):
                    raise PipelineError(f"Two rows are named {twice[0]!r}: give one of the files another name.")
                chosen |= read
        else:
            raise PipelineError(
                f"No rows {value!r}: expected a file, a folder of files, or a part of the name of a shipped row: "
                f"{', '.join(fitting or shipped)}."
            )
    if not chosen:
        raise PipelineError(
            f"No rows are shipped for {system or 'a pipeline without a fusion head'}: give your own with --rows FILE."
        )
    return chosen


@cache
def _shipped() -> dict[str, Ablation]:
    rows: dict[str, Ablation] = {}
    for name, file in shipped_tables().items():
        rows |= read_ablations(file, name)
    return rows


@dataclass(frozen=True)
class _Row:
    """A row as it will be run.

    Args:
        name: Its name.
        ablation: What it is.
        own: The stages that are not those of the full model or of an earlier row.
        compared: Pairs of the stage of the row and that of the full model, with the runs of all seeds.
        effect: What it changes, by stage: ``data``, ``parameters`` or ``loss``; ``{}`` where only the stage differs.
    """

    name: str
    ablation: Ablation
    own: list[StageRun]
    compared: list[tuple[list[StageRun], list[StageRun]]]
    effect: dict[str, str]


class _Planner:
    """Plans the rows of a full model and refuses those that would show nothing.

    Args:
        full: The pipeline of the full model.
        runs: Its stages, of all seeds.
        out: Folder for all results.
        sources: What stands for ``{root}`` and ``{corpus}``.
        seeds: The seeds.
        trainer_options: Options for every Lightning stage.
        stages: The stages to compare; default: the last one that is tested.

    Raises:
        PipelineError: The pipeline does not test what is to be compared.
    """

    def __init__(
        self,
        full: Pipeline,
        runs: Sequence[StageRun],
        out: Path,
        sources: Mapping[str, str],
        seeds: Sequence[int],
        trainer_options: Sequence[str],
        stages: Sequence[str],
    ) -> None:
        self.full = full
        self.runs = runs
        self.out = out
        self.sources = sources
        self.seeds = seeds
        self.trainer_options = trainer_options
        self._configured = Configured(runs[: len(full.stages)], sources, seeds[0], trainer_options)
        self._first = self._configured.runs
        tested = [run.stage.name for run in self._first.values() if run.stage.tested]
        if not tested:
            raise PipelineError("This pipeline tests no stage: there is nothing to compare.")
        self.last = tested[-1]
        self.stages = list(stages) or [self.last]
        for name in self.stages:
            self._require_tested(name)
            if "emotions" not in self._first[name].stage.kind.tells(self._first[name], trainer_options):
                raise PipelineError(
                    f"Stage {name!r} predicts numbers alone, and rows are compared by weighted F1: expected a stage "
                    "that predicts emotions. Run the variants as stages of a pipeline, and compare them with "
                    "`merc compare`."
                )

    @property
    def judged(self) -> str:
        """The stage that the full model is judged by."""
        return self.stages[-1]

    @property
    def system(self) -> str | None:
        """The class of the fusion head of the judged stage, if it has one."""
        head = self._configured.parse(self.judged).get("model", {}).get("init_args", {}).get("head")
        return head["class_path"] if isinstance(head, dict) else None

    def plan_all(self, rows: Mapping[str, Ablation]) -> list[_Row]:
        """Plan the rows, by name.

        Raises:
            PipelineError: A row is refused; the message names all that are, and why.
        """
        elsewhere = {run.fingerprint: run.folder for run in self.runs}
        planned: list[_Row] = []
        refused: dict[str, str] = {}
        for name, ablation in rows.items():
            try:
                planned.append(self._plan(name, ablation, elsewhere))
            except PipelineError as error:
                refused[name] = str(error)
        if refused:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
            others = " ".join(row.name for row in planned)
            advice = f"\nThe others can be run, by --rows: {others}" if planned else ""
            raise PipelineError(f"{len(refused)} of {len(rows)} rows cannot be run.{reasons}{advice}")
        return planned

    def _plan(self, name: str, ablation: Ablation, elsewhere: dict[str, Path]) -> _Row:
        if ablation.system not in (None, self.system):
            raise PipelineError(f"it is an ablation of {ablation.system}, and the pipeline trains {self.system}")
        changes = {stage: dict(options) for stage, options in ablation.changes_of(self.full).items()}
        for stage, kept in ablation.modalities.items():
            changes.setdefault(stage, {})["model.modalities"] = self._modalities(stage, kept)
        changed = changed_pipeline(self.full, changes)
        pairs = [(ablation.stage, self.judged)] if ablation.stage else [(stage, stage) for stage in self.stages]
        for of_row, _ in pairs:
            self._require_tested(of_row)
        judged = " or ".join(of_row for of_row, _ in pairs)
        leading = set().union(*(ancestors(changed, of_row) for of_row, _ in pairs))
        if idle := changes.keys() - leading:
            raise PipelineError(f"it changes {', '.join(sorted(idle))}, which does not lead to {judged}")
        effect = {stage: self._effect(stage, options) for stage, options in changes.items()}
        place, options = self.out / "rows" / name, self.trainer_options
        runs = list(plan(changed, place, self.sources, self.seeds, options, elsewhere.get, results=self.out))
        compared = [
            (ours, theirs)
            for ours, theirs in ((_of(runs, of_row), _of(self.runs, of_full)) for of_row, of_full in pairs)
            if [run.folder for run in ours] != [run.folder for run in theirs]
        ]
        if not compared:
            raise PipelineError(f"it changes nothing that leads to {judged}")
        new = [run for run in runs if run.fingerprint not in elsewhere and run.stage.name in leading]
        elsewhere |= {run.fingerprint: run.folder for run in new}
        return _Row(name, ablation, new, compared, effect)

    def _require_tested(self, name: str) -> None:
        if name not in self._first or not self._first[name].stage.tested:
            tested = [run.stage.name for run in self._first.values() if run.stage.tested]
            raise PipelineError(
                f"the stage {name!r} is not tested in this pipeline: expected one of {', '.join(tested)}"
            )

    def _modalities(self, stage: str, kept: Sequence[str]) -> list[str]:
        """The modalities that the fusion of a stage keeps, in the order in which it reads them."""
        changed_pipeline(self.full, {stage: {}})  # refuses a stage that is not there
        config = self._configured.parse(stage)
        read = config["model"]["init_args"].get("modalities") or list(config["data"]["init_args"].get("stores", {}))
        if lacking := [name for name in kept if name not in read]:
            raise PipelineError(f"{stage} has no {', '.join(lacking)}: its head reads {', '.join(read) or 'nothing'}")
        if len(kept) == len(read):
            raise PipelineError(f"{stage} reads {', '.join(read)} without it")
        return [name for name in read if name in kept]

    def _effect(self, name: str, options: Mapping[str, Any]) -> str:
        """What the options change of a stage: ``data``, ``parameters`` or ``loss``.

        Raises:
            PipelineError: The stage does not know one, or one is as it was, or all say but how to train.
        """
        ours, theirs = self._configured.parse(name), self._configured.parse(name, options)
        for option in options:
            if self._configured.parse(name, {k: v for k, v in options.items() if k != option}) == theirs:
                raise PipelineError(f"{name} has {option} {json.dumps(options[option])} without it")
        if not isinstance(self._first[name].stage.kind, NetworkStage) or _what(ours.get("data")) != _what(
            theirs.get("data")
        ):
            return "data"
        if _what(ours["model"]) == _what(theirs["model"]):
            raise PipelineError(
                f"{', '.join(options)} of {name} changes neither parameters nor loss nor data, only how it is trained"
            )
        if any(issubclass(resolve_name(c["model"]["class_path"]), EncoderTask) for c in (ours, theirs)):
            return "data"  # to make one takes the weights of its encoder
        full, row = self._configured.make(name), self._configured.make(name, options)
        stores = ours["data"]["init_args"].get("stores", {})
        batches = []
        try:
            for made in (full, row):
                if not build(made, stores):
                    return "data"  # a stage that makes features: what it makes is the data of those behind it
                batches.append(made_up_batch(_widths(made.model, stores), len(EMOTIONS), made.data.graphs))
        except (ValueError, TypeError) as error:
            raise PipelineError(f"{name}: {error}") from error
        found = what_differs(full.model, row.model, *batches)
        if found is None:
            raise PipelineError(f"{', '.join(options)} of {name} changes neither parameters nor loss nor data")
        return found


def _what(config: Any) -> Any:  # noqa: ANN401 - nested JSON values
    """A config without what says but how to train."""
    if isinstance(config, dict):
        return {key: _what(value) for key, value in config.items() if key not in _ONLY_HOW}
    return [_what(value) for value in config] if isinstance(config, list) else config


_NO_NUMBER = "no number"
"""Where a paper reports nothing of a row."""


def _widths(task: EmotionTask, stores: Mapping[str, Any]) -> dict[str, int]:
    """The width of all that a task reads: its inputs, and what is stored of a teacher."""
    network: Any = getattr(task, "network", None)
    of_teacher = {"teacher": len(task.classes), "teacher_hidden": getattr(network, "hidden_dim", 0)}
    named = {getattr(task, name): width for name, width in of_teacher.items() if name in vars(task)}
    return {**task.inputs, **{name: width for name, width in named.items() if name in stores}}


def _chains(rows: Sequence[_Row], seeds: Sequence[int]) -> dict[str, list[StageRun]]:
    """The stages of all rows by row and seed; a row that needs stages of earlier ones is in one chain with them."""
    chains: dict[str, list[StageRun]] = {}
    for row in rows:
        for seed in seeds:
            runs = [run for run in row.own if run.stage.once or run.seed == seed]
            options = json.dumps([run.stage.options for run in runs], ensure_ascii=False)
            before = [
                name
                for name, earlier in chains.items()
                if any(str(run.folder) in options for run in earlier if not run.stage.once)
            ]
            name = " and ".join([*before, f"{row.name}, seed {seed}"])
            chains[name] = [run for other in before for run in chains.pop(other)] + runs
    return {name: runs for name, runs in chains.items() if runs}


def _of(runs: Sequence[StageRun], name: str) -> list[StageRun]:
    return [run for run in runs if run.stage.name == name]


@dataclass(frozen=True)
class _Result:
    """A line of the table, weighted F1 in percent.

    Args:
        row: The row.
        stage: The stage of the row whose score it is.
        against: The stage of the full model.
        scores: Of every seed.
        full: Of every seed, of the full model.
        bootstrap: The difference, in fractions.
        reported: What the paper reports of it, by corpus: nothing if it is not of the stage that the paper judges.
    """

    row: _Row
    stage: str
    against: str
    scores: list[float]
    full: list[float]
    bootstrap: BootstrapResult
    reported: Mapping[str, Reported]

    @property
    def difference(self) -> float:
        """The row minus the full model, in points."""
        return 100 * self.bootstrap.difference

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, in points."""
        low, high = self.bootstrap.interval
        return 100 * low, 100 * high

    def plain(self) -> dict[str, Any]:
        """All of it as plain values."""
        ablation = self.row.ablation
        return {
            "name": self.row.name,
            "title": ablation.title,
            "effect": self.row.effect,
            "stage": self.stage,
            "against": self.against,
            "weighted_f1": self.scores,
            "difference": self.difference,
            "interval": self.interval,
            "p": self.bootstrap.p,
            "paper": ablation.paper or None,
            "table": ablation.table or None,
            "reported": {
                corpus: {"row": found.row, "full": found.full, "difference": found.difference}
                for corpus, found in self.reported.items()
            },
        }


def _write(out: Path, pipeline: str, planner: _Planner, rows: Sequence[_Row], console: Console) -> Path:
    """Compare, print and write."""
    read: dict[Path, Predictions] = {}

    def predictions(runs: Sequence[StageRun]) -> list[Predictions]:
        for run in runs:
            if run.folder not in read:
                read[run.folder] = read_predictions(run.folder / "report")
        return [read[run.folder] for run in runs]

    results = []
    for row in rows:
        for ours, theirs in row.compared:
            found, of_full = predictions(ours), predictions(theirs)
            bootstrap = paired_bootstrap(of_full, found)
            names = ours[0].stage.name, theirs[0].stage.name
            reported = row.ablation.reported if names[1] == planner.last else {}
            results.append(_Result(row, *names, _percent(found), _percent(of_full), bootstrap, reported))
    info = json.loads(_of(planner.runs, planner.judged)[0].metrics.read_text(encoding="utf-8"))["info"]
    seeds = ", ".join(map(str, planner.seeds))
    write_json(
        out / "ablation.json",
        {
            "pipeline": pipeline,
            "corpus": info["corpus"],
            "split": info["split"],
            "seeds": list(planner.seeds),
            "full": {result.against: result.full for result in results},
            "rows": [result.plain() for result in results],
        },
    )
    dialogues = len({key[:2] for key in next(iter(read.values())).keys})
    lines = [
        f"# Ablations of {pipeline}: {info['corpus']}, {info['split']} split",
        f"Seeds: {seeds}. Weighted F1 in percent, mean ± standard deviation over the seeds. Every stage keeps the "
        f"checkpoint with the best weighted F1 on `val`, and is tested after that. Every row has a {LEDGER}.",
        _markdown(results),
        "A difference is the row minus the full model, in points. Its interval (95 %) and p-value are of a paired "
        f"bootstrap with 10,000 samples that draws the {dialogues} dialogues and the {len(planner.seeds)} seeds with "
        "replacement. The p-values are not corrected for the number of rows. What the paper reports is on its corpora "
        "with its features: compare signs and order, not sizes.",
        "The full model: [report](full/report.md). The rows: `rows/`. Numbers for programs: `ablation.json`.",
    ]
    write_text(out / "report.md", "\n\n".join(lines) + "\n")
    columns = _columns(results)
    cells = zip(*(cells for _, cells in columns), strict=True)
    caption = f"{lines[0][2:]}. {lines[1]}"
    write_text(out / "report.tex", latex_table([name for name, _ in columns], cells, caption) + "\n")
    console.print(_table(results, f"{info['corpus']}, {info['split']} split, seeds {seeds}"))
    console.print(f"Report: {out / 'report.md'}", markup=False)
    return out / "report.md"


def _percent(predictions: Sequence[Predictions]) -> list[float]:
    return [100 * found.metrics()["weighted_f1"] for found in predictions]


def _columns(results: Sequence[_Result]) -> list[tuple[str, list[str]]]:
    """What every table has, by columns; the full model first, by every stage that a row is compared with."""
    fulls = {result.against: result for result in results}
    empty = [""] * len(fulls)
    rows = [r.row.ablation.title + ("" if r.stage == r.against else f": {r.stage}") for r in results]
    if len({r.against for r in results}) > 1:
        rows = [f"{r.row.ablation.title}: {r.stage}" for r in results]
    columns = [
        ("", [f"full model: {name}" for name in fulls] + rows),
        ("Weighted F1", [_spread(r.full) for r in fulls.values()] + [_spread(r.scores) for r in results]),
        ("Difference", empty + [f"{r.difference:+.2f}" for r in results]),
        ("95 % interval", empty + [f"{r.interval[0]:+.2f}, {r.interval[1]:+.2f}" for r in results]),
        ("p", empty + [f"{r.bootstrap.p:.4f}" for r in results]),
    ]
    corpora = list(dict.fromkeys(corpus for r in results for corpus in r.reported))
    for corpus in corpora or ["paper"]:
        found = [(r.against, r.reported.get(corpus)) for r in results]
        of_full = [
            " / ".join(sorted({f"{number.full:.2f}" for against, number in found if number and against == name}))
            for name in fulls
        ]
        cells = [f"{number.difference:+.2f}" if number else _NO_NUMBER for _, number in found]
        columns.append(
            (f"Paper: {corpus.upper()}" if corpora else "Paper", [*(x or _NO_NUMBER for x in of_full), *cells])
        )
    return columns


def _spread(scores: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.2f}{deviation}"


def _markdown(results: Sequence[_Result]) -> str:
    columns = _columns(results)
    before = [""] * len({result.against for result in results})
    changed = [", ".join(f"{part} of {stage}" for stage, part in r.row.effect.items()) for r in results]
    sources = [", ".join(filter(None, (r.row.ablation.paper, r.row.ablation.table))) for r in results]
    columns += [("Changes", before + changed), ("Source", before + sources)]
    return markdown_table([name for name, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)))


def _table(results: Sequence[_Result], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)
    columns = _columns(results)
    table.add_column("", overflow="fold")
    for name, _ in columns[1:]:  # 80 characters are enough: numbers stay in one piece, titles wrap
        table.add_column("\n".join(name.rsplit(" ", 1)), justify="right", no_wrap=True)
    for title_of_row, *cells in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(escape(title_of_row), *("-" if cell == _NO_NUMBER else cell for cell in cells))
    return table
