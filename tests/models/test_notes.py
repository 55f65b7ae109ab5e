"""Notes on whether a transcript is in the language of the training."""

import random

from merc.conversation import Conversation, Utterance
from merc.models.notes import other_words, word_profile

ENGLISH = "i you the to a and it that is of what no not do we this on me my so be for he was have your".split()
GERMAN = "ich du das und die ist nicht der es wir was zu ein mit auf so sie den aber noch wie mir mal ja".split()
CHINESE = list("\u7684\u4e86\u6211\u4f60\u662f\u4e0d\u4ed6\u8fd9\u4e2a\u5728\u4eba\u6709\u90a3\u5c31\u4eec\u4e48\u8bf4")


def talk(words, count, seed, between=" "):
    """Lines of the words of a language, a third of them rare ones."""
    draw = random.Random(seed)

    def rare():
        return "".join(draw.choices("abcdefghijklmnop", k=8)) if between else chr(0x5000 + draw.randrange(15_000))

    said = [draw.choice(words) if draw.random() < 0.67 else rare() for _ in range(count)]
    lines = [between.join(said[at : at + 8]) for at in range(0, count, 8)]
    return [Conversation("0", tuple(Utterance(str(n), "A", line) for n, line in enumerate(lines)), "train")]


def test_another_language_is_told_and_the_same_is_not():
    profile = word_profile(talk(ENGLISH, 4000, 0))
    assert 0.5 < profile["share"] < 0.8 and set(ENGLISH) <= set(profile["frequent"])
    assert other_words(profile, talk(ENGLISH, 60, 1)) is None
    assert "of another language or kind" in other_words(profile, talk(GERMAN, 60, 1))
    assert other_words(profile, talk(GERMAN, 14, 1)) is None, "of so few words nothing is said"


def test_scripts_without_spaces_are_compared_by_letter():
    profile = word_profile(talk(CHINESE, 4000, 0, between=""))
    assert set(CHINESE) <= set(profile["frequent"])
    assert other_words(profile, talk(CHINESE, 60, 1, between="")) is None
    assert other_words(profile, talk(ENGLISH, 60, 1)) is not None


def test_of_a_small_training_nothing_is_known():
    """The most frequent words of 100 lines are mostly those of their subject."""
    assert word_profile(talk(ENGLISH, 800, 0)) == {}
    assert other_words({}, talk(GERMAN, 60, 1)) is None
