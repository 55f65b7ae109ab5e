"""``merc search`` in two processes that share a study, against the shipped recipe, on long simulated dialogues.

They have 80 to 120 utterances, for which no recipe was chosen. Two ``merc search`` commands run at the same time on the
same study; then the pipeline as it is and ``best.yaml`` are run. Each opens the test split once for every seed:

    OMP_NUM_THREADS=1 python benchmarks/search.py --out runs/search-bench

It prints how long the search took, the val scores of both, whether ``merc run best.yaml`` gives the same, and the test
scores with a paired bootstrap over dialogues and seeds. Interrupt it at will: the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from merc.evaluation import paired_bootstrap, read_predictions
from merc.pipeline.run import run_pipeline

MODALITIES = ("text", "audio", "visual")


def pipeline_of(system: str, dialogues: list[int]) -> dict[str, Any]:
    """Long dialogues, the evidence of each modality, and a fusion on it as its shipped configs say."""
    data = {
        "dialogues": dict(zip(("train", "val", "test"), dialogues, strict=True)),
        "length_counts": [0.0] * 79 + [1.0] * 41,
    }
    evidence = [
        {"name": m, "command": "evidence", "options": {"features": f"{{data}}/features/{m}", "noisy_labels": True}}
        for m in MODALITIES
    ]
    configs = [f"systems/{system}.yaml", f"simulated/{system}.yaml"]
    stores = {m: f"{{{m}}}" for m in MODALITIES}
    optimum = "+".join(MODALITIES)
    fusion = {"name": "fusion", "command": "fit", "config": configs, "stores": stores, "optimum": optimum}
    return {
        "corpus": "data",
        "stages": [{"name": "data", "command": "import", "config": "simulated", "options": data}, *evidence, fusion],
    }


def main() -> None:
    """Search, run both, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/search-bench"))
    parser.add_argument("--system", default="concat", help="concat, hierarchical, lfvd or cmath")
    parser.add_argument("--dialogues", type=int, nargs=3, default=[30, 15, 60], help="train, val, test")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--timeout", default="12m")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pipeline = given.out / "pipeline.yaml"
    pipeline.write_text(yaml.safe_dump(pipeline_of(given.system, given.dialogues), sort_keys=False))

    found = given.out / "search"
    words = f"merc search {pipeline} --space search/training.yaml --out {found} --timeout {given.timeout}"
    command = [sys.executable, "-m", *words.split(), "--trials", str(given.trials), "--seeds", str(given.seeds)]
    begin = time.monotonic()
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    print(f"Two processes: {(time.monotonic() - begin) / 60:.1f} minutes")
    print((found / "search.md").read_text(encoding="utf-8"))
    with (found / "search.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    on_val = {"recipe": float(rows[0]["val/weighted_f1"]), "best": max(float(row["val/weighted_f1"]) for row in rows)}

    seeds = range(given.seeds)
    tested = {}
    for name, config in (("recipe", pipeline), ("best", found / "best.yaml")):
        out = given.out / name
        run_pipeline(config, out=out, seeds=seeds)
        reports = [out / f"seed-{seed}/fusion/report" for seed in seeds]
        metrics = [json.loads((report / "metrics.json").read_text(encoding="utf-8")) for report in reports]
        again = sum(found["val"]["weighted_f1"] for found in metrics) / len(metrics)
        tested[name] = [read_predictions(report) for report in reports]
        score = sum(found.metrics()["weighted_f1"] for found in tested[name]) / len(metrics)
        print(f"{name}: val {on_val[name]:.4f} in the search, {again:.4f} in `merc run`; test {score:.4f}")
    gain = paired_bootstrap(tested["recipe"], tested["best"])
    low, high = gain.interval
    interval = f"{100 * low:+.2f}, {100 * high:+.2f}"
    print(f"best - recipe on test: {100 * gain.difference:+.2f} points ({interval}), p {gain.p:.4f}")


if __name__ == "__main__":
    main()
