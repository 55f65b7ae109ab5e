"""The annotation as one web page: the film beside a timeline with faces, emotions, numbers and texts; no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from merc.annotation.film import bar_colours
from merc.annotation.lines import AnnotatedLine, Annotation

UNCERTAIN = 0.5
"""A line counts as uncertain if its most probable emotion has less."""

EMBEDDED = 20.0
"""Megabytes: films of at most this size are inside the page, by default."""

_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".mkv": "video/webm"}
_SOUNDS = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus")


def as_html(
    annotation: Annotation,
    *,
    beside: str | Path | None = None,
    faces: Mapping[int, bytes] | None = None,
    embed: float = EMBEDDED,
    fingerprint: str = "",
) -> str:
    """A page that shows and plays an annotation; it loads nothing from the network.

    The film is the annotated one, or else the recording. If it is small it is inside the page, and otherwise the page
    links to it: keep both together. A browser that cannot play it says so, and shows all else.

    Args:
        annotation: The annotation.
        beside: The folder in which the page will be; the link to the film starts there. Default: an absolute link.
        faces: JPEG images of the speaking faces by the number of their line.
        embed: Films of at most so many megabytes are inside the page; 0 for none.
        fingerprint: What the page was made of; :func:`page_fingerprint` reads it.
    """
    film = annotation.film or annotation.video
    inside = ""
    if film is not None and film.is_file() and film.stat().st_size <= embed * 1e6:
        inside = base64.b64encode(film.read_bytes()).decode()
    parts = {
        name: (files("merc.annotation") / "web" / f"page.{name}").read_text("utf-8") for name in ("html", "css", "js")
    }
    return Template(parts["html"]).substitute(
        title=_escaped(_title(annotation)),
        fingerprint=_escaped(fingerprint),
        script=parts["js"],
        script_hash=_hash(parts["js"]),
        style=parts["css"],
        style_hash=_hash(parts["css"]),
        film=inside,
        data=_in_script(page_data(annotation, faces or {}, _film(film, beside, embedded=bool(inside)))),
    )


def page_fingerprint(path: str | Path) -> str | None:
    """What a page was made of, if it was written by :func:`as_html`."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            head = file.read(1000)
    except (OSError, ValueError):
        return None
    _, found, rest = head.partition('<meta name="merc" content="')
    return rest.partition('"')[0] if found else None


def page_data(annotation: Annotation, faces: Mapping[int, bytes], film: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows, as plain values: probabilities in the order of the emotions, people by position.

    Args:
        annotation: The annotation.
        faces: JPEG images by line.
        film: Where the film is, its name, kind and type.
    """
    emotions = annotation.labels.report_order
    people = list(dict.fromkeys(line.speaker for line in annotation.lines))
    colours = bar_colours(annotation.labels, annotation.dimensions)
    return {
        "title": _title(annotation),
        "film": film,
        "emotions": [{"name": name, "colour": colours[name]} for name in emotions],
        "dimensions": [
            {"name": name, "colour": colours[name], "low": low, "high": high}
            for name, (low, high) in annotation.dimensions.items()
        ],
        "people": people,
        "uncertain": UNCERTAIN,
        "notes": annotation.notes,
        "run": ", ".join(
            f"{name} {_short(value)}" for name, value in annotation.run.items() if type(value) in (str, int)
        ),
        "lines": [_line(line, emotions, people, faces) for line in sorted(annotation.lines, key=lambda li: li.start)],
    }


def _line(
    line: AnnotatedLine, emotions: tuple[str, ...], people: list[str], faces: Mapping[int, bytes]
) -> dict[str, Any]:
    image = faces.get(line.line)
    return {
        **asdict(line),
        "person": people.index(line.speaker),
        "emotion": None if line.emotion is None else emotions.index(line.emotion),
        "probabilities": [round(line.probabilities[name], 4) for name in emotions] if line.probabilities else [],
        "image": None if image is None else base64.b64encode(image).decode(),
    }


def _film(film: Path | None, beside: str | Path | None, *, embedded: bool) -> dict[str, str]:
    if film is None:
        return {"name": "", "source": "", "kind": "video", "type": ""}
    suffix = film.suffix.lower()
    return {
        "name": film.name,
        "source": "" if embedded else _link(film, beside),
        "kind": "audio" if suffix in _SOUNDS else "video",
        "type": _TYPES.get(suffix, ""),
    }


def _link(film: Path, beside: str | Path | None) -> str:
    try:
        relative = None if beside is None else os.path.relpath(film.resolve(), Path(beside).resolve())
    except ValueError:  # on another drive of Windows
        relative = None
    return film.resolve().as_uri() if relative is None else "./" + quote(Path(relative).as_posix())


def _short(value: str | int) -> str:
    """Without the folders of a path, which say where its author keeps what: pages are sent to others."""
    return str(value).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _title(annotation: Annotation) -> str:
    return "Annotation" if annotation.video is None else annotation.video.name


def _in_script(value: Any) -> str:  # noqa: ANN401 - plain values
    """JSON that cannot end the script element which holds it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _hash(text: str) -> str:
    """Of a script or style, for the page's policy, which lets no other run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
