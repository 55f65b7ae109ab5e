"""The MELD reader against the real CSV files and against small broken ones."""

from collections import Counter
from pathlib import Path

import pytest

from merc.conversation import Corpus, CorpusError
from merc.corpora.meld import CLIP_FOLDERS, CSV_FILES, find_meld, read_meld
from merc.labels import MELD
from support.meld_tree import HEADER, line, make_meld, write_csv

REAL = Path(__file__).parents[2].parent / "shared/data/meld"
needs_meld = pytest.mark.skipif(not REAL.is_dir(), reason="the real MELD CSV files are not at ../shared/data/meld")


@pytest.fixture
def root(tmp_path):
    return make_meld(tmp_path)


@pytest.fixture(scope="module")
def corpus():
    return read_meld(REAL)


@needs_meld
class TestReal:
    @pytest.mark.parametrize(
        ("split", "utterances", "dialogues", "speakers", "longest", "single", "gaps"),
        [
            ("train", 9989, 1038, 260, 24, 70, 72),
            ("val", 1109, 114, 47, 23, 6, 2),
            ("test", 2610, 280, 100, 33, 12, 2),
        ],
    )
    def test_counts_of_the_splits(self, corpus, split, utterances, dialogues, speakers, longest, single, gaps):
        conversations = corpus[split]
        ids = [[int(u.id) for u in c.utterances] for c in conversations]
        assert sum(map(len, conversations)) == utterances
        assert len(conversations) == dialogues
        assert len({u.speaker for c in conversations for u in c.utterances}) == speakers
        assert max(map(len, conversations)) == longest
        assert sum(len(c) == 1 for c in conversations) == single
        assert sum(numbers != list(range(len(numbers))) for numbers in ids) == gaps
        assert all(numbers == sorted(numbers) for numbers in ids)
        assert [int(c.id) for c in conversations] == sorted(int(c.id) for c in conversations)
        assert {c.partition for c in conversations} == {split}
        assert max(len(c.speakers) for c in conversations) <= 9

    @pytest.mark.parametrize(
        ("split", "counts"),
        [
            ("train", [4710, 1205, 268, 683, 1743, 271, 1109]),
            ("val", [470, 150, 40, 111, 163, 22, 153]),
            ("test", [1256, 281, 50, 208, 402, 68, 345]),
        ],
    )
    def test_counts_of_the_labels(self, corpus, split, counts):
        found = Counter(MELD.index(u.label) for c in corpus[split] for u in c.utterances)
        assert [found[index] for index in range(7)] == counts

    def test_what_test_shares_with_train_is_disclosed(self, corpus):
        assert any("142 of 143 test episodes also occur in train" in note for note in corpus.notes)
        assert any("95.8% of test utterances" in note for note in corpus.notes)

    def test_saved_and_loaded_it_is_the_same(self, corpus, tmp_path):
        corpus.save(tmp_path / "corpus.json")
        assert Corpus.load(tmp_path / "corpus.json") == corpus


def test_order_gaps_times_and_speakers(root):
    corpus = read_meld(root)
    assert [c.id for c in corpus["test"]] == ["1", "3"]
    utterances = corpus["test"][1].utterances
    assert [u.id for u in utterances] == ["2", "4"]
    assert [u.speaker for u in utterances] == ["Gunther", "Ross"]
    assert (utterances[0].start, utterances[0].end) == (1.5, 2.0)
    assert corpus["train"][0].utterances[1].label == "anger"
    assert corpus["val"][0].partition == "val"
    assert "1 of 2 test episodes also occur in train." in corpus.notes
    assert "66.7% of test utterances are by a speaker name seen in train." in corpus.notes


def test_without_season_and_episode_the_notes_say_so(root):
    header = [name for name in HEADER if name not in ("Season", "Episode")]
    write_csv(root / CSV_FILES["test"], [line()[:7] + line()[9:]], header)
    assert any("lack Season and Episode" in note for note in read_meld(root).notes)


def test_cp1252_copies_are_read_and_noted(root):
    write_csv(root / CSV_FILES["val"], [line(text="It\u2019s on.")], encoding="cp1252")
    corpus = read_meld(root)
    assert corpus["val"][0].utterances[0].text == "It\u2019s on."
    assert any("dev_sent_emo.csv: 1 lines were not UTF-8" in note for note in corpus.notes)


def test_copies_with_control_characters_for_punctuation_are_mapped_and_noted(root):
    write_csv(root / CSV_FILES["val"], [line(text="It\x92s on\x97now\x85")])
    corpus = read_meld(root)
    assert corpus["val"][0].utterances[0].text == "It\u2019s on\u2014now\u2026"
    assert any("dev_sent_emo.csv: 1 lines had control characters" in note for note in corpus.notes)


def test_the_control_characters_of_a_popular_copy():
    corpus = read_meld(Path(__file__).parent / "cases/25_meld_c1")
    for split in ("train", "val", "test"):
        texts = [u.text for u in corpus[split][0].utterances]
        assert texts == ["I can\u2019t \u2014 he\u2019s late\u2026", "It\u2019s fine."]
    assert sum("had control characters" in note for note in corpus.notes) == 3


@pytest.mark.parametrize("place", ["{name}", "MELD.Raw/{name}", "MELD.Raw/{archive}/{name}", "data/MELD/{name}"])
def test_layouts(tmp_path, place):
    for archive, (split, name) in zip(("train", "dev", "test"), CSV_FILES.items(), strict=True):
        file = tmp_path / place.format(name=name, archive=archive)
        write_csv(file, [line(2, 7), line(2, 8)])
        clips = file.parent / CLIP_FOLDERS[split]
        clips.mkdir()
        (clips / "dia2_utt7.mp4").touch()
        (clips / "final_videos_testdia2_utt8.mp4").touch()
    corpus = read_meld(tmp_path)
    with_clip, without = corpus["val"][0].utterances
    assert Path(with_clip.media).is_file()
    assert without.media is None
    assert "val: 1 of 2 utterances have no clip in dev_splits_complete." in corpus.notes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (line(emotion="bored"), r"train_sent_emo\.csv, line 3: Unknown label 'bored'"),
        (line(emotion=""), "line 3: Unknown label ''"),
        (line(0, 0), "line 3: Dialogue_ID 0, Utterance_ID 0 stands on line 2 already"),
        (line("x", 1), "line 3: Dialogue_ID is 'x'"),
        (line(0, -1), "line 3: Utterance_ID is '-1'"),
        (line(0, 1, speaker=""), "line 3: no speaker"),
        (line(0, 1, start="noon"), "line 3: 'noon' is not a time"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(root, bad, message):
    write_csv(root / CSV_FILES["train"], [line(), bad])
    with pytest.raises(CorpusError, match=message):
        read_meld(root)


def test_a_missing_column_is_named_with_the_file_and_what_was_found(root):
    write_csv(root / CSV_FILES["val"], [line()], ["Sr No.", "Text", *HEADER[2:]])
    with pytest.raises(CorpusError, match=r"dev_sent_emo\.csv has no column 'Utterance': found 'Sr No\.', 'Text'"):
        read_meld(root)


def test_a_missing_split_and_a_missing_folder_are_named(root):
    (root / CSV_FILES["test"]).unlink()
    with pytest.raises(CorpusError, match=r"no test_sent_emo\.csv under"):
        find_meld(root)
    with pytest.raises(FileNotFoundError, match="No folder"):
        read_meld(root / "nowhere")


def test_an_empty_file_is_refused(root):
    (root / CSV_FILES["train"]).write_text("")
    with pytest.raises(CorpusError, match=r"train_sent_emo\.csv is empty"):
        read_meld(root)
