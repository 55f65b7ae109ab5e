"""Attack the readers of foreign files: mutated texts, tables, pickles, corpora and films, in limited processes.

    python tests/fuzz.py --minutes 20 --seed 0

A file is read ("decoded"), or refused by the reader's own error. It fails if anything else is raised, if it takes more
than 10 s of the processor or more than 1 GB of memory, or if the process dies; the file is kept. The status is 1 if any
failed.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from merc.conversation import Clip, Conversation, Corpus, CorpusError, Utterance
from merc.corpora import read_csv, read_transcript
from merc.corpora.layouts import LAYOUTS
from merc.corpora.pickles import import_pickle
from merc.corpora.unpickle import load_pickle
from merc.features.numbers import import_table
from merc.labels import MELD
from merc.media import MediaError, probe, read_frames, read_sound

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 10
MEMORY = 2**30
BATCH = 40
"""Files that one process reads before the next takes over."""

WORDS = {
    "srt": [
        "-->",
        "\n",
        "\n\n",
        " ",
        "<v",
        "<i>",
        "<",
        ">",
        "{\\an8}",
        "&#",
        "9",
        ":",
        ",",
        ".",
        "A: ",
        "- ",
        "&#x110000;",
    ],
    "vtt": [
        "-->",
        "\n",
        "\n\n",
        " ",
        "<v",
        "<v.",
        ".",
        "<c>",
        "<",
        ">",
        "NOTE ",
        "STYLE\n",
        "&lt",
        "&#9",
        "9",
        "WEBVTT",
        "\t",
    ],
    "ass": ["Dialogue: ", "[Events]", "Format: ", ",", ":", "{", "}", "\\N", "\\p1", "9", "-", "\n", "[", ">> ", "- "],
    "TextGrid": ['"', '""', "\n", " ", "9", "-1", "<exists>", "IntervalTier", "1e99", ".", "!", "\t"],
    "eaf": [
        "<",
        ">",
        "/>",
        '"',
        "&amp;",
        "&a;",
        "<!ENTITY a 'b'>",
        "<TIER>",
        "PARENT_REF",
        "9",
        "-",
        "\n",
        "<![CDATA[",
    ],
    "speech": [
        "[",
        "]",
        "{",
        "}",
        '"',
        ",",
        ":",
        "null",
        "1e999",
        "-1",
        "9",
        '"words":',
        '"timestamp":',
        "\\ud800",
        "[]",
    ],
    "txt": ["-->", "\n", "\t", " ", "[", "]", ":", "9", "00:03", "Ann", ">> ", "{", "start,end,text", "-"],
    "csv": [
        ",",
        ";",
        "\t",
        "|",
        "\n",
        "\r",
        '"',
        "'",
        "[",
        "]",
        "9",
        "-",
        ":",
        "nan",
        "1e999",
        "\0",
        "é",
        "=1",
        "../",
        " ",
    ],
    "json": [
        "[",
        "]",
        "{",
        "}",
        '"',
        ",",
        ":",
        "null",
        "NaN",
        "1e999",
        "-1",
        "true",
        '"a"',
        "9",
        "\\ud800",
        "[]",
        "{}",
    ],
}


def cue(number: int, point: str) -> str:
    return f"00:00:{number:02}{point}000 --> 00:00:{number:02}{point}900\n"


def seeds(folder: Path) -> dict[str, list[Path]]:
    """Files that are read, by kind."""
    folder.mkdir(parents=True)
    rows = [
        (f"d{n // 3}", n % 3, "AB"[n % 2], f"Hi {n}.", "joy", n, n + 1, ("train", "dev", "test")[n // 3])
        for n in range(9)
    ]
    header = "dialogue,utterance_id,speaker,text,emotion,start,end,split\n"
    texts = {
        "srt": "".join(f"{n}\n{cue(n, ',')}Anna: well <i>{n}</i> &amp;\n\n" for n in range(1, 9)),
        "vtt": "WEBVTT\n\n" + "".join(f"{cue(n, '.')}<v.loud Anna>well <c.x>{n}</c> &lt;\n\n" for n in range(1, 9)),
        "csv": header + "".join(",".join(map(str, row)) + "\n" for row in rows),
    }
    found = {}
    for kind, text in texts.items():
        found[kind] = [folder / f"seed.{kind}"]
        found[kind][0].write_text(text)
    cases = ROOT / "tests/corpora/cases"
    found["ass"] = [cases / "12_ass_names/talk.ass"]
    found["TextGrid"] = [cases / "17_elan_textgrid_rttm/talk.TextGrid"]
    found["eaf"] = [cases / "17_elan_textgrid_rttm/talk.eaf"]
    found["speech"] = [cases / "03_whisper_tsv_json/talk.json"]
    found["txt"] = [folder / "seed.txt"]
    found["txt"][0].write_text("".join(f"00:0{n} Ann: Hi there.\n[00:0{n}] Bob\nNo.\n" for n in range(5)))
    table = folder / "table.csv"
    table.write_text("file,a,b\n" + "".join(f"dia0_utt{n}.wav,{n},{n * n}\n" for n in range(4)))
    found["table"] = [table]
    tiny_corpus().save(folder / "corpus.json")
    found["json"] = [folder / "corpus.json"]
    found["pickle"] = pickles(folder)
    found["media"] = films(folder)
    return found


def tiny_corpus() -> Corpus:
    film = Clip("film.mp4", 0.5, 2.0, (0.0, 0.0, 0.5, 1.0))
    utterances = [Utterance(str(n), "AB"[n % 2], "Hi.", n / 2, n + 1.5, "joy", "a.mp4", film) for n in range(4)]
    return Corpus("tiny", MELD, {"train": [Conversation("0", tuple(utterances))]}, "as made", ["a note"])


def pickles(folder: Path) -> list[Path]:
    layout = LAYOUTS["mmgcn-meld"]
    dialogues = range(6)
    parts: dict[str, Any] = {
        "ids": {d: [0, 1] for d in dialogues},
        "speakers": {d: [[1, 0], [0, 1]] for d in dialogues},
        "labels": {d: [0, 4] for d in dialogues},
        "sentences": {d: ["Hi.", "Oh."] for d in dialogues},
        "train": [0, 1, 2, 3],
        "test": [4, 5],
    }
    for role in ("text", "audio", "visual"):
        parts[role] = {d: [np.arange(3.0) + d, np.ones(3)] for d in dialogues}
    files = []
    for protocol in range(6):
        files.append(folder / f"seed{protocol}.pkl")
        files[-1].write_bytes(pickle.dumps([parts.get(role, {}) for role in layout.elements], protocol))
    return files


def films(folder: Path) -> list[Path]:
    from support.made_media import beeps, numbered, write_media

    made = {
        "mp4": {}, "mkv": {}, "ts": {}, "flv": {}, "mov": {},
        "avi": {"codec": "mpeg4", "sound_codec": "pcm_s16le"},
        "mpg": {"codec": "mpeg1video", "sound_codec": "mp2", "rate": 44100},
        "webm": {"codec": "libvpx", "sound_codec": "libopus", "rate": 48000},
    }  # fmt: skip
    for suffix, how in made.items():
        how = {"rate": 16000, **how}
        write_media(
            folder / f"a.{suffix}",
            pictures=[numbered(n) for n in range(10)],
            sound=beeps([0.1], 0.4, how["rate"]),
            **how,
        )
    for suffix, codec in {
        "wav": "pcm_s16le",
        "mp3": "libmp3lame",
        "flac": "flac",
        "ogg": "libopus",
        "m4a": "aac",
    }.items():
        write_media(folder / f"b.{suffix}", sound=beeps([0.1], 0.4, 48000), rate=48000, sound_codec=codec)
    real = ROOT.parent / "shared" / "data" / "clips"
    small = (
        sorted((path for path in real.glob("*.m*")), key=lambda path: path.stat().st_size)[:6] if real.is_dir() else []
    )
    return [*folder.glob("a.*"), *folder.glob("b.*"), *small]


def mutate_text(data: bytes, words: list[str], dice: random.Random) -> bytes:
    for _ in range(dice.choice([1, 1, 2, 5, 20])):
        at = dice.randrange(len(data) + 1)
        cut = dice.choice([0, 0, 1, 4, 30])
        piece = dice.choice(words).encode() * dice.choice([1, 1, 1, 2, 30, 1000, 20000])
        data = data[:at] + piece + data[at + cut :]
    return data if dice.random() < 0.8 else mutate_bytes(data, dice)


def mutate_bytes(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice([1, 3, 30])):
        if not changed:
            break
        at = dice.randrange(len(changed)) if dice.random() < 0.5 else dice.randrange(min(4096, len(changed)))
        kind, length = dice.randrange(5), dice.choice([1, 4, 100, 1000])
        if kind == 0:
            changed[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = dice.choice(
                [b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\0\0\1", dice.randbytes(4)]
            )
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif dice.random() < 0.2:
            del changed[at:]
    return bytes(changed)


OPCODES = b"()]}NK0129.abdelostuR\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x81"


def mutate_pickle(data: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.3:
        return mutate_bytes(data, dice)
    for _ in range(dice.choice([1, 2, 6, 40])):
        at = dice.randrange(2, len(data))
        piece = dice.choice(
            [
                bytes([dice.choice(OPCODES)]) * dice.choice([1, 1, 2, 5000]),
                b"h" + dice.randbytes(1), b"q" + dice.randbytes(1), b"j" + dice.randbytes(4), b"r" + dice.randbytes(4),
                b"r" + struct.pack("<I", 1 << dice.randrange(32)), b"B" + struct.pack("<I", 1 << dice.randrange(32)),
                b"\x8a" + bytes([dice.randrange(256)]), b"\x95" + struct.pack("<Q", 1 << dice.randrange(64)),
                b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cbuiltins\nset\n", b"cbuiltins\nlist\n",
                b"c_codecs\nencode\n",
                b"cbuiltins\nfrozenset\n", b"cnumpy.core.multiarray\nscalar\n", b"ccollections\ndefaultdict\n",
            ]
        )  # fmt: skip
        data = data[:at] + piece + data[at + dice.choice([0, 0, 1, 2, 9]) :]
    return data


def write_attack(kind: str, sources: list[Path], folder: Path, dice: random.Random) -> Path:
    source = dice.choice(sources)
    data = source.read_bytes()
    if kind in WORDS or kind == "table":
        data = mutate_text(data, WORDS["csv" if kind == "table" else kind], dice)
    elif kind == "pickle":
        data = mutate_pickle(data, dice)
    else:
        data = mutate_bytes(data, dice)
    path = folder / f"attack{source.suffix}"
    path.write_bytes(data)
    return path


def read(kind: str, path: Path) -> None:
    """Read a file as merc does, and use what comes back."""
    if kind in ("srt", "vtt", "ass", "TextGrid", "eaf", "speech", "txt"):
        read_transcript(path, "film.mp4", labels=MELD).save(path.with_name("saved.json"))
    elif kind == "csv":
        read_csv(path).save(path.with_name("saved.json"))
    elif kind == "table":
        import_table({"train": path}, tiny_corpus())
    elif kind == "json":
        Corpus.load(path).save(path.with_name("saved.json"))
    elif kind == "pickle":
        load_pickle(path)
        import_pickle(path, layout="mmgcn-meld")
    else:
        read_media(path)


def read_media(path: Path) -> None:
    refused = []
    clip = Clip(str(path), end=5.0)
    frames = lambda: sum(len(part.images) for part in read_frames(clip, max_height=64, time_limit=5))  # noqa: E731
    for attempt in (lambda: probe(path, time_limit=5), frames, lambda: read_sound(clip, time_limit=5)):
        try:
            attempt()
        except MediaError as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


class TooSlow(BaseException):
    """The limit of time, which no reader may catch."""


def outcome(kind: str, path: Path) -> tuple[str, str]:
    """``decoded``, ``refused`` or ``failed``, with the message."""

    def stop(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    begin = time.process_time()
    try:
        read(kind, path)
        result = "decoded", ""
    except (CorpusError, MediaError) as error:
        named = path.name in str(error) or isinstance(error, CorpusError)
        result = ("refused" if named and len(str(error)) < 5000 else "failed"), str(error)[:300]
    except TooSlow:
        result = "failed", f"took more than {SECONDS} s"
    except BaseException:
        result = "failed", traceback.format_exc()[-1500:]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if time.process_time() - begin > SECONDS:
        result = "failed", f"took more than {SECONDS} s"
    return result


def attack_batch(kind: str, sources: list[Path], folder: Path, keep: Path, seed: int, count: int) -> Counter[str]:
    """Attack one reader in a process with limited memory; what it does not survive has failed."""
    folder.mkdir(parents=True, exist_ok=True)
    report, (receive, send) = Counter[str](), os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg's own complaints
        for number in range(seed, seed + count):
            path = write_attack(kind, sources, folder, random.Random(f"{kind} {number}"))
            state, message = outcome(kind, path)
            if state == "failed":
                save_failure(keep, kind, number, path, message)
            os.write(send, state[0].encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        states = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    report.update({"d": "decoded", "r": "refused", "f": "failed"}[state] for state in states)
    if status:
        report["failed"] += 1
        for path in folder.glob("attack.*"):
            save_failure(keep, kind, seed + len(states), path, f"the process died with status {status}")
    for path in folder.glob("attack*"):
        path.unlink()
    report["tried"] = report.total()
    return report


def save_failure(keep: Path, kind: str, number: int, path: Path, message: str) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{kind}-{number}{path.suffix}").write_bytes(path.read_bytes())
    (keep / f"{kind}-{number}.txt").write_text(message + "\n")


def main() -> int:
    """Attack until the time is over, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None, help="Number of the first attack; default: from the clock.")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="Folder for files that failed.")
    parser.add_argument("--kinds", nargs="*", help="Only these kinds of files.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first = int(time.time()) * 1000 if options.seed is None else options.seed
    print(f"first attack: {first}", flush=True)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="merc-fuzz-") as folder:
        files = seeds(Path(folder) / "seeds")
        kinds = options.kinds or list(files)
        end, batch = time.monotonic() + 60 * options.minutes, 0
        while time.monotonic() < end:
            for kind in kinds:
                done = attack_batch(kind, files[kind], Path(folder) / kind, options.keep, first + batch * BATCH, BATCH)
                counts.setdefault(kind, Counter()).update(done)
            batch += 1
    total: Counter[str] = Counter()
    print(f"{'':8}" + "".join(f"{name:>9}" for name in ("tried", "refused", "decoded", "failed")))
    for kind, count in counts.items():
        total += count
        print(f"{kind:8}" + "".join(f"{count[name]:9}" for name in ("tried", "refused", "decoded", "failed")))
    print(f"{'all':8}" + "".join(f"{total[name]:9}" for name in ("tried", "refused", "decoded", "failed")))
    if total["failed"]:
        print(f"What failed is in {options.keep}.")
    return int(total["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
