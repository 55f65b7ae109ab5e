"""``merc app``: a local web page that annotates what is dropped on it."""

from __future__ import annotations

from pathlib import Path

from merc.pipeline.problems import ShortParser


def app_command(args: list[str]) -> int:
    """Parse the arguments of ``merc app`` and serve the page until Ctrl-C; returns the exit status."""
    parser = ShortParser(
        prog="merc app",
        description="A local web page: drop a film, with its transcript or without one, watch the progress, look at "
        "the timeline and download everything. Ctrl-C stops it.",
    )
    parser.add_argument(
        "--model",
        type=str,
        nargs="+",
        default=["default", "text-meld"],
        help="what visitors choose from: names of models, folders of `merc export` or of finished `merc run`",
    )
    parser.add_argument("--host", type=str, default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860, help="0: a free one")
    parser.add_argument("--max_size", type=str, default="2GB", help="the largest file that is taken")
    parser.add_argument("--max_total", type=str, default="50GB", help="all files together, beyond which none is taken")
    parser.add_argument(
        "--work", type=Path | None, default=None, help="folder that keeps the results; default: deleted at the end"
    )
    parser.add_argument("--jobs", type=int, default=1, help="recordings that are annotated at a time; others wait")
    given = parser.parse_args(args)
    from merc.app import AppSettings, serve  # as in merc.cli.run

    settings = AppSettings(given.model, given.host, given.port, given.max_size, given.max_total, given.work, given.jobs)
    try:
        serve(settings)
    except ImportError as error:
        raise OSError(str(error)) from error  # what is to be installed, in one line
    return 0
