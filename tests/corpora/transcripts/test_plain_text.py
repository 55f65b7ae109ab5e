"""Text files: what programs print, labels, and transcripts of meetings."""

import json

import pytest

from support.transcripts import CASES, lines, read, refused, srt

TWO = [(3.0, 5.0, "Ann Example", "Did you get it?"), (5.0, 7.0, "Bob", "I did.")]


@pytest.mark.parametrize(
    "content",
    [
        "Language\n[00:03.000 --> 00:05.000]  Ann Example: Did you get it?\n[00:05.000 --> 00:07.000] Bob: I did.",
        "[3.00s -> 5.00s] Ann Example: Did you get it?\n[5.00s -> 7.00s] Bob: I did.\n",
        "[0:00:03.000 --> 0:00:05.000] [Ann Example]: Did you get it?\n[0:00:05.000 --> 0:00:07.000] [Bob]: I did.\n",
        "3.0\t5.0\tAnn Example: Did you get it?\n5.0\t7.0\tBob: I did.\n",
        "start\tend\tspeaker\ttext\n3\t5\tAnn Example\tDid you get it?\n5\t7\tBob\tI did.\n",
        "WEBVTT\n\n00:03.000 --> 00:05.000\n<v Ann Example>Did you get it?\n\n00:05.000 --> 00:07.000\n<v Bob>I did.\n",
    ],
)
def test_texts_with_both_times(tmp_path, content):
    assert lines(read(tmp_path, "a.txt", content)) == TWO


@pytest.mark.parametrize(
    "content",
    [
        "00:03 Ann Example: Did you get it?\n00:05 Bob: I did.\n",
        "[00:00:03] Ann Example: Did you get it?\n[00:00:05] Bob: I did.\n",
        "(0:03) Ann Example: Did you\nget it?\n(0:05) Bob: I did.\n",
        "0:03 - Ann Example: Did you get it?\n0:05 - Bob: I did.\n",
        "Ann Example  0:03\nDid you get it?\n\nBob  0:05\nI did.\n",
        "[Ann Example] 00:00:03\nDid you\nget it?\n[Bob] 00:00:05\nI did.\n",
        "0:03 Ann Example\nDid you get it?\n\n0:05 Bob\nI did.\n",
        "Minutes of Monday\n\nAnn Example (00:03)\nDid you get it?\nBob (00:05)\nI did.\n",
    ],
)
def test_texts_with_starts_only(tmp_path, content):
    corpus = read(tmp_path, "a.txt", content)
    assert [row[:1] + row[2:] for row in lines(corpus)] == [row[:1] + row[2:] for row in TWO]
    assert lines(corpus)[0][1] == 5.0 and lines(corpus)[1][1] == 5 + 1 + 0.2 * len(
        content.strip()
        .splitlines()[-1]
        .rsplit("] ")[-1]
        .removeprefix("00:05 ")
        .removeprefix("(0:05) ")
        .removeprefix("0:05 - ")
    )
    assert any("gives starts only" in note for note in corpus.notes)


def test_after_a_long_pause_a_line_ends_when_it_is_said(tmp_path):
    assert lines(read(tmp_path, "a.txt", "00:03 hi\n10:00 so\n"))[0][:2] == (3.0, 4.4)


@pytest.mark.parametrize(
    "case",
    [
        "03_whisper_tsv_json/talk.json",
        "12_ass_names/talk.ass",
        "17_elan_textgrid_rttm/talk.TextGrid",
        "17_elan_textgrid_rttm/talk.eaf",
    ],
)
def test_other_kinds_by_this_name_are_recognised(tmp_path, case):
    path = CASES / case
    assert lines(read(tmp_path, "a.txt", path.read_bytes())) == lines(read(tmp_path, path.name, path.read_bytes()))
    assert lines(read(tmp_path, "a.txt", srt("so")))[0][3] == "so"
    assert lines(read(tmp_path, "a.txt", json.dumps([{"start": 0, "end": 1, "text": "so"}])))[0][3] == "so"


def test_a_text_without_times_is_refused(tmp_path):
    assert refused(tmp_path, "a.txt", "Ann: Hi.\nBob: so\n").startswith(
        "it has no times. Expected rows such as 00:03 Ann"
    )
