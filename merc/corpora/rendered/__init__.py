"""A rendered corpus: talking heads in real mp4 files, with emotions in words, voices and faces, and the truth kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merc.conversation import Corpus
from merc.corpora.rendered.config import RenderConfig

if TYPE_CHECKING:
    from merc.corpora.rendered.heads import Head

__all__ = ["RenderConfig", "render", "silent_heads", "talking_heads"]


def render(
    out: str | Path,
    config: RenderConfig | None = None,
    *,
    workers: int = 2,
    progress: bool = True,
    **overrides: Any,  # noqa: ANN401 - fields of RenderConfig
) -> Corpus:
    """Render a corpus of talking heads into a folder.

    It holds ``corpus.json``, a clip per utterance (``clips/<split>/dia0_utt0.mp4``: H.264 and AAC), and the truth:
    the stores ``truth/faces`` and ``truth/speaker``, and ``truth/tracks.json``, which says of every true track whose
    face it is, what the person feels and whether it speaks. The frames and sound of an utterance depend on the
    config alone, not on ``workers`` nor on other utterances. A render that was interrupted goes on where it was.

    Args:
        out: Folder of the corpus; created if need be.
        config: Parameters. Default: a small corpus for demonstrations.
        workers: Processes that draw; 0 draws in this one. A script that asks for more must be safe to import, as
            for :mod:`multiprocessing`.
        progress: Show a progress bar.
        **overrides: Fields of :class:`RenderConfig` to change, for example ``seed=3``.

    Raises:
        CorpusError: The folder holds a corpus of other parameters.
        ImportError: A package that is needed to draw or to encode is not installed.
        ValueError: A parameter is out of its range.

    Example:
        >>> corpus = render("talking", dialogues={"train": 2}, people={"train": 4})  # doctest: +SKIP
    """
    _check_packages("av", "cv2", "skimage")
    from merc.corpora.rendered.rendering import render_corpus

    config = dataclasses.replace(config or RenderConfig(), **overrides)
    return render_corpus(Path(out), config, workers=workers, progress=progress)


def talking_heads(
    count: int, seconds: float = 2.0, seed: int = 0, *, people: int | None = None, size: int = 128
) -> Iterator[Head]:
    """Heads that talk, each alone in small frames, straight into memory: training material without video files.

    Args:
        count: How many clips.
        seconds: Duration of each.
        seed: Decides everything; other seeds give other people.
        people: How many different people take part. Default: a new one in every clip.
        size: Width and height of a frame in pixels; a face is about 0.6 of it high.

    Returns:
        The clips, each a :class:`~merc.corpora.rendered.heads.Head`: ``frames`` (T, 3, H, W) uint8, ``sound`` (S,) at
        16 kHz, ``boxes`` (T, 4). The first ones are the same for every ``count``.

    Raises:
        ImportError: A package that is needed to draw is not installed.
    """
    return _heads(False, count, seconds, seed, people, size)


def silent_heads(
    count: int, seconds: float = 2.0, seed: int = 0, *, people: int | None = None, size: int = 128
) -> Iterator[Head]:
    """Heads that keep still, smile, chew or part their lips, in turn, under the noise of a room.

    Arguments, result and errors are those of :func:`talking_heads`; a seed has the same people in both.
    """
    return _heads(True, count, seconds, seed, people, size)


def _heads(silent: bool, count: int, seconds: float, seed: int, people: int | None, size: int) -> Iterator[Head]:
    _check_packages("cv2", "skimage")
    from merc.corpora.rendered.heads import draw_head

    return (draw_head(number, seconds, seed, people=people, size=size, silent=silent) for number in range(count))


def _check_packages(*modules: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(f"Drawing talking heads needs {', '.join(missing)}: pip install 'merc[media]'.")
