"""What the probabilities of systems are worth: calibration, abstention, sets of emotions, measures of doubt.

    python benchmarks/uncertainty.py runs/systems --stages hierarchical telme lfvd cmath concat

reads the reports and predictions that ``merc run`` (or ``benchmarks/systems.py``) has left and prints three tables, as
means over seeds:

- for every system its calibration before and after the temperature that ``val`` chose, what is wrong of all its answers
  and of the surest 80 %, and how often sets of emotions that ``val`` chose contain the label;
- the same sets chosen on a random half of the dialogues of ``test`` and checked on the other half, many times: the mean
  is what the method promises, the standard deviation is how far one split may be off by luck;
- for ensembles of heads, how well the entropy and the disagreement of the heads tell wrong from right answers (AUROC).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from merc.datamodules import ConversationDataModule
from merc.evaluation import Predictions, abstention, conformal_sets, fit_temperature, read_predictions, with_temperature
from merc.evaluation.tables import markdown_table
from merc.tasks import FusionTask
from merc.tasks.checkpoints import read_checkpoint

NOMINAL = (0.8, 0.9)


def shown(values: Sequence[float], digits: int = 1, times: float = 100.0) -> str:
    """Mean over seeds, and their standard deviation if there are several."""
    spread = f" ± {times * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{times * fmean(values):.{digits}f}{spread}"


def measured(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """A row of the first table, from the ``metrics.json`` of every seed."""

    def over(get: Callable[[dict[str, Any]], float]) -> list[float]:
        return [get(one["uncertainty"]) for one in found]

    sets = [[one["uncertainty"]["conformal"][n] for one in found] for n in range(len(NOMINAL))]
    return [
        name,
        shown([one["weighted_f1"] for one in found], 2),
        shown(over(lambda one: one["calibration"]["ece"])),
        shown(over(lambda one: one["calibration_after"]["ece"])),
        shown(over(lambda one: 1 - one["calibration"]["accuracy"])),
        shown(over(lambda one: one["abstention"]["risk_at_80"])),
        *(shown([one["coverage"] for one in of_seeds]) for of_seeds in sets),
        ", ".join(f"{fmean(one['size'] for one in of_seeds):.1f}" for of_seeds in sets),
    ]


def halves(found: Predictions, temperature: float, times: int, seed: int = 0) -> list[list[float]]:
    """Coverage of sets chosen on half of the dialogues and checked on the others, by nominal coverage."""
    scaled = with_temperature(found, temperature)
    dialogues = sorted({key[1] for key in found.keys})
    generator = torch.Generator().manual_seed(seed)
    covered: list[list[float]] = [[] for _ in NOMINAL]
    for _ in range(times):
        order = torch.randperm(len(dialogues), generator=generator).tolist()
        chosen = {dialogues[index] for index in order[: len(order) // 2]}
        first = torch.tensor([key[1] in chosen for key in found.keys])
        choose, check = (some(scaled, rows) for rows in (first, ~first))
        for values, nominal in zip(covered, NOMINAL, strict=True):
            values.append(conformal_sets(choose, check, nominal).coverage)
    return covered


def some(found: Predictions, rows: Tensor) -> Predictions:
    """The predictions of some utterances."""
    keys = [key for key, here in zip(found.keys, rows.tolist(), strict=True) if here]
    return Predictions(found.labels, keys, found.gold[rows], found.probabilities[rows])


def doubts(folder: Path, found: Predictions) -> dict[str, float] | None:
    """AUROC of every measure of doubt of a head, of the weights in a stage's folder; ``None`` if it has none."""
    file = folder / "best.ckpt"
    if read_checkpoint(file)["merc"]["task"] != "FusionTask":
        return None
    task = FusionTask.load_from_checkpoint(file, map_location="cpu").eval()
    options = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["stage"]["options"]
    data = ConversationDataModule(options["data.corpus"], options["data.stores"])
    data.setup()
    batch = data.split("test")
    with torch.inference_mode():
        output = task.head(batch)
    if not output.uncertainty:
        return None
    row = {key: index for index, key in enumerate(batch.keys)}
    order = torch.tensor([row[key] for key in found.keys])
    return {name: abstention(found, doubt[order]).auroc for name, doubt in output.uncertainty.items()}


def main() -> None:
    """Print the tables of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--stages", nargs="+", required=True)
    parser.add_argument("--times", type=int, default=200, help="random halves per seed")
    args = parser.parse_args()
    tables: list[list[list[str]]] = [[], [], []]
    for stage in args.stages:
        reports = sorted(args.run.glob(f"seed-*/{stage}/report/metrics.json"))
        if not reports:
            parser.error(f"{args.run} has no tested stage {stage}: expected seed-0/{stage}/report/metrics.json")
        tables[0].append(measured(stage, [json.loads(path.read_text(encoding="utf-8")) for path in reports]))
        covered: list[list[float]] = [[] for _ in NOMINAL]
        measures: list[dict[str, float]] = []
        for report in (path.parent for path in reports):
            test, val = read_predictions(report), read_predictions(report / "predictions_val.csv")
            for all_of, values in zip(covered, halves(test, fit_temperature(val), args.times), strict=True):
                all_of += values
            if (report.parent / "best.ckpt").is_file() and (one := doubts(report.parent, test)):
                measures.append(one)
        tables[1].append([stage, *(shown(values) for values in covered)])
        if measures:
            told = {name: shown([one[name] for one in measures], 3, 1.0) for name in measures[0]}
            tables[2].append([stage, ", ".join(f"{name} {value}" for name, value in told.items())])
    sets = [f"in sets for {nominal:.0%}" for nominal in NOMINAL]
    first = ["", "weighted F1", "ECE %", "after", "wrong %", "wrong % at 80 %", *sets, "emotions in a set"]
    print(markdown_table(first, tables[0]))
    print(f"\nSets chosen on a random half of the dialogues, {args.times} times a seed\n")
    print(markdown_table(["", *sets], tables[1]))
    if tables[2]:
        print("\nAUROC: how well doubt tells wrong from right answers\n")
        print(markdown_table(["", "by measure of doubt"], tables[2]))


if __name__ == "__main__":
    main()
