"""``merc transcribe``: the words of a recording, or where somebody speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from merc.pipeline.problems import ShortParser

if TYPE_CHECKING:
    from merc.speech.base import Progress


def transcribe_command(args: list[str]) -> int:
    """Parse the arguments of ``merc transcribe`` and transcribe a recording; returns the exit status."""
    parser = ShortParser(
        prog="merc transcribe",
        description="What is said in a recording, and when, by a Whisper model. The suffix of --out names the format: "
        ".srt, .vtt, .tsv, or .json with the times of words.",
    )
    parser.add_argument("video", type=Path, help="the recording, any file with sound that FFmpeg reads")
    parser.add_argument("--out", type=Path, required=True, help="file for the transcript")
    parser.add_argument(
        "--model",
        type=str,
        default="openai/whisper-small",
        help="Whisper, by its name on the Hugging Face hub or folder",
    )
    parser.add_argument("--language", type=str | None, default=None, help="such as en; default: detected")
    parser.add_argument("--batch_size", type=int, default=8, help="windows of up to 29 s that are read at once")
    parser.add_argument("--device", type=str, default="cpu", help="device of the network, such as cuda")
    given = parser.parse_args(args)
    from merc.speech import TRANSCRIPT_FORMATS, WhisperTranscriber, write_transcript  # as in merc.cli.run

    if Path(given.out).suffix.lower() not in TRANSCRIPT_FORMATS:
        raise ValueError(f"--out {given.out} ends in none of {', '.join(TRANSCRIPT_FORMATS)}: rename it.")
    try:
        transcriber = WhisperTranscriber(given.model, given.language, given.batch_size, given.device)
        with shown_progress() as progress:
            transcript = transcriber.transcribe(given.video, progress)
    except ModuleNotFoundError as error:
        raise OSError(str(error)) from error  # what is to be installed, in one line
    write_transcript(transcript, given.out)
    print(f"{len(transcript.lines)} lines in {given.out}.")
    for note in transcript.notes:
        print(f"- {note}")
    return 0


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A bar on the standard error, and what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, markup=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("speech", total=None, told="")

        def progress(done: float, total: float) -> None:
            bar.update(task, completed=done, total=total, told=f"{done:.0f} of {total:.0f} s")

        yield progress
