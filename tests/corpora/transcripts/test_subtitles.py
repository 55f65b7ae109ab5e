"""SubRip, WebVTT and SubViewer: where a subtitle begins and ends, its tags, its times in every spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.corpora.transcripts.lines import parse_clock
from support.transcripts import lines, read, refused, said, srt


def test_marks_of_subtitles_are_no_text(tmp_path):
    content = "7\n0:00:01,5 --> 0:00:02,25 X1:10 X2:20\n{\\an8}<i>Oh,</i>\n<font color='red'>3 < 5</font> &amp;\n"
    assert lines(read(tmp_path, "a.srt", content)) == [(1.5, 2.25, "unknown", "Oh, 3 < 5 &")]
    content = "WEBVTT\n\n00:01.500 --> 00:02.250\n<c.x>Oh,</c> <00:00:01.900>a &lt;b&gt; &amp;\u200e\n"
    assert lines(read(tmp_path, "a.vtt", content)) == [(1.5, 2.25, "unknown", "Oh, a <b> &")]


@pytest.mark.parametrize(
    ("entity", "text"),
    [
        ("&amp;", "&"),
        ("&#39;", "'"),
        ("&quot;", '"'),
        ("&lt;3", "<3"),
        ("&nbsp;", ""),
        ("&amp;#39;", "'"),
        ("&x", "&x"),
    ],
)
@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_entities(tmp_path, entity, text, suffix):
    content = ("WEBVTT\n\n" if suffix == ".vtt" else "") + srt(f"so {entity}")
    assert said(read(tmp_path, f"a{suffix}", content)) == [("unknown", f"so {text}".strip())]


def test_two_speakers_of_one_subtitle_are_two_lines_of_the_same_time(tmp_path):
    both = [(1.0, 2.0, "Anna", "Hi."), (1.0, 2.0, "Ben", "Hello there.")]
    times = "00:01.000 --> 00:02.000\n"
    assert lines(read(tmp_path, "a.vtt", f"WEBVTT\n\n{times}<v Anna>Hi.</v>\n<v Ben>Hello\nthere.</v>\n")) == both
    corpus = read(tmp_path, "a.srt", f"1\n{times}- Anna: Hi.\n- Ben: Hello\nthere.\n")
    assert lines(corpus) == both and "1 subtitles of a.srt hold several speakers" in corpus.notes[0]


def test_voice_tags_of_teams(tmp_path):
    content = (
        "WEBVTT\n\nf3a1c1d8-7a1e/12-0\n00:00:03.120 --> 00:00:05.560\n<v Ann Example>Did you get\nthe letter?</v>\n\n"
        "f3a1c1d8-7a1e/13-0\n00:00:05.700 --> 00:00:06.560\n<v Example, Bob (External)>I did.</v> Yes.\n\n"
        "f3a1c1d8-7a1e/14-0\n00:00:06.600 --> 00:00:06.900\n<v M&uuml;ller>Remember: no notes.</v>\n"
    )
    assert said(read(tmp_path, "a.vtt", content)) == [
        ("Ann Example", "Did you get the letter?"),
        ("Example, Bob (External)", "I did."),
        ("unknown", "Yes."),
        ("Müller", "Remember: no notes."),
    ]


def test_a_blank_line_in_a_subtitle_does_not_end_it(tmp_path):
    content = "1\n00:00:01,000 --> 00:00:02,000\nwell\n\nyes\n\n2\n00:00:02,000 --> 00:00:03,000\n99\n"
    assert [row[3] for row in lines(read(tmp_path, "a.srt", content))] == ["well yes", "99"]


@given(
    texts=st.lists(st.sampled_from(["well", "yes\nno", "99", "12 24", "7\n8"]), min_size=1, max_size=6),
    between=st.sampled_from(["", "\n", "\n\n", " \n"]),
    first=st.sampled_from([0, 1, 4711]),
)
def test_subtitles_without_blank_lines_between_are_separated(tmp_path_factory, texts, between, first):
    content = "".join(
        f"{first + number}\n00:00:{2 * number:02},000 --> 00:00:{2 * number + 1:02},000\n{text}\n{between}"
        for number, text in enumerate(texts)
    )
    found = lines(read(tmp_path_factory.mktemp("srt"), "a.srt", content))
    assert [row[3] for row in found] == [" ".join(text.split()) for text in texts]


def test_web_subtitles_with_and_without_names_and_blank_lines(tmp_path):
    times = [f"00:0{n}.000 --> 00:0{n}.900" for n in range(5)]
    content = f"WEBVTT\n{times[0]}\na\n{times[1]}\nb\n\nintro\n{times[2]}\nc\n\nNOTE a\nb\n\n{times[3]}\nd\n"
    content += f"\n3\n{times[4]}\ne\n"
    assert [row[3] for row in lines(read(tmp_path, "a.vtt", content))] == ["a", "b", "c", "d", "e"]


def test_a_missing_head_and_rows_before_the_first_times_are_no_obstacle(tmp_path):
    assert said(read(tmp_path, "a.vtt", srt("hi").replace(",", "."))) == [("unknown", "hi")]
    corpus = read(tmp_path, "a.srt", "Subtitles by X\n\n" + srt("hi"))
    assert said(corpus) == [("unknown", "hi")] and "'Subtitles by X' stands before the first times" in corpus.notes[0]
    assert "no line with times" in refused(tmp_path, "b.vtt", "WEBVTT\n\nhello\nyou\n")


def test_an_arrow_in_text_is_text(tmp_path):
    assert said(read(tmp_path, "a.srt", srt("so\ngo --> there", "no"))) == [
        ("unknown", "so go --> there"),
        ("unknown", "no"),
    ]


def test_subviewer_of_youtube(tmp_path):
    content = "0:00:00.599,0:00:04.160\n>> ANN: Hi\nthere.\n\n0:00:04.160,0:00:06.770\n>> BOB: 1, 2, 3.\n"
    assert lines(read(tmp_path, "a.sbv", content)) == [
        (0.599, 4.16, "ANN", "Hi there."),
        (4.16, 6.77, "BOB", "1, 2, 3."),
    ]


def test_merc_reads_its_own_subtitles(tmp_path):
    content = srt("[joy 83 %] Ann: Hi.", "[?] so", "[sadness 7 %] Ann: [crying] No.")
    assert said(read(tmp_path, "a.srt", content)) == [("Ann", "Hi."), ("unknown", "so"), ("Ann", "[crying] No.")]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("00:00:01,500", 1.5), ("00:00:01.500", 1.5), ("00:00:01:500", 1.5), ("0:01,5", 1.5), ("00:00:1,5", 1.5),
        ("00:00:07", 7.0), ("1:02:03,250", 3723.25), ("62:03", 3723.0), ("-00:00:01,200", -1.2),
        ("00:00:01,123456", 1.123456),
        ("00:28:41,1000", 1722.0), ("00: 00: 01, 500", 1.5), ("00\uff1a00\uff1a01\uff0c500", 1.5), ("٠٠:٠٠:٠١", 1.0),
        ("00:00:61,000", None), ("00:61:01,000", None), ("00:00:0x", None), ("1.5", None), ("", None),
        ("00:00:01,5x", None),
        ("00:00:01:12", None), ("9" * 400 + ":00", None), (" " * 10**6 + "00:01", None),
    ],
)  # fmt: skip
def test_times_as_they_are_written(given, seconds):
    assert parse_clock(given) == seconds


@pytest.mark.parametrize(
    "row", ["00:00:01,000->00:00:02,000", "00:00:01,000 \u2013> 00:00:02,000", "0:1,0 --> 0:2,0 line:0"]
)
def test_arrows_as_they_are_written(tmp_path, row):
    assert lines(read(tmp_path, "a.srt", f"1\n{row}\nhi\n")) == [(1.0, 2.0, "unknown", "hi")]
