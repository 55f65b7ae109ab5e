"""The ledger of a run: every time that its test split was opened."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from merc.files import parse_json

LEDGER = "test-ledger.jsonl"
"""The file, in the folder of a run: one line of JSON for every opening of a test split, in order."""


@dataclass(frozen=True)
class Opening:
    """One reading of a test split.

    Args:
        data: The corpus and split, such as ``meld/test``.
        config: Digest of what was tested: the options of the model and the data, without seed, corpus, stores and the
            weights that training started from.
        seed: Seed of its training, if known.
        checkpoint: The tested weights.
        selected_on: What they were chosen on, for example ``best val/weighted_f1 = 0.5632, best-590.ckpt``.
        time: When, in UTC, as in ISO 8601.
        inputs: Digest of these by content: the utterances and annotations of the split, the stores, and the weights.
    """

    data: str
    config: str = ""
    seed: int | None = None
    checkpoint: str = ""
    selected_on: str = ""
    time: str = ""
    inputs: str = ""


def record_opening(folder: str | Path, opening: Opening) -> None:
    """Add a line to the ledger of a run, before the split is read.

    Args:
        folder: Folder of the run.
        opening: What is opened; the time is filled in.

    Raises:
        OSError: The line cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({**asdict(opening), "time": now}, ensure_ascii=False) + "\n"
    Path(folder).mkdir(parents=True, exist_ok=True)
    # One write at the end of the file: processes that train seeds at the same time do not mix their lines.
    handle = os.open(Path(folder) / LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def read_ledger(folder: str | Path) -> list[Opening]:
    """The openings that a run has recorded, in order; none without a ledger.

    A damaged line counts as an opening of which nothing is known.

    Args:
        folder: Folder of the run.
    """
    file = Path(folder) / LEDGER
    if not file.is_file():
        return []
    found = []
    known = {field.name for field in fields(Opening)}
    for line in file.read_bytes().splitlines():
        try:
            raw = parse_json(line)
            found.append(Opening(**{name: value for name, value in raw.items() if name in known}))
        except (ValueError, TypeError, AttributeError):
            found.append(Opening(data=""))
    return found


def describe_ledger(openings: Sequence[Opening], this: Opening | None = None) -> str:
    """How often test splits were read, in one sentence.

    Args:
        openings: Of the run.
        this: The opening that a report is about: how often its configuration was tested with its seed is said too.
    """
    configurations = len({opening.config for opening in openings})
    text = f"test was read {_times(len(openings))} in this run"
    if configurations > 1:
        text += f", with {configurations} configurations"
    if this is not None:
        same = sum((o.data, o.config, o.seed) == (this.data, this.config, this.seed) for o in openings)
        text += f"; this configuration and seed: {_times(same)}"
    return text


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
