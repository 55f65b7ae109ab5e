"""Many recordings at once: found in folders and lists, told together, and none stopped by another."""

import csv
import json
import os
import shutil
import signal
import time

import pytest

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")
pytest.importorskip("scipy", reason="face tracks need SciPy: pip install 'merc[media]'")

from merc.annotation import AnnotatedLine, Annotation, annotate, annotate_many, find_recordings, is_many
from merc.annotation.many import Outcome, Recording, _outcome, _summary, _worked
from merc.annotation.teller import Teller
from merc.cli import main
from merc.cli.annotate import _told
from merc.conversation import CorpusError
from merc.files import write_text
from merc.labels import LabelSet
from merc.pipeline.stage import PipelineError
from support.killing import die_of, number_of_process
from support.tiny_clips import GREEN, RED, write_clip
from support.tiny_run import TEXT_ONLY, write_pipeline

FIRST = "1\n00:00:00,200 --> 00:00:00,900\nAnna: oh my\n\n2\n00:00:00,900 --> 00:00:01,400\nBen: no why?\n"
SECOND = "WEBVTT\n\n00:00.100 --> 00:01.200\n<v Cleo>well okay</v>\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    pipeline = write_pipeline(folder, TEXT_ONLY)
    assert main(["run", str(pipeline), "--out", str(folder / "run"), "--root", str(folder / "corpus")]) == 0
    return folder / "run"


@pytest.fixture
def films(tmp_path):
    """A folder of two films, one of them in a folder below, one that is broken, one silent and without a transcript."""
    folder = tmp_path / "films"
    (folder / "b").mkdir(parents=True)
    write_clip(folder / "talk.mp4", 40, (RED,))
    write_clip(folder / "b/talk.mp4", 36, (RED, GREEN))
    (folder / "broken.mp4").write_bytes(b"no film")
    write_clip(folder / "mute.mkv", 10)
    (folder / "talk.srt").write_text(FIRST)
    (folder / "broken.srt").write_text(FIRST)
    (folder / "b/talk.vtt").write_text(SECOND)
    return folder


def told(folder):
    return json.loads((folder / "annotation.json").read_text())["lines"]


def summary(out):
    with (out / "summary.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def counted(monkeypatch):
    """The groups of recordings to which a run is applied from now on."""
    calls, original = [], Teller.tell

    def tell(self, corpus, stages, **options):
        calls.append(sorted(conversation.id for conversation in corpus["test"]))
        return original(self, corpus, stages, **options)

    monkeypatch.setattr(Teller, "tell", tell)
    return calls


# --- what is found


def test_a_folder_has_films_with_transcripts_beside_them(films, tmp_path):
    (films / "talk.wav").write_bytes(b"the sound of talk.mp4")
    (films / "talk.txt").write_text("no subtitles")
    (films / "alone.WAV").write_bytes(b"sound")
    (films / "alone.SRT").write_text(FIRST)
    (films / ".hidden.mp4").write_bytes(b"")
    (films / "out").mkdir()
    (films / "out/annotated.mp4").write_bytes(b"")
    found = {r.name: (r.video, r.transcript) for r in find_recordings(films, films / "out")}
    assert list(found) == ["alone", "b/talk", "broken", "mute", "talk"]
    assert found["talk"] == (films / "talk.mp4", films / "talk.srt")
    assert found["b/talk"] == (films / "b/talk.mp4", films / "b/talk.vtt")
    assert found["alone"] == (films / "alone.WAV", films / "alone.SRT") and found["mute"][1] is None
    (films / "talk.mkv").write_bytes(b"")
    assert {"talk.mkv", "talk.mp4"} < {recording.name for recording in find_recordings(films)}


def test_a_list_names_films_and_transcripts_from_its_own_folder(films):
    (films / "list.csv").write_text("video;transcript\ntalk.mp4;\nb/talk.mp4;talk.srt\n/gone/x.mp4;\n")
    found = [(r.name, r.video, r.transcript) for r in find_recordings(films / "list.csv")]
    assert found[:2] == [
        ("talk", films / "talk.mp4", films / "talk.srt"),
        ("talk 2", films / "b/talk.mp4", films / "talk.srt"),
    ]
    assert found[2][0] == "x" and str(found[2][1]) == "/gone/x.mp4" and found[2][2] is None
    (films / "twice.txt").write_text("a.mp4\nb/a.mp4\na 2.mp4\n")
    assert [recording.name for recording in find_recordings(films / "twice.txt")] == ["a", "a 2", "a 2 2"]
    (films / "list.txt").write_text("talk.mp4\n\nb/talk.mp4\n")
    assert [r.transcript.name for r in find_recordings(films / "list.txt")] == ["talk.srt", "talk.vtt"]
    assert is_many(films) and is_many(films / "list.txt") and not is_many(films / "talk.mp4")


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a recording, a folder"):
        find_recordings(tmp_path / "none")
    with pytest.raises(CorpusError, match="has no recordings"):
        find_recordings(tmp_path)
    (tmp_path / "list.csv").write_text("film\na.mp4\n")
    with pytest.raises(CorpusError, match="video"):
        find_recordings(tmp_path / "list.csv")


# --- what is said


def test_all_are_told_as_each_alone_and_a_broken_one_stops_none(run, films, tmp_path, capsys, monkeypatch):
    calls = counted(monkeypatch)
    args = ["annotate", str(films), "--model", str(run), "--out", str(tmp_path / "out"), "--film", "false"]
    assert main([*args, "--formats", "vtt,html"]) == 1
    printed = capsys.readouterr().out
    assert "2 of 4 recordings are annotated, 2 failed" in printed and "talk: 2 lines: " in printed
    assert calls == [["b/talk", "talk"]]
    for name, transcript in {"talk": "talk.srt", "b/talk": "b/talk.vtt"}.items():
        alone = annotate(films / f"{name}.mp4", films / transcript, run, tmp_path / "alone" / name, film=False)
        together = told(tmp_path / "out" / name)
        assert [line["text"] for line in together] == [line.text for line in alone.lines]
        for one, other in zip(together, alone.lines, strict=True):
            assert one["probabilities"] == pytest.approx(other.probabilities, abs=1e-5)
        assert {file.name for file in (tmp_path / "out" / name).iterdir()} == {
            "annotation.html",
            "annotation.json",
            "annotation.vtt",
            "persons.json",
        }
    rows = summary(tmp_path / "out")
    assert {name: row["state"] for name, row in rows.items()} == {
        "b/talk": "done",
        "broken": "failed",
        "mute": "failed",
        "talk": "done",
    }
    assert "Nobody speaks in" in rows["mute"]["reason"] and "broken.mp4" in rows["broken"]["reason"]
    assert rows["talk"]["lines"] == "2" and sum(int(rows["talk"][name]) for name in ("anger", "joy", "neutral")) == 2


def test_the_summary_has_the_means_of_numbers_and_no_emotions_where_none_are_told(tmp_path):
    def lines(*told):
        return [AnnotatedLine(1, 0.0, 1.0, "Ann", "Hi", None, {}, {}, None, None, None, values=one) for one in told]

    made = Annotation(
        lines({"valence": 2.0}, {"valence": 3.5}, {}), LabelSet("six", ()), [], {}, dimensions={"valence": (1.0, 5.0)}
    )
    recordings = [Recording(name, tmp_path / f"{name}.mp4", None) for name in ("talk", "gone")]
    write_text(tmp_path / "summary.csv", _summary(recordings, {"talk": _outcome(recordings[0], made)}))
    rows = summary(tmp_path)
    told = {name: rows["talk"][name] for name in ("lines", "untold", "mean_valence")}
    assert told == {"lines": "3", "untold": "1", "mean_valence": "2.75"} and rows["gone"]["state"] == "waiting"
    assert "uncertain" not in rows["talk"] and not {"anger", "joy"} & rows["talk"].keys()
    assert _told(made.counts, made.means, made.untold) == "none 1, mean valence 2.75"


def test_the_same_again_does_only_what_is_new_or_was_repaired(run, films, tmp_path, capsys, monkeypatch):
    def again():
        capsys.readouterr()
        outcomes = annotate_many(films, run, tmp_path / "out", film=False, formats=["csv"])
        stages = [row for row in capsys.readouterr().out.splitlines() if row.startswith("stage ")]
        return {o.recording.name for o in outcomes if o.reason is None}, [s for s in stages if "unchanged" not in s]

    done, stages = again()
    assert done == {"talk", "b/talk"} and len(stages) == len(TEXT_ONLY)
    assert again() == (done, [])
    shutil.copy(films / "talk.mp4", films / "a new one.mp4")  # first in order
    shutil.copy(films / "talk.srt", films / "a new one.srt")
    calls = counted(monkeypatch)
    done, stages = again()
    assert done == {"talk", "b/talk", "a new one"} and len(stages) == len(TEXT_ONLY)
    assert calls == [["b/talk", "talk"], ["a new one"]]
    shutil.copy(films / "talk.mp4", films / "broken.mp4")
    assert again()[0] == {"talk", "b/talk", "a new one", "broken"}


def test_if_all_together_fail_each_is_tried_alone(run, films, tmp_path, monkeypatch):
    original = Teller.tell

    def tell(self, corpus, stages, **options):
        if "talk" in [conversation.id for conversation in corpus["test"]]:
            raise RuntimeError("the detector\nfails")
        return original(self, corpus, stages, **options)

    monkeypatch.setattr(Teller, "tell", tell)
    told_of = []
    outcomes = annotate_many(films, run, tmp_path / "out", film=False, progress=told_of.extend)
    reasons = {outcome.recording.name: outcome.reason for outcome in outcomes}
    assert told_of == outcomes and reasons["talk"] == "the detector fails" and reasons["b/talk"] is None
    assert len(told(tmp_path / "out/b/talk")) == 1


def test_two_processes_share_the_work(run, films, tmp_path):
    outcomes = annotate_many(films, run, tmp_path / "out", jobs=2, film=False, formats=["srt"])
    assert {o.recording.name: o.lines for o in outcomes if o.reason is None} == {"b/talk": 1, "talk": 2}
    groups = json.loads((tmp_path / "out/_stages/groups.json").read_text())
    assert [len(members) for members in groups.values()] == [2, 2]
    assert (tmp_path / "out/talk/annotation.srt").exists()


def test_of_a_process_that_is_killed_only_the_recording_fails_that_it_died_of():
    groups = [("001", ["a", "dead"]), ("002", ["b"]), ("003", ["c"])]
    found = [outcome for done in _worked(die_of, groups, jobs=2) for outcome in done]
    [failed] = [outcome for outcome in found if isinstance(outcome, Outcome)]
    assert sorted(one for one in found if one is not failed) == ["a", "b", "c"]
    assert failed.recording == "dead" and "was killed" in failed.reason and "--jobs" in failed.reason


def test_a_process_that_dies_while_it_has_nothing_to_do_is_replaced():
    working = _worked(number_of_process, [("001", ["a"]), ("002", ["b"]), ("003", ["c"]), ("004", ["d"])], jobs=2)
    [first] = next(working)
    os.kill(first, signal.SIGKILL)
    time.sleep(1)  # until the pool has noticed
    rest = [number for [number] in working]
    assert len(rest) == 3 and first not in rest[1:]


def test_a_group_that_a_process_was_killed_over_is_not_tried_whole_again(run, films, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    out, begun = tmp_path / "out", tmp_path / "out/_stages/001/begun"

    def again():
        calls.clear()
        outcomes = annotate_many(films, run, out, film=False, formats=["csv"])
        return calls[:], [outcome.recording.name for outcome in outcomes if outcome.reason is None]

    assert again() == ([["b/talk", "talk"]], ["b/talk", "talk"]) and not begun.exists()
    begun.touch()  # as a process leaves it that is killed
    alone = [["b/talk"], ["talk"]], ["b/talk", "talk"]
    assert again() == alone == again()
    (out / "_stages/001-1/begun").touch()  # the one that it died of comes last
    assert again()[0] == [["talk"], ["b/talk"]]
    assert again() == alone


def test_what_is_interrupted_goes_on_together(run, films, tmp_path, monkeypatch):
    begun, seen = tmp_path / "out/_stages/001/begun", []

    def tell(self, corpus, stages, **options):
        seen.append(begun.exists())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Teller, "tell", tell)
        annotate_many(films, run, tmp_path / "out", film=False)
    assert seen == [True] and not begun.exists()
    calls = counted(monkeypatch)
    annotate_many(films, run, tmp_path / "out", film=False)
    assert calls == [["b/talk", "talk"]]


def test_what_is_wrong_with_all_is_said_at_once(run, films, tmp_path, capsys):
    with pytest.raises(PipelineError, match="holds no finished run"):
        annotate_many(films, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="jobs is 0"):
        annotate_many(films, run, tmp_path / "out", jobs=0)
    with pytest.raises(ValueError, match="writes no annotation as 'docx'"):
        annotate_many(films, run, tmp_path / "out", formats=["docx"])
    assert main(["annotate", str(films), "--transcript", "a.srt", "--model", str(run), "--out", "o"]) == 1
    assert "stands for many recordings" in capsys.readouterr().err
    assert main(["annotate", str(films), "--language", "en", "--model", str(run), "--out", "o"]) == 1
    assert "--language is that of --whisper" in capsys.readouterr().err
    voice = ["--persons", "false", "--voice", "some/model"]
    assert main(["annotate", str(films), *voice, "--model", str(run), "--out", "o"]) == 1
    assert "--voice is that of --persons" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
