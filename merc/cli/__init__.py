"""The command line: Lightning's own subcommands, and merc's import, doctor, run, compare, export, annotate and more."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager

import merc
from merc.configs.lookup import find_config, shipped_configs

USAGE = """\
usage: merc COMMAND ...

Multimodal emotion recognition in conversation.

Data:
  import     Turn a corpus, a community pickle, a table or a simulation into a corpus and feature stores.
  doctor     Check a corpus on disk against what is known of it.

One stage (PyTorch Lightning; every option of the Trainer is there):
  fit        Train:               merc fit --config systems/lfvd.yaml --config corpora/meld_sdt.yaml --out runs/lfvd
  validate   Score on val:        merc validate --config runs/lfvd/config.yaml --ckpt_path best.ckpt
  test       Score on test:       merc test --config runs/lfvd/config.yaml --ckpt_path best.ckpt
  predict    Write a store:       merc predict --config runs/lfvd/config.yaml --ckpt_path best.ckpt --out out

All stages:
  run        Run a pipeline:      merc run demo/simulated.yaml --out runs/simulated
  ablate     What each part adds: merc ablate demo/simulated.yaml --out runs/ablations --seeds 3
  search     Better options:      merc search demo/simulated.yaml --space search/training.yaml --out runs/search
  compare    Head to head:        merc compare runs/simulated runs/other/lfvd theirs.csv --out runs/compared
  ensemble   Average systems:     merc ensemble runs/seed-0/lfvd runs/seed-0/fusion --out runs/together
  tsne       Draw vectors:        merc tsne runs/simulated/seed-0/fusion/hidden --corpus corpus.json --out points.png

Models:
  export     Make a model:        merc export runs/text --out my-model
  predict    Use a model:         merc predict --model text-meld talk.csv --out predictions.csv

A new video:
  annotate   Emotions of it:      merc annotate VIDEO --transcript FILE.srt --out runs/annotated
             Of many:             merc annotate FOLDER --out runs/annotated
  app        In a browser:        merc app
  transcribe What is said:        merc transcribe VIDEO --out talk.srt
  diarize    Who speaks when:     merc diarize VIDEO --out talk.rttm

  configs    List the shipped configs, or print one: merc configs demo/simulated.yaml

`merc COMMAND --help` explains a command. A --config is a file, or the short name of a shipped config.
"""

_AFTER_INTERRUPTION = {
    "run": " The same command goes on from here.",
    "ablate": " The same command goes on from here.",
    "search": " The same command goes on from here.",
    "annotate": " The same command goes on from here.",
    "predict": " The same command goes on from here.",
    "fit": " With --ckpt_path .../checkpoints/last.ckpt the same command goes on after the last validation.",
}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the ``merc`` command; returns the exit status."""
    args = list(sys.argv[1:] if args is None else args)
    command = args[0] if args else "--help"
    try:
        if command in ("--help", "-h"):
            return _show(USAGE)
        if command == "--version":
            return _show(merc.__version__)
        if command == "configs":
            return _configs(args[1:])
        with _ends_at_sigterm():
            return _dispatch(command, args)
    except Terminated as end:
        print("\nTerminated." + _AFTER_INTERRUPTION.get(command, ""), file=sys.stderr)
        return int(str(end.code))
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and not isinstance(end.__context__, KeyboardInterrupt):
            raise  # not Lightning, which makes an exit of Ctrl-C
        print("\nInterrupted." + _AFTER_INTERRUPTION.get(command, ""), file=sys.stderr)
        return 130
    except BrokenExecutor:
        told = "a process was killed, perhaps because memory ran out: give fewer --jobs or --workers."
        print(f"merc {command}: {told}{_AFTER_INTERRUPTION.get(command, '')}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        # What the user can mend is told in one line; a defect of merc keeps its traceback.
        print(f"merc {command}: {error}", file=sys.stderr)
        return 1


class Terminated(SystemExit):
    """The process was told to end by SIGTERM; the code is that of a process that the signal has ended."""


@contextmanager
def _ends_at_sigterm() -> Iterator[None]:
    """While inside, SIGTERM ends the command as Ctrl-C does.

    Without it, Lightning would end a training with exit status 0, or note a signal that nobody asks for any more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is under way is put in order, once
        raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(text: str) -> int:
    """Print a text to a reader who may stop reading, as ``head`` does; returns the exit status."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest when it exits
    return 0


def _configs(args: list[str]) -> int:
    """List the shipped configs, or print some; returns the exit status."""
    if args[:1] in (["--help"], ["-h"]):
        return _show("usage: merc configs [NAME ...]\n\nList the shipped configs, or print those that are named.")
    if not args:
        return _show("\n".join(shipped_configs()))
    return _show("\n".join(find_config(name).read_text(encoding="utf-8").rstrip() for name in args))


def _dispatch(command: str, args: list[str]) -> int:
    # Imported here, so that `merc --help` answers at once.
    if command in ("export", "predict"):
        from merc.cli.models import asks_a_model, export_command, predict_command

        if command == "export":
            return export_command(args[1:])
        if asks_a_model(args[1:]):
            return predict_command(args[1:])
    if command in ("fit", "validate", "test", "predict"):
        from merc.pipeline.lightning import MercCLI, quiet_lightning

        with quiet_lightning():
            MercCLI(args=args)
        return 0
    if command == "run":
        from merc.cli.run import run_command

        return run_command(args[1:])
    if command == "ablate":
        from merc.cli.ablate import ablate_command

        return ablate_command(args[1:])
    if command == "search":
        from merc.cli.search import search_command

        return search_command(args[1:])
    if command == "compare":
        from merc.cli.compare import compare_command

        return compare_command(args[1:])
    if command == "ensemble":
        from merc.cli.ensemble import ensemble_command

        return ensemble_command(args[1:])
    if command == "tsne":
        from merc.cli.tsne import tsne_command

        return tsne_command(args[1:])
    if command == "annotate":
        from merc.cli.annotate import annotate_command

        return annotate_command(args[1:])
    if command == "app":
        from merc.cli.app import app_command

        return app_command(args[1:])
    if command == "transcribe":
        from merc.cli.transcribe import transcribe_command

        return transcribe_command(args[1:])
    if command == "diarize":
        from merc.cli.diarize import diarize_command

        return diarize_command(args[1:])
    if command in ("import", "doctor"):
        from merc.cli.data import data_command

        return data_command(command, args[1:])
    print(f"merc: no command {command!r}.\n\n{USAGE}", file=sys.stderr)
    return 2
