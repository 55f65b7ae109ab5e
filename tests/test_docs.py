"""README and docs keep what they promise: code runs, commands parse, configs, pages and sections exist."""

import re
import shlex
import tempfile
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

import merc.annotation
import merc.app
import merc.evaluation
import merc.models
import merc.pipeline.ablate
import merc.pipeline.run
import merc.pipeline.search
import merc.speech
from merc.annotation import Annotation, Diarization
from merc.cli import main
from merc.cli.models import asks_a_model
from merc.configs.lookup import expand_configs, find_config
from merc.labels import MELD
from merc.pipeline.ablate import _shipped
from merc.pipeline.ablation import parts_of
from merc.pipeline.lightning import MercCLI
from merc.pipeline.read import read_pipeline, read_stack
from merc.pipeline.space import read_space
from support.made_batches import facts_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def complete_config():
    """A config such as a training leaves: a system with its data."""
    parts = [yaml.safe_load(find_config(name).read_text("utf-8")) for name in ("systems/hierarchical.yaml", DATA)]
    parts[0]["data"]["init_args"] = parts[1]["data"]
    file = Path(tempfile.mkdtemp(prefix="merc-docs-")) / "config.yaml"
    file.write_text(yaml.safe_dump(parts[0]))
    return str(file)


DATA = "corpora/simulated.yaml"
COMPLETE = complete_config()

# What a reader replaces, and what stands for it here.
PLACEHOLDERS = {
    "RUN/config.yaml": COMPLETE,
    "$RUN/config.yaml": COMPLETE,
    "my_config.yaml": COMPLETE,
    "frozen.yaml": COMPLETE,  # the two that docs/text.md shows
    "finetune.yaml": COMPLETE,
    "my_pipeline.yaml": "demo/simulated.yaml",
    "runs/search/best.yaml": "demo/simulated.yaml",  # which builds on it
    "emorynlp.yaml": str(ROOT / "examples/custom_corpus/emorynlp.yaml"),
    "parts.yaml": str(ROOT / "examples/custom_parts/parts.yaml"),
    "my_package.read_mine": "my_corpora.read_emorynlp",
    "my_package.MyHead": "my_fusion.TextFirst",
    "FILMS": str(ROOT),  # a folder
    "my_package.MyEncoder": "merc.graphs.GCNEncoder",
}


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page, info):
    """The fenced blocks of a page whose first line is ```` ```info ````."""
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found.strip() == info]


def commands():
    """Every line of merc in an indented or fenced block, with its page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?:    +|\$ )?(merc [a-z].*)$", text, re.MULTILINE):
            words = shlex.split(line, comments=True)[1:]
            yield name(page), [PLACEHOLDERS.get(word, word) for word in words]


COMMANDS = list(commands())


def of(*names):
    chosen = [(page, words) for page, words in COMMANDS if words[0] in names]
    ids = [f"{page}: merc {' '.join(words)}".replace(COMPLETE, "config.yaml") for page, words in chosen]
    return [pytest.param(words, id=one) for (_, words), one in zip(chosen, ids, strict=True)]


@pytest.fixture(scope="module")
def parser():
    """The parser of merc fit and its like; what it parses is not run."""

    class Parser(MercCLI):
        def subcommands(self):
            return LightningCLI.subcommands()  # of all, not only of the given one

        def instantiate_classes(self):
            pass

        def after_instantiate_classes(self):
            pass

        def _run_subcommand(self, subcommand):
            pass

    return Parser(["fit", "--config", COMPLETE])


@pytest.fixture
def examples(monkeypatch):
    """The packages in ``examples/``, as if they were installed."""
    for source in ROOT.glob("examples/*/src"):
        monkeypatch.syspath_prepend(str(source))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder of its own for what a page writes."""
    monkeypatch.chdir(tmp_path)


# Of the same lines on fewer dialogues and epochs.
SHORTER = {"docs/python.md": {'"train": 100, "val": 30, "test": 30': '"train": 12, "val": 6, "test": 6', "=20,": "=2,"}}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python runnable")], ids=name)
def test_code_runs(page, runs):
    code = "\n".join(blocks(page, "python runnable"))
    for long, short in SHORTER.get(name(page), {}).items():
        assert code.count(long) == 1
        code = code.replace(long, short)
    exec(compile(code, name(page), "exec"), {"__name__": "docs"})


def test_the_whole_chain_is_short_and_leaves_its_report(runs):
    (code,) = blocks(ROOT / "docs/python.md", "python runnable")
    assert sum(1 for line in code.splitlines() if line.strip()) < 40
    assert "main(" not in code and "run_pipeline" not in code


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 30
    known = {
        "ablate",
        "annotate",
        "app",
        "compare",
        "configs",
        "diarize",
        "doctor",
        "ensemble",
        "export",
        "fit",
        "import",
        "predict",
        "run",
        "search",
        "test",
        "transcribe",
        "tsne",
    }
    assert {words[0] for _, words in COMMANDS} == known


@pytest.mark.parametrize("words", of("fit", "validate", "test", "predict"))
def test_commands_of_one_stage_parse(words, parser, examples, capsys, monkeypatch):
    if words[0] == "predict" and asks_a_model(words):
        asked = []
        monkeypatch.setattr(merc.models, "load", lambda *source, **options: asked.append(source) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(words)
        assert len(asked) == 1
    elif "--print_config" in words or "--model.help" in words:
        with pytest.raises(SystemExit) as end:
            parser.parser.parse_args(expand_configs(words))
        assert end.value.code == 0
    else:
        parser.parser.parse_args(expand_configs(words))


def options():
    """The options with a value that a page names in its text, with a config that has them."""
    configs = {
        "docs/distillation.md": ["systems/audio_student.yaml", DATA],
        "docs/graphs.md": ["systems/teacher.yaml", DATA],
        "docs/cmath.md": ["paper/cmath.yaml", DATA],
        "docs/joint.md": ["simulated/joint.yaml", DATA],
        "docs/lfvd.md": ["paper/lfvd.yaml", DATA],
    }
    for page in PAGES:
        for span in re.findall(r"`(--(?:model|data|trainer)\.[\w.]+ [^`\n]+)`", page.read_text(encoding="utf-8")):
            words = [PLACEHOLDERS.get(word, word) for word in shlex.split(span)]
            given = [word for config in configs.get(name(page), [COMPLETE]) for word in ("--config", config)]
            yield pytest.param(["fit", *given, *words], id=f"{name(page)}: {span}")


@pytest.mark.parametrize("words", list(options()))
def test_options_in_the_text_parse(words, parser, examples):
    parser.parser.parse_args(expand_configs(words))


@pytest.mark.parametrize("words", of("import", "doctor"))
def test_commands_of_data_parse(words, examples, capsys):
    with pytest.raises(SystemExit) as end:
        main([*words, "--print_config"])
    assert end.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", of("run"))
def test_commands_of_pipelines_parse(words, examples, monkeypatch):
    ran = []
    monkeypatch.setattr(merc.pipeline.run, "run_pipeline", lambda pipeline, **options: ran.append((pipeline, options)))
    assert main(words) == 0
    ((pipeline, options),) = ran
    stages = read_pipeline(pipeline).stages
    written = yaml.safe_dump([stage.options for stage in stages])
    for source in ("root", "corpus"):
        assert (f"{{{source}}}" in written) == (options[source] is not None)


@pytest.mark.parametrize("words", of("app"))
def test_commands_of_the_page_parse(words, runs, monkeypatch):
    served = []
    monkeypatch.setattr(merc.app, "serve", served.append)
    for folder in ("runs/video", "my-model"):
        Path(folder).mkdir(parents=True)
    assert main(words) == 0 and len(served) == 1


@pytest.mark.parametrize("words", of("ablate"))
def test_commands_of_ablations_parse(words, monkeypatch):
    ran = []
    monkeypatch.setattr(
        merc.pipeline.ablate, "run_ablations", lambda pipeline, **options: ran.append((pipeline, options))
    )
    assert main(words) == 0
    ((pipeline, options),) = ran
    assert all(map(find_config, pipeline)) and options["seeds"]
    for part in options["rows"]:
        assert list(parts_of(list(_shipped()), part))


@pytest.mark.parametrize("words", of("search"))
def test_commands_of_searches_parse(words, monkeypatch):
    ran = []
    monkeypatch.setattr(
        merc.pipeline.search, "run_search", lambda *what, **options: ran.append((*what, options)) or "report"
    )
    assert main(words) == 0
    ((pipeline, space, options),) = ran
    assert read_stack(pipeline) and read_space(space) and options["seeds"]


@pytest.mark.parametrize("words", of("ensemble"))
def test_commands_of_ensembles_parse(words, monkeypatch):
    asked = []

    def average(members, *, out):
        asked.append((members, out))
        raise FileNotFoundError("the systems are those of the reader")

    monkeypatch.setattr(merc.evaluation, "ensemble_systems", average)
    assert main(words) == 1 and len(asked) == 1


@pytest.mark.parametrize("words", of("compare"))
def test_commands_of_comparisons_parse(words, monkeypatch):
    asked = []

    def read(systems, **options):
        asked.append(systems)
        raise FileNotFoundError("the systems are those of the reader")

    monkeypatch.setattr(merc.evaluation, "read_value_systems", read)  # which is asked first
    assert main(words) == 1 and len(asked) == 1


@pytest.mark.parametrize("words", of("tsne"))
def test_commands_that_draw_parse(words, capsys):
    assert main(words) == 1  # the stores are those of the reader
    assert f"No feature store at {words[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("words", of("export"))
def test_commands_of_export_parse(words, monkeypatch):
    asked = []

    def export(*places, **options):
        asked.append(places)
        raise FileNotFoundError("the run is that of the reader")

    for name in ("export_run", "export_onnx"):
        monkeypatch.setattr(merc.models, name, export)
    assert main(words) == 1 and len(asked) == 1


@pytest.mark.parametrize("words", of("annotate"))
def test_commands_of_annotation_parse(words, monkeypatch):
    told = []
    nothing = Annotation([], MELD, [], {})
    monkeypatch.setattr(merc.annotation, "annotate", lambda *files, **options: told.append(options) or nothing)
    monkeypatch.setattr(merc.annotation, "annotate_many", lambda *files, **options: told.append(options) or [])
    monkeypatch.setattr(merc.speech, "WhisperTranscriber", lambda *given: None)
    assert main(words) == 0 and len(told) == 1


@pytest.mark.parametrize("words", of("transcribe"))
def test_commands_of_transcription_parse(words, monkeypatch):
    told = []

    class Told:
        def __init__(self, *given):
            told.append(given)

        def transcribe(self, video, progress):
            return merc.speech.Transcript([])

    monkeypatch.setattr(merc.speech, "WhisperTranscriber", Told)
    monkeypatch.setattr(merc.speech, "write_transcript", lambda transcript, out: told.append(out))
    assert main(words) == 0 and len(told) == 2


@pytest.mark.parametrize("words", of("diarize"))
def test_commands_of_diarization_parse(words, monkeypatch, runs):
    told = []
    nothing = Diarization(Path("talk.mp4"), 1.0, [], 0, "lipsync")
    monkeypatch.setattr(merc.annotation, "diarize", lambda *film, **options: told.append(options) or nothing)
    assert main(words) == 0 and len(told) == 1


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml pipeline")], ids=name)
def test_pipelines_of_the_pages_are_pipelines(page, tmp_path):
    for code in blocks(page, "yaml pipeline"):
        file = tmp_path / "pipeline.yaml"
        file.write_text(code)
        for stage in read_pipeline(file).stages:
            assert all(map(find_config, stage.configs)) if stage.kind.configs(stage) else True


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml config")], ids=name)
def test_configs_of_the_pages_make_their_objects(page, tmp_path):
    for code in blocks(page, "yaml config"):
        file = tmp_path / "config.yaml"
        file.write_text(code)
        cli = MercCLI(["--config", str(file)], run=False)
        assert len(cli.model.build(facts_of(dict.fromkeys(("text", "audio", "visual"), 48), 7)).classes) == 7


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_sections(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, section = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{name(page)} links to {target}, which does not exist"
        if section:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert section in anchors, f"{name(page)} links to {target}, a section that does not exist"


@pytest.mark.parametrize(
    ("paper", "tables", "figures"),
    [("The main system", 8, 4), ("TelME", 9, 7), ("LFVD", 6, 4), ("CMATH", 5, 7)],
)
def test_every_table_and_figure_of_the_papers_is_listed(paper, tables, figures):
    page = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {paper}.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)[0]
    for kind, number in (("Table", tables), ("Figure", figures)):
        listed = set()
        for found in re.findall(rf"{kind}s? ((?:\d+|,| and | to |[ \n])+)", section):
            first, *_ = numbers = [int(x) for x in re.findall(r"\d+", found)]
            listed |= set(range(first, numbers[-1] + 1)) if " to " in found else set(numbers)
        assert set(range(1, number + 1)) <= listed


def test_the_map_has_every_page():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "index.md":
            assert f"({page.name})" in index
