"""Running a pipeline: its stages in order, for one seed or several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from merc.evaluation import (
    compare_folds,
    compare_seeds,
    compare_systems,
    compare_value_folds,
    compare_value_seeds,
    compare_values,
    print_comparison,
    print_value_comparison,
    read_systems,
    read_value_systems,
    write_comparison,
)
from merc.evaluation.ledger import LEDGER, describe_ledger, read_ledger
from merc.evaluation.published import paper_latex, paper_markdown
from merc.evaluation.report import of_emotions, of_values
from merc.evaluation.run_page import SeedRun, write_run_page
from merc.evaluation.systems import tell_emotions
from merc.evaluation.tables import markdown_table
from merc.evaluation.value_comparison import plain_table
from merc.files import write_json, write_text
from merc.pipeline.contents import libraries
from merc.pipeline.kinds import EnsembleStage
from merc.pipeline.lightning import quiet_lightning
from merc.pipeline.plan import FinishedRun, Pipeline, plan
from merc.pipeline.read import read_pipeline, with_import_options
from merc.pipeline.stage import PipelineError, StageRun


def run_pipeline(
    pipeline: str | Path,
    *,
    out: str | Path,
    root: str | Path | None = None,
    corpus: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    trainer_options: Sequence[str] = (),
    jobs: int = 1,
    imports: Mapping[str, Any] | None = None,
) -> Path:
    """Run a pipeline from Python; ``merc run`` does the same.

    Args:
        pipeline: Config of the pipeline, a file or the short name of a shipped one.
        out: Folder for all results.
        root: The folder of a corpus on disk, ``{root}`` in the pipeline.
        corpus: An imported corpus or CSV files, ``{corpus}`` in the pipeline.
        seeds: The seeds; every stage that depends on the seed runs once for each.
        trainer_options: Options such as ``--trainer.precision=bf16-mixed``, for every Lightning stage.
        jobs: How many seeds to train at the same time, each in a process of its own.
        imports: Further options of the import that brings the corpus, such as ``file``, ``layout`` and ``validation``.

    Returns:
        The report over all stages and seeds, or ``out`` if no stage is tested.

    Raises:
        FileNotFoundError: There is no such config.
        PipelineError: The pipeline does not hold together, has an option that its stage does not know, or lacks its
            root or corpus. Nothing has run then.
    """
    sources = sources_of(root, corpus)
    full = with_import_options(read_pipeline(pipeline), imports or {})
    return run_stages(full, out, sources, seeds, trainer_options, Console(), jobs)


def sources_of(root: str | Path | None, corpus: str | Path | None) -> dict[str, str]:
    """What a run is given, by the placeholder that stands for it."""
    return {name: str(given) for name, given in {"root": root, "corpus": corpus}.items() if given is not None}


def run_stages(
    pipeline: Pipeline,
    out: str | Path,
    sources: Mapping[str, str],
    seeds: Sequence[int],
    trainer_options: Sequence[str],
    console: Console,
    jobs: int = 1,
    results: Path | None = None,
) -> Path:
    """Run a pipeline that has been read; see :func:`run_pipeline` and :func:`merc.pipeline.plan.plan`."""
    runs = list(plan(pipeline, out, sources, seeds, trainer_options, results=results))
    record = FinishedRun.of(pipeline, out, sources, seeds)
    with quiet_lightning(quiet=True):
        for run in runs[: len(pipeline.stages)]:  # those of the first seed: the others differ by the seed alone
            if not run.finished:  # what is finished was checked with the same options
                run.stage.kind.check(run, trainer_options)
        _refuse_other_kinds(pipeline, runs[: len(pipeline.stages)], trainer_options)
        record.withdraw_others()
        if jobs == 1:
            run_in_order(runs, trainer_options, console)
        else:
            chains = {f"seed {seed}": [run for run in runs if run.stage.once or run.seed == seed] for seed in seeds}
            run_in_parallel(chains, trainer_options, console, jobs)
    record.save()
    report = _summarise(runs, Path(out), console)
    if pipeline.compare:
        tested = [f"{run.stage.name}={run.folder}" for run in runs if run.stage.name in pipeline.compare]
        console.print(f"Comparison: {_compare(tested, Path(out) / 'compare', console)}", markup=False)
    return report


def _compare(systems: Sequence[str], out: Path, console: Console) -> Path:
    """Compare systems head to head, in emotions, numbers, or both; the path of the report, of both that on emotions."""
    numbers, emotions = read_value_systems(systems), tell_emotions(systems)
    if numbers is not None:
        compared = compare_values(numbers)
        print_value_comparison(compared, console)
        report = compared.write(out / "values" if emotions else out)
    if emotions:
        found = compare_systems(read_systems(systems))
        print_comparison(found, console)
        report = write_comparison(found, out)
    return report


def _refuse_other_kinds(pipeline: Pipeline, runs: Sequence[StageRun], trainer_options: Sequence[str]) -> None:
    """Refuse to compare emotions with numbers, and an ensemble of numbers alone, before anything is trained."""
    by_name = {run.stage.name: run for run in runs}
    for run in runs:
        for name in run.reads if isinstance(run.stage.kind, EnsembleStage) else ():
            if "emotions" not in by_name[name].stage.kind.tells(by_name[name], trainer_options):
                raise PipelineError(
                    f"Stage {run.stage.name!r} is an ensemble, which averages probabilities of emotions, and its "
                    f"member {name!r} predicts numbers alone: leave it out. `merc export` averages numbers."
                )
    compared = [run for run in runs if run.stage.name in pipeline.compare]
    told = {run.stage.name: run.stage.kind.tells(run, trainer_options) for run in compared}
    if told and not frozenset.intersection(*told.values()):
        kinds = "; ".join(f"{name}: {' and '.join(sorted(kinds))}" for name, kinds in told.items())
        raise PipelineError(
            f"`compare` names stages that predict different things ({kinds}): expected all of emotions, or all of "
            "numbers. Leave some out; `merc compare RUN --stages ...` compares the others."
        )


def run_in_order(runs: Sequence[StageRun], trainer_options: Sequence[str], console: Console, of: str = "") -> None:
    """Run the stages that are not finished or whose stores are damaged, one after the other.

    Args:
        runs: The stages.
        trainer_options: Options for every Lightning stage.
        console: Where each stage is announced.
        of: Whose stages they are, as a prefix of each announcement.
    """
    names = list(dict.fromkeys(run.stage.name for run in runs))
    for run in runs:
        seed = "" if run.stage.once else f", seed {run.seed}"
        title = f"{of}stage {names.index(run.stage.name) + 1} of {len(names)}: {run.stage.name}{seed}"
        damage = run.damage() if run.marked else None
        if run.marked and damage is None:
            console.print(f"[dim]{title}: finished before, unchanged{_made_with(run)}[/dim]")
            continue
        console.rule(title, align="left")
        if damage is not None:
            console.print(f"{damage} This stage is made again.", style="yellow", markup=False)
        run.begin()
        run.stage.kind.run(run, trainer_options, console)
        run.update_state(finished=True, libraries=libraries())


def _made_with(*runs: StageRun) -> str:
    """The libraries with which finished stages were made, where those that are installed have another version."""
    made = {item for run in runs for item in run.state.get("libraries", {}).items()}
    others = [f"{name} {version}" for name, version in sorted(made) if libraries().get(name, version) != version]
    return f"; made with {', '.join(others)}, not what is installed now" if others else ""


def run_in_parallel(
    chains: Mapping[str, Sequence[StageRun]], trainer_options: Sequence[str], console: Console, jobs: int
) -> None:
    """Run chains of stages that depend on each other only in stages that run once: those go first.

    Each chain runs in a process of its own, which writes its output into ``log.txt`` beside its stages.

    Args:
        chains: The stages, by the name under which the chain is announced.
        trainer_options: Options for every Lightning stage.
        console: Where the beginning and the end of each chain are announced.
        jobs: Processes at the same time.
    """
    once = {run.folder: run for runs in chains.values() for run in runs if run.stage.once}
    run_in_order(list(once.values()), trainer_options, console)
    left = {name: [run for run in runs if not run.stage.once] for name, runs in chains.items()}
    done = [name for name, runs in left.items() if all(run.finished and run.damage() is None for run in runs)]
    for name in done:
        console.print(f"[dim]{name}: finished before, unchanged{_made_with(*left[name])}[/dim]")
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,))
    try:
        futures = {
            pool.submit(_run_with_log, runs, list(trainer_options)): name
            for name, runs in left.items()
            if name not in done
        }
        for number, future in enumerate(as_completed(futures), start=1):
            future.result()
            console.print(f"{futures[future]}: finished, {number} of {len(futures)}", markup=False)
    except SystemExit:  # of SIGTERM, which reaches this process alone: the others would train on
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _run_with_log(runs: Sequence[StageRun], trainer_options: Sequence[str]) -> None:
    """What a process of :func:`run_in_parallel` does."""
    log = runs[0].folder.parent / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as file,
        redirect_stdout(file),
        redirect_stderr(file),
        quiet_lightning(quiet=True),
    ):
        run_in_order(runs, trainer_options, Console(file=file, width=120))


def _summarise(runs: Sequence[StageRun], out: Path, console: Console) -> Path:
    """Print and write the scores of every tested stage over all seeds."""
    tested = [run for run in runs if run.stage.tested]
    metrics: dict[str, list[Mapping[str, Any]]] = {}
    for run in tested:
        metrics.setdefault(run.stage.name, []).append(json.loads(run.metrics.read_text(encoding="utf-8")))
    if not metrics:
        console.print(f"Results: {out}", markup=False)
        return out
    numbers, emotions = of_values(metrics), of_emotions(metrics)
    optimum, value_optimum, ledger = _optimum(runs, "context"), _optimum(runs, "ccc"), read_ledger(out)
    stages = {name: [SeedRun(r.folder, r.seed) for r in tested if r.stage.name == name] for name in metrics}
    comparison = compare_seeds(emotions, optimum) if emotions else None
    values = compare_value_seeds(numbers, value_optimum) if numbers else None
    value_folds = compare_value_folds(numbers, {name: [run.values for run in stages[name]] for name in numbers})
    info = metrics[tested[0].stage.name][0]["info"]
    support = _support(next(iter(emotions.values()), []))
    seeds = sorted({run.seed for run in tested})
    lines = [
        f"# {info['corpus']}: every stage on the {info['split']} split",
        f"Seeds: {', '.join(map(str, seeds))}. Each stage keeps the checkpoint with the best score on `val`, and "
        f"is tested after that. {describe_ledger(ledger).capitalize()} ({LEDGER}).",
        *([comparison.markdown(), compare_folds(emotions)] if comparison else []),
        *([paper_markdown(comparison, info["corpus"], support)] if comparison else []),
        *([markdown_table(*values), value_folds] if values else []),
        "Reports of single stages:",
        "\n".join(f"- [{r.stage.name}, seed {r.seed}]({r.folder.relative_to(out)}/report/report.md)" for r in tested),
    ]
    write_json(out / "summary.json", {name: list(found) for name, found in metrics.items()})
    write_text(out / "report.md", "\n\n".join(filter(None, lines)) + "\n")
    if comparison:
        write_text(out / "report.tex", paper_latex(comparison, info["corpus"], support))
    write_run_page(
        out / "report.html",
        lines[0].removeprefix("# "),
        stages,
        ledger=ledger,
        optimum=optimum,
        value_optimum=value_optimum,
    )
    title = f"{info['corpus']}, {info['split']} split, seeds {', '.join(map(str, seeds))}"
    if values:
        console.print(plain_table(values, title))
    if comparison:
        table = comparison.table(title)
        unlimited = console.options.update(width=999)
        if console.measure(table, options=unlimited).maximum > console.width:  # the emotions are in the report too
            table = comparison.table(title, per_class=False)
        console.print(table)
    console.print(f"Report: {out / 'report.md'}{', .html, .tex' if comparison else ', .html'}", markup=False)
    return out / "report.md"


def _support(metrics: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Test utterances of each emotion; of the folds of a cross-validation all together."""
    tests = {found["info"]["protocol"]: found for found in metrics}
    names = metrics[0]["classes"] if metrics else []
    return {name: sum(found[f"support/{name}"] for found in tests.values()) for name in names}


def _optimum(runs: Sequence[StageRun], score: str) -> dict[str, float]:
    """By stage, the best score that any model can reach, where the corpus is simulated and knows it."""
    for run in runs:
        file = run.folder / "optimum.json"
        if file.is_file():
            best = json.loads(file.read_text(encoding="utf-8"))["test"]
            known = {r.stage.name: best[r.stage.optimum] for r in runs if r.stage.optimum in best}
            return {name: of[score] for name, of in known.items() if score in of}
    return {}
