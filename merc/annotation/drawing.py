"""Drawing on frames: boxes with labels, and panels with bars and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from merc.media.planes import BT601, Colour, Planes

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_GROUND: Colour = (24, 24, 28)
_FAINT: Colour = (70, 70, 78)
_WHITE: Colour = (235, 235, 235)
_LEAST_TEXT = 9
"""Pixels: smaller letters are unreadable and left out."""


def draw_box(frame: Planes, box: Sequence[float], colour: Colour, label: str = "") -> None:
    """Draw a rectangle round a part of a frame, in place, with a label above it if there is room.

    Args:
        frame: The frame.
        box: x1, y1, x2, y2 in its pixels; what lies outside is not drawn.
        colour: Of the rectangle.
        label: A few words.
    """
    thick = max(2, round(frame.height / 240))  # chroma has half the pixels
    x1, y1, x2, y2 = (round(value) for value in box)
    for edge in (
        (x1, y1, x2, y1 + thick),
        (x1, y2 - thick, x2, y2),
        (x1, y1, x1 + thick, y2),
        (x2 - thick, y1, x2, y2),
    ):
        frame.fill(*edge, colour)
    tag = _tag(label, colour, round(frame.height / 28), frame.matrix) if label else None
    if tag is not None and 0 <= x1 <= frame.width - tag.width and y1 < frame.height:
        frame.paste(tag, x1, y1 - tag.height if y1 >= tag.height else max(y1, 0))


@lru_cache(maxsize=64)
def _tag(label: str, colour: Colour, size: int, matrix: int) -> Planes | None:
    """A label in dark letters on its colour; ``None`` if they would be unreadable."""
    if size < _LEAST_TEXT:
        return None
    from PIL import Image, ImageDraw

    font = _font(size)
    width, height = (_even(side) for side in (font.getlength(label) + size // 2, 1.4 * size))
    image = Image.new("RGB", (width, height), colour)
    ImageDraw.Draw(image).text((size // 4, height / 2), label, (0, 0, 0), font, anchor="lm")
    return _planes(image, matrix)


def _even(side: float) -> int:
    return max(round(side / 2), 1) * 2


def bar_panel(
    width: int,
    height: int,
    values: Mapping[str, float],
    colours: Mapping[str, Colour],
    title: str = "",
    text: str = "",
    matrix: int = BT601,
    told: Mapping[str, str] | None = None,
) -> Planes:
    """A panel with a bar per value, and a title and text to the right of the bars.

    If there is not enough room, first the text and then the names of the bars are left out.

    Args:
        width: Pixels.
        height: Pixels.
        values: By name, the length of its bar in 0..1, clipped; without values the panel has no bars.
        colours: By name.
        title: One line.
        text: A few sentences, wrapped; an ellipsis marks text that does not fit.
        matrix: Of the film, see :class:`merc.media.planes.Planes`.
        told: By name, what stands behind the bar. Default: the value in percent.

    Returns:
        The panel; an odd height or width loses its last row or column.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(image)
    margin = max(1, height // 20)
    row = (height - 2 * margin) / max(len(values), 1)
    size = min(round(0.75 * row), height // 7)
    named = size >= _LEAST_TEXT and bool(values)
    font = _font(max(size, 1))
    names = margin + (round(max(font.getlength(name) for name in values)) + margin if named else 0)
    told = {**{name: f"{100 * value:.0f} %" for name, value in values.items()}, **(told or {})}
    numbers = round(max(map(font.getlength, ["100 %", *told.values()]))) + 2 * margin if named else margin
    letters = _font(max(_LEAST_TEXT, height // 8))
    room = width - 2 * margin
    bars_end = margin + (round(0.45 * room) if (title or text) and height >= 5 * _LEAST_TEXT else room)
    bars_end = margin if not values else bars_end
    length = max(0, bars_end - names - numbers)
    for index, (name, value) in enumerate(values.items()):
        top, bottom = margin + index * row, margin + (index + 0.8) * row
        middle = (top + bottom) / 2
        draw.rectangle((names, top, names + length, max(bottom, top)), _FAINT)
        if value > 0:
            draw.rectangle((names, top, names + length * min(value, 1.0), max(bottom, top)), colours[name])
        if named:
            draw.text((margin, middle), name, _WHITE, font, anchor="lm")
            draw.text((names + length + margin, middle), told[name], _WHITE, font, anchor="lm")
    left = bars_end + 2 * margin
    if height >= 5 * _LEAST_TEXT and width - left >= 8 * _LEAST_TEXT:
        line = round(1.3 * letters.size)
        rows = _wrapped(title, letters, width - left - margin, 1)
        rows += _wrapped(text, letters, width - left - margin, (height - 2 * margin) // line - len(rows))
        for index, words in enumerate(rows):
            faint = (185, 185, 195) if title and not index else _WHITE
            draw.text((left, margin + index * line), words, faint, letters)
    return _planes(image, matrix)


def _wrapped(text: str, font: FreeTypeFont, width: float, most: int) -> list[str]:
    """Wrap a text to at most ``most`` rows; the last one may end in an ellipsis."""
    rows: list[str] = []
    words = text.split()
    while words and len(rows) < most:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        rows.append(" ".join(words[:count]))
        words = words[count:]
    if words and rows:
        last = rows[-1].split()
        while len(last) > 1 and font.getlength(" ".join([*last, "..."])) > width:
            last.pop()
        rows[-1] = " ".join([*last, "..."])
    return rows


@cache
def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which has Latin, Greek, Cyrillic and more, and comes with matplotlib."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _planes(image: object, matrix: int) -> Planes:
    return Planes.of_rgb(np.array(image, dtype=np.uint8).transpose(2, 0, 1), matrix)
