"""Takes become mp4 files: frames and sound are drawn, encoded and put in their place, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np

from merc.corpora.rendered.arrays import Floats, Image
from merc.corpora.rendered.config import RenderConfig, stream
from merc.corpora.rendered.plan import Take, plan_dialogue
from merc.corpora.rendered.scene import draw_shot, room
from merc.corpora.rendered.speech import in_room, utter
from merc.files import write_aside
from merc.media.rates import FRAME_RATE, SAMPLE_RATE


def clip_path(out: Path, split: str, dialogue: str, utterance: str) -> Path:
    """Where the clip of an utterance is, named as MELD names them."""
    return out / "clips" / split / f"dia{dialogue}_utt{utterance}.mp4"


def render_dialogue(config: RenderConfig, out: Path, split: str, number: int) -> None:
    """Write the clips of a dialogue that are not there yet."""
    cv2.setNumThreads(1)  # every process has one core
    for take in plan_dialogue(config, split, number):
        path = clip_path(out, *take.key)
        if not path.exists():
            write_clip(path, draw_take(config, take), sound_of(config, take), (config.width, config.height))


def draw_take(config: RenderConfig, take: Take) -> Iterator[Image]:
    """The frames of an utterance, ``(H, W, 3)`` RGB each."""
    width, height = config.width, config.height
    place = room(2 * width, 2 * height, stream(config, "room", take.key.partition, take.key.dialogue))
    rng = stream(config, "camera", *take.key)
    for shot in take.shots:
        x, y, zoom = shot.view
        w, h = round(2 * width * zoom), round(2 * height * zoom)
        left, top = round((2 * width - w) * x), round((2 * height - h) * y)
        background = cv2.resize(place[top : top + h, left : left + w], (width, height), interpolation=cv2.INTER_AREA)
        yield from draw_shot(np.asarray(background, np.uint8), shot.actors, rng)


def sound_of(config: RenderConfig, take: Take) -> Floats:
    """The sound of an utterance, ``(S,)`` at 16 kHz in -1..1."""
    rng = stream(config, "sound", *take.key)
    return in_room(utter(take.speech, take.frames * SAMPLE_RATE // FRAME_RATE, rng), rng)


def write_clip(path: Path, frames: Iterable[Image], sound: Floats, size: tuple[int, int]) -> None:
    """Write an mp4 file with H.264 (MPEG-4 where the build of PyAV lacks it) and AAC."""
    codec: Literal["libx264", "mpeg4"] = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # Without its macroblock tree, whose sums depend on where in memory a frame lies.
    x264 = {"preset": "veryfast", "crf": "22", "x264-params": "mbtree=0"}
    options = x264 if codec == "libx264" else {"qscale": "4"}
    with write_aside(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        video = container.add_stream(codec, rate=FRAME_RATE, options=options)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # more threads cut frames into other slices: other pixels
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 64000
        for frame in frames:
            planes = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        samples.sample_rate = SAMPLE_RATE
        samples.pts = 0  # else the encoder's delay is heard
        samples.time_base = Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(samples))
        container.mux(audio.encode())
