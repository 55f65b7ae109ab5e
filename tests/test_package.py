import ast
import importlib.metadata
import importlib.resources
import json
import pydoc
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import merc
import merc.corpora

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


def test_help_shows_what_a_user_starts_with():
    start = "annotate run Conversation Utterance Corpus FeatureStore ConversationBatch FusionHead FusionOutput"
    readers, others = "read_meld read_iemocap read_csv read_transcript", "TeacherTask TextDataModule"
    assert {*f"{start} {readers} {others}".split()} <= {*dir(merc)}
    assert dir(merc) == sorted(merc.__all__)
    assert merc.run.__name__ == "run_pipeline"
    page = pydoc.plain(pydoc.render_doc(merc))
    assert "class FusionHead" in page and "annotate(video" in page


@pytest.mark.parametrize("package", [merc, merc.corpora])
def test_lazy_names_are_those_that_type_checkers_see(package):
    tree = ast.parse(Path(package.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname or alias.name: (line.module, alias.name) for line in block.body for alias in line.names}
    assert {*package.__all__} - {"__version__"} == seen.keys() <= {*dir(package)}
    for name, (module, attribute) in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), attribute)


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="module 'merc' has no attribute 'nothing'"):
        merc.nothing  # noqa: B018


def test_lists_and_readers_need_no_torch():
    code = "import sys, merc; dir(merc); merc.Corpus; merc.read_csv, merc.read_meld; print('torch' in sys.modules)"
    assert python(code) == "False\n"


def test_a_checkout_that_is_not_installed_has_a_version():
    root = Path(__file__).resolve().parents[1]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import merc; print(merc.__version__)"
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert run.stdout == "0+unknown\n"


def test_importing_merc_warns_of_nothing():
    # The warnings of Python's own test runner and of other libraries do not count: one that merc can prevent does.
    code = "import warnings; warnings.simplefilter('error', FutureWarning); import merc.tasks, merc.pipeline.lightning"
    assert python(code) == ""


def test_importing_merc_costs_less_than_a_fifth_of_a_second():
    # CPU time, which other processes on the machine change little; the median of three.
    code = "import time; a = time.process_time(); import merc; print(time.process_time() - a)"
    assert statistics.median(float(python(code)) for _ in range(3)) < 0.2


def test_the_nouns_without_tensors_do_not_import_torch():
    code = "import sys, merc.conversation, merc.labels, merc.files; print('torch' in sys.modules)"
    assert python(code) == "False\n"
