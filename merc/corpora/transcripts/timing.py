"""Times of lines as programs write them wrongly, and captions that roll: repaired, or left out with a note."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from merc.corpora.transcripts.lines import Line, TranscriptSource, shown_places

SHORTEST = 0.05
"""Seconds below which a line has no length: nothing can be said in them."""

_MOST_GIVEN = 2.0  # seconds of a line of no length
_ROWS = 4  # of captions on the screen at once


def repair_times(lines: Sequence[Line], source: TranscriptSource) -> list[Line]:
    """Lines with times in which something can be said.

    A line that begins before the recording begins at its start. One that has no length gets the time to the next, at
    most two seconds. One that ends before it begins, or before the recording, is left out.
    """
    starts = sorted(line.start for line in lines if math.isfinite(line.start))
    kept, repaired = [], []
    for line in lines:
        start, end, place = line.start, line.end, line.place or "a line"
        if not (math.isfinite(start) and math.isfinite(end)):
            source.drop(place, "its times are no numbers")
        elif end < start:
            source.drop(place, f"it ends at {end:g} s, but starts at {start:g} s")
        elif end <= 0 and start < 0:
            source.drop(place, f"it ends at {end:g} s, before the recording begins")
        else:
            if start < 0:
                repaired.append((place, f"started at {start:g} s, now at 0 s"))
                start = 0.0
            if end - start < SHORTEST - 1e-6:
                behind = bisect_right(starts, start)
                given = min(starts[behind] if behind < len(starts) else math.inf, start + _MOST_GIVEN)
                if given - start < SHORTEST:
                    source.drop(place, f"it lasts {end - start:g} s, and the next line begins at once")
                    continue
                repaired.append((place, f"lasted {end - start:g} s, now {given - start:g} s"))
                end = given
            start, end = round(start, 3), round(end, 3)
            kept.append(line if (start, end) == (line.start, line.end) else replace(line, start=start, end=end))
    if repaired:
        places = list(dict.fromkeys(repaired))  # several lines may come from one place
        source.notes.append(f"Times of {source.path.name} were repaired. {shown_places(places)}.")
    return kept


def unroll(lines: Sequence[Line], source: TranscriptSource) -> list[Line]:
    """Rolling captions with each phrase once.

    YouTube's automatic captions, and those of television, show the row before above the new one, or a row as it grows;
    whisper shows a row again for each word that it highlights. A file is taken for such a one if a quarter of its lines
    repeat what stood on the screen just before.
    """
    rows = [[" ".join(row.split()) for row in line.text.splitlines() if row.strip()] for line in lines]
    repeats = [(0, False)]
    for index in range(1, len(lines)):
        close = -0.5 <= lines[index].start - lines[index - 1].end <= 0.05
        same = lines[index].speaker == lines[index - 1].speaker
        repeats.append(_repeated(rows[index - 1], rows[index]) if close and same else (0, False))
    rolling = sum(count > 0 for count, _ in repeats)
    if rolling < max(2, len(lines) / 4):
        return list(lines)
    kept: list[Line] = []
    for line, here, (count, grown) in zip(lines, rows, repeats, strict=True):
        if count and grown and kept:
            kept[-1] = replace(kept[-1], text=here[count - 1], end=line.end)
        fresh = here[count:]
        if fresh:
            kept.append(replace(line, text="\n".join(fresh)))
        elif count and not grown and (line.end - line.start < SHORTEST or kept[-1].text == "\n".join(here)):
            kept[-1] = replace(kept[-1], end=max(kept[-1].end, line.end))
    source.notes.append(
        f"{source.path.name} has rolling captions: {rolling} of {len(lines)} repeat rows of the caption before. Each "
        "row was read once."
    )
    return kept


def _repeated(before: Sequence[str], here: Sequence[str]) -> tuple[int, bool]:
    """How many first rows stood there before as the last ones, and whether the last of these has grown since."""
    for count in range(min(_ROWS, len(before), len(here)), 0, -1):
        if list(before[-count:-1]) == list(here[: count - 1]):
            old, new = before[-1], here[count - 1]
            if old == new:
                return count, False
            if new.startswith(old + " "):
                return count, True
    return 0, False
