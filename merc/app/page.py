"""What visitors see, made with gradio."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from html import escape
from typing import Any
from urllib.parse import quote

import gradio as gr

from merc.app.runs import RECORDINGS, AppError, Run, Runs, Step, require_suffix
from merc.corpora.transcripts import READERS

COLUMNS = ("start", "end", "speaker", "emotion", "probability", "text")
"""Columns of ``annotation.csv`` that the page shows."""

STYLE = """
.merc-drop .download a { pointer-events: none; }
.merc-steps { list-style: none; margin: 0; padding: 0; max-width: 36em; }
.merc-steps li { display: flex; gap: .6em; padding: .15em 0; }
.merc-steps li span:last-child { margin-left: auto; font-variant-numeric: tabular-nums; }
.merc-problem { border-left: .3em solid #c62828; padding: .6em 1em; overflow-wrap: anywhere; white-space: pre-wrap; }
.merc-timeline iframe { width: 100%; height: 85vh; border: 0; border-radius: .5em; }
.merc-files { display: flex; flex-wrap: wrap; gap: .5em; padding: .5em 0; }
.merc-files a { border: 1px solid var(--border-color-primary); border-radius: .5em; padding: .5em .8em; }
.merc-files a { color: var(--body-text-color); }
@media (max-width: 600px) { .merc-timeline iframe { width: calc(100vw - 1em); margin-left: calc(50% - 50vw + .5em); } }
"""


def theme() -> gr.Theme:
    """A theme with the fonts of the system, as others are loaded from a server."""
    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def make_page(runs: Runs, max_size: str) -> gr.Blocks:
    """The page.

    Args:
        runs: Does the work.
        max_size: The largest upload, for readers.
    """

    async def annotate(
        recording: str | None, transcript: str | None, model: str, request: gr.Request
    ) -> AsyncGenerator[dict[Any, Any]]:
        busy = {start: gr.update(interactive=False), stop: gr.update(visible=True), results: gr.update(visible=False)}
        idle = {start: gr.update(interactive=True), stop: gr.update(visible=False)}
        try:
            run = await asyncio.to_thread(runs.new, str(request.session_hash), recording, transcript, model)
            yield {**busy, state: steps_html([])}
            async with aclosing(run.watch(runs.slots)) as watching:
                async for steps in watching:
                    yield {state: steps_html(steps)}
            if run.stopped:
                yield {**idle, state: steps_html(run.steps, "Stopped")}
                return
            yield {
                **idle,
                state: steps_html(run.steps, "Done"),
                results: gr.update(visible=True),
                timeline: timeline_html(run),
                files: files_html(run),
                table: table_rows(run),
            }
        except AppError as error:
            yield {**idle, state: problem_html(str(error))}
        except OSError as error:  # without its path, which is the server's
            why = error.strerror or type(error).__name__
            yield {**idle, state: problem_html(f"The server cannot keep the results: {why}.")}

    def check_recording(path: str | None) -> str:
        return _checked(path, "recording", list(RECORDINGS))

    def check_transcript(path: str | None) -> str:
        return _checked(path, "transcript", list(READERS))

    def end(request: gr.Request) -> None:
        runs.stop(str(request.session_hash))

    page = gr.Blocks(title="merc", analytics_enabled=False)
    with page:
        gr.Markdown(
            "# merc\nWho speaks in a film, and with which emotion. Files of up to "
            f"{max_size}; they stay on the machine that serves this page."
        )
        with gr.Row():
            recording = gr.File(label="Film or sound", height=150, elem_classes="merc-drop")
            transcript = gr.File(label="Transcript (optional)", height=150, elem_classes="merc-drop")
        with gr.Row(equal_height=True):
            model = gr.Dropdown(list(runs.models), value=next(iter(runs.models)), label="Model", scale=2)
            start = gr.Button("Annotate", variant="primary", scale=1)
            stop = gr.Button("Stop", variant="stop", visible=False, scale=1)
        state = gr.HTML()
        with gr.Column(visible=False) as results:
            files = gr.HTML()
            timeline = gr.HTML(elem_classes="merc-timeline")
            table = gr.Dataframe(headers=list(COLUMNS), label="Lines", interactive=False, wrap=True)
        shown = [start, stop, state, results, timeline, files, table]
        recording.upload(check_recording, recording, state, api_visibility="private", show_progress="hidden")
        transcript.upload(check_transcript, transcript, state, api_visibility="private", show_progress="hidden")
        # No limit here: runs wait for each other by themselves, and say so.
        start.click(
            annotate,
            [recording, transcript, model],
            shown,
            api_name="annotate",
            concurrency_limit=None,
            show_progress="hidden",  # the steps are the progress
        )
        stop.click(end, None, None, queue=False, api_visibility="private")
        page.unload(end)
    made: gr.Blocks = page
    return made


def _checked(path: str | None, kind: str, suffixes: Sequence[str]) -> str:
    """At once after an upload, what is wrong with the name."""
    try:
        require_suffix(path or "", kind, suffixes)
    except AppError as error:
        return problem_html(str(error))
    return ""


def steps_html(steps: Sequence[Step], end: str = "") -> str:
    """The steps of a run, with their seconds.

    Args:
        steps: The steps.
        end: What has become of the run.
    """
    rows = [
        f"<li><span aria-hidden='true'>{'▸' if step.ended is None else '✓'}</span><span>{escape(step.name)}</span>"
        f"<span>{step.seconds:.0f} s</span></li>"
        for step in steps
    ]
    told = f"<ul class='merc-steps'>{''.join(rows)}</ul>"
    if not end:
        return told
    took = sum(step.seconds for step in steps)
    return f"<details><summary role='status'>{escape(end)} ({took:.0f} s)</summary>{told}</details>"


def problem_html(message: str) -> str:
    """What went wrong, for a visitor."""
    return f"<div class='merc-problem' role='alert'>{escape(message)}</div>"


def timeline_html(run: Run) -> str:
    """The page of the annotation, in a frame of its own."""
    # Without allow-same-origin: what is in a film or a transcript gets nothing of this page.
    return (
        f"<iframe src='{_address(run, 'annotation.html')}' title='Timeline' sandbox='allow-scripts' "
        "allow='fullscreen; autoplay'></iframe>"
    )


def files_html(run: Run) -> str:
    """Links to all files, and to one that holds them."""
    anchors = [_link(run, path.name, f"{path.name} ({_size(path.stat().st_size)})") for path in run.files()]
    return (
        f"<div class='merc-files'>{_link(run, run.zip_name, f'Download all: {run.zip_name}')}</div>"
        f"<details><summary>Single files ({len(anchors)})</summary>"
        f"<div class='merc-files'>{''.join(anchors)}</div></details>"
    )


def _link(run: Run, name: str, text: str) -> str:
    return f"<a href='{_address(run, name)}' download='{escape(name)}'>{escape(text)}</a>"


def table_rows(run: Run) -> list[list[str]]:
    """The lines of the annotation."""
    with (run.results / "annotation.csv").open(encoding="utf-8", newline="") as file:
        return [[_short(name, row[name]) for name in COLUMNS] for row in csv.DictReader(file)]


def _short(name: str, value: str) -> str:
    return f"{float(value):.2f}" if value and name in ("start", "end", "probability") else value


def _address(run: Run, name: str) -> str:
    return f"results/{run.token}/{quote(name)}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(0.1, count / 1e3):.1f} kB"
