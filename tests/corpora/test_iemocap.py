"""The IEMOCAP reader on a generated tree in the layout of the release, and its protocols."""

from collections import Counter

import pytest

from merc.conversation import Clip, CorpusError
from merc.corpora.iemocap import USUAL_VALIDATION, read_iemocap, speaker_half, speaker_of, split_iemocap
from merc.labels import IEMOCAP4, IEMOCAP6
from support.iemocap_tree import CODES, DIALOGUES, make_iemocap

EVERY = {name: session for session, names in DIALOGUES.items() for name in names}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_iemocap(tmp_path_factory.mktemp("iemocap"))


@pytest.fixture
def own_tree(tmp_path):
    return make_iemocap(tmp_path, sound=False)


def find(corpus, dialogue):
    return next(c for conversations in corpus.values() for c in conversations if c.id == dialogue)


def test_a_dialogue_as_it_was_spoken(tree):
    corpus = read_iemocap(tree)
    dialogue = find(corpus, "Ses01F_impro01")
    assert dialogue.partition == "session1"
    assert [u.id[-4:] for u in dialogue.utterances[:5]] == ["F000", "M000", "F001", "FXX0", "M001"]
    assert [u.speaker for u in dialogue.utterances[:3]] == ["Ses01F", "Ses01M", "Ses01F"]
    assert [u.label for u in dialogue.utterances] == [
        *("happy", "sad", "neutral", None, "angry", "excited", "frustrated"),
        *(None, None, None),
    ]
    first = dialogue.utterances[0]
    assert (first.text, first.start, first.end) == ("Line 0 of Ses01F_impro01.", 0.25, 1.5)
    assert first.media.endswith("Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav")
    assert dialogue.utterances[3].media is None


def test_notes_count_what_has_no_label_or_sound_and_name_the_source(tree):
    dialogues = sum(map(len, DIALOGUES.values()))
    notes = " ".join(read_iemocap(tree).notes)
    assert f"hap {dialogues}, sad {dialogues}" in notes
    assert (
        f"{4 * dialogues} of {10 * dialogues} utterances have no label of the six ({3 * dialogues} rated as others"
        in notes
    )
    assert f"{dialogues} of {10 * dialogues} utterances have no file in sentences/wav." in notes
    assert f"{10 * dialogues} of {10 * dialogues} utterances have no video in dialog/avi/DivX." in notes


def test_an_utterance_is_seen_in_its_half_of_the_dialogue_and_heard_in_its_own_file(tmp_path):
    root = make_iemocap(tmp_path)
    film = root / "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
    film.parent.mkdir(parents=True)
    film.touch()
    corpus = read_iemocap(root)
    (conversation,) = [c for c in corpus["train"] if c.id == "Ses01F_impro01"]
    by_id = {utterance.id: utterance for utterance in conversation.utterances}
    woman, man = by_id["Ses01F_impro01_F000"], by_id["Ses01F_impro01_M000"]
    assert woman.picture == Clip(str(film.resolve()), 0.25, 1.5, (0.0, 0.0, 0.5, 1.0))  # she wears the markers
    assert man.picture == Clip(str(film.resolve()), 2.25, 3.5, (0.5, 0.0, 1.0, 1.0))
    assert woman.sound == Clip(woman.media)
    unseen = sum(len(c) for split in corpus.values() for c in split) - len(conversation)
    assert any(note.startswith(f"{unseen} of") and "no video" in note for note in corpus.notes)


def test_whole_frames_show_both_actors(tmp_path):
    film = make_iemocap(tmp_path) / "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
    film.parent.mkdir(parents=True)
    film.touch()
    for faces, seen, told in (("whole", {None}, "both actors"), ("half", {(0, 0, 0.5, 1), (0.5, 0, 1, 1)}, "the half")):
        corpus = read_iemocap(tmp_path, faces=faces)
        assert {u.picture.region for u in find(corpus, "Ses01F_impro01").utterances if u.picture} == seen
        assert any(told in note for note in corpus.notes)
    with pytest.raises(ValueError, match="Unknown faces 'left': expected half"):
        read_iemocap(tmp_path, faces="left")


@pytest.mark.parametrize(
    ("merge", "labels", "counts"),
    [
        ("six", IEMOCAP6, {"happy": 1, "excited": 1, "frustrated": 1, None: 4}),
        ("excited-as-happy", IEMOCAP4, {"happy": 2, None: 5}),
        ("excited-dropped", IEMOCAP4, {"happy": 1, None: 6}),
    ],
)
def test_merges_keep_every_utterance(tree, merge, labels, counts):
    corpus = read_iemocap(tree, merge=merge)
    assert corpus.labels == labels
    assert merge in corpus.protocol
    found = Counter(u.label for u in find(corpus, "Ses02F_impro01").utterances)
    assert sum(found.values()) == len(CODES) + 1
    assert found == {"sad": 1, "neutral": 1, "angry": 1, **counts}


def test_session_5_protocol(tree):
    corpus = read_iemocap(tree)
    assert {c.id for c in corpus["test"]} == set(DIALOGUES[5])
    assert {c.id for c in corpus["val"]} == set(USUAL_VALIDATION)
    assert len(corpus["train"]) == sum(map(len, DIALOGUES.values())) - 7 - 12
    assert "session 5 is test; the usual validation dialogues" in corpus.protocol


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_leave_one_session_out(fold):
    split = split_iemocap(EVERY, protocol="loso", fold=fold)
    assert split.test == set(DIALOGUES[fold])
    assert not split.validation & split.test
    assert len(split.validation) == 12
    assert {name for name in USUAL_VALIDATION if EVERY[name] != fold} <= split.validation
    assert {EVERY[name] for name in split.validation - set(USUAL_VALIDATION)} <= {5}
    assert split == split_iemocap(dict(reversed(EVERY.items())), protocol="loso", fold=fold)
    assert f"fold {fold}" in split.protocol


def test_fold_5_is_the_session_5_protocol_and_the_seed_matters():
    fold5 = split_iemocap(EVERY, protocol="loso", fold=5)
    assert (fold5.validation, fold5.test) == (split_iemocap(EVERY).validation, split_iemocap(EVERY).test)
    drawn = {split_iemocap(EVERY, protocol="loso", fold=1, seed=seed).validation for seed in range(10)}
    assert len(drawn) > 1


def test_other_validations():
    fifth = split_iemocap(EVERY, validation=0.2)
    rest = [name for name, session in EVERY.items() if session != 5]
    assert len(fifth.validation) == len(rest) // 5
    assert "20% of the other dialogues" in fifth.protocol
    assert split_iemocap(EVERY, validation=["Ses02F_impro01"]).validation == {"Ses02F_impro01"}
    with pytest.raises(CorpusError, match="Ses05F_impro01 are not among"):
        split_iemocap(EVERY, validation=["Ses05F_impro01"])
    with pytest.raises(CorpusError, match="Ses01M_impro01"):
        split_iemocap({name: session for name, session in EVERY.items() if name != "Ses01M_impro01"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "loso"}, "a fold from 1 to 5, got fold None"),
        ({"protocol": "loso", "fold": 6}, "got fold 6"),
        ({"fold": 2}, "takes no fold, got fold 2"),
        ({"protocol": "random"}, "Unknown protocol 'random'"),
        ({"validation": "mine"}, "Unknown validation 'mine'"),
        ({"validation": 1.5}, "fraction is 1.5"),
    ],
)
def test_protocols_are_never_chosen_silently(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_iemocap(EVERY, **arguments)


def test_lines_that_do_not_parse_are_reported_and_the_rest_is_read(own_tree):
    path = own_tree / "Session1/dialog/transcriptions/Ses01F_impro01.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["M: Excuse me.", lines[0].replace("[", "(").replace("]", ")"), *lines[1:], lines[2]]))
    corpus = read_iemocap(own_tree)
    dialogue = find(corpus, "Ses01F_impro01")
    assert len(dialogue) == len(CODES) + 1
    assert (dialogue.utterances[0].text, dialogue.utterances[0].label) == ("", "happy")
    notes = " ".join(corpus.notes)
    assert "3 lines did not parse and were left out: Ses01F_impro01.txt:1, Ses01F_impro01.txt:2" in notes
    assert "1 rated utterances have no transcript" in notes


def test_bad_trees_are_refused(own_tree):
    path = own_tree / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
    whole = path.read_text()
    path.write_text(whole.replace("\thap\t", "\tbored\t"))
    with pytest.raises(CorpusError, match=r"Ses02F_impro01\.txt, line 3: unknown label 'bored'"):
        read_iemocap(own_tree)
    path.write_text(whole + whole)
    with pytest.raises(CorpusError, match="Ses02F_impro01_F000 is rated twice"):
        read_iemocap(own_tree)
    path.unlink()
    with pytest.raises(CorpusError, match="No annotation"):
        read_iemocap(own_tree)
    (own_tree / "Session4").rename(own_tree / "session-4")
    with pytest.raises(CorpusError, match="Session4/dialog/EmoEvaluation: expected Session1 to Session5"):
        read_iemocap(own_tree)
    with pytest.raises(FileNotFoundError, match="No folder"):
        read_iemocap(own_tree / "nowhere")


@pytest.mark.parametrize(
    ("utterance", "half", "speaker"),
    [
        ("Ses01F_impro01_F000", "left", "Ses01F"),
        ("Ses01F_impro01_M000", "right", "Ses01M"),
        ("Ses05M_script01_1b_M012", "left", "Ses05M"),
        ("Ses03M_impro05a_FXX0", "right", "Ses03F"),
    ],
)
def test_who_speaks_and_where_in_the_frame(utterance, half, speaker):
    assert speaker_half(utterance) == half
    assert speaker_half(utterance) == ("left" if utterance[5] == utterance[-4] else "right")
    assert speaker_of(utterance) == speaker


def test_other_names_are_no_utterance_ids():
    for name in ("dia0_utt0", "Ses06F_impro01_F000", "Ses01F_impro01", ""):
        with pytest.raises(ValueError, match="is no utterance id"):
            speaker_half(name)


def test_valence_activation_and_dominance_are_numbers_whatever_the_label(tmp_path):
    root = make_iemocap(tmp_path)
    corpus = read_iemocap(tmp_path if root is None else root)
    assert corpus.dimensions == {"valence": (1, 5), "activation": (1, 5), "dominance": (1, 5)}
    utterances = [u for split in corpus.values() for talk in split for u in talk.utterances]
    rated = [u for u in utterances if u.values]
    assert rated[0].values == {"valence": 2.5, "activation": 2.5, "dominance": 2.5}
    assert any(u.label is None for u in rated)
