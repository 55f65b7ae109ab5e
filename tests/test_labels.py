import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.labels import (
    EXCITED_AS_HAPPY,
    EXCITED_DROPPED,
    IEMOCAP4,
    IEMOCAP6,
    IGNORE_INDEX,
    KEEP_SIX,
    MELD,
    LabelSet,
    MergeRule,
    UnknownLabelError,
    merge_rule,
)


def test_meld_has_the_ids_of_the_community_pickles():
    assert [(i, MELD.index(n)) for i, n in enumerate(MELD.names)] == [(i, i) for i in range(7)]
    assert MELD.names == ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")


def test_iemocap_has_the_ids_of_the_community_pickles():
    short = ["hap", "sad", "neu", "ang", "exc", "fru"]
    assert [IEMOCAP6.index(label) for label in short] == [0, 1, 2, 3, 4, 5]
    assert [IEMOCAP4.index(label) for label in short[:4]] == [0, 1, 2, 3]


def test_meld_is_reported_in_the_column_order_of_the_paper():
    assert MELD.report_order == ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    assert MELD.report_ids == [6, 5, 2, 4, 0, 3, 1]


def test_the_report_order_is_that_of_the_names_unless_given():
    assert IEMOCAP6.report_order == IEMOCAP6.names
    assert IEMOCAP6.report_ids == list(range(6))


@given(st.sampled_from([MELD, IEMOCAP6, IEMOCAP4]), st.data())
def test_case_blanks_and_aliases_are_forgiven(labels, data):
    spelling, name = data.draw(
        st.sampled_from([*labels.aliases.items(), *zip(labels.names, labels.names, strict=True)])
    )
    found = data.draw(st.sampled_from([spelling, spelling.upper(), spelling.title(), f" {spelling}\t"]))
    assert labels.canonical(found) == name
    assert labels.index(found) == labels.names.index(name)


def test_names_may_have_capitals():
    labels = LabelSet("mine", ("Happy", "NOT happy"), aliases={"HAP": "Happy"})
    assert [labels.canonical(label) for label in ("Happy", "happy", "hap", "not HAPPY")] == ["Happy"] * 3 + [
        "NOT happy"
    ]
    assert labels.index("happy") == 0


def test_no_label_is_ignored_by_losses_and_metrics():
    assert MELD.index(None) == IGNORE_INDEX == -100


def test_an_unknown_label_is_named_with_what_was_expected():
    with pytest.raises(UnknownLabelError, match=r"'bored'.*'meld'.*neutral, surprise.*Correct the file"):
        MELD.index("bored")
    with pytest.raises(UnknownLabelError, match="iemocap4"):
        IEMOCAP4.index("exc")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ("joy", "joy")}, "unique names"),
        ({"names": ("joy", "Joy")}, "unique names"),
        ({"names": ("joy", "fear"), "report_order": ("joy",)}, "not a permutation"),
        ({"names": ("joy", "fear"), "report_order": ("joy", "anger")}, "not a permutation"),
        ({"names": ("joy", "fear"), "aliases": {"hap": "happy"}}, "alias 'hap' means 'happy'"),
    ],
)
def test_a_label_set_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelSet("mine", **arguments)


def test_label_sets_compare_hash_and_pickle():
    IEMOCAP6.canonical("hap")
    again = pickle.loads(pickle.dumps(IEMOCAP6))
    assert again == IEMOCAP6
    assert hash(again) == hash(IEMOCAP6)
    assert MELD != LabelSet("meld", MELD.names)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (KEEP_SIX, ["happy", "sad", "neutral", "angry", "excited", "frustrated"]),
        (EXCITED_AS_HAPPY, ["happy", "sad", "neutral", "angry", "happy", None]),
        (EXCITED_DROPPED, ["happy", "sad", "neutral", "angry", None, None]),
    ],
)
def test_merge_rules(rule: MergeRule, expected):
    assert [rule.apply(name) for name in IEMOCAP6.names] == expected
    assert rule.apply(None) is None
    assert all(name in rule.target.names for name in expected if name)
    assert merge_rule(rule.name) is rule


def test_an_unknown_merge_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'four'.*six, excited-as-happy, excited-dropped"):
        merge_rule("four")
