"""Whether a training that is killed and resumed equals the uninterrupted one.

    python benchmarks/resume.py --out runs/resume --runs 20

trains the shipped text teacher on a small simulated corpus for 60 epochs, once without interruption and `--runs` times
with `kill -9` at a random moment (also between two validations, while a checkpoint is written, before the first step)
and the command that `merc fit` prints to resume. It compares the final weights, averaged and not, and the random states
bit for bit, and exits with 1 if any differ. A run takes about 25 s on one core.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from merc.corpora.simulated import simulate

STATES = ("state_dict", "current_model_state")


def merc(*args: str, kill_after: float | None = None) -> int:
    """The exit status of a `merc` command, which may be killed after some seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "merc", *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kill_after is not None:
        try:
            return process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    return process.wait()


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two checkpoints hold the same weights and random state."""
    weights = all(torch.equal(a[state][key], value) for state in STATES for key, value in b[state].items())
    return (
        weights and a["global_step"] == b["global_step"] and torch.equal(*(c["random_states"]["torch"] for c in (a, b)))
    )


def main() -> int:
    """Compare, and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    data = options.out / "data"
    simulate(dialogues={"train": 40, "val": 10, "test": 10}).save(data)
    fit = ["fit", "--config", "systems/teacher.yaml", "--data.corpus", str(data), "--trainer.accelerator", "cpu"]
    fit += ["--data.stores.text", str(data / "features/text"), "--trainer.enable_progress_bar", "false"]
    fit += ["--trainer.max_steps=-1", f"--trainer.max_epochs={options.epochs}"]
    fit += ["--trainer.val_check_interval=null", "--trainer.check_val_every_n_epoch=1"]

    def last(name: str) -> Path:
        return options.out / name / "checkpoints/last.ckpt"

    begin = time.monotonic()
    assert merc(*fit, "--out", str(options.out / "whole")) == 0
    seconds = time.monotonic() - begin
    whole, draw, failed = torch.load(last("whole"), weights_only=True), random.Random(0), 0
    for number in range(options.runs):
        name = f"run-{number}"
        merc(*fit, "--out", str(options.out / name), kill_after=draw.uniform(0.3, 1.0) * seconds)
        at = torch.load(last(name), weights_only=True)["global_step"] if last(name).exists() else 0
        resume = ["--ckpt_path", str(last(name))] if at else []
        assert merc(*fit, "--out", str(options.out / name), *resume) == 0
        same = equal(torch.load(last(name), weights_only=True), whole)
        failed += not same
        print(
            f"killed, resumed after step {at} of {whole['global_step']}: {'equal' if same else 'DIFFERENT'}", flush=True
        )
    print(f"{options.runs - failed} of {options.runs} equal the uninterrupted training")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
