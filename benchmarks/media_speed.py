"""How fast faces are found and followed, and the speaker chosen, in 1280x720 video with three faces; and the memory.

python benchmarks/media_speed.py [--seconds 30] [--threads 2] [--detector mtcnn] [--height 720] [--every 5]
python benchmarks/media_speed.py --clips ../shared/data/clips
python benchmarks/media_speed.py --minutes 60 [--height 360] [--every 10]

With --clips the three faces are those of real clips, side by side, another three every five seconds; else they are
drawn.

Prints the real-time factor (seconds of computing for a second of video) of each part, and that in processor time: on a
busy machine only the latter, divided by the threads, says what an idle one would do. With --minutes the video is
looped to that length instead, decoded and tracked in one stream, and the memory in use is printed along the way; a
smaller picture (--height) and fewer detections (--every) make an hour cheap.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from skimage.data import astronaut
from torch.nn import functional

from merc.conversation import Clip, Utterance, UtteranceKey
from merc.datamodules import TrackReader
from merc.media import (
    CenterFaceDetector,
    FaceDetector,
    Faces,
    FaceTracker,
    Frames,
    MTCNNDetector,
    read_frames,
    rows_to_tracks,
)
from merc.media.crops import resample
from merc.media.rates import MEL_BANDS, MEL_PER_FRAME
from merc.speaker import LikelihoodScorer, LipSyncNet, mouth_tracks

WIDTH, HEIGHT, FPS = 1280, 720, 25
DETECTORS = {"mtcnn": MTCNNDetector, "centerface": CenterFaceDetector}


def now() -> np.ndarray:
    """Wall clock and processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([time.perf_counter(), used.ru_utime + used.ru_stime])


def show(name: str, factors: np.ndarray) -> None:
    """A line with both real-time factors."""
    print(f"  {name:<45} {factors[0]:.3f}   processor {factors[1]:.3f}", flush=True)


class Timed:
    """A detector that adds up its time."""

    def __init__(self, detector: FaceDetector) -> None:
        self.detector = detector
        self.seconds = np.zeros(2)

    def __call__(self, images: torch.Tensor) -> list[Faces]:
        """The faces of the images."""
        start = now()
        faces = self.detector(images)
        self.seconds += now() - start
        return faces

    def provenance(self) -> dict[str, object]:
        """That of the detector."""
        return self.detector.provenance()


def render(path: Path, seconds: int, height: int) -> None:
    """Three heads that sway and nod over a texture that drifts, as H.264 scaled to a height."""
    face = torch.from_numpy(astronaut()).permute(2, 0, 1)[None, :, 20:220, 130:310].contiguous()
    coarse = torch.rand(1, 3, 90, 200, generator=torch.Generator().manual_seed(0)) * 160
    wall = functional.interpolate(coarse, (HEIGHT, 1600), mode="bicubic").clamp(0, 255).to(torch.uint8)[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width_of(height), height, "yuv420p"
        for number in range(seconds * FPS):
            image = wall.roll(-(number // 2), 2)[:, :, :WIDTH].clone()
            for head, (x, y, size) in enumerate(((90, 200, 300), (520, 120, 240), (900, 260, 330))):
                sway = 30 * np.sin(number / FPS * (1 + head)) + head
                nod = 8 * np.sin(number / FPS * 9 + head)
                window = torch.tensor([[-sway % 1, -nod % 1, 180 - sway % 1, 200 - nod % 1]])
                left, top, width = x + int(sway), y + int(nod), round(size * 0.9)
                image[:, top : top + size, left : left + width] = resample(face, window, (size, width))[0].to(
                    torch.uint8
                )
            frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).numpy(), format="rgb24")
            container.mux(stream.encode(frame.reformat(width_of(height), height)))
        container.mux(stream.encode(None))


def beside(path: Path, seconds: int, height: int, clips: list[str], faces: int = 3) -> None:
    """Some clips of one face side by side, and after five seconds the next ones, as H.264."""
    lane, turn = width_of(height) // faces // 2 * 2, 5 * FPS
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = faces * lane, height, "yuv420p"
        for start in range(0, seconds * FPS, turn):
            lanes = []
            for number in range(faces):
                clip = Clip(clips[(start // turn * faces + number) % len(clips)], end=turn / FPS)
                images = torch.cat([chunk.images for chunk in read_frames(clip, max_height=height)])
                width = min(images.shape[3], round(images.shape[2] * lane / height))
                images = images[..., (images.shape[3] - width) // 2 :][..., :width]
                lanes.append(functional.interpolate(images, (height, lane), mode="bilinear"))
            for number in range(min(turn, seconds * FPS - start)):
                image = torch.cat([images[min(number, len(images) - 1)] for images in lanes], 2)
                frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def width_of(height: int) -> int:
    """The even width of a picture of that height."""
    return round(height * WIDTH / HEIGHT / 2) * 2


def loop(source: Path, path: Path, seconds: float, pause: float = 0.0) -> None:
    """The packets of a film over and over for at least so many seconds, without coding them again.

    A pause between two rounds is needed where there is sound, whose packets are a little longer than the frames.
    """
    with av.open(str(source)) as first, av.open(str(path), "w") as made:
        assert first.duration is not None
        length = first.duration / av.time_base + pause
        streams = {stream.index: made.add_stream_from_template(stream) for stream in first.streams}
        for turn in range(math.ceil(seconds / length - 1e-6)):
            with av.open(str(source)) as given:
                packet: Any
                for packet in given.demux():
                    if packet.dts is not None and packet.pts is not None:
                        shift = round(turn * length / packet.time_base)
                        packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                        packet.stream = streams[packet.stream.index]
                        made.mux(packet)


def memory_mb(what: Literal["VmRSS", "VmHWM"]) -> float:
    """Memory of the process that is in use, or the most that was since :func:`forget_peak`."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 2**10


def forget_peak() -> None:
    """Measure the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def watched(frames: Iterable[Frames], every: int) -> Iterator[Frames]:
    """The same frames; says now and then how much memory is in use, and the most that was since the last time."""
    for chunk in frames:
        if chunk.first // every != (chunk.first + len(chunk.images)) // every:
            minute = (chunk.first + len(chunk.images)) // FPS // 60
            print(f"  {minute:>5} {memory_mb('VmRSS'):>9.0f} {memory_mb('VmHWM'):>9.0f}", flush=True)
            forget_peak()
        yield chunk


def long_stream(path: Path, minutes: float, tracker: FaceTracker) -> None:
    """Decode and track a video over and over in one stream, and print the memory in use."""
    long = path.with_name("long.mp4")
    loop(path, long, 60 * minutes)
    forget_peak()
    print(f"{minutes:g} minutes in one stream\n minute  MB in use   peak MB")
    start = now()
    every = max(1, round(minutes / 12)) * 60 * FPS
    tracks = tracker(watched(read_frames(Clip(str(long)), max_height=360, time_limit=1e9), every))
    print(f"    end {memory_mb('VmRSS'):>9.0f} {memory_mb('VmHWM'):>9.0f}")
    show(f"{len(tracks)} tracks, {sum(map(len, tracks))} boxes", (now() - start) / minutes / 60)


def main() -> None:
    """Render, measure the parts, then the long file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--detector", choices=DETECTORS, default="mtcnn")
    parser.add_argument("--height", type=int, default=HEIGHT, help="of the picture")
    parser.add_argument("--every", type=int, default=5, help="frames from one detection to the next")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--clips", type=Path, help="a folder of clips with one face each, at least three")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    detector = DETECTORS[options.detector]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "three.mp4"
        with get_context("spawn").Pool(1) as elsewhere:  # what rendering takes is none of the memory to be measured
            if options.clips is None:
                elsewhere.apply(render, (path, options.seconds, options.height))
            else:
                clips = sorted(str(clip) for clip in options.clips.iterdir())
                elsewhere.apply(beside, (path, options.seconds, options.height, clips))
        print(
            f"{options.seconds} s of {width_of(options.height)}x{options.height}, {options.threads} threads, "
            f"{options.detector} every {options.every} frames"
        )
        if options.minutes:
            long_stream(path, options.minutes, FaceTracker(detector, options.every))
            return
        FaceTracker(detector)(read_frames(Clip(str(path), end=2.0), max_height=360))  # warms up

        start = now()
        for _ in read_frames(Clip(str(path)), max_height=360):
            pass
        decode = now() - start
        timed = Timed(detector)
        start = now()
        tracks = FaceTracker(timed, options.every)(read_frames(Clip(str(path)), max_height=360))
        whole = now() - start
        reader = TrackReader(FaceTracker(detector, options.every), crop_size=32)
        start = now()
        found = reader.read(UtteranceKey("", "", ""), Utterance("", "", media=str(path)))
        extraction = now() - start
        extracted = rows_to_tracks(torch.as_tensor(found["faces"]))
        mouths = mouth_tracks(extracted, torch.as_tensor(found["crops"]))
        network = LipSyncNet().eval()
        start = now()
        LikelihoodScorer().choose(network, mouths, torch.randn(MEL_PER_FRAME * options.seconds * FPS, MEL_BANDS))
        choose = now() - start
        shares = ", ".join(f"{len(track) / options.seconds / FPS:.0%}" for track in tracks)
        print(f"share of the video that each track covers: {shares}")
        print("real-time factor")
        show("decode", decode / options.seconds)
        show("detect", timed.seconds / options.seconds)
        show("track", (whole - decode - timed.seconds) / options.seconds)
        show("decode + detect + track", whole / options.seconds)
        show("extraction: the same at 480 lines, mouth crops", extraction / options.seconds)
        show("choose the speaker", choose / options.seconds)
        show("extraction and choice", (extraction + choose) / options.seconds)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
