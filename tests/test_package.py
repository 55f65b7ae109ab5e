import importlib.metadata
import importlib.resources
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import merc

HEAVY = [
    "torch",
    "lightning",
    "torch_geometric",
    "transformers",
    "matplotlib",
    "av",
    "torchaudio",
    "torchvision",
    "cv2",
]


def python(code):
    """What Python prints in a process of its own, started in another folder than the checkout."""
    run = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    return run.stdout


def test_the_version_is_that_of_the_installed_package():
    assert merc.__version__ == importlib.metadata.version("merc")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", merc.__version__)


def test_the_citation_and_the_changelog_know_the_version():
    root = Path(__file__).resolve().parents[1]
    assert f"\nversion: {merc.__version__}\n" in (root / "CITATION.cff").read_text()
    assert f"\n## [{merc.__version__}]" in (root / "CHANGELOG.md").read_text()


def test_types_are_shipped():
    assert importlib.resources.files("merc").joinpath("py.typed").is_file()


def test_importing_merc_imports_nothing_heavy():
    loaded = json.loads(python(f"import json, sys, merc; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"))
    assert loaded == []


def test_every_name_of_the_front_door_is_there_and_a_wrong_one_is_named():
    assert dir(merc) == sorted(merc.__all__) and {"annotate", "run", "Conversation", "FusionHead"} <= set(dir(merc))
    assert all(getattr(merc, name) is not None for name in merc.__all__)
    with pytest.raises(AttributeError, match="'merc' has no attribute 'anotate'"):
        _ = merc.anotate


def test_merc_is_a_module_that_runs():
    run = subprocess.run(
        [sys.executable, "-m", "merc", "--version"], cwd="/", capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == merc.__version__


def test_importing_merc_costs_less_than_a_fifth_of_a_second_beyond_torch():
    # Timed inside a process that has imported torch already, so that only merc is measured; CPU time, which
    # other processes on the machine do not change; the median of three.
    code = "import time, torch; a = time.process_time(); import merc; print(time.process_time() - a)"
    assert statistics.median(float(python(code)) for _ in range(3)) < 0.2


def test_the_nouns_without_tensors_do_not_import_torch():
    code = "import sys, merc.conversation, merc.labels, merc.files; print('torch' in sys.modules)"
    assert python(code) == "False\n"
