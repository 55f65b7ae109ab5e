"""Who speaks when in films of squares, whose turns are known; and that a film in pieces is a film."""

import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")
pytest.importorskip("scipy", reason="face tracks need SciPy: pip install 'merc[media]'")

import merc.annotation
from merc.annotation import Diarization, FaceTurn, diarize, turns_as_csv, turns_as_json, turns_as_rttm
from merc.annotation.diarization import _joined, _Names, _pieces
from merc.cli import main
from merc.corpora.transcripts import SpeakerTurn, read_turns
from merc.media import FaceTrack, FaceTracker, MediaError
from merc.speaker import LipSyncNet, PooledLipSyncNet, SpeakerTimeline, SpeakingSpan, save_lipsync
from support.tiny_clips import SquareDetector, write_clip


def turn_of(face, start, end, probability, overlap):
    return FaceTurn(face, start, end, probability, overlap, (1.0, 2.0, 3.0, 4.5))


FOUND = Diarization(
    Path("my talk.mp4"),
    9.0,
    [turn_of("face1", 0.5, 1.75, 0.98123, 0.25), turn_of("face2", 1.5, 3.0, 0.7, 0.25)],
    3,
    "lipsync: clips",
)


class Scripted(SpeakerTimeline):
    """Says of the first face that it speaks in the whole piece, and of the second in its first second."""

    def __call__(self, network, tracks, sound, calibration=None):
        ends = [len(sound) / 100, 1.0]
        return [
            SpeakingSpan(n, 0.0, end, 0.5 + 0.25 * n, 0.0) for n, end in zip(range(len(tracks)), ends, strict=False)
        ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    net = LipSyncNet(size=16, width=6, hidden=16)
    save_lipsync(folder, net, torch.tensor([0.3, 0.1]), trained_on="nothing")
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six seconds of two faces."""
    return write_clip(tmp_path_factory.mktemp("film") / "two faces.mp4", 150)


def tracker():
    return FaceTracker(SquareDetector(), min_seconds=0.2)


def test_rttm_is_read_back_by_the_reader_of_transcripts(tmp_path):
    file = tmp_path / "turns.rttm"
    file.write_text(turns_as_rttm(FOUND))
    assert file.read_text().splitlines()[0] == "SPEAKER my_talk 1 0.500 1.250 <NA> <NA> face1 0.981 <NA>"
    assert read_turns(file, "my talk.mp4") == [SpeakerTurn(0.5, 1.75, "face1"), SpeakerTurn(1.5, 3.0, "face2")]


def test_table_and_json_say_the_same():
    rows = list(csv.DictReader(io.StringIO(turns_as_csv(FOUND))))
    told = json.loads(json.dumps(turns_as_json(FOUND)))
    assert [row["face"] for row in rows] == ["face1", "face2"]
    for row, turn in zip(rows, told["turns"], strict=True):
        assert {name: float(row[name]) for name in ("start", "end", "probability", "overlap")} == {
            name: turn[name] for name in ("start", "end", "probability", "overlap")
        }
        assert [float(row[name]) for name in ("x1", "y1", "x2", "y2")] == turn["box"]
    assert (told["video"], told["faces"], told["weights"]) == ("my talk.mp4", 3, "lipsync: clips")


def test_in_pieces_faces_keep_their_names_and_turns_go_on(film, weights):
    done = []
    found = diarize(
        film, weights, tracker=tracker(), timeline=Scripted(), piece=2.0, progress=lambda *at: done.append(at)
    )
    assert found.faces == 2 and found.duration == pytest.approx(6.0, abs=0.05)
    assert [end for end, _ in done] == pytest.approx([2.0, 4.0, found.duration])
    first, *others = found.turns
    assert (first.face, first.start) == ("face1", 0.0) and first.end == pytest.approx(6.0, abs=0.1)
    assert first.probability == pytest.approx(0.5) and first.overlap == 0
    assert 0 <= first.box[0] < 8 and first.box[2] - first.box[0] == pytest.approx(20, abs=3)  # the square on the left
    assert [(turn.face, turn.start, turn.end) for turn in others] == [
        ("face2", 0.0, 1.0),
        ("face2", 2.0, 3.0),
        ("face2", 4.0, 5.0),
    ]
    whole = diarize(film, weights, tracker=tracker(), timeline=Scripted())
    assert whole.turns[0].end == first.end and len(whole.turns) == 2


def test_the_network_decides_and_memory_is_that_of_a_piece(film, weights, monkeypatch):
    read = []
    original = merc.annotation.diarization._read

    def watched(*args):
        read.append(args[2:])
        return original(*args)

    monkeypatch.setattr(merc.annotation.diarization, "_read", watched)
    found = diarize(film, weights, tracker=tracker(), piece=4.0)
    assert read == [(0.0, 3.0), (3.0, pytest.approx(6.0, abs=0.05))]
    assert all(turn.face in ("face1", "face2") and 0.5 < turn.probability <= 1 for turn in found.turns)


@pytest.mark.parametrize("duration", [0.01, 1.0, 299.99, 300.0, 301.0, 7201.3])
def test_pieces_cover_the_film_on_the_grid(duration):
    pieces = list(_pieces(duration, 300.0))
    assert pieces[0][0] == 0 and pieces[-1][1] >= duration
    assert all(end == start for (_, end), (start, _) in pairwise(pieces))
    for start, end in pieces:
        assert 0 < end - start <= 300.05 and start * 25 == pytest.approx(round(start * 25))


def track(first, length, x):
    return FaceTrack(first, torch.tensor([[x, 0.0, x + 20, 20]]).expand(length, 4), 1.0)


def test_names_follow_boxes_over_the_edge():
    names = _Names()
    assert names.of([track(0, 50, 0.0), track(0, 20, 100.0), track(5, 45, 200.0)], 2.0) == ["face1", "face2", "face3"]
    # The second face of the first piece was gone before its end; the others have moved a little.
    after = names.of([track(0, 50, 205.0), track(0, 50, 2.0), track(0, 50, 100.0), track(30, 20, 0.0)], 2.0)
    assert after == ["face3", "face1", "face4", "face5"]
    assert names.count == 5
    assert names.of([], 2.0) == [] and names.of([track(0, 50, 205.0)], 2.0) == ["face6"]


def test_a_face_can_go_on_as_one_face_only():
    names = _Names()
    names.of([track(0, 50, 0.0)], 2.0)
    assert names.of([track(0, 50, 6.0), track(0, 50, 1.0)], 2.0) == ["face2", "face1"]


def test_turns_are_joined_at_the_edge_alone():
    before = [turn_of("face1", 1.0, 1.2, 0.6, 0.1), turn_of("face1", 1.5, 2.0, 0.8, 0.0)]
    after = [
        turn_of("face1", 2.0, 3.5, 0.6, 0.2),
        turn_of("face2", 2.0, 2.5, 0.9, 0.2),
        turn_of("face1", 3.9, 4.0, 1.0, 0),
    ]
    joined = _joined(before, after, 2.0, 0.3)
    assert [(turn.face, turn.start, turn.end) for turn in joined] == [
        ("face1", 1.0, 1.2),
        ("face1", 1.5, 3.5),
        ("face2", 2.0, 2.5),
        ("face1", 3.9, 4.0),
    ]
    assert joined[1].probability == pytest.approx((0.8 * 0.5 + 0.6 * 1.5) / 2) and joined[1].overlap == 0.2


# --- what is not there


def test_a_film_without_faces_is_an_empty_result_with_a_note(tmp_path, weights):
    empty = write_clip(tmp_path / "empty.mp4", 50, faces=())
    found = diarize(empty, weights, tracker=tracker())
    assert (found.turns, found.faces, found.notes) == ([], 0, ["No face was found."])
    assert turns_as_rttm(found) == ""


@pytest.mark.parametrize(("word", "how"), [("sound", {"silent": True}), ("video", {"seen": False})])
def test_without_sound_or_video_it_says_so(tmp_path, weights, word, how):
    film = write_clip(tmp_path / "half.mp4", 50, **how)
    with pytest.raises(MediaError, match=f"has no {word}: who speaks is found by comparing lips with sound"):
        diarize(film, weights, tracker=tracker())


def test_weights_that_score_whole_clips_are_refused(film, tmp_path):
    save_lipsync(tmp_path, PooledLipSyncNet(size=32), torch.tensor([0.0]), trained_on="nothing")
    with pytest.raises(ValueError, match="PooledLipSyncNet, which scores a clip as a whole"):
        diarize(film, tmp_path, tracker=tracker())


# --- the command


@pytest.fixture
def squares(monkeypatch):
    """The command sees squares."""
    monkeypatch.setattr(merc.annotation.diarization, "MTCNNDetector", lambda device: SquareDetector())


def test_the_command_writes_what_the_name_says(film, weights, squares, tmp_path, capsys):
    args = ["diarize", film, "--weights", str(weights)]
    for name in ("turns.rttm", "turns.csv", "turns.json"):
        assert main([*args, "--out", str(tmp_path / name)]) == 0
    assert json.loads((tmp_path / "turns.json").read_text())["format"] == "merc.Diarization"
    assert (tmp_path / "turns.csv").read_text().startswith("start,end,face,")
    shown = capsys.readouterr()
    assert shown.out == "" and "2 faces" in shown.err
    assert main([*args, "--format", "rttm"]) == 0
    assert capsys.readouterr().out == (tmp_path / "turns.rttm").read_text()


def test_errors_take_one_line_and_leave_nothing(film, weights, squares, tmp_path, capsys):
    def said(*args):
        assert main(["diarize", *args]) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    out = str(tmp_path / "out.rttm")
    assert "There is no media file" in said(str(tmp_path / "gone.mp4"), "--weights", str(weights), "--out", out)
    assert "There are no weights" in said(film, "--weights", str(tmp_path / "none"), "--out", out)
    assert "ends in none of .rttm, .csv and .json" in said(film, "--weights", str(weights), "--out", out + ".txt")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_the_file_as_it_was(film, weights, squares, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.rttm"
    out.write_text("before")

    def interrupted(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(SpeakerTimeline, "__call__", interrupted)
    assert main(["diarize", film, "--weights", str(weights), "--out", str(out)]) == 130
    assert out.read_text() == "before" and list(tmp_path.iterdir()) == [out]
    assert capsys.readouterr().err.strip().endswith("Interrupted.")


def test_nobody_visible_is_told_on_the_standard_error(weights, squares, tmp_path, capsys):
    empty = write_clip(tmp_path / "empty.mp4", 50, faces=())
    assert main(["diarize", empty, "--weights", str(weights), "--out", str(tmp_path / "o.rttm")]) == 0
    assert (tmp_path / "o.rttm").read_text() == ""
    assert "merc diarize: No face was found." in capsys.readouterr().err
