"""Cross-validation: re-splits an imported corpus for each fold. Utterances keep their keys, so one store serves all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from merc.conversation import Conversation, Corpus, CorpusError
from merc.corpora.iemocap import draw

By = Literal["partition", "speaker", "dialogue"]


def read_folds(
    corpus: str | Path,
    *,
    fold: int,
    by: By = "dialogue",
    folds: int = 5,
    validation: float = 0.1,
    seed: int = 0,
) -> Corpus:
    """Re-split an imported corpus for one fold of a cross-validation.

    The splits of the corpus are given up: every conversation is test in one fold. Features are those of the corpus
    itself, because utterances keep their keys: they are extracted once for all folds. A pipeline gives ``"{seed}"`` as
    ``fold``, so that ``merc run --seeds 5`` runs five folds, and ``--seeds 10`` each of them twice.

    Args:
        corpus: The imported corpus: its folder or its corpus.json.
        fold: From 0. After the last fold it begins again with the first.
        by: What is left out for the test. ``partition``: a part of the corpus, such as a session of IEMOCAP.
            ``speaker``: one speaker, with all conversations in which that speaker has labels; the utterances of others
            in these are context without labels. ``dialogue``: a share of the conversations, which are dealt in an order
            that only ``seed`` and their names decide.
        folds: Number of folds for ``dialogue``; the others have one for each partition, or speaker with labels.
        validation: Share of the other conversations that is drawn as ``val``, at least one of them.
        seed: Decides what is drawn.

    Raises:
        FileNotFoundError: There is no such corpus.
        CorpusError: The corpus is too small for its folds, or an option is out of range.

    Example:
        >>> read_folds("runs/iemocap/data", fold=4, by="partition")["test"]  # session 5  # doctest: +SKIP
    """
    whole = Corpus.load(corpus)
    if fold < 0 or not 0 < validation < 1:
        raise CorpusError(
            f"fold {fold}, validation {validation:g}: expected a fold of at least 0 and a share between 0 and 1."
        )
    conversations = [conversation for split in whole.values() for conversation in split]
    parts = list(_parts(conversations, by, folds, seed))
    name, left_out = parts[fold % len(parts)]
    test = [one for one in (_of(c, name) if by == "speaker" else c for c in conversations) if _name(one) in left_out]
    rest = {_name(c): c for c in conversations if _name(c) not in left_out}
    chosen = set(draw(sorted(rest), max(1, math.floor(validation * len(rest))), seed))
    splits = {
        "train": [conversation for key, conversation in rest.items() if key not in chosen],
        "val": [conversation for key, conversation in rest.items() if key in chosen],
        "test": test,
    }
    if not splits["train"]:
        raise CorpusError(
            f"Without {name} only {len(rest)} conversations of {corpus} are left: expected at least two, one to train "
            "on and one to choose the checkpoint on."
        )
    rule = f"fold {fold % len(parts) + 1} of {len(parts)}, {name} is test; {len(chosen)} other dialogues are val"
    return Corpus(whole.name, whole.labels, splits, f"{rule} (seed {seed})", whole.notes, whole.dimensions)


def _name(conversation: Conversation) -> str:
    return f"{conversation.partition}/{conversation.id}"


def _parts(conversations: list[Conversation], by: By, folds: int, seed: int) -> Iterator[tuple[str, set[str]]]:
    """What each fold leaves out: what it is called, and which conversations it takes.

    Raises:
        CorpusError: There are fewer than two.
    """
    taken: dict[str, set[str]] = {}
    if by == "dialogue":
        if not 2 <= folds <= len(conversations):
            raise CorpusError(f"folds is {folds}: expected 2 to {len(conversations)}, the number of conversations.")
        order = draw([_name(c) for c in conversations], len(conversations), seed)
        taken = {f"part {part + 1}": set(order[part::folds]) for part in range(folds)}
    for conversation in conversations:
        groups = {conversation.partition} if by == "partition" else _labelled(conversation) if by == "speaker" else ()
        for group in groups:
            taken.setdefault(group, set()).add(_name(conversation))
    if len(taken) < 2:
        raise CorpusError(
            f"The corpus has {len(taken)} {by}s to leave out ({', '.join(taken) or 'none'}): expected two or more. "
            "Use --by dialogue."
        )
    yield from sorted(taken.items()) if by != "dialogue" else taken.items()


def _labelled(conversation: Conversation) -> set[str]:
    return {u.speaker for u in conversation.utterances if u.label is not None or u.values}


def _of(conversation: Conversation, speaker: str) -> Conversation:
    """A conversation in which only one speaker has labels and numbers."""
    utterances = (u if u.speaker == speaker else replace(u, label=None, values=None) for u in conversation.utterances)
    return replace(conversation, utterances=tuple(utterances))
