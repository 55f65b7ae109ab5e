"""What a reader of emotions must know: what the model was trained on, and how the new material differs from that."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from merc.conversation import Conversation, Corpus

if TYPE_CHECKING:
    from merc.models.model import Model
    from merc.pipeline.apply import AppliedRun

FREQUENT = 100
"""Words by which the language of a training is recognized again."""

_ENOUGH = 15  # fewer words say nothing
# Of 800 words of MELD, the 100 most frequent are so many of them that 2 % of its test dialogues would pass for another
# language, of 400 words 10 %, of 1600 none.
_ENOUGH_TO_LEARN = 1600
_APOSTROPHE = "\u2019"
# Of scripts that put no spaces between words (Thai to Khmer, Chinese, Japanese), a letter is a word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"(?!\d)[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+(?:'[^\W\d_{_UNSPACED}]+)?")


def word_profile(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """The most frequent words of a training, and the share of all words that they are.

    Args:
        conversations: Those of the training.

    Returns:
        ``frequent``: at most :data:`FREQUENT` words in small letters; ``share``: from 0 to 1. Empty if the training has
        so few words that they say little of others.
    """
    counts = Counter(word for conversation in conversations for word in _words(conversation))
    if counts.total() < _ENOUGH_TO_LEARN:
        return {}
    frequent = [word for word, _ in counts.most_common(FREQUENT)]
    return {"frequent": frequent, "share": round(sum(counts[word] for word in frequent) / counts.total(), 4)}


def _words(conversation: Conversation) -> Iterator[str]:
    for utterance in conversation.utterances:
        yield from _WORD.findall(utterance.text.lower().replace(_APOSTROPHE, "'"))


def other_words(profile: Mapping[str, Any], conversations: Sequence[Conversation]) -> str | None:
    """A note if the words are unlike those of the training, as they are in another language.

    The words of a language that are used most are a third to two thirds of whatever is said in it, and nearly nothing
    of what is said in another.

    Args:
        profile: What :func:`word_profile` found in the training; nothing gives no note.
        conversations: The new conversations.
    """
    if not profile:
        return None
    words = [word for conversation in conversations for word in _words(conversation)]
    known = set(profile["frequent"])
    share = sum(word in known for word in words) / max(len(words), 1)
    if len(words) < _ENOUGH or share >= profile["share"] / 2:
        return None
    return (
        f"The {len(known)} most frequent words of the training are {100 * share:.0f} % of the words here, and were "
        f"{100 * profile['share']:.0f} % there: the transcript is of another language or kind, and its emotions are "
        "little more than guesses."
    )


def model_notes(model: Model, applied: AppliedRun) -> list[str]:
    """Notes on the emotions that a model has told of recordings.

    Args:
        model: The model.
        applied: What it said.
    """
    conversations = [conversation for split in applied.corpus.values() for conversation in split]
    about = model.about
    notes = [f"The emotions are those of the model {model.name}, trained on {about.get('data') or about['corpus']}."]
    if note := other_words(about.get("words", {}), conversations):
        notes.append(note)
    return [*notes, *_on_modalities(applied)]


def run_notes(corpus: Corpus, applied: AppliedRun) -> list[str]:
    """Notes on the emotions that a run has told of recordings.

    Args:
        corpus: The corpus that it was trained on.
        applied: What it said.
    """
    conversations = [conversation for split in applied.corpus.values() for conversation in split]
    notes = [f"The emotions are those of a run trained on the corpus {corpus.name} ({corpus.protocol})."]
    if note := other_words(word_profile(corpus.get("train", [])), conversations):
        notes.append(note)
    return [*notes, *_on_modalities(applied)]


def _on_modalities(applied: AppliedRun) -> Iterator[str]:
    """How many lines lack a modality, and why most of them do."""
    total = sum(map(len, (conversation for split in applied.corpus.values() for conversation in split)))
    for name, lacking in applied.missing.items():
        if lacking:
            [(reason, _)] = Counter(lacking.values()).most_common(1)
            reason = reason.removeprefix(f"{name}: ")
            what = "no speaking face" if name == "visual" else f"no {name}"
            yield f"{len(lacking)} of {total} lines have {what} ({reason}): their emotions are told without."
