"""Transcripts as people have them: every case of a public report, what is written is read back, every complaint."""

import codecs
import csv
import html
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import CorpusError
from merc.corpora import TranscriptColumns, read_transcript
from merc.corpora.transcripts import READERS, Line
from merc.labels import MELD
from support.transcripts import CASES, clock, lines, read, read_case, refused, said, srt, write

WORD = st.text(st.characters(categories=("L",)), min_size=1, max_size=6)
TEXT = st.lists(WORD, min_size=1, max_size=5).map(" ".join)
NAME = st.sampled_from(["Anna", "DR. BEN", "Mary Ann", "Žofie"])
CUE = st.tuples(st.integers(0, 10**7), st.integers(50, 10**5), NAME, TEXT)
CUES = st.lists(CUE, min_size=1, max_size=6)

LETTER, HATE, SORRY = "Did you get the letter?", "I did, and I hate it!", "I am so sorry."
FIRST, SECOND, THIRD = (0.5, 1.492), (1.512, 2.933), (3.5, 5.0)
ANSWERS = {
    "01_whisperx_srt/talk.srt": [
        (0.031, 1.492, "SPEAKER_00", LETTER), (*SECOND, "SPEAKER_01", HATE), (2.953, 3.414, "unknown", "Oh."),
        (*THIRD, "SPEAKER_00", SORRY),
    ],
    "01_whisperx_srt/talk.vtt": [
        (0.031, 1.492, "SPEAKER_00", LETTER), (*SECOND, "SPEAKER_01", HATE), (*THIRD, "SPEAKER_00", SORRY),
    ],
    "02_whispercpp_csv_ms/talk.csv": [
        (0.0, 1.48, "unknown", LETTER), (1.48, 2.93, "unknown", HATE), (2.93, 5.0, "unknown", SORRY),
    ],
    "03_whisper_tsv_json/talk.json": [(0.031, 1.492, "SPEAKER_00", LETTER), (*SECOND, "SPEAKER_01", HATE)],
    "03_whisper_tsv_json/talk.tsv": [
        (0.031, 1.492, "unknown", LETTER), (*SECOND, "unknown", HATE), (*THIRD, "unknown", SORRY),
    ],
    "05_zero_duration_cue/talk.srt": [
        (*FIRST, "Ann", LETTER), (*SECOND, "Bob", HATE), (2.953, 3.5, "Ann", "Oh."), (*THIRD, "Ann", SORRY),
    ],
    "06_utf16_srt/be.srt": [
        (*FIRST, "Ann", "Did you get the letter, Zoë?"), (*SECOND, "Bob", "I did \u2013 and I hate it!"),
    ],
    "06_utf16_srt/le.srt": [
        (*FIRST, "Ann", "Did you get the letter, Zoë?"), (*SECOND, "Bob", "I did \u2013 and I hate it!"),
    ],
    "07_cp1251_srt/talk.srt": [(*FIRST, "Аня", "Ты получил письмо?"), (*SECOND, "Борис", "Да, и я его ненавижу!")],
    "08_broadcast_cc/talk.srt": [
        (*FIRST, "ANN", LETTER), (*SECOND, "BOB", HATE), (*THIRD, "unknown", SORRY), (*THIRD, "unknown", "Don't be."),
    ],
    "09_dash_two_speakers/same_time_names.srt": [(2.5, 5.0, "Ann", LETTER), (2.5, 5.0, "Bob", HATE)],
    "09_dash_two_speakers/talk.srt": [
        (0.5, 2.0, "unknown", LETTER), (0.5, 2.0, "unknown", HATE), (2.5, 4.0, "Ann", SORRY),
        (2.5, 4.0, "unknown", "Don't be."), (4.1, 6.0, "Ann", "Bye."),
    ],
    "10_sdh_labels/talk.srt": [
        (*FIRST, "Ann", LETTER), (*SECOND, "Bob", HATE), (*THIRD, "Ann", SORRY), (5.1, 6.0, "MAN #1", "Taxi!"),
        (5.1, 6.0, "MAN #2", "Over here!"), (7.1, 8.0, "Bob", "I said no!"), (8.1, 9.0, "Ann", "Fine."),
    ],
    "11_chinese_fullwidth_colon/talk.srt": [
        (*FIRST, "小美", "你收到信了吗？"), (*SECOND, "志强", "收到了，我很讨厌它！"), (*THIRD, "小美", "对不起。"),
        (5.5, 6.0, "志强", "没关系。"),
    ],
    "12_ass_names/talk.ass": [(0.5, 1.49, "Ann", LETTER), (1.51, 2.93, "Bob", HATE)],
    "14_negative_and_long_fraction/negative.srt": [(0.0, 0.4, "unknown", "Before the start."), (*FIRST, "Ann", LETTER)],
    "14_negative_and_long_fraction/no_fraction.srt": [(0.0, 1.0, "Ann", LETTER), (1.0, 3.0, "Bob", HATE)],
    "14_negative_and_long_fraction/short.srt": [(0.5, 2.0, "Ann", LETTER)],
    "15_excel_semicolon_csv/comma.csv": [(*FIRST, "Ann", LETTER), (*SECOND, "Bob", HATE)],
    "15_excel_semicolon_csv/talk.csv": [(*FIRST, "Ann", LETTER), (*SECOND, "Bob", HATE)],
    "16_srt_entities/talk.srt": [(*FIRST, "Ann", "Tom & Jerry, isn't it?"), (*SECOND, "Ann", "It is!")],
    "17_elan_textgrid_rttm/talk.TextGrid": [(*FIRST, "Ann", LETTER)],
    "17_elan_textgrid_rttm/talk.eaf": [(*FIRST, "Ann", LETTER)],
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_cases_of_public_reports(case):
    assert lines(read_case(case)) == ANSWERS[case]


def test_rttm_names_the_lines_of_a_transcript():
    corpus = read_case("02_whispercpp_csv_ms/talk.csv", speakers=CASES / "17_elan_textgrid_rttm/talk.rttm")
    assert said(corpus) == [("Ann", LETTER), ("Bob", HATE), ("unknown", SORRY)]
    assert any("3 lines without a name got theirs from talk.rttm; in 1 of them nobody" in note for note in corpus.notes)
    with pytest.raises(CorpusError, match=r"talk\.rttm: it says who speaks when, but not what\. Give it as --speakers"):
        read_case("17_elan_textgrid_rttm/talk.rttm")


# --- what is written is read


def expected(cues):
    rows = [(start / 1000, (start + length) / 1000, name, text) for start, length, name, text in cues]
    return sorted(rows, key=lambda row: row[:2])


ENCODINGS = st.sampled_from([("", "utf-8"), ("\ufeff", "utf-8"), ("\ufeff", "utf-16-le"), ("\ufeff", "utf-32-be")])


@given(cues=CUES, crlf=st.booleans(), encoding=ENCODINGS)
def test_subtitles_read_back(tmp_path_factory, cues, crlf, encoding):
    blocks = [
        f"{number}\n{clock(start)} --> {clock(start + length)}\n{name}: {text}\n\n"
        for number, (start, length, name, text) in enumerate(cues, start=1)
    ]
    content = (encoding[0] + "".join(blocks).replace("\n", "\r\n" if crlf else "\n")).encode(encoding[1])
    assert lines(read(tmp_path_factory.mktemp("srt"), "a.srt", content)) == expected(cues)


@given(cues=CUES, named=st.booleans())
def test_web_subtitles_read_back(tmp_path_factory, cues, named):
    blocks = [
        f"{'intro' if named else ''}\n{clock(start, '.')} --> {clock(start + length, '.')} align:start\n"
        f"<v.loud {name}>{html.escape(text)}</v>\n"
        for start, length, name, text in cues
    ]
    content = "WEBVTT - a title\nKind: captions\n\nNOTE\nnot --> said\n\nSTYLE\n::cue {}\n\n" + "\n".join(blocks)
    assert lines(read(tmp_path_factory.mktemp("vtt"), "a.vtt", content)) == expected(cues)


@given(cues=CUES, form=st.sampled_from(["seconds", "clock", "comma"]), delimiter=st.sampled_from(",;\t"))
def test_tables_read_back(tmp_path_factory, cues, form, delimiter):
    file = io.StringIO(newline="")
    table = csv.writer(file, delimiter=delimiter)
    table.writerow(["talker", "t0", "t1", "said", "more"])
    for start, length, name, text in cues:
        plain = [str(t / 1000).replace(".", "," if form == "comma" else ".") for t in (start, start + length)]
        table.writerow([name, *(map(clock, (start, start + length)) if form == "clock" else plain), text, ""])
    columns = TranscriptColumns(start="t0", end="t1", text="said", speaker="talker")
    corpus = read(tmp_path_factory.mktemp("csv"), "a.csv", file.getvalue(), columns=columns, unit="s")
    assert lines(corpus) == expected(cues)


PIECES = [
    "1", "\n", "\n\n", "-->", " --> ", "00:01,500", "00:00:02.5", "WEBVTT\n\n", "A: b", "<v A>", "<", "- ", ">> ",
    "[A] ",
    "(a)", "\u266a", "[Events]\n", "Dialogue: 0,", '"ooTextFile"\n"TextGrid"\n', "0 1 <exists> 1 ", '"IntervalTier"',
    '"a"', '{"segments": [{"start": 1, ', '"end": 2, "text": "a"}]}', "start,end,text\n", "1,2,a\n", "\t", "&amp;",
    "<ANNOTATION_DOCUMENT>", "<TIME_SLOT", "[00:01 --> ", "00:03 Ann", "-0:1,", "9" * 30,
]  # fmt: skip


@given(
    suffix=st.sampled_from(list(READERS)),
    content=st.one_of(
        st.binary(max_size=80),
        st.lists(st.sampled_from(PIECES), max_size=14).map(lambda parts: "".join(parts).encode()),
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
        assert all(0 <= start < end and text for start, end, _, text in lines(corpus))
        corpus.save(path.with_name("saved.json"))


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


def test_encodings_are_recognised_named_or_asked_for(tmp_path):
    corpus = read(tmp_path, "a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nit\x92s\n")
    assert lines(corpus)[0][3] == "it\u2019s" and "1 lines were not UTF-8 and were read as cp1252" in corpus.notes[0]
    corpus = read(tmp_path, "a.srt", srt("It\x92s so\x85"))
    assert said(corpus) == [("unknown", "It\u2019s so\u2026")] and "1 lines had control characters" in corpus.notes[0]
    russian = srt("Да.").encode("koi8-r")
    assert "several code pages" in refused(tmp_path, "a.srt", russian) or "no code page" in refused(
        tmp_path, "a.srt", russian
    )
    assert said(read(tmp_path, "a.srt", russian, encoding="koi8-r")) == [("unknown", "Да.")]
    corpus = read(tmp_path, "a.json", codecs.BOM_UTF8 + b'[{"start": 0, "end": 1, "text": "hi"}]')
    assert said(corpus) == [("unknown", "hi")]


def test_a_reader_of_ones_own(tmp_path):
    def read_mine(source):
        for number, row in enumerate(source.rows, start=1):
            if row == "broken":
                source.drop(f"line {number}", "it is broken")
            else:
                start, text = row.split(" ", 1)
                yield Line(float(start), float(start) + 1, text, place=f"line {number}")

    corpus = read(tmp_path, "a.mine", "0 Ann: Hi.\nbroken\n2 Ann: Bye.\n", reader=read_mine)
    assert lines(corpus) == [(0.0, 1.0, "Ann", "Hi."), (2.0, 3.0, "Ann", "Bye.")]
    assert list(corpus.notes) == ["1 broken lines of a.mine were left out. line 2: it is broken."]


# --- what is wrong with a file


def test_broken_lines_are_left_out_and_named(tmp_path):
    fine = srt("well", "well", "well", "well", "well", "well")
    times = ["00:00:0x,000 --> 0:22", "00:00:61,000 --> 2:02", "00:00:23,000 -->", "00:00:23,000 --> 0:22"]
    corpus = read(tmp_path, "a.srt", fine + "\n\n".join(f"9\n{time}\nso" for time in times))
    assert len(lines(corpus)) == 6
    [note] = [note for note in corpus.notes if "broken" in note]
    assert note == (
        "4 broken lines of a.srt were left out. line 26: '00:00:0x,000' is no time; line 30: '00:00:61,000' is no time"
        "; line 34: '' is no time; line 38: it ends at 22 s, but starts at 23 s."
    )
    many = read(tmp_path, "b.csv", "start,end,text\n" + "1,2,a\n" * 9 + "1,soon,b\n2,,b\n" + "3,2,b\n" * 6)
    [note] = [note for note in many.notes if "broken" in note]
    assert note.startswith(
        "8 broken lines of b.csv were left out. line 11: 'soon' is not a time; line 12: column 'end' is"
    )
    assert note.endswith("; and 3 more.") and len(lines(many)) == 9


def test_a_file_of_broken_lines_is_refused(tmp_path):
    message = refused(tmp_path, "a.csv", "start,end,text\n0,soon,a\n1,later,b\n2,3,c\n")
    assert message.startswith("line 2: 'soon' is not a time; line 3:") and "2 lines are broken and 1 are not" in message
    message = refused(tmp_path, "a.csv", f"start,end,text\n0,{'9' * 400}:0:0,a\n")
    assert message.startswith("line 2: '999") and len(message) < 300


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_without_text_or_of_another_kind_is_refused(suffix, tmp_path):
    refused(tmp_path, f"a{suffix}", "")
    refused(tmp_path, f"a{suffix}", "hello\n")
    assert "zero bytes" in refused(tmp_path, f"a{suffix}", b"start\0,end,text\n0,1,a\n")
    with pytest.raises(CorpusError, match=r"No transcript .*nowhere"):
        read_transcript(tmp_path / f"nowhere{suffix}", "talk.mp4", labels=MELD)


def test_a_kind_that_nobody_reads_is_refused(tmp_path):
    assert refused(tmp_path, "a.docx", "hello").startswith("merc reads no transcript of this kind. Expected .srt, .vtt")
