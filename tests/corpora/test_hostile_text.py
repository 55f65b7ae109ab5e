"""Text files that are made to hang or crash a reader: each is read or refused, in little time."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.conversation import Conversation, Corpus, CorpusError, Utterance
from merc.corpora import read_csv, read_meld, read_transcript
from merc.corpora.iemocap import _RATING, _TURN
from merc.labels import MELD
from merc.rows import parse_time, read_rows

QUICK = 2.0
"""Seconds: all of these take milliseconds, and took many seconds or for ever."""


def quickly(read, path):
    """Read a file that may be refused, in little time; returns the message, or None."""
    begin = time.process_time()
    try:
        read(path)
        message = None
    except CorpusError as error:
        message = str(error)
        assert str(path) in message and len(message) < 2000
    assert time.process_time() - begin < QUICK
    return message


def transcript(path):
    return read_transcript(path, "talk.mp4", labels=MELD)


TIMES = "00:00:01.000 --> 00:00:02.000\n"
SLOW_TEXTS = {
    "dots in a voice tag": "<v" + "." * 40_000,
    "voice tags without an end": "<v " * 30_000,
    "classes without an end": "<v.a" * 30_000,
    "blanks in a voice tag": "<v" + " " * 100_000 + "<",
    "tags without an end": "<a" * 50_000,
    "braces without an end": "{\\" * 50_000,
    "number of a character": "&#" + "9" * 6000 + ";",
    "a prefix of blanks": "A" + " " * 100_000,
    "colons": "A:" * 50_000,
    "names": "Ann: " * 20_000,
    "names behind sentences": "No. ANN: so. " * 8000,
    "brackets": "[a] " * 25_000,
    "brackets without an end": "[a" * 50_000,
    "chevrons": ">> a " * 20_000,
    "music": "\u266a a " * 20_000,
    "quotes": '"" ' * 33_000,
    "quotes without an end": ' "a' * 33_000,
    "entities": "&amp;" * 20_000,
    "dashes": "- " * 50_000,
}


ASS_EVENT = "[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,,,,,,,"
HEADS = {
    ".srt": "1\n" + TIMES, ".vtt": "WEBVTT\n\n" + TIMES, ".ass": ASS_EVENT, ".txt": "00:03 ",
    ".csv": "start,end,text\n1,2,",
    ".TextGrid": 'File type = "ooTextFile"\n"TextGrid"\n0 9 <exists> 1 "IntervalTier" "a" 0 9 1 1 2 ',
}  # fmt: skip


@pytest.mark.parametrize("text", SLOW_TEXTS.values(), ids=SLOW_TEXTS)
@pytest.mark.parametrize("suffix", HEADS)
def test_text_of_transcripts_takes_linear_time(tmp_path, suffix, text):
    path = tmp_path / f"a{suffix}"
    path.write_text(HEADS[suffix] + text + "\n")
    quickly(transcript, path)


@pytest.mark.parametrize("text", SLOW_TEXTS.values(), ids=SLOW_TEXTS)
def test_text_of_segments_takes_linear_time(tmp_path, text):
    words = [{"word": text[:5000], "start": number, "end": number + 1, "speaker": number % 2} for number in range(9)]
    segment = {"start": 0, "end": 9, "text": text, "words": words}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"segments": [segment]}))
    quickly(transcript, path)


@pytest.mark.parametrize(
    "row", ["Ann: hi", "[Ann] hi", "- a. - b. - c", ">> a >> b >> c", "(laughs)", "a", "[a] [b] [c]", "A. B: c. D: e"]
)
def test_many_lines_take_linear_time(tmp_path, row):
    path = tmp_path / "a.srt"
    path.write_text("".join(f"{n}\n0:{n // 60}:{n % 60},0 --> 0:{n // 60}:{n % 60},9\n{row}\n\n" for n in range(3000)))
    quickly(transcript, path)
    path.write_text("1\n" + TIMES + (row + "\n") * 10_000)
    quickly(transcript, path)


def test_the_name_of_a_tier_takes_linear_time(tmp_path):
    path = tmp_path / "a.TextGrid"
    for name in ("\n" * 50_000, "-" * 50_000, " word" * 20_000, "a" * 100_000):
        path.write_text(HEADS[".TextGrid"].replace('"a"', f'"{name}"') + '"hi"\n')
        assert quickly(transcript, path) is None


def test_a_file_of_elan_without_end_is_refused(tmp_path):
    path = tmp_path / "a.eaf"
    for text in ("<a>" * 100_000, "<a " + "b='' " * 100_000, "<!ENTITY " * 50_000, "<?xml " * 100_000):
        path.write_text("<ANNOTATION_DOCUMENT>" + text)
        assert quickly(transcript, path)


@pytest.mark.parametrize(
    "line",
    [" " * 32_000 + "-->" + " " * 32_000, "0" + " " * 32_000 + "1 --> 2", "1 -->" * 10_000, "00:00:01.000 --> " * 9000],
)
def test_a_line_of_times_takes_linear_time(tmp_path, line):
    path = tmp_path / "a.srt"
    path.write_text(f"1\n{line}\nHi.\n")
    assert "line 2" in quickly(transcript, path)


def test_many_columns_take_linear_time(tmp_path):
    path = tmp_path / "a.csv"
    columns = [f"c{number}" for number in range(100_000)]
    path.write_text(",".join(columns) + "\n" + ",".join("1" * len(columns)) + "\n")
    assert quickly(read_rows, path) is None
    path.write_text(",".join([*columns, "c7"]) + "\n" + ",".join("1" * len(columns)) + "1\n")
    assert "two columns named 'c7'" in quickly(read_rows, path)


@pytest.mark.parametrize(
    "cell", ["9" * 400, f"{'9' * 400}:00", f"{'9' * 400}:0:0", "9" * 5000 + ":0:0", f"0:{'9' * 400}"]
)
def test_times_of_many_digits_are_no_times(tmp_path, cell):
    path = tmp_path / "a.csv"
    with pytest.raises(CorpusError, match=r"a\.csv, line 3: .* is not a time") as caught:
        parse_time(cell, path, 3)
    assert len(str(caught.value)) < 300
    path.write_text(f"dialogue,speaker,text,emotion,start\nd,a,hi,joy,{cell}\n")
    assert "line 2" in quickly(read_csv, path)


def test_ids_of_many_digits_are_no_numbers(tmp_path):
    digits = "9" * 5000
    path = tmp_path / "a.csv"
    path.write_text(f"dialogue,utterance_id,speaker,text,emotion\nd,{digits},a,hi,joy\nd,1,b,oh,joy\n")
    assert [c.id for c in read_csv(path)["train"]] == ["d"]
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}_sent_emo.csv").write_text(
            f"Dialogue_ID,Utterance_ID,Speaker,Utterance,Emotion,StartTime,EndTime\n{digits},0,A,Hi,joy,0:0:1,0:0:2\n"
        )
    with pytest.raises(CorpusError, match="line 2: Dialogue_ID is"):
        read_meld(tmp_path)


def test_times_of_iemocap_are_finite():
    digits = "9" * 400
    assert not _TURN.fullmatch(f"Ses01F_impro01_M000 [{digits}-{digits}]: hi")
    assert not _RATING.fullmatch(f"[1.0 - {digits}]\tSes01F_impro01_M000\tang\t[1, 1, 1]")
    assert _TURN.fullmatch("Ses01F_impro01_M000 [006.29-008.23]: hi")


# --- corpus.json

WHOLE = Corpus(
    "tiny", MELD, {"train": [Conversation("d", (Utterance("0", "A", "Hi.", 0.0, 1.5, "joy", media="a.mp4"),))]}
)


def load_text(folder, text):
    path = folder / "corpus.json"
    path.write_text(text, encoding="utf-8")
    return quickly(Corpus.load, path)


def test_long_values_make_no_long_message(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"dialogue,speaker,text,emotion,split\nd,a,hi,joy,{'x' * 100_000}\n")
    message = quickly(read_csv, path)
    assert "Unknown split" in message and "Pass --split COLUMN" in message


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 10_000])
def test_deep_json_is_refused(tmp_path, content):
    assert load_text(tmp_path, content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speaker", None), ("speaker", ["A"]), ("text", 5), ("start", "soon"), ("start", float("nan")), ("end", 1e999),
        ("text", "\ud800"), ("speaker", "\udfff"), ("label", 3), ("label", ["joy"]), ("media", 7),
        ("video", "a.mp4"), ("video", {"path": 5}), ("start", True),
        ("video", {"path": "a.mp4", "start": "0"}), ("video", {"path": "a.mp4", "start": float("nan")}),
        ("video", {"path": "a.mp4", "region": 5}), ("video", {"path": "a.mp4", "region": [0, 0, 1]}), ("id", 3),
    ],
)  # fmt: skip
def test_values_of_other_types_are_refused(tmp_path, field, value):
    WHOLE.save(tmp_path / "corpus.json")
    raw = json.loads((tmp_path / "corpus.json").read_text())
    raw["splits"]["train"][0]["utterances"][0][field] = value
    assert load_text(tmp_path, json.dumps(raw))


def test_characters_of_two_halves_are_whole(tmp_path):
    WHOLE.save(tmp_path / "corpus.json")
    text = (tmp_path / "corpus.json").read_text().replace('"Hi."', '"\\ud83d\\ude00"')
    assert load_text(tmp_path, text) is None
    assert Corpus.load(tmp_path)["train"][0].utterances[0].text == "\U0001f600"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def altered(raw, dice, value):
    """The same JSON with one part, chosen by the dice, replaced."""
    place = raw
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return raw
        key = keys[dice.randrange(len(keys))]
        if not isinstance(place[key], dict | list) or dice.random() < 0.3:
            place[key] = value
            return raw
        place = place[key]


@settings(max_examples=150)
@given(dice=st.randoms(use_true_random=False), value=JSON)
def test_altered_corpora_are_loaded_whole_or_refused(tmp_path_factory, dice, value):
    folder = tmp_path_factory.mktemp("json")
    WHOLE.save(folder / "whole.json")
    raw = altered(json.loads((folder / "whole.json").read_text()), dice, value)
    (folder / "corpus.json").write_text(json.dumps(raw))
    try:
        found = Corpus.load(folder / "corpus.json")
    except CorpusError as error:
        assert str(folder) in str(error)
    else:
        found.save(folder / "again.json")
        assert Corpus.load(folder / "again.json") == found


SPLIT_OF = ("train", "dev", "test")
TABLE = "dialogue,utterance_id,speaker,text,emotion,start,end,split\n" + "".join(
    f"d{number // 3},{number % 3},{'AB'[number % 2]},Hi,joy,{number},{number + 1}.5,{SPLIT_OF[number // 3]}\n"
    for number in range(9)
)
PIECES = [
    "\n",
    ",",
    ";",
    '"',
    "\t",
    "0:0:1,5",
    "-1",
    "9" * 400,
    "nan",
    "[" * 300 + "]",
    "['A', 'B']",
    "\x00",
    "é",
    "=1+1",
    "../a",
    "\r",
]


@settings(max_examples=100)
@given(dice=st.randoms(use_true_random=False), pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
def test_altered_tables_are_read_or_refused(tmp_path_factory, dice, pieces):
    text = TABLE
    for piece in pieces:
        at = dice.randrange(len(text))
        text = text[:at] + piece + text[at + dice.choice([0, 1, 5]) :]
    folder = tmp_path_factory.mktemp("csv")
    (folder / "a.csv").write_text(text, newline="")
    try:
        corpus = read_csv(folder / "a.csv")
    except CorpusError as error:
        assert "a.csv" in str(error) or "Corpus" in str(error) or "Dialogue" in str(error)
    else:
        corpus.save(folder / "corpus.json")
        assert Corpus.load(folder / "corpus.json")["train" if "train" in corpus else next(iter(corpus))]


SUBTITLES = [
    f"{number}\n00:00:0{number},000 --> 00:00:0{number},900\nAnna: well <i>{number}</i>\n\n" for number in range(9)
]
TAGS = [
    "<v",
    ".",
    " ",
    ">",
    "<",
    "-->",
    "{\\an8}",
    "&#x110000;",
    "&",
    "WEBVTT",
    "\n",
    "\n\n",
    ":",
    "99",
    "NOTE ",
    "A: ",
]


@settings(max_examples=100)
@given(
    dice=st.randoms(use_true_random=False),
    pieces=st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from([1, 2, 3000])), min_size=1, max_size=5),
    suffix=st.sampled_from([".srt", ".vtt", ".txt"]),
)
def test_altered_subtitles_are_read_or_refused_in_no_time(tmp_path_factory, dice, pieces, suffix):
    text = "WEBVTT\n\n" * (suffix == ".vtt") + "".join(SUBTITLES).replace(",", "." if suffix == ".vtt" else ",")
    for piece, count in pieces:
        at = dice.randrange(len(text))
        text = text[:at] + piece * count + text[at:]
    path = tmp_path_factory.mktemp("subtitles") / f"a{suffix}"
    path.write_text(text)
    quickly(transcript, path)
