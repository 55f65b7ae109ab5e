"""Names in text: every form of label, and what only looks like one; dashes, chevrons, sounds and music."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.transcripts import lines, read, said, srt

NAMES = ["Ann", "Mary Ann", "Maria del Carmen Lopez", "Jean-Luc", "O'Neil", "Dr. Ben", "小美", "Боря", "Žofie"]
TEXTS = [
    "so what?",
    "no.",
    "I did, and I hate it!",
    "It is 10:30 now.",
    "well (you know) yes",
    "对不起。",
]
FORMS = [
    "{}: ", "[{}]: ", "[{}] ", "({}) ", "({}): ", "{} (on phone): ", "{} [whispering]: ", ">> {}: ", "- {}: ",
    "{}\uff1a", "\u3010{}\u3011", "\uff08{}\uff09", "[{}, shouting] ", ">>{}: ", "<i>{}:</i> ", "{}:\n", "[{}]\n",
    "[ {} ] ",
]  # fmt: skip


@given(
    rows=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(TEXTS)), min_size=3, max_size=8),
    form=st.sampled_from(FORMS),
    suffix=st.sampled_from([".srt", ".vtt", ".json"]),
)
def test_every_form_of_label_that_comes_twice_names_the_speaker(tmp_path_factory, rows, form, suffix):
    rows = [*rows, *rows]
    texts = [form.format(name) + text for name, text in rows]
    if suffix == ".json":
        plain = [text.replace("<i>", "").replace("</i>", "") for text in texts]
        content = json.dumps([{"start": n, "end": n + 0.9, "text": text} for n, text in enumerate(plain)])
    else:
        content = ("WEBVTT\n\n" if suffix == ".vtt" else "") + srt(*texts)
    found = said(read(tmp_path_factory.mktemp("names"), f"a{suffix}", content))
    assert found == rows


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("[SPEAKER_00]: ", "SPEAKER_00"), ("SPEAKER_00: ", "SPEAKER_00"), ("Speaker 1: ", "Speaker 1"), ("[S1] ", "S1"),
        ("MAN #1: ", "MAN #1"), ("WOMAN 2: ", "WOMAN 2"), ("BOB (on phone): ", "BOB"), ("BOB [V.O.]: ", "BOB"),
        (">> ANN: ", "ANN"), (">>> Ann Example: ", "Ann Example"), ("[Ann]: ", "Ann"), ("[Man 2] ", "Man 2"),
        ("(Ann): ", "Ann"),
        ("speaker 2: ", "speaker 2"), ("\u3010小美\u3011: ", "小美"),
    ],
)  # fmt: skip
def test_some_labels_are_sure_even_once(tmp_path, label, name):
    others = ["well", "yes", "no", "so what"]
    assert said(read(tmp_path, "a.srt", srt(*others, f"{label}Hi there.")))[4:] == [(name, "Hi there.")]


@pytest.mark.parametrize(
    "text",
    [
        "Remember: no notes.", "It is 10:30 now.", "He told me: go.", "See Https://a.b", "NOTE: do not enter",
        "- 5 degrees",
        "[sighs] I know.", "(quietly) I know.", "(I mean) you know", "[Laughing] Stop!", "PS: I love you", "他说：你好",
        ":)",
        "The answer is: no", "a: b", "This is what I have been thinking about: you", "[joy 83 %", "]", "5 > 3", "# 5",
    ],
)  # fmt: skip
def test_once_among_others_it_is_text(tmp_path, text):
    found = said(read(tmp_path, "a.srt", srt("well", "Anna: yes", "no", text, "Anna: so", "oh", "my")))
    assert found[3] == ("unknown", text.removeprefix("- ")) and found[1] == ("Anna", "yes")


@pytest.mark.parametrize("text", ["Note: a", "Question: b", "He said: c", "[Laughs] d", "他说：你好"])
def test_some_words_are_no_names_however_often(tmp_path, text):
    corpus = read(tmp_path, "a.srt", srt("Anna: well", text, "Anna: yes", text, "no", "Anna: so", "oh"))
    assert said(corpus)[1] == said(corpus)[3] == ("unknown", text)


def test_what_stands_in_brackets_alone_as_well_is_a_sound(tmp_path):
    corpus = read(
        tmp_path, "a.srt", srt("[Suspira] No sé.", "[Suspira]", "[Alba] En 1928.", "[Suspira] Ya.", "[Alba] Sí.")
    )
    assert said(corpus) == [
        ("unknown", "[Suspira] No sé."), ("Alba", "En 1928."), ("unknown", "[Suspira] Ya."), ("Alba", "Sí."),
    ]  # fmt: skip


def test_names_of_zoom_are_names_in_small_letters_too(tmp_path):
    corpus = read(tmp_path, "a.vtt", "WEBVTT\n\n" + srt("ann example: Hi there.", "bob: Oh.", "ann example: so: what"))
    assert said(corpus) == [("ann example", "Hi there."), ("bob", "Oh."), ("ann example", "so: what")]


def test_one_person_has_one_name(tmp_path):
    texts = ["ANN: Hi.", "[Ann] Yes.", "BOB: so", "ANN (on phone): Bye.", "BOB: no", "[Bob, shouting] No!"]
    assert [name for name, _ in said(read(tmp_path, "a.srt", srt(*texts)))] == [
        "Ann",
        "Ann",
        "Bob",
        "Ann",
        "Bob",
        "Bob",
    ]


# --- several speakers


@pytest.mark.parametrize("dash", ["- ", "-", "\u2013 ", "\u2014", "\u2010 ", "\u2022 "])
def test_rows_with_dashes_are_utterances_of_the_same_time(tmp_path, dash):
    corpus = read(
        tmp_path, "a.srt", srt(f"{dash}Did you\nget it?\n{dash}I did!", "Anna: so", "Anna: yes", f"{dash}Hm.")
    )
    assert lines(corpus)[:2] == [(1.0, 1.9, "unknown", "Did you get it?"), (1.0, 1.9, "unknown", "I did!")]
    assert said(corpus)[4] == ("unknown", "Hm.")
    assert "1 subtitles of a.srt hold several speakers. Their lines have the same times" in corpus.notes[0]


def test_the_other_row_is_not_said_by_who_has_a_name(tmp_path):
    texts = [
        "- Ann: Sorry.\n- Don't be.",
        "- Don't be.\n- Ann: Sorry.",
        "Ann: Hi.\n- Hello.",
        "Did you?\n- Ann: I did.",
    ]
    assert said(read(tmp_path, "a.srt", srt(*texts))) == [
        ("Ann", "Sorry."), ("unknown", "Don't be."), ("unknown", "Don't be."), ("Ann", "Sorry."),
        ("Ann", "Hi."), ("unknown", "Hello."), ("unknown", "Did you?"), ("Ann", "I did."),
    ]  # fmt: skip


def test_several_speakers_in_one_row(tmp_path):
    texts = ["MAN #1: Taxi! MAN #2: Over here!", "- Yes. - No.", "Ann: Hi. Bob: Hello.", "Bob: so", ">> One. >> Two."]
    assert said(read(tmp_path, "a.srt", srt(*texts, "Ann: a - b. - c"))) == [
        ("MAN #1", "Taxi!"), ("MAN #2", "Over here!"), ("unknown", "Yes."), ("unknown", "No."), ("Ann", "Hi."),
        ("Bob", "Hello."), ("Bob", "so"), ("unknown", "One."), ("unknown", "Two."), ("Ann", "a - b. - c"),
    ]  # fmt: skip


def test_without_a_chevron_the_same_speaker_goes_on(tmp_path):
    texts = [">> ANN: Hi there,", "how are you?", "[ Door slams ]", "And you?", ">> Fine.", "Really.", ">> ANN: Good."]
    assert said(read(tmp_path, "a.srt", srt(*texts))) == [
        ("ANN", "Hi there,"), ("ANN", "how are you?"), ("ANN", "And you?"), ("unknown", "Fine."), ("unknown",
        "Really."),
        ("ANN", "Good."),
    ]  # fmt: skip
    coded = srt(*texts).replace(">> ", "&gt;&gt; ")
    assert said(read(tmp_path, "b.srt", coded)) == said(read(tmp_path, "a.srt", srt(*texts)))


def test_a_known_speaker_is_not_looked_for_in_the_text(tmp_path):
    table = "start,end,speaker,text\n0,1,Cy,Ann: Hi.\n1,2,Cy,- Ann: so\n2,3,Cy,Ann: [laughs] no\n"
    assert said(read(tmp_path, "a.csv", table)) == [("Cy", "Ann: Hi."), ("Cy", "Ann: so"), ("Cy", "Ann: [laughs] no")]


# --- sounds


@pytest.mark.parametrize(
    "text",
    [
        "[ Door slams ]", "(laughs)", "[crying]", "\u266a (theme music playing) \u266a",
        "\u266a Happy birthday\nto you \u266a",
        "# Happy birthday #", "*sighs*", "\uff08笑声\uff09", "\u3010音乐\u3011", "[Music]", "(sighs) [door opens]",
        "[Ann]",
        "ANN: [laughs]", "- [gasps]\n- (sobs)", "www.example.org", "https://a.b/c", "\u266b", "<i>[ticking]</i>",
        ">> [applause]",
        "[BLANK_AUDIO]", "(Music plays.)",
    ],
)  # fmt: skip
def test_sounds_and_music_are_no_utterances(tmp_path, text):
    corpus = read(tmp_path, "a.srt", srt("ANN: Hi.", text, "ANN: Bye."))
    assert said(corpus) == [("ANN", "Hi."), ("ANN", "Bye.")]
    assert corpus.notes[0].startswith("1 lines of a.srt are sounds, music or links, such as ")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("[Door slams]\nWhat was that?", "What was that?"), ("What was that?\n(thunder)", "What was that?"),
        ("\u266a la la \u266a\nOh, no.", "Oh, no."), ("I know \u266a", "I know"), ("I (really) know",
        "I (really) know"),
        ("# 1", "# 1"), ("2 * 3 * 4", "2 * 3 * 4"),
    ],
)  # fmt: skip
def test_words_beside_sounds_stay(tmp_path, text, left):
    assert said(read(tmp_path, "a.srt", srt("so", text))) == [("unknown", "so"), ("unknown", left)]


def test_lines_without_text_are_left_out_and_counted(tmp_path):
    corpus = read(tmp_path, "a.srt", srt("", "so"))
    assert said(corpus) == [("unknown", "so")] and "1 lines of a.srt have no text" in corpus.notes[0]
