"""Mouths that talk and mouths that do not, straight into the stores that LipSyncNet learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor

from merc.conversation import CORPUS_FILE, Conversation, Corpus, Utterance, UtteranceKey, split_name
from merc.corpora.rendered.heads import draw_head
from merc.corpora.rendered.rendering import end_with_parent
from merc.labels import MELD
from merc.media.rates import FRAME_RATE
from merc.speaker.choose import NOBODY, SpeakerChoice
from merc.store import Kind, StoreWriter

TALKING = {"train": 160, "val": 24, "test": 40}
"""How many talking heads of each split there are by default."""

SILENT = {"train": 80, "val": 12, "test": 20}
"""How many silent ones."""

_KINDS: tuple[Kind, ...] = ("faces", "crops", "sound", "speaker")
_SEEDS = {"train": 0, "val": 1, "test": 2}  # of the people of each split; nobody is in two


def render_lips(
    out: str | Path,
    talking: Mapping[str, int] | None = None,
    silent: Mapping[str, int] | None = None,
    *,
    seconds: float = 3.0,
    crop_size: int = 32,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> Corpus:
    """Draw heads one by one and keep of each what LipSyncNet reads; no video is encoded.

    The folder gets ``corpus.json`` and the stores ``faces``, ``crops``, ``sound`` and ``speaker``, as extraction from
    clips would leave them, with the true boxes. Every clip shows one head; it talks, or it keeps still, smiles, chews
    or parts its lips in a quiet room, and nobody speaks. Each head is another person. What was interrupted goes
    on where it was.

    Args:
        out: Folder to write to.
        talking: Talking heads by split. Default: :data:`TALKING`.
        silent: Silent heads by split. Default: :data:`SILENT`.
        seconds: Duration of each.
        crop_size: Height and width of the mouth crops in pixels.
        seed: Decides everything.
        workers: Processes that draw; 0 draws in this one.
        progress: Show a progress bar.

    Raises:
        ImportError: A package that is needed to draw is not installed.
    """
    jobs = _jobs(TALKING if talking is None else talking, SILENT if silent is None else silent)
    splits: dict[str, list[Conversation]] = {}
    for key, *_ in jobs:
        talk = Conversation(key.dialogue, (Utterance(key.utterance, key.dialogue),), key.partition)
        splits.setdefault(key.partition, []).append(talk)
    corpus = Corpus("rendered lips", MELD, splits, f"drawn heads, seed {seed}; nobody is in two splits")
    provenance = {"source": "merc.corpora.rendered.lips", "seconds": seconds, "seed": seed, "crop_size": crop_size}
    shared: dict[str, Any] = {"corpus": corpus.digest, "provenance": provenance, "shard_rows": 64}
    writers = {kind: StoreWriter(Path(out) / kind, kind=kind, **shared) for kind in _KINDS}
    done = set.intersection(*(writer.done for writer in writers.values()))
    left = [job for job in jobs if job[0] not in done]
    draw = partial(_draw, seconds=seconds, crop_size=crop_size, seed=seed)
    try:
        for key, rows in track(_run(draw, left, workers), "Drawing", total=len(left), disable=not progress):
            for kind, writer in writers.items():
                if key not in writer.done:
                    writer.add([key], rows[kind], None if kind == "speaker" else [len(rows[kind])])
    finally:
        for writer in writers.values():
            writer.flush()
    for writer in writers.values():
        writer.commit()
    corpus.save(Path(out) / CORPUS_FILE)
    return corpus


_Job = tuple[UtteranceKey, bool, int, int]  # key, whether it is silent, its number, the seed of its split


def _jobs(talking: Mapping[str, int], silent: Mapping[str, int]) -> list[_Job]:
    jobs = []
    for word, counts in (("talk", talking), ("silent", silent)):
        for name, count in counts.items():
            split = split_name(name)
            keys = [UtteranceKey(split, f"{word}{number}", "0") for number in range(count)]
            jobs += [(key, word == "silent", number, _SEEDS[split]) for number, key in enumerate(keys)]
    return jobs


def _draw(job: _Job, *, seconds: float, crop_size: int, seed: int) -> tuple[UtteranceKey, dict[Kind, Tensor]]:
    """One head as the rows of each store."""
    from merc.media.crops import track_crops
    from merc.media.decode import Frames
    from merc.media.sound import LogMel
    from merc.media.tracks import FaceTrack, tracks_to_rows

    key, silent, number, part = job
    head = draw_head(number, seconds, 3 * seed + part, people=None, size=128, silent=silent)
    frames = Frames(head.frames, first=0, fps=FRAME_RATE, scale=1.0)
    tracks = [FaceTrack(0, head.boxes, 1.0)]
    return key, {
        "faces": tracks_to_rows(tracks),
        "crops": track_crops([frames], tracks, crop_size),
        "sound": LogMel()(head.sound),
        "speaker": SpeakerChoice(NOBODY if silent else 0, 0.0, 0.0, 0.0 if silent else 1.0).to_row()[None],
    }


def _run(
    draw: partial[tuple[UtteranceKey, dict[Kind, Tensor]]], jobs: list[_Job], workers: int
) -> Iterator[tuple[UtteranceKey, dict[Kind, Tensor]]]:
    """The heads in the order of the jobs, whichever process draws them."""
    if not workers or not jobs:
        yield from map(draw, jobs)
        return
    context = get_context("spawn")  # threads of this process would not survive a fork
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=end_with_parent) as pool:
        # Not all at once: what is drawn and not yet written waits in memory.
        ahead = iter(jobs)
        waiting = [pool.submit(draw, job) for job in islice(ahead, 8 * workers)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(draw, job) for job in islice(ahead, 1)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
