"""The runs of the page: each annotates one recording, in a folder and a process of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from merc.corpora.films import FILM_SUFFIXES, SOUND_SUFFIXES
from merc.corpora.transcripts import READERS
from merc.files import write_aside

RECORDINGS = FILM_SUFFIXES | SOUND_SUFFIXES
"""Suffixes of the recordings that the page takes."""

FORMATS = ("csv", "srt", "vtt", "eaf", "TextGrid", "rttm", "html")
"""All that ``merc annotate`` writes beside JSON. Importing its table of formats would take the server seconds."""

POLL = 0.3
"""Seconds between two looks at a process."""

_STEP = re.compile(r"((?:step|stage) \d+ of \d+: .+|(?:transcript|people|film|page) of .+)")
_QUOTED_PATH = re.compile(r"(['\"])/(?:[^'\"\n]*/)?([^'\"/\n]+)\1")  # as in an OSError; it may have spaces
_PATH = re.compile(r"(?<![\w/.:<])/(?:[^/\s'\"]+/)*(?=[^/\s])")  # the folders of an absolute path; no address, no 1/2
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class AppError(ValueError):
    """The page cannot do what a visitor or the command line asks for."""


@dataclass
class Step:
    """A step of a run.

    Args:
        name: What ``merc annotate`` calls it, such as ``step 1 of 3: faces``.
        began: Seconds of :func:`time.monotonic`.
        ended: Likewise; ``None`` while it goes on.
    """

    name: str
    began: float
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began


@dataclass
class Run:
    """The annotation of one recording by ``merc annotate``, in a process that can be stopped.

    Args:
        folder: Holds the recording, its transcript and ``results``.
        recording: Name of the recording in ``folder``.
        transcript: Name of its transcript; ``None`` if there is none.
        model: The ``--model``.

    Attributes:
        token: Names the results in addresses: who knows it may read them, and only the page of the visitor does.
        steps: What was done, and is being done.
    """

    folder: Path
    recording: str
    transcript: str | None
    model: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    steps: list[Step] = field(default_factory=list)
    stopped: bool = False
    _process: subprocess.Popen[bytes] | None = None

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return self.folder / "results"

    @property
    def command(self) -> list[str]:
        """The command; its paths are relative, so that results do not tell where the server keeps them."""
        # -P: what a visitor uploads is not importable. ./: nor is its name an option.
        command = [sys.executable, "-P", "-m", "merc", "annotate", f"./{self.recording}", "--model", self.model]
        command += [] if self.transcript is None else ["--transcript", f"./{self.transcript}"]
        return [*command, "--out", "results", "--formats", ",".join(FORMATS)]

    async def watch(self, slots: asyncio.Semaphore) -> AsyncGenerator[Sequence[Step]]:
        """Do the work, and tell the steps about once a second.

        Args:
            slots: How many runs may work at a time; others wait.

        Raises:
            AppError: The recording cannot be annotated; the text is what ``merc annotate`` says.
        """
        self._next("waiting for other recordings")
        while slots.locked():
            if self.stopped:
                return
            yield self.steps
            await asyncio.sleep(POLL)
        async with slots:  # free, as nothing was awaited since
            self.steps.clear()
            self._next("loading the model")
            async with aclosing(self._work()) as work:
                async for steps in work:
                    yield steps

    async def _work(self) -> AsyncGenerator[Sequence[Step]]:
        if self.stopped:
            return
        # By their suffixes neither can be the recording or the transcript, which are in the same folder.
        told, errors = self.folder / "told.log", self.folder / "errors.log"
        # Wide lines, at once.
        environment = {**os.environ, "COLUMNS": "1000", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        with told.open("wb") as out, errors.open("wb") as problems:
            process = subprocess.Popen(
                self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=problems, env=environment
            )
        self._process = process
        seen = 0
        try:
            while True:
                ended = process.poll() is not None  # before the text is read, which then is complete
                names = _STEP.findall(told.read_text("utf-8", errors="replace"))
                for name in names[seen:]:
                    self._next(name)
                seen = len(names)
                yield self.steps
                if ended:
                    break
                await asyncio.sleep(POLL)
        finally:  # whoever watches has gone
            await asyncio.to_thread(_end, process)
        self.steps[-1].ended = time.monotonic()
        if process.returncode and not self.stopped:
            raise AppError(self._problem(errors.read_text("utf-8", errors="replace"), process.returncode))

    def _next(self, name: str) -> None:
        now = time.monotonic()
        if self.steps:
            self.steps[-1].ended = now
        self.steps.append(Step(name, now))

    def _problem(self, errors: str, status: int) -> str:
        """What the command says of the recording, or that it has crashed."""
        _, own, message = errors.rpartition("merc annotate: ")
        if not own:
            last = (errors.strip().splitlines() or ["nothing was said"])[-1]
            message = f"merc annotate ended with status {status} ({last}). Its whole output is in errors.log."
        return _without_folders(message.strip().replace(f"{self.folder}{os.sep}", ""), Path(self.model).parent)

    def stop(self) -> None:
        """End the work; what has been done is kept in the folder."""
        self.stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def files(self) -> list[Path]:
        """The files of the results, those to look at first."""
        first = ["annotation.html", "annotated.mp4", "annotation.csv"]
        found = [path for path in self.results.glob("*") if path.is_file() and not path.name.startswith(".")]
        return sorted(found, key=lambda p: (first.index(p.name) if p.name in first else len(first), p.name))

    @property
    def zip_name(self) -> str:
        """The name of the file that holds all results."""
        return f"{Path(self.recording).stem}.zip"

    @property
    def zip_file(self) -> Path:
        """The place of that file, once it is made."""
        return self.folder / "results.zip"

    def make_zip(self) -> None:
        """Make it, of all results."""
        # Films do not become smaller.
        with write_aside(self.zip_file) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
            for file in self.files():
                archive.write(file, f"{Path(self.recording).stem}/{file.name}")


class Runs:
    """All runs of a server.

    Args:
        folder: Holds the uploads, and a folder for each run.
        models: What visitors choose from: by the name that they see, the ``--model``.
        jobs: How many recordings are annotated at a time.
        max_total: Bytes of all uploads and results, beyond which nothing new is taken. Default: no limit.
    """

    def __init__(self, folder: Path, models: Mapping[str, str], jobs: int = 1, max_total: float = float("inf")) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        # Of this server alone: it is deleted at the end, and what was in the folder before is nobody's upload.
        self.uploads = Path(tempfile.mkdtemp(prefix="uploads-", dir=self.folder))
        self.models = models
        self.max_total = max_total
        self.slots = asyncio.Semaphore(jobs)
        self._coming = 0  # bytes of the uploads that are under way
        self._checked = asyncio.Lock()
        self._made = threading.Lock()
        self.by_token: dict[str, Run] = {}
        self._by_visitor: dict[str, Run] = {}

    def new(self, visitor: str, recording: str | None, transcript: str | None, model: str) -> Run:
        """A run for a visitor, whose former one is stopped. It may take a while, and is safe in any thread.

        Args:
            visitor: Who asks.
            recording: A file among the uploads.
            transcript: Likewise, or ``None``.
            model: One of the models.

        Raises:
            AppError: There is no such upload or model, files of that kind are not taken, or there is no room.
            OSError: The disk is full.
        """
        if recording is None:
            raise AppError("There is no recording yet: drop a film or a sound first.")
        if model not in self.models:
            raise AppError(f"There is no model {model!r} here: expected one of {', '.join(self.models)}.")
        kinds = [(recording, "recording", RECORDINGS), *([(transcript, "transcript", READERS)] if transcript else [])]
        for path, kind, suffixes in kinds:
            require_suffix(path, kind, list(suffixes))
            if not self.is_upload(path):
                raise AppError(f"{Path(path).name} is no upload: drop it again.")
        with self._made:
            if self._used() + self._coming >= self.max_total:
                raise AppError(
                    "There is no room left for results on this server: try again when its owner has made some."
                )
            self.stop(visitor)
            folder = self.folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(8)}"
            folder.mkdir(mode=0o700)
            names = []
            for path, kind, _ in kinds:
                names.append(_plain_name(path, kind))
                _copy(Path(path), folder / names[-1])
            run = Run(folder, names[0], names[1] if transcript else None, self.models[model])
            self.by_token[run.token] = self._by_visitor[visitor] = run
            return run

    @asynccontextmanager
    async def room(self, more: int) -> AsyncGenerator[bool]:
        """Whether so many bytes more may come; if so, they are taken while inside, and no others get their room.

        Args:
            more: The bytes, which are in a file of the folder afterwards.
        """
        async with self._checked:  # one after the other: who comes next finds the room taken
            # Read before files are counted: an upload that ends meanwhile is in one of both, or in both.
            coming = self._coming
            granted = await asyncio.to_thread(self._used) + coming + more <= self.max_total
            if granted:
                self._coming += more
        try:
            yield granted
        finally:
            if granted:
                self._coming -= more

    def _used(self) -> int:
        """Bytes of the uploads and results of all visitors; with many files it takes a while."""
        folders = [self.uploads, *(run.folder for run in list(self.by_token.values()))]
        sizes: dict[tuple[int, int], int] = {}
        for file in (Path(place, name) for folder in folders for place, _, names in os.walk(folder) for name in names):
            with suppress(OSError):  # a run has just renamed or removed it
                state = file.stat()
                sizes[state.st_dev, state.st_ino] = state.st_size  # a recording, a link to its upload, counts once
        return sum(sizes.values())

    def is_upload(self, path: str) -> bool:
        """Whether a path, which a visitor may have made up, is that of an uploaded file."""
        try:
            resolved = Path(path).resolve()
            return resolved.is_relative_to(self.uploads) and resolved.is_file()
        except (OSError, ValueError):  # too long, or with a null
            return False

    async def find(self, token: str, name: str) -> Path | None:
        """A file of the results, by the token of its run and its name; ``None`` if there is none.

        The one that holds all results is made when it is asked for.

        Args:
            token: The token.
            name: A name without a folder.

        Raises:
            OSError: There is no room for the file that holds all results, or it cannot be made.
        """
        run = self.by_token.get(token)
        if run is None:
            return None
        if name != run.zip_name:
            return next((file for file in run.files() if file.name == name), None)
        if not run.zip_file.is_file():
            async with self.room(sum(file.stat().st_size for file in run.files())) as granted:
                if not granted:
                    raise OSError(errno.ENOSPC, "All uploads and results together are too large")
                await asyncio.to_thread(run.make_zip)
        return run.zip_file

    def stop(self, visitor: str) -> None:
        """Stop the run of a visitor, if there is one."""
        if visitor in self._by_visitor:
            self._by_visitor.pop(visitor).stop()

    def close(self, *, keep: bool) -> None:
        """Stop all runs, and delete the uploads.

        Args:
            keep: Whether the folders of runs stay.
        """
        for run in self.by_token.values():
            run.stop()
        for run in self.by_token.values():
            if run._process is not None:
                _end(run._process)
        shutil.rmtree(self.uploads if keep else self.folder, ignore_errors=True)


def require_suffix(path: str, kind: str, suffixes: Sequence[str]) -> None:
    """Refuse a file whose name ends otherwise.

    Args:
        path: The file.
        kind: What it is to be.
        suffixes: In small letters.

    Raises:
        AppError: It does.
    """
    if Path(path).suffix.lower() not in suffixes:
        raise AppError(
            f"{Path(path).name} is no {kind} by its name: expected a file that ends in {' '.join(sorted(suffixes))}. "
            "Convert it, or give it the ending of what it is."
        )


def as_bytes(size: str) -> int:
    """A size such as ``2GB`` or ``500 MB``, in bytes.

    Args:
        size: The size.

    Raises:
        AppError: It is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B|)", size.strip().upper())
    if found is None or not float(found[1]):
        raise AppError(f"{size!r} is no size: expected such as 500MB or 2GB.")
    return int(float(found[1]) * _UNITS[found[2]])


def _without_folders(message: str, models: Path) -> str:
    """A message in which files of the server have names and no folders.

    Args:
        message: The message.
        models: A folder whose path may have spaces, which elsewhere end a path that is not in quotation marks.
    """
    for folder in (models, Path(sys.prefix), Path(tempfile.gettempdir())):
        if folder.is_absolute():
            message = message.replace(f"{folder}{os.sep}", "/")
    return _PATH.sub("", _QUOTED_PATH.sub(r"\1\2\1", message))


def _plain_name(path: str, kind: str) -> str:
    """A name that means nothing to a shell, a URL or a parser of options."""
    stem = re.sub(r"[^\w. -]", "_", Path(path).stem).strip(". ")[:80] or kind
    return stem + Path(path).suffix.lower()


def _copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it still runs."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
