"""Transcripts: SubRip, WebVTT and CSV as people have them, and every complaint with its file and line."""

import csv
import html
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import CorpusError
from merc.corpora import TranscriptColumns, read_transcript
from merc.labels import MELD


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder, name, content, **options):
    return read_transcript(write(folder, name, content), folder / "talk.mp4", labels=MELD, **options)


def lines(corpus):
    [conversation] = corpus["test"]
    return [(u.start, u.end, u.speaker, u.text) for u in conversation.utterances]


def refused(folder, name, content):
    with pytest.raises(CorpusError) as caught:
        read(folder, name, content)
    assert str(folder / name) in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / name}, ")


def clock(milliseconds, point):
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


WORD = st.text(st.characters(categories=("L",)), min_size=1, max_size=6)
TEXT = st.lists(WORD, min_size=1, max_size=5).map(" ".join)
NAME = st.sampled_from(["Anna", "DR. BEN", "Mary Ann", "Žofie"])
CUE = st.tuples(st.integers(0, 10**7), st.integers(1, 10**5), NAME, TEXT)
CUES = st.lists(CUE, min_size=1, max_size=6)


def expected(cues):
    rows = [(start / 1000, (start + length) / 1000, name, text) for start, length, name, text in cues]
    return sorted(rows, key=lambda row: row[:2])


# --- what is written is read


@given(cues=CUES, crlf=st.booleans(), bom=st.booleans())
def test_subtitles_read_back(tmp_path_factory, cues, crlf, bom):
    blocks = [
        f"{number}\n{clock(start, ',')} --> {clock(start + length, ',')}\n{name}: {text}\n\n"
        for number, (start, length, name, text) in enumerate(cues, start=1)
    ]
    content = "".join(blocks).replace("\n", "\r\n" if crlf else "\n").encode()
    corpus = read(tmp_path_factory.mktemp("srt"), "a.srt", (b"\xef\xbb\xbf" if bom else b"") + content)
    assert lines(corpus) == expected(cues)


@given(cues=CUES, named=st.booleans())
def test_web_subtitles_read_back(tmp_path_factory, cues, named):
    blocks = [
        f"{'intro' if named else ''}\n{clock(start, '.')} --> {clock(start + length, '.')} align:start\n"
        f"<v.loud {name}>{html.escape(text)}</v>\n"
        for start, length, name, text in cues
    ]
    content = "WEBVTT - a title\nKind: captions\n\nNOTE\nnot --> said\n\nSTYLE\n::cue {}\n\n" + "\n".join(blocks)
    assert lines(read(tmp_path_factory.mktemp("vtt"), "a.vtt", content)) == expected(cues)


@given(cues=CUES, seconds=st.booleans())
def test_tables_read_back(tmp_path_factory, cues, seconds):
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(["who", "from", "to", "said", "more"])
    for start, length, name, text in cues:
        times = [start, start + length]
        table.writerow([name, *(t / 1000 if seconds else clock(t, ",") for t in times), text, ""])
    columns = TranscriptColumns(start="from", end="to", text="said", speaker="who")
    assert lines(read(tmp_path_factory.mktemp("csv"), "a.csv", file.getvalue(), columns=columns)) == expected(cues)


@given(
    suffix=st.sampled_from([".srt", ".vtt", ".csv"]),
    content=st.one_of(
        st.binary(max_size=80),
        st.lists(
            st.sampled_from(["1", "\n", "-->", " --> ", "00:01,500", "00:00:02.5", "WEBVTT\n\n", "A: b", "<v A>", "<"]),
            max_size=12,
        ).map(lambda parts: "".join(parts).encode()),
        st.binary(max_size=40).map(lambda rest: b"start,end,text\n1,2,a\n" + rest),
    ),
)
def test_anything_else_is_read_or_refused(tmp_path_factory, suffix, content):
    path = write(tmp_path_factory.mktemp("any"), f"a{suffix}", content)
    try:
        corpus = read_transcript(path, "talk.mp4", labels=MELD)
    except CorpusError as error:
        assert str(path) in str(error)
    else:
        assert all(start < end and text for start, end, _, text in lines(corpus))


# --- what a corpus is made of it


def test_one_conversation_along_the_recording(tmp_path):
    corpus = read(
        tmp_path, "a.srt", "1\n00:00:03,000 --> 00:00:04,000\nlater\n\n2\n00:00:01,000 --> 00:00:05,000\nfirst\n"
    )
    [conversation] = corpus["test"]
    assert (conversation.id, conversation.partition, corpus.labels) == ("talk", "test", MELD)
    assert [(u.id, u.text, u.label, u.media) for u in conversation.utterances] == [
        ("1", "first", None, None),
        ("2", "later", None, None),
    ]
    clip = conversation.utterances[1].video
    assert (clip.path, clip.start, clip.end, clip.region) == (str(tmp_path / "talk.mp4"), 3.0, 4.0, None)
    corpus.save(tmp_path / "corpus.json")
    assert corpus.load(tmp_path / "corpus.json")["test"] == corpus["test"]


def test_without_names_everybody_is_unknown_and_that_is_said(tmp_path):
    corpus = read(tmp_path, "a.csv", "start,end,text,speaker\n0,1,hello,Anna\n1,2,hi,\n")
    assert [row[2] for row in lines(corpus)] == ["Anna", "unknown"]
    [note] = corpus.notes
    assert note.startswith("1 of 2 lines have no speaker's name")


def test_a_table_needs_no_speakers(tmp_path):
    assert lines(read(tmp_path, "a.csv", "start,end,text\n0,1.5,hello\n")) == [(0.0, 1.5, "unknown", "hello")]


def test_marks_of_subtitles_are_no_text(tmp_path):
    content = "7\n0:00:01,5 --> 0:00:02,25 X1:10 X2:20\n{\\an8}<i>Oh,</i>\n<font color='red'>3 < 5</font> &amp;\n"
    assert lines(read(tmp_path, "a.srt", content)) == [(1.5, 2.25, "unknown", "Oh, 3 < 5 &amp;")]
    content = "WEBVTT\n\n00:01.500 --> 00:02.250\n<c.x>Oh,</c> <00:00:01.900>a &lt;b&gt; &amp;\n"
    assert lines(read(tmp_path, "a.vtt", content)) == [(1.5, 2.25, "unknown", "Oh, a <b> &")]


def test_two_speakers_of_one_subtitle_are_two_lines_of_the_same_time(tmp_path):
    both = [(1.0, 2.0, "Anna", "Hi."), (1.0, 2.0, "Ben", "Hello there.")]
    times = "00:01.000 --> 00:02.000\n"
    assert lines(read(tmp_path, "a.vtt", f"WEBVTT\n\n{times}<v Anna>Hi.</v>\n<v Ben>Hello\nthere.</v>\n")) == both
    assert lines(read(tmp_path, "a.srt", f"1\n{times}- Anna: Hi.\n- Ben: Hello\nthere.\n")) == both


def test_a_colon_alone_names_nobody(tmp_path):
    said = [
        "Remember: no notes.",
        "It is 10:30 now.",
        "He told me: go.",
        "See Https://a.b",
        "so",
        "Anna: Hi.",
        "Anna: so",
    ]
    blocks = [f"{n}\n00:00:0{n},000 --> 00:00:0{n},500\n{text}\n\n" for n, text in enumerate(said)]
    found = [(speaker, text) for _, _, speaker, text in lines(read(tmp_path, "a.srt", "".join(blocks)))]
    assert found == [("unknown", text) for text in said[:5]] + [("Anna", "Hi."), ("Anna", "so")]


def test_a_blank_line_in_a_subtitle_of_subrip_does_not_end_it(tmp_path):
    content = "1\n00:00:01,000 --> 00:00:02,000\nwell\n\nyes\n\n2\n00:00:02,000 --> 00:00:03,000\n99\n"
    assert [row[3] for row in lines(read(tmp_path, "a.srt", content))] == ["well yes", "99"]


def test_lines_without_text_are_left_out_and_counted(tmp_path):
    corpus = read(tmp_path, "a.srt", "1\n00:00:01,000 --> 00:00:02,000\n\n2\n00:00:02,000 --> 00:00:03,000\nso\n")
    assert [row[3] for row in lines(corpus)] == ["so"] and "1 lines of a.srt have no text" in corpus.notes[0]


def test_older_encodings_are_read_and_noted(tmp_path):
    corpus = read(tmp_path, "a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nit\x92s caf\xe9\n")
    assert lines(corpus)[0][3] == "it\u2019s caf\u00e9" and "read as cp1252" in corpus.notes[0]


# --- what is wrong with a file


def test_complaints_give_the_line(tmp_path):
    fine = "1\n00:00:01,000 --> 00:00:02,000\nwell\n\n2\n"
    assert refused(tmp_path, "a.srt", fine + "00:00:0x,000 --> 00:00:02,000\nso").startswith(
        "line 6: '00:00:0x,000' is"
    )
    assert refused(tmp_path, "a.srt", fine + "00:00:61,000 --> 00:02:02,000\nso").startswith(
        "line 6: '00:00:61,000' is"
    )
    assert refused(tmp_path, "a.srt", fine + "00:00:03,000 --> 00:00:03,000\nso").startswith("line 6: it ends at 3 s")
    assert refused(tmp_path, "a.srt", fine + "00:00:03,000 -->\nso").startswith("line 6: '00:00:03,000 -->' are no")
    assert refused(tmp_path, "a.srt", "Hello\n" + fine).startswith("line 1: 'Hello' stands before the first times")
    assert refused(tmp_path, "a.vtt", fine).startswith("line 1: expected WEBVTT, found '1'")
    assert refused(tmp_path, "a.vtt", "WEBVTT\n\nhello\nyou\n").startswith("line 3: 'hello' has no times")
    assert refused(tmp_path, "a.csv", "start,end,text\n0,1,a\n1,,b\n").startswith("line 3: column 'end' is empty")
    assert refused(tmp_path, "a.csv", "start,end,text\n0,1,a\n2,1,b\n").startswith("line 3: it ends at 1 s")
    assert refused(tmp_path, "a.csv", "start,end,text\n0,soon,a\n").startswith("line 2: 'soon' is not a time")
    assert "line 2" in refused(tmp_path, "a.csv", f"start,end,text\n0,{'9' * 400}:0:0,a\n")
    assert "no column 'text'" in refused(tmp_path, "a.csv", "start,end\n0,1\n")


@pytest.mark.parametrize("name", ["a.srt", "a.vtt", "a.csv"])
def test_a_file_without_text_or_of_another_kind_is_refused(name, tmp_path):
    refused(tmp_path, name, {"a.srt": "", "a.vtt": "WEBVTT\n", "a.csv": "start,end,text\n"}[name])
    assert "UTF-8" in refused(tmp_path, name, "start,end,text\n0,1,a\n".encode("utf-16"))
    with pytest.raises(CorpusError, match=r"nowhere"):
        read_transcript(tmp_path / f"nowhere{name}", "talk.mp4", labels=MELD)
    with pytest.raises(CorpusError, match=r"expected a \.srt, \.vtt or \.csv"):
        read(tmp_path, "a.txt", "hello")
