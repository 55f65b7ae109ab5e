"""``merc diarize``: who speaks when in a film, by the faces that it shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from merc.pipeline.problems import ShortParser

if TYPE_CHECKING:
    from merc.annotation import Diarization

Format = Literal["rttm", "csv", "json"]


def diarize_command(args: list[str]) -> int:
    """Parse the arguments of ``merc diarize`` and find the turns of a film; returns the exit status."""
    parser = ShortParser(
        prog="merc diarize",
        description="Who speaks when among the faces that a film shows, by lips and sound, without a transcript. The "
        "result appears when the whole film is done.",
    )
    parser.add_argument("video", type=Path, help="the film, any file that FFmpeg reads")
    parser.add_argument("--out", type=Path | None, default=None, help="file for the result; default: print it")
    parser.add_argument(
        "--weights", type=str, default="lipsync", help="lipsync, lipsync-research, or a folder of weights of LipSyncNet"
    )
    parser.add_argument(
        "--format", type=Format | None, default=None, help="default: what the name of --out ends in, or rttm"
    )
    parser.add_argument("--device", type=str, default="cpu", help="device of the networks, such as cuda")
    given = parser.parse_args(args)
    form = given.format or (Path(given.out).suffix.removeprefix(".").lower() if given.out else "rttm")
    if form not in ("rttm", "csv", "json"):
        raise ValueError(f"{given.out} ends in none of .rttm, .csv and .json: rename it, or give --format.")
    text = _in_form(_found(given.video, given.weights, given.device), form)
    if given.out is None:
        print(text, end="")
        return 0
    from merc.files import write_text

    write_text(given.out, text)
    return 0


def _found(video: Path, weights: str, device: str) -> Diarization:
    """The turns, with progress and notes on the standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from merc.annotation import diarize  # as in merc.cli.run

    console = Console(stderr=True, markup=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("faces and sound", total=None, told="")

        def progress(done: float, total: float) -> None:
            bar.update(task, completed=done, total=total, told=f"{done:.0f} of {total:.0f} s")

        try:
            found = diarize(video, weights, device=device, progress=progress)
        except ModuleNotFoundError as error:
            raise OSError(str(error)) from error  # what is to be installed, in one line
    speaking = {turn.face for turn in found.turns}
    console.print(f"{found.faces} faces, {len(speaking)} of them speak, {len(found.turns)} turns.", style="dim")
    for note in found.notes:
        print(f"merc diarize: {note}", file=sys.stderr)
    return found


def _in_form(found: Diarization, form: str) -> str:
    from merc.annotation import turns_as_csv, turns_as_json, turns_as_rttm

    if form == "json":
        return json.dumps(turns_as_json(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return turns_as_rttm(found) if form == "rttm" else turns_as_csv(found)
