"""The order of rendering a corpus: clips by several processes, then the truth, then the corpus file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from rich.progress import track

from merc.conversation import CORPUS_FILE, Conversation, Corpus, CorpusError, Utterance
from merc.corpora.rendered.clips import clip_path, render_dialogue
from merc.corpora.rendered.config import RenderConfig
from merc.corpora.rendered.plan import Take, Track, plan_dialogue, true_tracks
from merc.files import parse_json, write_json
from merc.media.rates import FRAME_RATE
from merc.media.tracks import FaceTrack, tracks_to_rows
from merc.speaker.choose import NOBODY, SpeakerChoice
from merc.store import FeatureStore

RENDER_FILE = "render.json"
"""The file that says with which parameters a folder is being, or has been, rendered."""


def render_corpus(out: Path, config: RenderConfig, *, workers: int, progress: bool) -> Corpus:
    """Write the clips that are missing, the truth and the corpus; see :func:`merc.corpora.rendered.render`."""
    _claim(out, config)
    jobs = [(split, number) for split, count in config.dialogues.items() for number in range(count)]
    done = _run(config, out, jobs, workers)
    for _ in track(done, "Rendering", total=len(jobs), disable=not progress):
        pass
    dialogues = {
        split: [plan_dialogue(config, split, number) for number in range(count)]
        for split, count in config.dialogues.items()
    }
    corpus = Corpus(
        name="rendered",
        labels=config.labels,
        splits={
            split: [_conversation(out, split, number, takes) for number, takes in enumerate(split_dialogues)]
            for split, split_dialogues in dialogues.items()
        },
        protocol=f"rendered, seed {config.seed}; nobody is in two splits",
        notes=("All faces are variants of one photograph, and the voices are synthetic: only the words make sense.",),
    )
    takes = [take for split in dialogues.values() for takes in split for take in takes]
    _write_truth(out / "truth", config, takes, corpus.digest)
    corpus.save(out / CORPUS_FILE)
    return corpus


def _claim(out: Path, config: RenderConfig) -> None:
    """Make the folder this config's, and remove what a killed run was writing."""
    claim = {"format": "merc.RenderedCorpus", "version": 1, "config": dataclasses.asdict(config)}
    file = out / RENDER_FILE
    if file.exists():
        try:
            found = parse_json(file.read_bytes())
        except ValueError as error:
            raise CorpusError(f"{file} is not JSON ({error}). Delete the folder and render it again.") from error
        if found != json.loads(json.dumps(claim)):
            raise CorpusError(
                f"{out} holds a corpus that is rendered with other parameters (see {RENDER_FILE}): choose another "
                "folder or delete this one."
            )
    else:
        write_json(file, claim)
    (out / CORPUS_FILE).unlink(missing_ok=True)
    for cut in (out / "clips").rglob(".*.mp4.*.tmp"):
        cut.unlink()


def _run(config: RenderConfig, out: Path, jobs: list[tuple[str, int]], workers: int) -> Iterator[None]:
    if not workers:
        for split, number in jobs:
            render_dialogue(config, out, split, number)
            yield
        return
    processes = get_context("spawn")  # threads of this process would not survive a fork
    with ProcessPoolExecutor(min(workers, len(jobs)), processes, initializer=end_with_parent) as pool:
        futures = [pool.submit(render_dialogue, config, out, split, number) for split, number in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def end_with_parent() -> None:
    """Let no worker stay behind when the process that it draws for is killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _conversation(out: Path, split: str, number: int, takes: list[Take]) -> Conversation:
    return Conversation(
        str(number),
        tuple(
            Utterance(
                take.key.utterance,
                speaker=take.speaker,
                text=take.text,
                start=0.0,
                end=take.frames / FRAME_RATE,
                label=take.emotion,
                media=str(clip_path(out, *take.key).resolve()),
            )
            for take in takes
        ),
        split,
    )


def _write_truth(folder: Path, config: RenderConfig, takes: list[Take], corpus: str) -> None:
    provenance = {"source": "merc.corpora.rendered", "config": dataclasses.asdict(config)}
    people: dict[str, list[dict[str, Any]]] = {}
    rows, speakers = [], []
    for take in takes:
        tracks = true_tracks(take, config.width, config.height)
        rows.append(tracks_to_rows([FaceTrack(t.first, torch.from_numpy(t.boxes), 1.0) for t in tracks]))
        speakers.append(_speaker(take, tracks).to_row())
        people[str(take.key)] = [
            {"person": t.person, "emotion": t.emotion, "speaks": t.speaks, "first": t.first, "frames": len(t.boxes)}
            for t in tracks
        ]
    keys = [take.key for take in takes]
    lengths = [len(part) for part in rows]
    shared: dict[str, Any] = {"corpus": corpus, "provenance": provenance}
    FeatureStore.write(folder / "faces", keys, torch.cat(rows), kind="faces", lengths=lengths, **shared)
    FeatureStore.write(folder / "speaker", keys, torch.stack(speakers), kind="speaker", **shared)
    write_json(folder / "tracks.json", people)


def _speaker(take: Take, tracks: list[Track]) -> SpeakerChoice:
    """The true choice for an utterance: the longest track of the speaker, or nobody if there is none."""
    seen = [number for number, found in enumerate(tracks) if found.speaks]
    if not seen:
        return SpeakerChoice(NOBODY, 0.0, 0.0, 0.0)
    longest = max(seen, key=lambda number: len(tracks[number].boxes))
    return SpeakerChoice(longest, 1.0, 1.0, len(tracks[longest].boxes) / take.frames)
