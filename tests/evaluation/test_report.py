"""The report of a test: what it says, what it refuses, and that a failure leaves the earlier one alone."""

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.conversation import UtteranceKey
from merc.evaluation import (
    Opening,
    Predictions,
    PredictionsError,
    ReportInfo,
    StoreInfo,
    fit_temperature,
    read_predictions,
    write_report,
)
from merc.labels import IEMOCAP4, MELD, LabelSet
from support.made_predictions import honest

KEYS = [UtteranceKey("test", str(d), str(u)) for d in range(2) for u in range(4)]
GOLD = torch.tensor([0, 1, 2, -100, 3, 3, 0, 1])
PREDICTED = torch.tensor([0, 1, 1, 2, 3, 0, 0, 1])
PROBABILITIES = torch.nn.functional.one_hot(PREDICTED, 4) * 0.6 + 0.1
PRESENT = {"text": torch.ones(8, dtype=torch.bool), "audio": torch.arange(8) == 3}
INFO = ReportInfo(
    corpus="iemocap",
    split="test",
    protocol="session 5, four classes by excited-as-happy",
    notes=["One clip is missing."],
    seed=7,
    model="HierarchicalFusion of text and audio",
    checkpoint="fusion/best.ckpt",
    selected_on="best weighted F1 on val, epoch 12",
    stores={"text": StoreInfo("features/text", {"encoder": "MiniLM", "labels": None})},
    missing={"audio": {KEYS[0]: "clip is broken"}},
)
FILES = {"metrics.json", "predictions.csv", "confusion.png", "report.md", "uncertainty.png"}


def write(folder, **changes):
    arguments = {"labels": IEMOCAP4, "keys": KEYS, "gold": GOLD, "probabilities": PROBABILITIES, "present": PRESENT}
    return write_report(folder, **{**arguments, "info": INFO, **changes})


def test_metrics_count_labelled_utterances_only(tmp_path):
    metrics = write(tmp_path)
    assert metrics["utterances"] == 8
    assert metrics["scored"] == 7
    assert metrics["accuracy"] == pytest.approx(5 / 7)
    # By hand: happy 4/5, sad 4/5, neutral 0, angry 2/3; supports 2, 2, 1, 2.
    assert metrics["weighted_f1"] == pytest.approx((2 * 0.8 + 2 * 0.8 + 0 + 2 * 2 / 3) / 7)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 0.8 + 2 / 3) / 4)
    assert metrics["f1/angry"] == pytest.approx(2 / 3)
    assert metrics["support/neutral"] == 1
    assert metrics["missing"] == {"text": 0, "audio": 7}
    assert metrics["info"]["missing"] == {"audio": {"clip is broken": 1}}
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_chosen_on_val_is_in_the_report(tmp_path):
    val, test = honest(0, 600, temperature=0.5), honest(1, 600, temperature=0.5)
    openings = [Opening("iemocap/test", "a", 0), Opening("iemocap/test", "b", 0), Opening("iemocap/test", "b", 0)]
    lost = {("without", "audio", 0.5): (test.predicted + 1) % 4, ("without", "audio", 1.0): test.predicted}
    noisy = {("noise", "text", 2.0): test.predicted}
    given = {"keys": test.keys, "gold": test.gold, "probabilities": test.probabilities, "present": {}}
    metrics = write(tmp_path, **given, val=val, stressed=lost | noisy, openings=openings, opening=openings[1])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"predictions_val.csv"}
    kept = read_predictions(tmp_path / "predictions_val.csv", IEMOCAP4)
    assert kept.metrics() == val.metrics() and metrics["val"]["weighted_f1"] == val.metrics()["weighted_f1"]
    found = metrics["uncertainty"]
    assert found["temperature"] == fit_temperature(val) and 1.5 < found["temperature"] < 2.5
    assert found["calibration"]["ece"] > 2 * found["calibration_after"]["ece"]
    assert [one["nominal"] for one in found["conformal"]] == [0.8, 0.9]
    weighted = test.metrics()["weighted_f1"]
    assert metrics["without"]["audio"] == {"0": weighted, "0.5": pytest.approx(0.2, abs=0.2), "1": weighted}
    assert metrics["noise"] == {"text": {"0": weighted, "2": weighted}}
    page = (tmp_path / "report.md").read_text()
    for part in (
        f"- Validation: weighted F1 {100 * val.metrics()['weighted_f1']:.2f} % on val",
        "- Ledger: test was read 3 times in this run, with 2 configurations; this configuration and seed: 2 times",
        f"| with the temperature {found['temperature']:.2f}, fitted on val |",
        f"Sets of emotions for 90% coverage, chosen on val: {100 * found['conformal'][1]['coverage']:.1f} %",
        "| Utterances that lose it | 0% | 50% | 100% |",
        "| Noise over signal | 0% | 200% |",
    ):
        assert part in page
    write(tmp_path, **given)  # without val: what was chosen on it is gone
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_the_page_says_what_was_done(tmp_path):
    write(tmp_path)
    page = (tmp_path / "report.md").read_text()
    for part in (
        "# iemocap, test: weighted F1 64.76 %",
        "- Seed: 7",
        "- Selected on: best weighted F1 on val, epoch 12",
        "- Checkpoint: fusion/best.ckpt",
        "- Protocol: session 5, four classes by excited-as-happy",
        "8, of which 7 are labelled and scored; 1 are unlabelled",
        "| F1 | 80.00 | 80.00 | 0.00 | 66.67 | 71.43 | 64.76 | 56.67 |",
        "| Support | 2 | 2 | 1 | 2 | 7 |",
        "- One clip is missing.",
        "- text: 0 of 8 utterances",
        "- audio: 7 of 8 utterances\n  - test/0/0: clip is broken\n  - test/0/1: not in the store",
        "  - and 2 more, in `predictions.csv` under `has_audio`",
        "- text: `features/text`\n  - encoder: MiniLM\n  - labels: null",
    ):
        assert part in page


def test_predictions_are_in_the_order_of_the_published_tables(tmp_path):
    probabilities = torch.eye(7)[[4]]
    write(
        tmp_path, labels=MELD, keys=KEYS[:1], gold=[4], probabilities=probabilities, present={"text": torch.tensor([1])}
    )
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == (
        "partition,dialogue,utterance,gold,predicted,p_anger,p_disgust,p_fear,p_joy,p_neutral,p_sadness,p_surprise,has_text"
    )
    assert lines[1] == "test,0,0,joy,joy,0,0,0,1,0,0,0,1"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(*[st.text("ab,\"'\n é", min_size=1, max_size=4)] * 3), unique=True, max_size=8),
    st.integers(0, 2**31),
)
def test_predictions_are_read_back_unchanged(tmp_path_factory, keys, seed):
    generator = torch.Generator().manual_seed(seed)
    predictions = Predictions(
        MELD,
        [UtteranceKey(*key) for key in keys],
        torch.tensor([-100, *range(7)])[torch.randint(0, 8, (len(keys),), generator=generator)],
        torch.randn(len(keys), 7, generator=generator).softmax(-1),
        {"audio": torch.rand(len(keys), generator=generator) < 0.5},
    )
    if seed % 2:
        predictions = replace(predictions, lines=[(key.dialogue, key.utterance) for key in predictions.keys])
    path = tmp_path_factory.mktemp("predictions") / "predictions.csv"
    path.write_text(predictions.to_csv(), encoding="utf-8", newline="")
    found = read_predictions(path, MELD)
    assert found.lines == list(predictions.lines)
    assert found.keys == predictions.keys
    assert torch.equal(found.gold, predictions.gold)
    assert torch.equal(found.probabilities, predictions.probabilities)
    assert torch.equal(found.present["audio"], predictions.present["audio"])
    alone = read_predictions(path)
    assert alone.labels.names == MELD.report_order
    assert alone.metrics() == pytest.approx(predictions.metrics())


def test_lines_are_those_of_all_utterances():
    with pytest.raises(PredictionsError, match="1 lines of 8 utterances"):
        Predictions(IEMOCAP4, KEYS, GOLD, PROBABILITIES, lines=[("Ann", "No.")])


def test_a_report_is_read_by_its_folder(tmp_path):
    metrics = write(tmp_path)
    assert read_predictions(tmp_path, IEMOCAP4).metrics()["weighted_f1"] == metrics["weighted_f1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("p_sad", "p_gloom"), "expected .*p_sad"),
        (lambda text: text.replace("test,0,1,sad", "test,0,1,gloom"), "line 3: Unknown label 'gloom'"),
        (lambda text: text[:-20], "line 9: .* cells, expected 11"),
        (lambda text: text.replace("0.1", "x", 1), "line 2: could not convert"),
        (lambda text: text + text.splitlines()[1] + "\n", "test/0/0 is predicted twice"),
        (lambda text: "", "not a table"),
        (lambda text: re.sub(r"0\.7\d*", "nan", text), "not finite"),
        (lambda text: text + "\udce9", "not a table"),
    ],
)
def test_damaged_predictions_are_refused(tmp_path, change, message):
    write(tmp_path)
    path = tmp_path / "predictions.csv"
    path.write_text(change(path.read_text()), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(PredictionsError, match=message):
        read_predictions(path, IEMOCAP4)


def test_predictions_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="merc test"):
        read_predictions(tmp_path / "nowhere.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PredictionsError, match="p_<emotion>"):
        read_predictions(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": PROBABILITIES[:, :3]}, r"\(8, 3\): expected \(8,\) and \(8, 4\)"),
        ({"probabilities": PROBABILITIES / 0}, "Training has diverged"),
        ({"present": {"audio": torch.ones(3)}}, "Presence of 'audio'"),
        ({"keys": [*KEYS[:-1], KEYS[0]]}, "test/0/0 is predicted twice"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(PredictionsError, match=message):
        write(tmp_path, **change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", sorted(FILES))
def test_a_full_disk_leaves_the_earlier_report_intact(tmp_path, monkeypatch, suffix):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(original):
        def write_some(self, target, *args, **kwargs):
            # Path.write_text(self, text) and Figure.savefig(self, path): the file is one or the other.
            path = self if isinstance(self, Path) else Path(target)
            if suffix in path.name:
                path.write_bytes(b"half of i")
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(self, target, *args, **kwargs)

        return write_some

    from matplotlib.figure import Figure

    monkeypatch.setattr(Path, "write_text", full(Path.write_text))
    monkeypatch.setattr(Figure, "savefig", full(Figure.savefig))
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, probabilities=1 - PROBABILITIES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_split_without_labels_is_predicted_and_scores_nothing(tmp_path):
    metrics = write(tmp_path, gold=torch.full((8,), -100))
    assert metrics["scored"] == 0
    assert metrics["weighted_f1"] == 0


def test_notes_and_names_with_bars_do_not_break_tables(tmp_path):
    labels = LabelSet("odd", ("a|b", "c"))
    write(tmp_path, labels=labels, keys=KEYS[:2], gold=[0, 1], probabilities=torch.eye(2), present={})
    assert "| A\\|b |" in (tmp_path / "report.md").read_text()
    assert "No modality was recorded." in (tmp_path / "report.md").read_text()
