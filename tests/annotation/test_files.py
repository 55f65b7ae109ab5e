"""Annotations as files of other programs: what is read again is what was written."""

import csv
import io
import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merc.annotation import FORMATS, AnnotatedLine, Annotation, as_csv, as_eaf, as_json, as_rttm, as_textgrid, as_vtt
from merc.conversation import CorpusError
from merc.corpora import read_transcript
from merc.corpora.transcripts import read_turns
from merc.labels import LabelSet
from support.transcripts import clock, lines

LABELS = LabelSet("three", ("anger", "joy", "neutral"))
OF_LINES = ("vtt", "eaf", "TextGrid")
"""Formats that hold speakers, times and texts of lines in a form that merc reads again whatever they are."""


def annotated(corpus):
    """An annotation of what was read, in which every third line has no emotion."""
    found = []
    for number, (start, end, speaker, text) in enumerate(lines(corpus), start=1):
        known = number % 3 > 0
        values = {"anger": 0.25, "joy": 0.5, "neutral": 0.25} if known else {}
        reasons = {"text": None if known else "no text", "audio": "no sound"}
        emotion = "joy" if known else None
        found.append(
            AnnotatedLine(number, start, end, speaker, text, emotion, values, reasons, None, "no face was found", None)
        )
    return Annotation(found, LABELS, list(corpus.notes), {"stage": "fusion"}, video=Path("my talk & co.mp4"))


def read(path):
    return read_transcript(path, "my talk & co.mp4", labels=LABELS)


def again(annotation, folder, form):
    """What is read from a file that was saved, in the order of the annotation for lines of the same times."""
    annotation.save(folder / f"talk.{form}")
    return sorted(lines(read(folder / f"talk.{form}")))


def subtitles(folder, cues):
    """A file with these starts, ends (milliseconds) and texts."""
    blocks = (f"{n}\n{clock(s)} --> {clock(e)}\n{text}\n" for n, (s, e, text) in enumerate(cues, start=1))
    (folder / "talk.srt").write_text("\n".join(blocks), encoding="utf-8")
    return folder / "talk.srt"


HARD = [
    (0, 1500, 'Ann: Fish & chips < 5 > 3 --> "all" of it'),
    (1000, 2000, "Bob \"B\" O'Hara & Söhne: it's 100 %"),
    (1200, 1800, "Ann: over herself"),
    (1200, 2600, "Ann: and once more"),
    (3000, 4000, "小美：你好\n第二行"),
    (4000, 5000, "MAN ON PHONE (angry): hello?"),
    (4100, 5000, 'MAN ON PHONE: ""quoted"" [not an emotion 12 %] {\\an8}'),
    (5000, 5900, "- A\n- B"),
    (6000, 6900, "Remember: no notes."),
    (7000, 7900, "Ann Words: a speaker who is called like a tier"),
    (8000, 8900, "Ann Words: AT&amp;T &#39;again&#39; 1 &lt; 2"),
    (9000, 3_600_000, "unnamed and long"),
]


@pytest.mark.parametrize("form", OF_LINES)
def test_lines_speakers_and_times_come_back(form, tmp_path):
    annotation = annotated(read(subtitles(tmp_path, HARD)))
    before = sorted((line.start, line.end, line.speaker, line.text) for line in annotation.lines)
    assert {"Ann", "小美", "Ann Words", "unknown"} < {speaker for _, _, speaker, _ in before}
    assert any('--> "all"' in text for *_, text in before) and len(before) == 13
    assert again(annotation, tmp_path, form) == before


TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["-->", "<v Ann>", "</v>", "<b>", "&", "<", ">", ">>", "- ", "Ann: ", "BOB: ", "[x]", '"', "\n"]
        ),
        st.sampled_from(
            ["[joy 83 %] ", "00:00:01,000", "WEBVTT", "NOTE", "]]>", "<!--", "\x07", "\u2028", "\u200b", "("]
        ),
        st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=8),
    ),
    max_size=6,
).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cues=st.lists(st.tuples(st.integers(0, 5000), st.integers(100, 3000), TEXTS), min_size=1, max_size=6),
    form=st.sampled_from(OF_LINES),
)
def test_whatever_subtitles_say_comes_back(cues, form, tmp_path):
    try:
        corpus = read(subtitles(tmp_path, [(start, start + length, text) for start, length, text in cues]))
    except CorpusError:
        return  # no text is left, or more broken lines than whole ones
    annotation = annotated(corpus)
    expected = sorted(
        (line.start, line.end, line.speaker, line.text.replace("\x07", "\ufffd") if form == "eaf" else line.text)
        for line in annotation.lines
    )
    assert again(annotation, tmp_path, form) == expected


def test_times_finer_than_a_millisecond_and_texts_that_look_encoded_come_back(tmp_path):
    file = tmp_path / "talk.json"
    said = {"start": 0.1234, "end": 1.9876, "speaker": "A&amp;B", "text": "&lt;b&gt; &amp;amp; - x"}
    file.write_text(json.dumps({"segments": [said]}))
    annotation = annotated(read(file))
    for form in OF_LINES:
        assert again(annotation, tmp_path, form) == [(0.123, 1.988, "A&amp;B", "&lt;b&gt; &amp;amp; - x")]


def test_rttm_says_who_speaks_when(tmp_path):
    annotation = annotated(read(subtitles(tmp_path, HARD)))
    annotation.save(tmp_path / "talk.rttm")
    turns = read_turns(tmp_path / "talk.rttm", "my talk & co.mp4")
    expected = [(line.start, line.end, "_".join(line.speaker.split())) for line in annotation.lines]
    assert [(turn.start, pytest.approx(turn.end), turn.speaker) for turn in turns] == expected
    assert as_rttm(annotation).startswith("SPEAKER my_talk_&_co 1 0.000 1.500 <NA> <NA> Ann <NA> <NA>\n")


def test_an_eaf_has_a_tier_of_emotions_that_depends_on_each_speaker(tmp_path):
    annotation = annotated(read(subtitles(tmp_path, HARD)))
    root = ElementTree.fromstring(as_eaf(annotation).split("\n", 1)[1])
    tiers = {tier.get("TIER_ID"): tier for tier in root.iter("TIER")}
    assert {"Ann", "Ann 2", "Ann 3"} <= set(tiers)  # she speaks over herself twice
    assert {tiers[name].get("PARTICIPANT") for name in ("Ann", "Ann 2", "Ann 3")} == {"Ann"}
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values()) and len(slots) == 26
    for name, tier in tiers.items():
        if tier.get("PARENT_REF"):
            refs = {note.get("ANNOTATION_REF") for note in tier.iter("REF_ANNOTATION")}
            parents = tiers[tier.get("PARENT_REF")].iter("ALIGNABLE_ANNOTATION")
            assert refs == {note.get("ANNOTATION_ID") for note in parents}
            assert {note.findtext("ANNOTATION_VALUE") for note in tier.iter("REF_ANNOTATION")} <= {"joy 50 %", "?"}
            continue
        spans = [
            (slots[note.get("TIME_SLOT_REF1")], slots[note.get("TIME_SLOT_REF2")])
            for note in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        assert all(first[1] <= second[0] for first, second in pairwise(spans)), name  # as ELAN demands
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    assert media.get("RELATIVE_MEDIA_URL") == "./my talk & co.mp4" and media.get("MEDIA_URL").startswith("file:///")


def test_intervals_of_a_textgrid_cover_the_whole_time_without_overlaps(tmp_path):
    text = as_textgrid(annotated(read(subtitles(tmp_path, HARD))))
    assert text.count('class = "IntervalTier"') == int(text.split("size = ")[1].split()[0])
    for tier in text.split('class = "IntervalTier"')[1:]:
        numbers = [float(row.split("= ")[1]) for row in tier.splitlines() if " xmin = " in row or " xmax = " in row]
        starts, ends = numbers[2::2], numbers[3::2]
        assert (
            starts == [0.0, *ends[:-1]] and ends[-1] == 3600.0 and all(s < e for s, e in zip(starts, ends, strict=True))
        )
    assert '"""""quoted"""" [not an emotion 12 %]"' in text


def test_web_subtitles_are_read_by_webvtt_py(tmp_path):
    webvtt = pytest.importorskip("webvtt")
    annotation = annotated(read(subtitles(tmp_path, HARD)))
    annotation.save(tmp_path / "talk.vtt")
    captions = list(webvtt.read(tmp_path / "talk.vtt"))
    assert len(captions) == len(annotation.lines)
    assert captions[0].raw_text == '[joy 50 %] <v Ann>Fish &amp; chips &lt; 5 &gt; 3 --&gt; "all" of it</v>'


def test_the_table_is_that_of_the_csv_file(tmp_path):
    pytest.importorskip("pandas", reason="to_pandas needs pandas")
    annotation = annotated(read(subtitles(tmp_path, HARD)))
    table = annotation.to_pandas()
    rows = list(csv.DictReader(io.StringIO(as_csv(annotation))))
    assert list(table.columns) == list(rows[0]) and list(table["text"]) == [row["text"] for row in rows]
    assert table["joy"].isna().sum() == table["emotion"].isna().sum() == [row["joy"] for row in rows].count("") == 4
    assert table["start"].dtype == float and table["joy"].sum() == 0.5 * 9


def test_the_suffix_decides_and_an_unknown_one_is_refused(tmp_path):
    annotation = Annotation([], LABELS, ["nothing"], {})
    for form in FORMATS:
        annotation.save(tmp_path / f"a.{form.upper()}")
        assert (tmp_path / f"a.{form.upper()}").read_text() == FORMATS[form](annotation)
    assert json.loads((tmp_path / "a.JSON").read_text()) == as_json(annotation)
    with pytest.raises(ValueError, match=r"as '.docx': expected one of json, csv, srt"):
        annotation.save(tmp_path / "a.docx")
    assert as_vtt(annotation).startswith("WEBVTT\n\nNOTE ")
