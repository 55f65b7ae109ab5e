"""One utterance under several systems."""

from dataclasses import replace

import pytest
import torch

from merc.conversation import Clip, Conversation, Corpus, Utterance, UtteranceKey
from merc.evaluation import PredictionsError
from merc.evaluation.systems import System
from merc.evaluation.utterance_figure import frame_of, utterance_figure, write_utterances
from merc.labels import IEMOCAP4
from support.made_media import numbered, numbers, write_media
from support.made_predictions import made_up


@pytest.fixture
def systems():
    runs = [made_up(0.6, seed) for seed in (1, 2)]
    return {"full": System("full", runs, [0, 1], {}), "without": System("without", runs[1:], [0], {})}


def bars(figure):
    """The widths of the parts by row, from the top."""
    patches = [patch for axes in figure.axes for patch in axes.patches]
    rows = {}
    for patch in patches:
        rows.setdefault(round(patch.get_y() + patch.get_height() / 2), []).append(patch.get_width())
    return [rows[row] for row in sorted(rows, reverse=True)]


def test_bars_are_the_label_and_the_mean_probabilities_of_the_runs(systems):
    run = systems["full"].runs[0]
    row = int((run.gold >= 0).nonzero()[0])
    key = UtteranceKey(*run.keys[row])
    label, full, without = bars(utterance_figure(key, systems))
    order = IEMOCAP4.report_ids
    mean = (run.probabilities[row] + systems["without"].runs[0].probabilities[row]) / 2
    assert label == [float(index == int(run.gold[row])) for index in order]
    assert full == pytest.approx(mean[order].tolist())
    assert without == pytest.approx(systems["without"].runs[0].probabilities[row][order].tolist())


def test_without_a_label_there_is_no_bar_of_it(systems):
    run = systems["full"].runs[0]
    key = UtteranceKey(*run.keys[int((run.gold < 0).nonzero()[0])])
    assert len(bars(utterance_figure(key, systems))) == 2


def test_files_are_named_after_the_utterance(systems, tmp_path):
    corpus = Corpus("c", IEMOCAP4, {"test": [Conversation("3", (Utterance("0", "Ann", "So?"),), "test")]}, "")
    corpus.save(tmp_path / "corpus.json")
    assert write_utterances(["3/0"], systems, tmp_path, tmp_path / "corpus.json") == [tmp_path / "utterance-3-0.png"]
    assert (tmp_path / "utterance-3-0.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["3", "nobody/0", "3/0/"])
def test_what_was_not_predicted_is_an_error_that_shows_a_name(systems, name, tmp_path):
    with pytest.raises(PredictionsError, match=r"0 utterances of full are .*for example 0/0"):
        write_utterances([name], systems, tmp_path)


def test_every_system_must_have_predicted_it(systems, tmp_path):
    short = replace(systems["without"], runs=[made_up(0.6, 2, dialogues=2)])
    with pytest.raises(PredictionsError, match="0 utterances of without are '3/0'"):
        write_utterances(["3/0"], {**systems, "without": short}, tmp_path)


def test_the_frame_is_that_in_the_middle(tmp_path):
    pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
    path = str(write_media(tmp_path / "clip.mp4", pictures=[numbered(i) for i in range(50)]))
    for clip, expected in ((Clip(path), 25), (Clip(path, 0.4, 0.8), 15)):
        frame = frame_of(Utterance("0", "Ann", "", video=clip))
        assert numbers(torch.stack([frame])) == [expected]
    assert frame_of(Utterance("0", "Ann", "")) is None
    assert frame_of(Utterance("0", "Ann", "", video=Clip(path, 1.6, 9.0))) is None  # the video ends at 2 s
