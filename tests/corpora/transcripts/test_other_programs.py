"""Subtitles that other libraries write: read as they read them."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.transcripts import lines, read

pysubs2 = pytest.importorskip("pysubs2", reason="pysubs2 writes subtitles for this test: pip install 'merc[dev]'")
webvtt = pytest.importorskip("webvtt", reason="webvtt-py writes subtitles for this test: pip install 'merc[dev]'")

WORD = st.text(st.characters(categories=("L",)), min_size=1, max_size=6)
TEXT = st.lists(st.lists(WORD, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=3)
CUES = st.lists(st.tuples(st.integers(5, 10**5), st.integers(5, 10**4), TEXT), min_size=1, max_size=6)
"""Start and length in hundredths of a second, because SubStation has no thousandths."""


def expected(cues, name="unknown"):
    rows = [(start / 100, (start + length) / 100, name, " ".join(rows)) for start, length, rows in cues]
    return sorted(rows, key=lambda row: row[:2])


@given(cues=CUES, kind=st.sampled_from(["srt", "vtt", "ass", "ssa"]), italic=st.booleans())
def test_what_pysubs2_writes(tmp_path_factory, cues, kind, italic):
    file = pysubs2.SSAFile()
    for start, length, rows in cues:
        text = "\\N".join(rows)
        text = f"{{\\i1}}{text}{{\\i0}}" if italic else text
        file.append(pysubs2.SSAEvent(start=10 * start, end=10 * (start + length), name="Ann", text=text))
    found = lines(read(tmp_path_factory.mktemp("pysubs2"), f"a.{kind}", file.to_string(kind)))
    assert found == expected(cues, "Ann" if kind in ("ass", "ssa") else "unknown")


@given(cues=CUES, kind=st.sampled_from(["vtt", "srt"]), named=st.booleans())
def test_what_webvtt_writes(tmp_path_factory, cues, kind, named):
    file = webvtt.WebVTT()
    for number, (start, length, rows) in enumerate(cues):
        times = (
            f"{t // 360000:02}:{t // 6000 % 60:02}:{t // 100 % 60:02}.{t % 100:02}0" for t in (start, start + length)
        )
        rows = [f"<v Ann>{rows[0]}", *rows[1:]] if kind == "vtt" else rows
        file.captions.append(webvtt.Caption(*times, rows, f"cue {number}" if named else None))
    found = lines(read(tmp_path_factory.mktemp("webvtt"), f"a.{kind}", file.content if kind == "vtt" else as_srt(file)))
    assert found == expected(cues, "Ann" if kind == "vtt" else "unknown")


def as_srt(file):
    target = io.StringIO()
    file.write(target, format="srt")
    return target.getvalue()
