"""Every task in two processes, as torchrun starts them, against one: the same scores, the same stores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from merc.evaluation import read_predictions
from merc.store import FeatureStore
from support import two_processes
from support.quiet_trainer import trainer_in

pytestmark = pytest.mark.ddp
TESTS = Path(two_processes.__file__).parents[1]
TRAINED = ["teacher", "student", "fusion", "joint", "lipsync", "text encoder"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of one process and of two, which evaluates the checkpoints of the one."""
    folder = tmp_path_factory.mktemp("ddp")
    two_processes.prepare(folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, two_processes.__file__, str(folder), str(folder / "two")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, text=True, **pipes) as two:  # imports while the one process trains
        two_processes.main(folder, folder / "one")
        said = two.communicate("go\n", timeout=240)
    assert two.returncode == 0, said
    return folder, {name: json.loads((folder / name / "found.json").read_text()) for name in ("one", "two")}


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_validate_and_test_as_one(runs, name):
    _, found = runs
    one, two = found["one"][name]["scores"], found["two"][name]["scores"]
    assert one.keys() == two.keys() and one
    assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("name", [*TRAINED, "one conversation"])
def test_two_processes_write_the_stores_of_one(runs, name):
    folder, _ = runs
    kinds = [path.parent.name for path in sorted((folder / "one" / name).glob("*/manifest.json"))]
    assert kinds
    for kind in kinds:
        one, two = (FeatureStore(folder / run / name / kind) for run in ("one", "two"))
        assert set(one.keys) == set(two.keys) and one.missing == two.missing and len(one) > 0
        torch.testing.assert_close(two.gather(one.keys)[0], one.gather(one.keys)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["teacher", "student", "fusion", "joint", "text encoder"])
def test_two_processes_report_as_one(runs, name):
    folder, _ = runs
    one, two = (read_predictions(folder / run / name / "report") for run in ("one", "two"))
    assert one.keys == two.keys
    torch.testing.assert_close(
        torch.as_tensor(one.probabilities), torch.as_tensor(two.probabilities), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", TRAINED)
def test_processes_learn_the_same_and_choose_by_the_score_of_one(runs, name, tmp_path):
    folder, found = runs
    learnt = found["two"][name]["learnt"]
    assert learnt["apart"] == 0
    make, data = two_processes.systems(folder)[name]
    (scores,) = trainer_in(tmp_path).validate(
        make(), datamodule=data(), ckpt_path=learnt["best"], weights_only=True, verbose=False
    )
    monitor = "val/pair_loss" if name == "lipsync" else "val/weighted_f1"
    assert scores[monitor] == pytest.approx(learnt["score"], abs=1e-5)
