"""Short ways to write a transcript, read it, and look at what was read."""

from pathlib import Path

import pytest

from merc.conversation import CorpusError
from merc.corpora import TranscriptOptions, read_transcript
from merc.labels import MELD

CASES = Path(__file__).resolve().parents[1] / "corpora/cases"
"""Small inputs that were reconstructed from public reports of defects."""


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder, name, content, *, duration=None, **options):
    path = write(folder, name, content)
    return read_transcript(
        path, folder / "talk.mp4", labels=MELD, options=TranscriptOptions(**options), duration=duration
    )


def read_case(name, **options):
    return read_transcript(CASES / name, "talk.mp4", labels=MELD, options=TranscriptOptions(**options))


def lines(corpus):
    [conversation] = corpus["test"]
    return [(u.start, u.end, u.speaker, u.text) for u in conversation.utterances]


def said(corpus):
    return [(speaker, text) for _, _, speaker, text in lines(corpus)]


def refused(folder, name, content, **options):
    """The message of the refusal, without the path at its beginning."""
    with pytest.raises(CorpusError) as caught:
        read(folder, name, content, **options)
    assert str(folder / name) in str(caught.value)
    return str(caught.value).removeprefix(str(folder / name)).removeprefix(", ").removeprefix(": ")


def clock(milliseconds, point=","):
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


def srt(*texts, length=900):
    """Subtitles, one a second, of these texts."""
    return "".join(
        f"{number}\n{clock(1000 * number)} --> {clock(1000 * number + length)}\n{text}\n\n"
        for number, text in enumerate(texts, start=1)
    )
