"""A rendered dialogue as one film with its transcript: something to annotate, and to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from merc.corpora.rendered.arrays import Image
from merc.corpora.rendered.clips import draw_take, sound_of, write_clip
from merc.corpora.rendered.config import RenderConfig
from merc.corpora.rendered.plan import plan_dialogue
from merc.corpora.transcripts.lines import as_clock
from merc.files import write_text
from merc.media.rates import FRAME_RATE

FILM, TRANSCRIPT = "film.mp4", "film.srt"


def render_film(
    out: str | Path, config: RenderConfig | None = None, *, split: str = "test", dialogue: int = 0
) -> tuple[Path, Path]:
    """Draw a dialogue as one film, with its lines and speakers as subtitles.

    Args:
        out: Folder to write to; gets ``film.mp4`` and ``film.srt``.
        config: Parameters of the corpus. Default: a small corpus for demonstrations.
        split: Split of the dialogue.
        dialogue: Its number, from 0.

    Returns:
        The film and its transcript.

    Raises:
        ValueError: The split has fewer dialogues.
    """
    config = config or RenderConfig()
    if not 0 <= dialogue < config.dialogues.get(split, 0):
        raise ValueError(f"There is no dialogue {dialogue} in {split}, which has {config.dialogues.get(split, 0)}.")
    takes = plan_dialogue(config, split, dialogue)

    def frames() -> Iterator[Image]:
        for take in takes:
            yield from draw_take(config, take)

    film, transcript = Path(out) / FILM, Path(out) / TRANSCRIPT
    sound = np.concatenate([sound_of(config, take) for take in takes])
    write_clip(film, frames(), sound, (config.width, config.height))
    lines, start = [], 0
    for number, take in enumerate(takes, start=1):
        end = start + take.frames
        times = f"{as_clock(start / FRAME_RATE)} --> {as_clock(end / FRAME_RATE)}"
        lines.append(f"{number}\n{times}\n{take.speaker}: {take.text}\n")
        start = end
    write_text(transcript, "\n".join(lines))
    return film, transcript
