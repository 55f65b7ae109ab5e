"""What a model can be asked: conversations, pairs of speaker and text, tables of them, and CSV files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from merc.conversation import Conversation, Corpus, Utterance
from merc.models.errors import ModelError
from merc.rows import read_rows, shown_names

NAMES: Mapping[str, Sequence[str]] = {
    "text": ["text", "sentence", "transcript", "transcription", "utterance", "content"],
    "speaker": ["speaker", "speakername", "speakerid", "who"],
    "dialogue": ["dialogue", "dialogueid", "dialog", "dialogid", "conversation", "conversationid"],
}
"""Names by which a column is recognised, without case and punctuation, the best first."""

UNNAMED = "unknown"
"""The speaker of a table without a column of speakers."""

PARTITION = "new"
"""The partition of conversations that come without one."""


def as_conversations(asked: object) -> tuple[list[Conversation], list[int]]:
    """Conversations of whatever a model is asked.

    Args:
        asked: A :class:`~merc.conversation.Conversation`, or a list of them; a :class:`~merc.conversation.Corpus`; a
            list of pairs of speaker and text, which is one conversation, or a list of such lists; a pandas DataFrame,
            or the path of a CSV file, with a column ``text`` and perhaps ``speaker`` and ``dialogue``. Without the last
            all its rows are one conversation, in their order.

    Returns:
        The conversations, and for every utterance, in the order of the answer, its index among those of the
        conversations: rows of a table stay in their order, though dialogues may be mixed in it.

    Raises:
        ModelError: It is something else, or a table has no column of texts.
        CorpusError: A file is not there or is no CSV.
    """
    if isinstance(asked, str | Path):
        table = read_rows(asked)
        return _of_table(table.columns, [row.cells for row in table.rows], str(asked))
    if hasattr(asked, "columns") and hasattr(asked, "to_dict"):  # a DataFrame, without importing pandas
        return _of_table([str(name) for name in asked.columns], asked.to_dict("records"), "The table")
    if isinstance(asked, Corpus):
        conversations = [conversation for split in asked.values() for conversation in split]
    elif isinstance(asked, Conversation):
        conversations = [asked]
    elif isinstance(asked, Sequence) and asked:
        if all(isinstance(one, Conversation) for one in asked):
            conversations = list(asked)
        elif all(_is_pair(one) for one in asked):
            conversations = [_of_pairs("0", asked)]
        elif all(isinstance(one, Sequence) and one and all(map(_is_pair, one)) for one in asked):
            conversations = [_of_pairs(str(number), one) for number, one in enumerate(asked)]
        else:
            raise _not_known(asked[0])
    else:
        raise _not_known(asked)
    return conversations, list(range(sum(map(len, conversations))))


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _not_known(found: object) -> ModelError:
    return ModelError(
        f"A model was asked {type(found).__name__} {str(found)[:60]!r}: expected a Conversation, a list of them, a "
        "list of (speaker, text) pairs, a DataFrame or the path of a CSV file, with at least one utterance."
    )


def _of_pairs(name: str, pairs: Iterable[Any]) -> Conversation:
    utterances = tuple(Utterance(str(turn), speaker, text) for turn, (speaker, text) in enumerate(pairs))
    return Conversation(name, utterances, PARTITION)


def _of_table(
    columns: Sequence[str], rows: Sequence[Mapping[Any, Any]], what: str
) -> tuple[list[Conversation], list[int]]:
    folded = {re.sub(r"[\W_]+", "", column.lower()): column for column in reversed(columns)}
    found = {role: next((folded[name] for name in names if name in folded), None) for role, names in NAMES.items()}
    text, speaker, dialogue = found["text"], found["speaker"], found["dialogue"]
    if text is None:
        raise ModelError(f"{what} has no column 'text': found {shown_names(columns)}. Rename the column of the texts.")
    if not rows:
        raise ModelError(f"{what} has no row: expected at least one utterance.")
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(_cell(row[dialogue]) if dialogue else "0", []).append(number)
    conversations = [
        Conversation(
            name,
            tuple(
                Utterance(
                    str(turn), (_cell(rows[number][speaker]) if speaker else "") or UNNAMED, _cell(rows[number][text])
                )
                for turn, number in enumerate(chosen)
            ),
            PARTITION,
        )
        for name, chosen in numbers.items()
    ]
    grouped = [number for chosen in numbers.values() for number in chosen]
    return conversations, sorted(range(len(grouped)), key=grouped.__getitem__)


def _cell(value: Any) -> str:  # noqa: ANN401 - a cell of a DataFrame
    """The text of a cell; an empty one of pandas is a float that does not equal itself, or None."""
    return "" if value is None or value != value else str(value)
