"""The reader of EmoryNLP in the layout in which it is passed on: a CSV file per split."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Literal

from merc.conversation import Conversation, Corpus, CorpusError, Utterance
from merc.labels import LabelSet, UnknownLabelError
from merc.rows import parse_time, read_rows

FILES = {"train": "emorynlp_train_final.csv", "val": "emorynlp_dev_final.csv", "test": "emorynlp_test_final.csv"}
"""The file of every split."""

SEVEN = LabelSet("emorynlp", ("joyful", "mad", "neutral", "peaceful", "powerful", "sad", "scared"))
"""The seven emotions of EmoryNLP."""

THREE = LabelSet("emorynlp3", ("negative", "neutral", "positive"))
"""The sentiments into which papers merge them."""

SENTIMENTS = {
    **dict.fromkeys(("mad", "sad", "scared"), "negative"),
    **dict.fromkeys(("joyful", "peaceful", "powerful"), "positive"),
    "neutral": "neutral",
}
"""The sentiment of every emotion."""

COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode")
"""The columns that are read, beside Start_Time and End_Time where they are there."""


def read_emorynlp(root: Path, *, emotions: Literal["seven", "three"] = "seven") -> Corpus:
    """Read EmoryNLP (Zahiri and Choi 2018, arXiv 1708.04299) with its own three splits.

    A scene is a dialogue. Its id is ``s<season>_e<episode>_c<scene>``.

    Args:
        root: Folder with ``emorynlp_{train,dev,test}_final.csv``.
        emotions: The seven emotions, or three sentiments.

    Returns:
        The corpus; times are seconds of the episode. Utterances of several people have one speaker, ``A & B``.

    Raises:
        CorpusError: A file or column is missing, or an emotion or time is unknown; with file and line.
    """
    splits = {split: _conversations(root / name, split, emotions == "three") for split, name in FILES.items()}
    labels = THREE if emotions == "three" else SEVEN
    together = sum(" & " in u.speaker for conversations in splits.values() for c in conversations for u in c.utterances)
    return Corpus(
        "emorynlp",
        labels,
        splits,
        protocol=f"EmoryNLP's own train, dev (called val) and test splits, {emotions} emotions",
        notes=[f"{together} utterances are by several people, who count as one speaker."] if together else [],
    )


def _conversations(path: Path, split: str, merged: bool) -> list[Conversation]:
    scenes: dict[str, list[Utterance]] = {}
    for row in read_rows(path, COLUMNS).rows:
        cells = row.cells
        try:
            emotion = SEVEN.canonical(cells["Emotion"])
        except UnknownLabelError as error:
            raise CorpusError(f"{path}, line {row.line}: {error}") from error
        utterance = Utterance(
            id=cells["Utterance_ID"],
            speaker=" & ".join(ast.literal_eval(cells["Speaker"])),  # a list: ['Monica Geller']
            text=cells["Utterance"],
            start=parse_time(cells.get("Start_Time", ""), path, row.line),
            end=parse_time(cells.get("End_Time", ""), path, row.line),
            label=SENTIMENTS[emotion] if merged else emotion,
        )
        scenes.setdefault("s{Season}_e{Episode}_c{Scene_ID}".format(**cells), []).append(utterance)
    return [Conversation(scene, tuple(utterances), partition=split) for scene, utterances in scenes.items()]
