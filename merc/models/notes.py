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
_APOSTROPHE = "\u2019"
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def word_profile(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """The most frequent words of a training, and the share of all words that they are.

    Args:
        conversations: Those of the training.

    Returns:
        ``frequent``: at most :data:`FREQUENT` words in small letters; ``share``: from 0 to 1.
    """
    counts = Counter(word for conversation in conversations for word in _words(conversation))
    frequent = [word for word, _ in counts.most_common(FREQUENT)]
    return {"frequent": frequent, "share": round(sum(counts[word] for word in frequent) / max(counts.total(), 1), 4)}


def _words(conversation: Conversation) -> Iterator[str]:
    for utterance in conversation.utterances:
        yield from _WORD.findall(utterance.text.lower().replace(_APOSTROPHE, "'"))


def other_words(profile: Mapping[str, Any], conversations: Sequence[Conversation]) -> str | None:
    """A note if the words are unlike those of the training, as they are in another language.

    The words of a language that are used most are a third to two thirds of whatever is said in it, and nearly nothing
    of what is said in another.

    Args:
        profile: What :func:`word_profile` found in the training.
        conversations: The new conversations.
    """
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
    if (profile := about.get("words")) and (note := other_words(profile, conversations)):
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
