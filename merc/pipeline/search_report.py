"""What a search has found: tables, the best pipeline, plots."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from merc.configs.lookup import CONFIGS, find_config
from merc.evaluation.ledger import describe_ledger, read_ledger
from merc.evaluation.plots import history_figure, shares_figure
from merc.evaluation.tables import markdown_table
from merc.files import parse_yaml, write_aside, write_text
from merc.pipeline.study import STAGES, Search, counts, state_of

_ENOUGH = 8
"""Of fewer finished trials, a quarter says nothing."""


class Results:
    """What a study has found so far, as files.

    Args:
        search: The search.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._study = search.study()
        trials = self._study.get_trials(deepcopy=False)
        self._trials = [trial for trial in trials if trial.state != TrialState.WAITING]
        finished = [trial for trial in self._trials if trial.state == TrialState.COMPLETE]
        self._finished = sorted(finished, key=_score, reverse=search.mode == "max")
        self._recipe = next((trial for trial in finished if "recipe" in trial.user_attrs), None)

    def write(self, plots: bool = True) -> Path:
        """Write the tables and the best pipeline.

        Args:
            plots: The plots too.

        Returns:
            The report.
        """
        out = self._search.out
        write_text(out / "search.csv", self._csv())
        if self._finished:
            write_text(out / "best.yaml", self._best())
        importances = self._importances() if plots else {}
        if plots and self._finished:
            points = [(t.number, t.value, t.state == TrialState.COMPLETE) for t in self._trials if t.value is not None]
            recipe = None if self._recipe is None else self._recipe.value
            score = f"{self._search.score} of {self._search.judged}"
            self._draw("history.png", history_figure(points, score, recipe=recipe, best=self._search.mode))
        if importances:
            self._draw("importances.png", shares_figure(importances, "importance (PED-ANOVA)"))
        write_text(out / "search.md", self._markdown(importances))
        return out / "search.md"

    def _draw(self, name: str, figure: Figure) -> None:
        with write_aside(self._search.out / name) as aside:
            figure.savefig(aside, format="png", dpi=150)

    def _importances(self) -> dict[str, float]:
        """By option, what it has to do with being among the best quarter; nothing where there are too few trials."""
        if len(self._finished) < _ENOUGH or len({trial.value for trial in self._finished}) == 1:
            return {}
        return get_param_importances(self._study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))

    def _csv(self) -> str:
        text = io.StringIO()
        keys = [option.key for option in self._search.space]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["trial", "state", self._search.score, *(f"seed {seed}" for seed in self._search.seeds), "seconds", *keys]
        )
        for trial in self._trials:
            scores = trial.user_attrs.get("scores", [""] * len(self._search.seeds))
            drawn = [trial.params.get(key, "") for key in keys]
            score = "" if trial.value is None else trial.value
            writer.writerow([trial.number, state_of(trial), score, *scores, _seconds(trial), *drawn])
        return text.getvalue()

    def _best(self) -> str:
        """The best pipeline, for ``merc run``."""
        search, best = self._search, self._finished[0]
        changes = search.changes(best.params)
        stages = []
        for stage in search.pipeline.stages:
            if options := {**search.given[stage.name], **changes.get(stage.name, {})}:
                stages.append({"name": stage.name, "options": options})
        base = find_config(search.names[0])
        if {"stages", "base"} & parse_yaml(base.read_text(encoding="utf-8"), base).keys():
            name = base.relative_to(CONFIGS).as_posix() if base.is_relative_to(CONFIGS) else str(base.absolute())
            pipeline: dict[str, Any] = {"base": name, "stages": stages}
        else:
            configs = [str(Path(config).absolute()) for config in search.pipeline.stages[0].configs]
            pipeline = {"stages": [{"name": "fusion", "command": "fit", "config": configs, **stages[0]}]}
        head = f"# Trial {best.number} of `merc search`, the best of {len(self._finished)} on val: {self._gain()}."
        return f"{head}\n# {self._command('best.yaml')}\n" + yaml.safe_dump(
            pipeline, sort_keys=False, allow_unicode=True
        )

    def _gain(self) -> str:
        search, best, recipe = self._search, self._finished[0], self._recipe
        found = f"{search.score} {best.value:.4f}"
        return found if recipe is None else f"{found}, that of the pipeline as it is {recipe.value:.4f}"

    def _command(self, pipeline: str) -> str:
        search = self._search
        given = "".join(f" --{name} {value}" for name, value in search.sources.items())
        first = f" --first_seed {search.seeds[0]}" if search.seeds[0] else ""
        out = f"runs/{Path(pipeline).stem}"
        return f"merc run {pipeline}{given} --out {out} --seeds {len(search.seeds)}{first}"

    def _markdown(self, importances: Mapping[str, float]) -> str:
        search = self._search
        states = Counter(state_of(trial).partition(" at ")[0].partition(":")[0] for trial in self._trials)
        counted = sum(map(counts, self._trials))
        lines = [
            f"# Search of {' '.join(search.names)}: {search.judged} on val",
            f"{counted} of {search.trials} trials: {', '.join(f'{n} {state}' for state, n in states.items())}. A score "
            f"is `{search.score}` of the best checkpoint, mean over the seeds {', '.join(map(str, search.seeds))}. No "
            f"stage is tested: {describe_ledger([*read_ledger(search.out), *read_ledger(search.out / STAGES)])}.",
            self.verdict,
            *self._warning(),
            self._table(),
            "\n".join(["What was tried:", "", *(f"- `{option.key}`: {option}" for option in search.space)]),
        ]
        if importances:
            rows = [[f"`{name}`", f"{share:.2f}"] for name, share in importances.items()]
            lines += [
                "How much each option has to do with being among the best quarter of the finished trials (PED-ANOVA; "
                "of few trials it is rough):",
                markdown_table(["Option", "Importance"], rows),
                "![Importances](importances.png)",
            ]
        if (search.out / "history.png").is_file():  # drawn when a command ends
            lines.append("![History](history.png)")
        return "\n\n".join(lines) + "\n"

    @property
    def verdict(self) -> str:
        """The best score beside that of the pipeline as it is, in a sentence."""
        if not self._finished:
            return "No trial is finished."
        best, recipe = self._finished[0], self._recipe
        if recipe is None:
            return f"The best so far is trial {best.number}: {best.value:.4f}. The pipeline as it is has not finished."
        if best.number == recipe.number:
            return f"No trial is better than the pipeline as it is (trial {recipe.number}): {recipe.value:.4f}."
        return (
            f"The pipeline as it is (trial {recipe.number}): {recipe.value:.4f}. The best (trial {best.number}): "
            f"{best.value:.4f}, {_score(best) - _score(recipe):+.4f}."
        )

    def _warning(self) -> list[str]:
        if not self._finished:
            return []
        return [
            f"The best of {len(self._finished)} scores on val is optimistic: it was chosen by the very score that "
            "stands here. What it is worth, the test split says, opened once for each:",
            f"    {self._command(str(self._search.out / 'best.yaml'))}",
        ]

    def _table(self) -> str:
        keys = [option.key for option in self._search.space]
        first = [trial.number for trial in self._finished]
        rows = []
        ordered = [*self._finished, *(trial for trial in self._trials if trial.number not in first)]
        for trial in ordered:
            scores = trial.user_attrs.get("scores", [])
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            score = f"{trial.value:.4f}{spread}" if trial.state == TrialState.COMPLETE else ""
            drawn = [f"{v:.3g}" if isinstance(v := trial.params.get(key, ""), float) else str(v) for key in keys]
            state = "the pipeline as it is" if trial is self._recipe else state_of(trial)
            rows.append([str(trial.number), score, state, *drawn, f"{_seconds(trial)} s"])
        return markdown_table(["Trial", "Score", "State", *(f"`{key}`" for key in keys), "Time"], rows)


def _seconds(trial: FrozenTrial) -> int:
    return 0 if trial.duration is None else round(trial.duration.total_seconds())


def _score(trial: FrozenTrial) -> float:
    """The score of a finished trial."""
    assert trial.value is not None
    return trial.value
