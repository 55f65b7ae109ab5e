"""The doctor: every known damage is told from unknown damage, and what needs mending decides the exit status."""

import io
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from merc.corpora.doctor import MediaError, Report, check_iemocap, check_meld, mp4_duration
from merc.corpora.meld import CLIP_FOLDERS, CSV_FILES
from support.iemocap_tree import make_iemocap
from support.meld_tree import box, line, make_meld, mp4, write_csv

REAL = Path(__file__).parents[2].parent / "shared/data"


def codes(report, severity=None):
    return Counter(f.code for f in report.findings if severity in (None, f.severity))


def found(report, code):
    return {Path(f.path).name: f for f in report.findings if f.code == code}


def printed(report):
    console = Console(width=200, record=True, file=io.StringIO())
    report.print(console)
    return console.export_text()


@pytest.mark.skipif(not (REAL / "meld").is_dir(), reason="the real MELD CSV files are not at ../shared/data/meld")
def test_the_published_csv_files_are_in_order():
    report = check_meld(REAL / "meld")
    assert report.exit_code == 0
    assert codes(report, "warning") == {"long": 3, "no-time": 1}
    assert all("as is known of every copy" in f.message for f in report.findings if f.severity == "warning")
    assert codes(report, "info") == {"no-clips": 3, "note": 2}
    assert len(report.counts) == 3 * 10
    assert all(count.found == count.expected for count in report.counts)
    assert "0 errors, 4 warnings." in printed(report)


def test_known_and_unknown_damage_of_clips(tmp_path):
    root = make_meld(tmp_path)
    times = {"start": "0:00:00", "end": "0:00:02"}
    write_csv(
        root / CSV_FILES["train"],
        [line(125, 3, **times), *(line(0, i, **times) for i in range(6)), line(241, 1, **times)],
    )
    write_csv(root / CSV_FILES["val"], [line(110, 7)])
    write_csv(
        root / CSV_FILES["test"],
        [line(38, 4, start="0:00", end="5:04.9"), line(155, 3, end="0:00:01,500"), line(7, 7, start="")],
    )
    train = root / CLIP_FOLDERS["train"]
    for name, content in {
        "dia125_utt3.mp4": box(b"ftyp"),
        "dia0_utt0.mp4": mp4(2.5),
        "dia0_utt1.mp4": mp4(7),
        "dia0_utt2.mp4": mp4(60),
        "dia0_utt3.mp4": mp4(2)[:-10],
        "dia0_utt4.mp4": b"",
        "dia241_utt1.mp4": mp4(2),
        "dia9_utt9.mp4": mp4(2),
        "notes.txt": b"",
    }.items():
        (train / name).write_bytes(content)
    (root / CLIP_FOLDERS["val"] / "dia49_utt4.mp4").write_bytes(mp4(1))
    test = root / CLIP_FOLDERS["test"]
    (test / "dia38_utt4.mp4").write_bytes(mp4(304.9))
    (test / "dia155_utt3.mp4").write_bytes(mp4(1.6))
    (test / "dia7_utt7.mp4").write_bytes(mp4(9))
    report = check_meld(root)

    broken = found(report, "broken")
    assert {name: (f.severity, f.message) for name, f in broken.items()} == {
        "dia125_utt3.mp4": ("warning", "The clip cannot be opened: no moov atom, as is known of every copy."),
        "dia0_utt3.mp4": ("error", "The clip cannot be opened: truncated."),
        "dia0_utt4.mp4": ("error", "The clip cannot be opened: the file is empty."),
    }
    missing = found(report, "missing")
    assert {name: f.severity for name, f in missing.items()} == {"dia0_utt5.mp4": "error", "dia110_utt7.mp4": "warning"}
    stray = found(report, "stray")
    assert "as is known" not in stray["dia9_utt9.mp4"].message
    assert "as is known" in stray["dia49_utt4.mp4"].message
    long = found(report, "long")
    assert "as is known" not in long["dia0_utt2.mp4"].message
    assert "as is known" in long["dia38_utt4.mp4"].message
    assert found(report, "length").keys() == {"dia0_utt1.mp4", "dia155_utt3.mp4"}
    assert found(report, "sound").keys() == {"dia241_utt1.mp4"}
    assert found(report, "stranger")[CLIP_FOLDERS["train"]].message.startswith("1 files are not named like clips")
    assert {c.part: c.found for c in report.counts if c.what == "usable clips"} == {"train": 4, "val": 0, "test": 3}
    assert report.exit_code == 1
    assert "dia0_utt3.mp4" in printed(report).replace("\n", "")


def test_old_encodings_and_wrong_counts(tmp_path):
    root = make_meld(tmp_path / "[red]odd[/x]")
    write_csv(root / CSV_FILES["val"], [line(text="It\u2019s on.")], encoding="cp1252")
    report = check_meld(root)
    assert codes(report)["encoding"] == 1
    write_csv(root / CSV_FILES["test"], [line(text="It\x92s on."), line(3, 4), line(3, 2)])
    [first, second] = [f for f in check_meld(root).findings if f.code == "encoding"]
    assert "read as cp1252. This is an older copy." in first.message
    assert second.path.endswith("test_sent_emo.csv") and "1 lines had control characters" in second.message
    wrong = next(f for f in report.findings if f.code == "count" and f.path == "test" and "utterances" in f.message)
    assert wrong.message == "3 utterances, expected 2610: this is not the published corpus."
    assert "[red]odd[/x]" in printed(report).replace("\n", "")


def test_what_cannot_be_read_is_a_finding_not_a_crash(tmp_path):
    for check in (check_meld, check_iemocap):
        report = check(tmp_path)
        assert codes(report, "error") == {"unreadable": 1}
        assert check(tmp_path / "nowhere").exit_code == 1


def test_iemocap_tree(tmp_path):
    root = make_iemocap(tmp_path)
    video = root / "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"RIFF\0\0\0\0AVI LIST")
    for path in root.glob("Session*/sentences/wav/*/*.wav"):
        path.write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    (root / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_F000.wav").write_bytes(b"")
    transcript = root / "Session1/dialog/transcriptions/Ses01F_impro01.txt"
    transcript.write_bytes(transcript.read_bytes() + b"M: it\x92s me\n")
    report = check_iemocap(root)
    assert {c.part: c.expected for c in report.counts if c.what == "dialogues"} == {
        f"session{i}": n for i, n in zip(range(1, 6), (28, 30, 32, 30, 31), strict=True)
    }
    assert {c.found for c in report.counts if c.part == "all sessions"} == {
        sum(1 for _ in root.glob("Session*/dialog/transcriptions/Ses*"))
    }
    assert found(report, "broken").keys() == {"Ses02F_impro01_F000.wav"}
    assert codes(report)["encoding"] == 1
    assert "Ses01M_impro01.avi" in found(report, "missing")
    assert any("1 lines did not parse" in f.message for f in report.findings)
    assert codes(check_iemocap(make_iemocap(tmp_path / "silent", sound=False)), "info") >= Counter(
        {"no-sound": 1, "no-video": 1}
    )


@given(seconds=st.floats(0, 4000), version=st.sampled_from([0, 1]), wide=st.booleans(), moov_last=st.booleans())
def test_durations(tmp_path_factory, seconds, version, wide, moov_last):
    path = tmp_path_factory.mktemp("mp4") / "a.mp4"
    path.write_bytes(mp4(seconds, version=version, wide=wide, moov_last=moov_last))
    assert mp4_duration(path) == pytest.approx(seconds, abs=6e-4)


@given(cut=st.integers(0, 10**6), moov_last=st.booleans())
def test_truncated_clips_are_broken(tmp_path_factory, cut, moov_last):
    path = tmp_path_factory.mktemp("mp4") / "a.mp4"
    whole = mp4(2, moov_last=moov_last)
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(MediaError):
        mp4_duration(path)


@given(content=st.binary(max_size=80))
def test_what_is_no_mp4_is_broken(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("mp4") / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError):
        mp4_duration(path)


def test_odd_but_legal_boxes(tmp_path):
    path = tmp_path / "a.mp4"
    to_the_end = bytearray(mp4(2, moov_last=False))
    at = to_the_end.index(b"mdat") - 4
    to_the_end[at : at + 4] = bytes(4)
    path.write_bytes(to_the_end)
    assert mp4_duration(path) == 2
    path.write_bytes(mp4(2).replace((1000).to_bytes(4, "big"), bytes(4)))
    with pytest.raises(MediaError, match="no time scale"):
        mp4_duration(path)
    path.write_bytes(mp4(2).replace(b"mvhd", b"free"))
    with pytest.raises(MediaError, match="no mvhd"):
        mp4_duration(path)


@pytest.mark.skipif(not (REAL / "clips").is_dir(), reason="the real clips are not at ../shared/data/clips")
def test_real_clips():
    clips = sorted((REAL / "clips").glob("*.mp4"))
    assert clips
    for clip in clips:
        assert 0.5 < mp4_duration(clip) < 600


def test_an_empty_report_is_fine():
    report = Report("nothing")
    assert report.exit_code == 0
    assert "0 errors, 0 warnings." in printed(report)
