"""How long ``merc annotate`` takes: for films of a few lengths, or for one of two hours, and the most memory it has.

    python benchmarks/annotate_speed.py ../shared/data/clips
    python benchmarks/annotate_speed.py ../shared/data/clips --seconds 7200 --height 144 --faces 1 --every 3.6

Three real faces side by side, another three every five seconds, with the sound of one of them and a line every few
seconds; after a minute it is the same again. Each film is annotated in a process of its own. Prints the seconds of
every step, the processor time and the peak of the memory, and for two lengths what a film costs at all and for each
second. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from media_speed import beside, loop

from merc.conversation import Clip
from merc.media import SAMPLE_RATE, read_sound

LOOP = 60  # seconds
STEPS = ("step ", "people of ", "film of ", "page of ")
PAUSE = 0.2  # seconds between two rounds


def film(folder: Path, seconds: int, height: int, clips: list[str], faces: int) -> Path:
    """A film of so many seconds."""
    frames, short, path = (folder / f"{name}-{seconds}.mp4" for name in ("frames", "round", "film"))
    length = min(seconds, LOOP)
    beside(frames, length, height, clips, faces)
    with av.open(str(frames)) as source, av.open(str(short), "w") as made:
        video = made.add_stream_from_template(source.streams.video[0])
        audio = made.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for frame in source.demux(video=0):
            if frame.dts is not None:
                frame.stream = video
                made.mux(frame)
        for turn in range(0, length, 5):
            sound = np.asarray(read_sound(Clip(clips[turn // 5 * faces % len(clips)], end=5.0)))
            sound = np.pad(sound, (0, 5 * SAMPLE_RATE))[: 5 * SAMPLE_RATE]
            part = av.AudioFrame.from_ndarray((sound[None] * 32767).clip(-32768, 32767).astype(np.int16), "s16", "mono")
            part.sample_rate, part.pts = SAMPLE_RATE, turn * SAMPLE_RATE
            made.mux(audio.encode(part))
        made.mux(audio.encode(None))
    if seconds <= LOOP:
        return short
    loop(short, path, seconds, PAUSE)
    return path


def transcript(path: Path, seconds: int, every: float) -> Path:
    """A line every so many seconds, most of them without a name."""

    def stamp(time: float) -> str:
        whole, part = divmod(round(time * 1000), 1000)
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{part:03d}"

    texts = ("I cannot believe that.", "That is great!", "Leave me alone.", "What do you mean?", "I miss her so much.")
    lines = [
        f"{number + 1}\n{stamp(number * every)} --> {stamp((number + 0.95) * every)}\n{texts[number % 5]} {number}\n"
        for number in range(int(seconds / every))
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def annotated(video: Path, lines: Path, out: Path, more: list[str]) -> tuple[list[tuple[str, float]], float, float]:
    """The seconds of every step, the processor time and the megabytes of ``merc annotate``."""
    command = [sys.executable, "-m", "merc", "annotate", str(video), "--transcript", str(lines), "--model", "default"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    steps = [("start", begun)]
    with subprocess.Popen(
        [*command, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(STEPS):
                name = line.split(": ")[1] if line.startswith("step ") else line.split()[0]
                steps.append((name.strip(), time.perf_counter()))
    if process.returncode:
        raise SystemExit(process.returncode)
    ends = [when for _, when in steps[1:]] + [time.perf_counter()]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return (
        [(name, end - begin) for (name, begin), end in zip(steps, ends, strict=True)],
        processor,
        after.ru_maxrss / 1e3,
    )


def main() -> None:
    """Annotate a film of every length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of clips of one face")
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--faces", type=int, default=3, help="side by side")
    parser.add_argument("--every", type=float, default=10 / 3, help="seconds between the beginnings of two lines")
    parser.add_argument("--no-film", action="store_true", help="without annotated.mp4")
    parser.add_argument("--keep", type=Path, help="folder for films and results; the same again goes on")
    args = parser.parse_args()
    clips = sorted(str(path) for path in args.clips.iterdir() if "two_faces" not in path.name)
    walls = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seconds in args.seconds:
            video = film(folder, seconds, args.height, clips, args.faces)
            lines = transcript(folder / f"lines-{seconds}.srt", seconds, args.every)
            more = ["--film", "false"] if args.no_film else []
            steps, processor, memory = annotated(video, lines, folder / f"out-{seconds}", more)
            walls.append(sum(time for _, time in steps))
            cost = f"{walls[-1]:.1f} s, processor {processor:.1f} s, {memory:.0f} MB"
            print(f"{seconds} s of {args.height}p: {cost}")
            print("  " + ", ".join(f"{name} {time:.1f}" for name, time in steps))
    if len(walls) == 2:
        each = (walls[1] - walls[0]) / (args.seconds[1] - args.seconds[0])
        print(f"{walls[0] - each * args.seconds[0]:.1f} s for a film at all, {each:.2f} s for each of its seconds")


if __name__ == "__main__":
    main()
