"""Systems head to head: against the slow paired bootstrap, scipy, and cases whose answer is known."""

import json
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from scipy import stats

from merc.cli import main
from merc.conversation import UtteranceKey
from merc.evaluation import (
    Predictions,
    PredictionsError,
    ReportInfo,
    System,
    compare_systems,
    holm,
    paired_bootstrap,
    read_systems,
    write_comparison,
    write_report,
)
from merc.labels import IEMOCAP4
from support.made_predictions import made_up, reordered


def system(name, accuracy, seeds=(0, 1, 2), **info):
    return System(name, [made_up(accuracy, 10 * seed + int(100 * accuracy)) for seed in seeds], list(seeds), info)


@pytest.fixture
def three():
    return {name: system(name, accuracy) for name, accuracy in (("a", 0.5), ("b", 0.6), ("c", 0.8))}


def test_a_pair_is_the_paired_bootstrap_of_its_runs(three):
    found = compare_systems(three, samples=2500, seed=3)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in found.pairs:
        difference, interval, p = paired_bootstrap(three[pair.a].runs, three[pair.b].runs, 2500, 3)
        assert pair.weighted_f1.difference == pytest.approx(100 * difference)
        assert pair.weighted_f1.interval == pytest.approx([100 * x for x in interval])
        assert pair.weighted_f1.p == pytest.approx(p)
    assert [p.weighted_f1.corrected for p in found.pairs] == pytest.approx(holm([p.weighted_f1.p for p in found.pairs]))


def test_the_tests_over_runs_are_those_of_scipy_on_runs_with_the_same_seed(three):
    shuffled = replace(three["b"], runs=three["b"].runs[::-1], seeds=[2, 1, 0])
    (pair,) = compare_systems({"a": three["a"], "b": shuffled}, samples=100).pairs
    a, b = ([run.metrics()["weighted_f1"] for run in three[name].runs] for name in "ab")
    assert pair.t_test.p == pytest.approx(stats.ttest_rel(b, a).pvalue)
    assert pair.wilcoxon.p == pytest.approx(stats.wilcoxon(b, a).pvalue)
    differences = [100 * (y - x) for x, y in zip(a, b, strict=True)]
    assert pair.effect == pytest.approx(statistics.fmean(differences) / statistics.stdev(differences))
    assert pair.runs == 3


def test_equal_systems_differ_in_nothing(three):
    (pair,) = compare_systems({"a": three["a"], "again": three["a"]}, samples=200).pairs
    assert pair.weighted_f1[:1] == (0.0,) and pair.weighted_f1.p == 1
    assert pair.t_test is pair.wilcoxon is pair.effect is None
    assert pair.only_a == pair.only_b == 0 and not pair.significant


def test_other_numbers_of_runs_are_drawn_apart_and_have_no_test_over_runs(three):
    two = replace(three["b"], runs=three["b"].runs[:2], seeds=[0, 1])
    found = compare_systems({"a": three["a"], "b": two}, samples=500)
    (pair,) = found.pairs
    means = [statistics.fmean(run.metrics()["weighted_f1"] for run in s.runs) for s in (three["a"], two)]
    assert pair.weighted_f1.difference == pytest.approx(100 * (means[1] - means[0]))
    assert pair.runs == 0 and pair.t_test is None
    assert any("3 runs and b 2" in note for note in found.notes)


def test_who_alone_is_right_is_counted(three):
    a, b = three["a"].runs[0], three["c"].runs[0]
    (pair,) = compare_systems({"a": [a], "c": [b]}, samples=50).pairs
    rows = [(x, y, g) for x, y, g in zip(a.predicted, b.predicted, a.gold, strict=True) if g >= 0]
    assert pair.only_a == pytest.approx(100 * sum(x == g != y for x, y, g in rows) / len(rows))
    assert pair.only_b == pytest.approx(100 * sum(y == g != x for x, y, g in rows) / len(rows))


def test_too_few_samples_for_the_pairs_are_said(three):
    few, enough = (compare_systems(three, samples=samples) for samples in (150, 400))
    assert "With 150 samples and 3 pairs, the smallest corrected p-value is 0.040: take more samples." in few.notes
    assert not any("take more samples" in note for note in enough.notes)
    assert min(pair.weighted_f1.corrected for pair in few.pairs) == pytest.approx(6 / 151)


def test_the_visible_difference_is_found_with_the_power_it_promises():
    """Differences of as many standard errors as the statement says have p < 0.05 in four of five samples."""
    (pair,) = compare_systems({"a": [made_up(0.5, 1, 200)], "b": [made_up(0.7, 2, 200)]}, samples=4000).pairs
    low, high = pair.weighted_f1.interval
    error = (high - low) / (2 * 1.96)
    found = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) + pair.detectable / error
    assert (found.abs() > 1.96).float().mean().item() == pytest.approx(0.8, abs=0.05)


def dialogue(name, said):
    """Keys, lines and gold of one dialogue from (speaker, emotion) pairs."""
    keys = [UtteranceKey("test", name, str(i)) for i in range(len(said))]
    return keys, [(speaker, "") for speaker, _ in said], [gold for _, gold in said]


def test_groups_are_those_of_the_definition():
    parts = [
        dialogue("0", [("A", 0), ("B", 1), ("A", 0), ("B", -100), ("B", 2), ("A", 3)]),
        dialogue("1", [("A", 0)]),
        dialogue("2", [("A", 1), ("A", 1), ("B", 1)]),
        dialogue("3", [("A", 1), ("A", 0)]),
    ]
    keys, lines, gold = ([x for part in parts for x in part[i]] for i in range(3))
    gold = torch.tensor(gold)
    right = torch.eye(4)[gold.clamp(min=0)]
    predictions = Predictions(IEMOCAP4, keys, gold, right, lines=lines)
    wrong = replace(predictions, probabilities=right.roll(1, 1))
    found = compare_systems({"right": [predictions], "wrong": [wrong]}, samples=20)
    masks = {group.name: group.mask.nonzero().flatten().tolist() for group in found.groups}
    assert masks == {
        "up to 1 utterances": [6],
        "2 to 3": [7, 8, 9, 10, 11],
        "more than 3": [0, 1, 2, 4, 5],
        "emotion shifts": [4, 5, 11],
        "emotion stays": [2, 8],
    }
    assert [list(s.groups.values()) for s in found.systems] == [[[100.0]] * 5, [[0.0]] * 5]
    assert {d.difference for d in found.pairs[0].groups.values()} == {-100.0}


def test_what_cannot_be_compared_is_refused(three):
    with pytest.raises(ValueError, match="1 systems"):
        compare_systems({"a": three["a"]})
    with pytest.raises(PredictionsError, match="split: 'test' and 'val'"):
        compare_systems({"a": system("a", 0.5, split="test"), "b": system("b", 0.5, split="val")})
    other = replace(three["b"].runs[0], gold=three["b"].runs[0].gold.roll(1))
    with pytest.raises(PredictionsError, match="b cannot be compared with the others: Gold labels differ"):
        compare_systems({"a": three["a"], "b": [other]})
    fewer = reordered(three["b"].runs[0], list(range(20)))
    with pytest.raises(PredictionsError, match="expected the same utterances"):
        compare_systems({"a": three["a"], "b": [fewer]})


def test_order_of_utterances_does_not_matter(three):
    back = replace(three["b"], runs=[reordered(run, list(range(len(run.keys)))[::-1]) for run in three["b"].runs])
    straight, turned = (compare_systems({"a": three["a"], "b": b}, samples=300) for b in (three["b"], back))
    assert straight.pairs == turned.pairs


class Checked(HTMLParser):
    """Collects tags and text, and everything that a page would load."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.tags, self.text, self.open = [], [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for n, v in attrs if n in ("src", "href", "xlink:href") and v and not v.startswith("#")]

    def handle_data(self, data):
        self.text += data


def test_the_files_say_the_same_and_the_page_loads_nothing(three, tmp_path):
    three = {"a & <b>": three["a"], "b_2": three["b"], "c": three["c"]}
    found = compare_systems(three, samples=200)
    file = write_comparison(found, tmp_path)
    page = Checked(file.read_text(encoding="utf-8"))
    assert page.loads == [] and page.tags.count("svg") == 4 and page.tags.count("table") == 4
    markdown, latex = ((tmp_path / f"compare.{kind}").read_text(encoding="utf-8") for kind in ("md", "tex"))
    plain = json.loads((tmp_path / "compare.json").read_text())
    for pair, values in zip(found.pairs, plain["pairs"], strict=True):
        number = f"{pair.weighted_f1.difference:+.2f}"
        assert number in page.text and number in markdown and number in latex
        assert values["weighted_f1"]["difference"] == pytest.approx(pair.weighted_f1.difference)
    assert found.power_statement() in page.text and found.power_statement() in markdown
    assert "a & <b>" in page.text and r"a \& $<$b>" in latex and r"b\_2" in latex
    tables = re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end\{tabular\}", latex, re.DOTALL)
    for columns, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
    assert len(tables) == 3


# Reading systems


def write(folder, predictions, seed, name="system", split="test"):
    write_report(
        folder / "report",
        labels=predictions.labels,
        keys=predictions.keys,
        gold=predictions.gold,
        probabilities=predictions.probabilities,
        present=predictions.present,
        info=ReportInfo(corpus="made up", split=split, seed=seed, model=name),
        lines=[("A", "")] * len(predictions.keys),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as merc run leaves it: two stages, three seeds."""
    out = tmp_path_factory.mktemp("runs") / "first"
    for seed in (0, 1, 10):
        write(out / f"seed-{seed}" / "teacher", made_up(0.5, seed), seed)
        write(out / f"seed-{seed}" / "fusion", made_up(0.7, seed), seed)
    write(out / "seed-0" / "fusion.previous", made_up(0.3, 0), 0)  # set aside when its options changed
    return out


def test_folders_become_systems_over_seeds(run):
    every = read_systems([run])
    assert {name: s.seeds for name, s in every.items()} == {"fusion": [0, 1, 10], "teacher": [0, 1, 10]}
    assert every["fusion"].info["split"] == "test"
    assert list(read_systems([run], stages=["teacher"])) == ["teacher"]
    assert list(read_systems([run / "teacher", f"ours={run / 'fusion'}"])) == ["teacher", "ours"]
    singles = read_systems(
        [run / "seed-0" / "teacher", run / "seed-1" / "teacher", run / "seed-0" / "fusion" / "report"]
    )
    assert {name: s.seeds for name, s in singles.items()} == {"teacher": [0, 1], "fusion": [0]}
    table = run / "seed-1" / "fusion" / "report" / "predictions.csv"
    assert list(read_systems([f"x={table}", f"x={run / 'seed-0' / 'fusion'}"])["x"].seeds) == [1, 0]
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder"):
        read_systems([run / "nowhere"])
    with pytest.raises(FileNotFoundError, match="of the stages student"):
        read_systems([run], stages=["student"])
    with pytest.raises(ValueError, match="given twice"):
        read_systems([run, run / "seed-0" / "teacher"])


def test_the_command_prints_and_writes(run, tmp_path, capsys):
    assert main(["compare", str(run), "--out", str(tmp_path), "--samples", "100"]) == 0
    printed = capsys.readouterr().out
    assert "teacher - fusion" in printed and "40 dialogues and 3 runs per system can show" in printed
    assert (tmp_path / "compare.html").is_file()
    assert main(["compare", str(run / "teacher")]) == 1
    assert capsys.readouterr().err.startswith("merc compare: Got 1 systems")


NAMES = {0: "happy", 1: "sad", 2: "neutral", 3: "angry"}


def other_rows(predictions, gold=True):
    """The predictions as other code might write them, as dicts."""
    for key, label, guess in zip(
        predictions.keys, predictions.gold.tolist(), predictions.predicted.tolist(), strict=True
    ):
        row = {"Dialogue_ID": key.dialogue, "Utterance_ID": key.utterance, "pred": NAMES[guess].title()}
        if gold:
            row["label"] = NAMES.get(label, "")
        yield row


def csv_of(rows, sep=","):
    rows = list(rows)
    return "\n".join([sep.join(rows[0]), *(sep.join(map(str, row.values())) for row in rows)])


def as_ids(rows):
    return [{"id": f"dia{r['Dialogue_ID']}_utt{r['Utterance_ID']}.mp4", "y_pred": r["pred"]} for r in rows]


def as_numbers(rows):
    """With another order of emotions than merc's, which only the gold labels show."""
    numbers = {"": "", "angry": 0, "happy": 1, "neutral": 2, "sad": 3}
    return [{**r, "pred": numbers[r["pred"].lower()], "label": numbers[r["label"]]} for r in rows]


FORMATS = {
    "csv": ("x.csv", lambda rows: csv_of(rows)),
    "without gold, semicolons": ("x.csv", lambda rows: csv_of(({k: r[k] for k in list(r)[:3]} for r in rows), ";")),
    "shuffled": ("x.csv", lambda rows: csv_of(list(rows)[::-1])),
    "ids, list": ("x.json", lambda rows: json.dumps(as_ids(rows))),
    "ids, object": ("x.json", lambda rows: json.dumps({r["id"]: r["y_pred"] for r in as_ids(rows)})),
    "columns": ("x.json", lambda rows: json.dumps({k: [r[k] for r in rows] for k in ("pred", "label")})),
    "one key": ("x.json", lambda rows: json.dumps({"results": list(rows)})),
    "lines": ("x.jsonl", lambda rows: "\n".join(map(json.dumps, rows))),
    "numbers": ("x.csv", lambda rows: csv_of(as_numbers(rows))),
    "numbers in order": (
        "x.json",
        lambda rows: json.dumps([{k: r[k] for k in ("pred", "label")} for r in as_numbers(rows)]),
    ),
    "other splits too": (
        "x.csv",
        lambda rows: csv_of(
            [{**r, "split": "test"} for r in rows] + [{**r, "split": "dev", "pred": "sad"} for r in rows]
        ),
    ),
}


@pytest.mark.parametrize("form", FORMATS)
def test_predictions_of_other_code_are_read(form, run, tmp_path):
    name, written = FORMATS[form]
    theirs = made_up(0.6, 77)
    (tmp_path / name).write_text(written(list(other_rows(theirs))), encoding="utf-8")
    found = read_systems([run / "fusion", f"theirs={tmp_path / name}"])["theirs"]
    assert not found.probabilities
    names = [found.runs[0].labels.names[c] for c in found.runs[0].predicted.tolist()]
    assert names == [NAMES[c] for c in theirs.predicted.tolist()]
    assert [UtteranceKey(*key) for key in found.runs[0].keys] == [UtteranceKey(*key) for key in theirs.keys]


def test_seeds_and_probabilities_of_other_code(run, tmp_path):
    runs = {seed: made_up(0.6, 50 + seed) for seed in (4, 5)}
    rows = [
        {"seed": seed, "id": f"{k.dialogue}/{k.utterance}", **{f"prob_{NAMES[c]}": v for c, v in enumerate(p)}}
        for seed, one in runs.items()
        for k, p in zip(one.keys, one.probabilities.tolist(), strict=True)
    ]
    (tmp_path / "theirs.csv").write_text(csv_of(rows))
    found = read_systems([run / "fusion", tmp_path / "theirs.csv"])["theirs"]
    assert found.seeds == [4, 5] and found.probabilities
    for predictions, expected in zip(found.runs, runs.values(), strict=True):
        order = [expected.labels.names.index(name) for name in predictions.labels.names]
        assert torch.allclose(predictions.probabilities, expected.probabilities[:, order])


def test_other_code_alone(tmp_path):
    for name, accuracy in (("a", 0.5), ("b", 0.7)):
        (tmp_path / f"{name}.csv").write_text(csv_of(other_rows(made_up(accuracy, 3))))
    found = compare_systems(read_systems([tmp_path / "a.csv", tmp_path / "b.csv"]), samples=50)
    assert found.classes == ("angry", "happy", "neutral", "sad")
    expected = [100 * made_up(accuracy, 3).metrics()["weighted_f1"] for accuracy in (0.5, 0.7)]
    assert [s.weighted_f1[0] for s in found.systems] == pytest.approx(expected)


def without(rows, column):
    return [{k: v for k, v in row.items() if k != column} for row in rows]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1:], "1 of .* are missing"),
        (lambda rows: [*rows, {**rows[0], "Utterance_ID": "99"}], "1 are unknown .first: '0/99'"),
        (lambda rows: [*rows, rows[0]], "predicts test/0/0 twice"),
        (lambda rows: [{**rows[0], "pred": "bored"}, *rows[1:]], "Unknown label 'bored'"),
        (lambda rows: [{**r, "label": "sad" if r["label"] == "happy" else r["label"]} for r in rows], "gold labels of"),
        (lambda rows: without(rows, "pred"), "expected one named predicted"),
        (lambda rows: without(without(rows, "Dialogue_ID"), "label"), "does not say which utterance"),
        (lambda rows: without(rows, "Utterance_ID")[::-1], "gold labels are not those"),
        (lambda rows: [{**r, "pred": "7"} for r in rows], "by the number 7, whose meaning"),
    ],
)
def test_predictions_that_do_not_match_are_refused(change, said, run, tmp_path):
    (tmp_path / "x.csv").write_text(csv_of(change(list(other_rows(made_up(0.6, 77))))))
    with pytest.raises(PredictionsError, match=said):
        read_systems([run / "fusion", tmp_path / "x.csv"])


def test_numbers_mean_what_the_option_says(run, tmp_path):
    rows = without(as_numbers(list(other_rows(made_up(0.6, 77)))), "label")
    (tmp_path / "x.csv").write_text(csv_of(rows))
    found = read_systems([run / "fusion", tmp_path / "x.csv"], labels=["angry", "happy", "neutral", "sad"])["x"]
    assert [found.runs[0].labels.names[c] for c in found.runs[0].predicted.tolist()] == [
        NAMES[c] for c in made_up(0.6, 77).predicted.tolist()
    ]
