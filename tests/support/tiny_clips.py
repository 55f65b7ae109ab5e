"""Clips of a few frames in which "faces" are a red and a green square, with a detector that finds them."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn

from merc.conversation import Clip, Conversation, Corpus, Utterance
from merc.labels import MELD
from merc.media.faces import Faces

WIDTH, HEIGHT, FPS, RATE = 64, 48, 25, 16000
RED, GREEN = 0, 1  # tracks: that on the left is the larger one


def picture(index, faces=(RED, GREEN)):
    """(HEIGHT, WIDTH, 3): squares that move a pixel in four frames, to and fro."""
    image = np.full((HEIGHT, WIDTH, 3), 16, np.uint8)
    for face in faces:
        size, left, top = ((20, 4, 8), (16, 38, 10))[face]
        left += abs((index // 4) % 8 - 4)
        image[top : top + size, left : left + size, face] = 230
    return image


def write_clip(path, frames=20, faces=(RED, GREEN), tone=440.0, silent=False, seen=True):
    """Write an mp4 of ``frames`` / 25 s."""
    with av.open(str(path), "w") as file:
        packets = []
        video = file.add_stream("libx264", rate=FPS) if seen else None
        audio = None if silent else file.add_stream("aac", rate=RATE, layout="mono")
        if video is not None:
            video.width, video.height, video.pix_fmt, video.options = WIDTH, HEIGHT, "yuv444p", {"crf": "5"}
            video.codec_context.thread_count = 1
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(picture(index, faces), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                packets += video.encode(frame)
            packets += video.encode(None)
        if audio is not None:
            clock = np.arange(frames * RATE // FPS) / RATE
            samples = (0.5 * np.sin(2 * np.pi * tone * clock)).astype(np.float32)[None]
            for start in range(0, samples.shape[1], 1024):
                block = np.ascontiguousarray(samples[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                packets += audio.encode(frame)
            packets += audio.encode(None)
        file.mux(sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)))
    return str(path)


class SquareDetector:
    """Finds the red and the green square of an image."""

    def __call__(self, images: Tensor) -> list[Faces]:
        return [self._squares(image) for image in images]

    @staticmethod
    def _squares(image):
        boxes = []
        for face in (RED, GREEN):
            rows, columns = (image[face] > 140).nonzero(as_tuple=True)
            if len(rows) > 30:
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        return Faces(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.full((len(boxes),), 0.99))

    def provenance(self) -> dict[str, Any]:
        return {"detector": "squares"}


class Loudness(nn.Module):
    """A sound encoder: mean magnitude, and seconds."""

    dim = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return torch.stack([torch.stack([row.abs().mean(), torch.tensor(len(row) / RATE)]) for row in batch.rows()])

    def provenance(self):
        return {"encoder": "loudness"}


class Colour(nn.Module):
    """A visual encoder: mean colour, and number of pictures."""

    dim, frames, size = 4, 5, 16

    def forward(self, batch):
        rows = [torch.cat([row.float().mean((0, 2, 3)), torch.tensor([float(len(row))])]) for row in batch.rows()]
        return torch.stack(rows)

    def provenance(self):
        return {"encoder": "colour"}


def clips_corpus(folder, count=8):
    """One dialogue a split of clips of different length, and one of clips that are broken, each in its own way."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for place, split in enumerate(("train", "val", "test")):
        turns = []
        for index in range(count):
            frames = 12 + 3 * ((index * 5 + place) % 7)
            path = write_clip(folder / f"{split}{index}.mp4", frames, tone=300.0 + 100 * index)
            turns.append(Utterance(str(index), "AB"[index % 2], "so", 0.0, frames / FPS, "joy", path))
        splits[split] = [Conversation("0", tuple(turns), split)]
    (folder / "text.mp4").write_text("this is no film")
    long = write_clip(folder / "long.mp4", 60)
    broken = (
        Utterance("none", "A"),
        Utterance("text", "A", media=str(folder / "text.mp4")),
        Utterance("gone", "A", media=str(folder / "gone.mp4")),
        Utterance("deaf", "A", media=write_clip(folder / "deaf.mp4", silent=True)),
        Utterance("blind", "A", media=write_clip(folder / "blind.mp4", seen=False)),
        Utterance("empty", "A", media=write_clip(folder / "empty.mp4", faces=())),
        Utterance("part", "A", start=0.4, end=1.2, video=Clip(long, 0.4, 1.2, (0.5, 0.0, 1.0, 1.0))),
    )
    splits["test"].append(Conversation("broken", broken, "test"))
    return Corpus("clips", MELD, splits)


def with_clips(corpus, folder, frames=40):
    """A corpus whose utterances are shown by a few clips, with one face and with two, in turn."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    casts = ((RED,), (RED, GREEN), (GREEN,))
    files = [write_clip(folder / f"{n}.mp4", frames, faces, 300.0 * (1 + n)) for n, faces in enumerate(casts)]
    splits = {
        split: [
            replace(c, utterances=tuple(replace(u, media=files[(d + n) % 3]) for n, u in enumerate(c.utterances)))
            for d, c in enumerate(conversations)
        ]
        for split, conversations in corpus.items()
    }
    return replace(corpus, splits=splits)
