"""``merc ablate``: shipped rows fit their pipelines, idle rows are refused, nothing is trained twice."""

import json
import re
import shutil
import statistics

import pytest
import yaml

from merc.cli import main
from merc.configs.lookup import shipped_configs
from merc.evaluation import paired_bootstrap, read_predictions
from merc.pipeline.ablate import _chains, _choose, _Planner, _shipped, run_ablations
from merc.pipeline.lightning import quiet_lightning
from merc.pipeline.plan import FinishedRun, plan
from merc.pipeline.read import read_stack
from merc.pipeline.stage import PipelineError
from merc.tasks.base import EmotionTask
from support.small_pipeline import fitted, write_pipeline

PAPERS = {
    "merc.fusion.HierarchicalFusion": ("arXiv 2511.13731", {"meld": 67.8, "iemocap": 72.4}, {"table3": 7, "table5": 4}),
    "merc.fusion.TelMEFusion": ("arXiv 2401.12987", {"meld": 67.37, "iemocap": 70.48}, {"table3": 3, "table4": 5}),
    "merc.fusion.LFVDFusion": (
        "Zhu and Jiang 2025",
        {"meld": 67.03, "iemocap": 72.75},
        {"figure2": 3, "table4": 6, "table5": 8, "table6": 4},
    ),
    "merc.fusion.CMATHFusion": ("arXiv 2411.10060", {"meld": 66.93, "iemocap": 73.96}, {"table4": 5, "table5": 6}),
}
MELD, IEMOCAP = "corpora/meld_sdt.yaml", "corpora/iemocap_sdt.yaml"
QUICK = [["demo/simulated.yaml"], ["meld/hierarchical.yaml"]]
LONG = [["demo/video.yaml"], ["iemocap/hierarchical.yaml"], ["meld/telme.yaml"], ["iemocap/telme.yaml"]]
LONG += [["meld/telme_published.yaml"]]
LONG += [[f"paper/{name}.yaml", MELD] for name in ("lfvd", "cmath")]
LONG += [[f"paper/{name}.yaml", f"paper/{name}_iemocap.yaml", IEMOCAP] for name in ("lfvd", "cmath")]


def test_every_row_is_of_a_table_and_says_what_the_paper_says():
    rows = _shipped()
    for system, (paper, full, tables) in PAPERS.items():
        own = {name: row for name, row in rows.items() if row.system == system}
        found = [name.split("/")[1] for name in own]
        assert {table: found.count(table) for table in found} == tables
        for name, row in own.items():
            assert row.paper == paper and row.table == name.split("/")[1].replace("table", "Table ").replace(
                "figure", "Figure "
            )
            drawn = row.table.startswith("Figure")  # bars without numbers
            assert {corpus: number.full for corpus, number in row.reported.items()} == ({} if drawn else full)
            assert all(number.difference < 0 for number in row.reported.values())
        assert len({row.title for row in own.values()}) >= len(own) - 1  # of LFVD, L_distillation is in two tables
    assert {row.system for row in rows.values()} == PAPERS.keys()
    gating = rows["hierarchical/table3/gating"].reported
    assert (gating["meld"].difference, gating["iemocap"].difference) == (-1.0, -0.7)


def test_rows_are_no_configs():
    assert not any("ablations" in name for name in shipped_configs())


@pytest.mark.parametrize(
    "pipeline", [*QUICK, *(pytest.param(names, marks=pytest.mark.slow) for names in LONG)], ids=" ".join
)
def test_shipped_rows_are_accepted(pipeline, tmp_path):
    full = read_stack(pipeline)
    out = tmp_path / "out"  # below the root, whose files it is not
    runs = list(plan(full, out / "full", {"root": str(tmp_path)}, [0], results=out))
    planner = _Planner(full, runs, out, {"root": str(tmp_path)}, [0], ["--trainer.accelerator=cpu"], [])
    with quiet_lightning(quiet=True):
        rows = planner.plan_all(_choose([], planner.system))
    assert len(rows) == sum(PAPERS[planner.system][2].values())
    for row in rows:
        assert row.effect or row.ablation.stage
        assert all(run.folder.is_relative_to(out / "rows") for run in row.own)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def place(tmp_path, monkeypatch, interrupt):
    """A folder with the pipeline and its configs."""
    monkeypatch.chdir(tmp_path)
    write_pipeline(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    """Plans rows of the pipeline; one for all tests, since it parses a stage once."""
    folder = tmp_path_factory.mktemp("planned")
    write_pipeline(folder)
    full = read_stack([str(folder / "pipeline.yaml")])
    runs = list(plan(full, folder / "out/full", {}, [0]))
    return _Planner(full, runs, folder / "out", {}, [0], [], [])


def write_row(folder, name="row", **content):
    """The file of a row."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"title": name, **content}))
    return str(file)


CHANGED = {"changes": {"fusion": {"model.head.gating": False}}}
REFUSED = {
    "of nothing": ({}, "it changes nothing that leads to fusion"),
    "of a stage that is not there": (
        {"changes": {"visual_student": {"model.loss.alpha": 1.0}}},
        "it changes the stage 'visual_student', and the pipeline has data, teacher, audio_student, aside, fusion",
    ),
    "of an option that is not there": (
        {"changes": {"fusion": {"model.head.gatling": False}}},
        r"(?s)bad: fusion, .*gatling",
    ),
    "of an option of an import that is not there": (
        {"changes": {"data": {"label_nose": 0.1}}},
        "(?s)bad: Stage 'data', import: .*label_nose.*Accepted: .*Did you mean label_noise",
    ),
    "of what stands there": (
        {"changes": {"fusion": {"model.head.gating": True}}},
        "fusion has model.head.gating true without it",
    ),
    "of one thing that counts and one that stands there": (
        {"changes": {"fusion": {"model.head.gating": False, "model.head.layers": 1}}},
        "fusion has model.head.layers 1 without it",
    ),
    "of how it is trained": (
        {"changes": {"fusion": {"model.optimizer.lr": 0.1, "trainer.max_epochs": 1}}},
        "model.optimizer.lr, trainer.max_epochs of fusion changes neither .* only how it is trained",
    ),
    "of what is read nowhere": (  # a weight of a term that the head does not have
        {"changes": {"fusion": {"model.head_weights": {"nowhere": 2.0}}}},
        r"model.head_weights of fusion changes neither parameters nor loss nor data\n",
    ),
    "of a stage that leads nowhere": (
        {"changes": {"aside": {"model.network.num_layers": 2}}},
        "it changes aside, which does not lead to fusion",
    ),
    "of a stage that is not tested": (
        {"stage": "aside"},
        "the stage 'aside' is not tested in this pipeline: expected one of teacher",
    ),
    "of the stage that the full model is judged by": ({"stage": "fusion"}, "it changes nothing that leads to fusion"),
    "of another system": (
        {"system": "merc.fusion.LFVDFusion", **CHANGED},
        "it is an ablation of merc.fusion.LFVDFusion, and the pipeline trains merc.fusion.HierarchicalFusion",
    ),
    "of a modality that is not there": (
        {"modalities": {"fusion": ["text", "visual"]}},
        "fusion has no visual: its head reads text, audio",
    ),
    "of no modality": (
        {"modalities": {"fusion": ["text", "audio"]}},
        "fusion reads text, audio without it",
    ),
    "with a reference forward": (
        {"changes": {"teacher": {"data.stores": {"text": "{fusion}/hidden"}}}},
        r"'teacher' refers to \{fusion\}",
    ),
    "with a misspelt key": ({"change": {}}, "is not a row of ablations"),
    "with a score in words": ({**CHANGED, "reported": {"meld": {"row": "low", "full": 1.0}}}, "is not a row"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_rows_that_show_nothing_are_refused(what, planner, tmp_path):
    content, message = REFUSED[what]
    with pytest.raises(PipelineError, match=message) as refused, quiet_lightning(quiet=True):
        files = write_row(tmp_path, "good", **CHANGED), write_row(tmp_path, "bad", **content)
        planner.plan_all(_choose(files, planner.system))
    if "is not a row" not in message:
        assert "1 of 2 rows cannot be run.\n  bad: " in str(refused.value)
        assert str(refused.value).endswith("by --rows: good")


def test_nothing_runs_if_a_row_is_refused(place, monkeypatch, capsys):
    rows = [write_row(place, "good", **CHANGED), write_row(place, "bad")]
    assert main(["ablate", "pipeline.yaml", "--out", "out", "--rows", *rows]) == 1
    assert capsys.readouterr().err.startswith("merc ablate: 1 of 2 rows cannot be run.\n  bad: it changes nothing")
    assert not (place / "out").exists()


# The whole of it

ROWS = {
    "gating": {**CHANGED, "paper": "a paper", "table": "Table 1", "reported": {"meld": {"row": 60.0, "full": 61.5}}},
    "distillation": {"changes": {"audio_student": {"model.loss.alpha": 1.0}}},
    "audio": {"stage": "audio_student", "reported": {"iemocap": {"row": 50.25, "full": 72.4}}},
}
COMMAND = ["ablate", "pipeline.yaml", "--out", "out", "--rows", "rows", "--seeds", "2"]
OF_FULL = [f"full/seed-{seed}/{name}" for seed in (0, 1) for name in ("teacher", "audio_student", "aside", "fusion")]
OF_ROWS = [
    *(f"distillation/seed-{seed}/{name}" for seed in (0, 1) for name in ("audio_student", "fusion")),
    *(f"gating/seed-{seed}/fusion" for seed in (0, 1)),
]


@pytest.fixture
def done(place, monkeypatch, ran):
    """All rows finished, in a folder of its own."""
    write_rows(place)
    shutil.copytree(ran[0], place / "out")
    for file in ("pipeline.yaml", *(f"{name}.yaml" for name in ("teacher", "audio_student", "fusion"))):
        shutil.copy(ran[0].parent / file, place / file)
    return place / "out"


def write_rows(folder):
    (folder / "rows").mkdir()
    for name, content in ROWS.items():
        write_row(folder / "rows", name, **content)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder that the command leaves, and what was trained: for one seed and two rows, and then for all."""
    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_pipeline(folder)
        write_rows(folder)
        trained = fitted(patch)
        assert main([*COMMAND[:5], "rows/distillation.yaml", "rows/audio.yaml"]) == 0
        fewer = list(trained)
        assert main(COMMAND) == 0
    return folder / "out", fewer, trained[len(fewer) :]


def lines_of(out):
    return {(line["name"], line["stage"]): line for line in json.loads((out / "ablation.json").read_text())["rows"]}


def test_a_row_trains_what_it_changes_and_what_builds_on_it(ran):
    out, fewer, more = ran
    assert fewer == [*OF_FULL[:4], *(f"distillation/seed-0/{name}" for name in ("audio_student", "fusion"))]
    # Of more seeds and rows only the new ones are trained.
    assert more == [name for name in OF_FULL + OF_ROWS if name not in fewer]
    assert FinishedRun.load(out / "full").seeds == (0, 1)
    assert sorted(path.name for path in (out / "rows").iterdir()) == ["distillation", "gating"]


def test_differences_are_those_of_the_reports(ran):
    out = ran[0]
    lines = lines_of(out)

    def of(folder, name):
        reports = [out / folder / f"seed-{seed}" / name / "report" for seed in (0, 1)]
        return [100 * json.loads((r / "metrics.json").read_text())["weighted_f1"] for r in reports], [
            read_predictions(r) for r in reports
        ]

    full, predictions = of("full", "fusion")
    for name, folder, of_row in (
        ("gating", "rows/gating", "fusion"),
        ("distillation", "rows/distillation", "fusion"),
        ("audio", "full", "audio_student"),
    ):
        line, (row, of_this) = lines[name, of_row], of(folder, of_row)
        assert line["against"] == "fusion"
        assert line["weighted_f1"] == pytest.approx(row)
        assert line["difference"] == pytest.approx(statistics.fmean(row) - statistics.fmean(full))
        expected = paired_bootstrap(predictions, of_this)
        assert line["interval"] == pytest.approx([100 * bound for bound in expected.interval])
        assert line["p"] == expected.p
    assert lines["gating", "fusion"]["effect"] == {"fusion": "parameters"}
    assert lines["distillation", "fusion"]["effect"] == {"audio_student": "loss"}


def test_the_same_command_again_trains_nothing_and_its_table_fits_an_ordinary_terminal(done, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    before, trained = lines_of(done), fitted(monkeypatch)
    assert main(COMMAND) == 0
    assert trained == [] and lines_of(done) == before
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    for line in lines_of(done).values():
        scores, (low, high) = line["weighted_f1"], line["interval"]
        spread = f"{statistics.fmean(scores):.2f} ± {statistics.stdev(scores):.2f}"
        for number in (spread, f"{line['difference']:+.2f}", f"{low:+.2f}, {high:+.2f}", f"{line['p']:.4f}"):
            assert number in printed  # in one piece
        assert all(word in printed for word in line["title"].split())


def test_the_table_says_where_a_paper_has_no_number(ran):
    out = ran[0]
    header, _, first, *rows = [line for line in (out / "report.md").read_text().splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in header.split("|")]
    cells = [dict(zip(names, map(str.strip, row.split("|")), strict=True)) for row in rows]
    assert [(c["Paper: MELD"], c["Paper: IEMOCAP"]) for c in cells] == [
        ("no number", "-22.15"),
        ("no number", "no number"),
        ("-1.50", "no number"),
    ]
    of_full = dict(zip(names, map(str.strip, first.split("|")), strict=True))
    assert of_full["Paper: MELD"] == "61.50" and of_full["Paper: IEMOCAP"] == "72.40"
    assert cells[0]["Source"] == "" and cells[2]["Source"] == "a paper, Table 1"
    assert cells[2]["Changes"] == "parameters of fusion"
    assert "audio: audio_student" in rows[0]


@pytest.mark.slow
def test_several_processes_come_to_the_same_numbers(done):
    whole = lines_of(done)
    shutil.rmtree(done / "full/seed-1/fusion")
    shutil.rmtree(done / "rows")
    assert main([*COMMAND, "--jobs", "2"]) == 0
    assert lines_of(done) == whole
    assert not (done / "full/seed-0/log.txt").exists()
    for log in ("full/seed-1/log.txt", "rows/distillation/seed-0/log.txt"):
        assert "fusion, seed" in (done / log).read_text()


def test_rows_that_share_stages_are_not_trained_at_once(planner, tmp_path):
    def row(name, **changes):
        return write_row(tmp_path, name, changes=changes)

    apart, alone = {"model.loss.alpha": 1.0}, {"model.head.gating": False}
    files = [row("first", audio_student=apart), row("other", fusion=alone)]
    files += [row("both", audio_student=apart, fusion=alone)]
    with quiet_lightning(quiet=True):
        chains = _chains(planner.plan_all(_choose(files, planner.system)), [0])
    assert {name: [run.stage.name for run in runs] for name, runs in chains.items()} == {
        "other, seed 0": ["fusion"],
        "first, seed 0 and both, seed 0": ["audio_student", "fusion", "fusion"],
    }


def test_other_stages_are_compared_where_a_row_reaches_them(done, monkeypatch):
    trained = fitted(monkeypatch)
    assert main([*COMMAND, "--stages", "audio_student", "fusion"]) == 0
    assert trained == []
    assert sorted(lines_of(done)) == [
        ("audio", "audio_student"),
        ("distillation", "audio_student"),
        ("distillation", "fusion"),
        ("gating", "fusion"),
    ]
    assert "distillation: audio_student" in (done / "report.md").read_text()
    assert "distillation: audio\\_student &" in (done / "report.tex").read_text()
    # What a paper reports is of its fusion.
    assert lines_of(done)["gating", "fusion"]["reported"]["meld"] == {"row": 60.0, "full": 61.5, "difference": -1.5}
    assert lines_of(done)["distillation", "audio_student"]["reported"] == {}


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_finishes(done, monkeypatch, capsys):
    whole = lines_of(done)
    shutil.rmtree(done / "rows")
    (done / "ablation.json").unlink()

    def cut(self, *args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EmotionTask, "training_step", cut)
        assert main(COMMAND) == 130
    assert "The same command goes on from here." in capsys.readouterr().err
    assert not (done / "ablation.json").exists()
    trained = fitted(monkeypatch)
    assert main(COMMAND) == 0
    assert trained == OF_ROWS and lines_of(done) == whole


def test_a_config_of_one_stage_is_a_full_model(done, monkeypatch):
    config = yaml.safe_load((done.parent / "fusion.yaml").read_text())
    stores = {"text": "full/seed-0/teacher/hidden", "audio": "full/seed-0/audio_student/hidden"}
    config["data"]["init_args"] |= {
        "corpus": str(done / "full/data/corpus.json"),
        "stores": {name: str(done / path) for name, path in stores.items()},
    }
    (done.parent / "one.yaml").write_text(yaml.safe_dump(config))
    row = write_row(done.parent, "text_alone", modalities={"fusion": ["text"]})
    trained = fitted(monkeypatch)
    report = run_ablations("one.yaml", out="one", rows=[row])
    assert trained == ["full/seed-0/fusion", "text_alone/seed-0/fusion"]
    assert "| text_alone |" in report.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "nowhere"], "No rows 'nowhere': expected a file, .* hierarchical/table3/gating"),
        (["--label_nose", "0.3"], "Option 'label_nose' is not accepted"),
        (["--stages", "aside"], "the stage 'aside' is not tested"),
        (["--stages", "nowhere"], "the stage 'nowhere' is not tested"),
        (["--root", "nowhere", "--rows", "lfvd/table5"], "it is an ablation of merc.fusion.LFVDFusion"),
    ],
)
def test_what_users_get_wrong(words, message, place, capsys):
    assert main(["ablate", "pipeline.yaml", "--out", "out", *words]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (place / "out").exists()
