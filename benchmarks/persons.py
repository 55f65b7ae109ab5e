"""Who is who through a film: lines without names, linked by voices, faces, or both.

    python benchmarks/persons.py FOLDER [--films 6] [--rendered 3]

FOLDER holds clips of one talking face each, with who is in which in people.json; leave out people whom the weights of
LipSyncNet were trained on with --include. Films of three kinds are put together from them, with 12 lines of 1.5 to 3 s
by two to four people: ``side by side``, all visible all the time; ``cuts``, where each line shows its speaker alone,
and ``other clips``, cuts in which each line of a person is of another clip than the one before. ``rendered`` dialogues
are drawn by merc. Nobody has a name, or in ``named`` rows everybody's first line has.

Diarization error is the share of the lines' time whose person is wrong, with people matched to speakers in the best
way. Purity is the share of time in which a person says lines of his or her most frequent speaker.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from merc.annotation import spoken_lines
from merc.conversation import Clip, Conversation, Utterance
from merc.corpora.transcripts import UNKNOWN, TranscriptSource, read_lines
from merc.datamodules.readers import TrackReader
from merc.encoders import VoiceEncoder
from merc.media import FRAME_RATE, SAMPLE_RATE, FaceTracker, MTCNNDetector, read_frames, read_sound, rows_to_tracks
from merc.speaker import LikelihoodScorer, PersonLinker, load_lipsync, mouth_tracks
from merc.store import FeatureStore
from support.conversations import plan_turns, write_conversation
from support.made_media import write_media

LINES = 12


def cut_film(path, clips, plan, draw, vary):
    """A film in which each line shows its speaker alone: a part of one of the speaker's clips, 240 pixels high."""
    pictures, sounds = [], []
    used = Counter()
    for turn in plan:
        own = clips[turn.person]
        clip = own[used[turn.person] % len(own)] if vary else own[0]
        used[turn.person] += 1
        length = (turn.end - turn.start) / FRAME_RATE
        start = draw.uniform(0, max(0.0, clip[1] - length - 0.2))
        part = Clip(str(clip[0]), start, start + length)
        frames = torch.cat([chunk.images for chunk in read_frames(part, max_height=240)])
        frames = frames[torch.arange(turn.end - turn.start).clamp(max=len(frames) - 1)]
        side = min(frames.shape[2:])
        left = (frames.shape[3] - side) // 2
        frames = torch.nn.functional.interpolate(frames[..., :side, left : left + side], (240, 240))
        sound = read_sound(part)[: len(frames) * SAMPLE_RATE // FRAME_RATE]
        sound = 0.1 * sound / sound.square().mean().sqrt().clamp(min=1e-4)
        padding = len(frames) * SAMPLE_RATE // FRAME_RATE - len(sound)
        pictures += list(frames.permute(0, 2, 3, 1).numpy())
        sounds.append(torch.nn.functional.pad(sound, (0, padding)).numpy())
    sound = np.clip(np.concatenate(sounds), -1, 1)[None]
    return write_media(Path(path), pictures=pictures, sound=sound, options={"crf": "18"})


def stores_of(conversation, reader, lips, folder):
    """The stores of faces and of the choice among them, as a run leaves them."""
    kept = defaultdict(list)
    for key, utterance in zip(conversation.keys, conversation.utterances, strict=True):
        rows = reader.read(key, utterance)
        if any(isinstance(part, str) for part in rows.values()):
            continue
        mouths = mouth_tracks(rows_to_tracks(rows["faces"]), rows["crops"])
        choice = LikelihoodScorer().choose(lips.network, mouths, rows["sound"], lips.calibration)
        for name, part in (("keys", key), ("faces", rows["faces"]), ("speaker", choice.to_row())):
            kept[name].append(part)
    if not kept:
        return {}
    lengths = [len(part) for part in kept["faces"]]
    FeatureStore.write(folder / "faces", kept["keys"], torch.cat(kept["faces"]), kind="faces", lengths=lengths)
    FeatureStore.write(folder / "speaker", kept["keys"], torch.stack(kept["speaker"]), kind="speaker")
    return {kind: FeatureStore(folder / kind) for kind in ("faces", "speaker")}


def scores(lines, truth, people):
    """Diarization error, purity, and how many people were found, of lines with their true speakers."""
    lengths = np.array([line.end - line.start for line in lines])
    speakers, found = sorted(set(truth)), sorted(set(people))
    table = np.zeros((len(speakers), len(found)))
    for length, speaker, person in zip(lengths, truth, people, strict=True):
        table[speakers.index(speaker), found.index(person)] += length
    rows, columns = linear_sum_assignment(-table)
    return 1 - table[rows, columns].sum() / table.sum(), table.max(0).sum() / table.sum(), len(found)


def evaluate(kind, conversation, truth, stores, voice, sums):
    """Link one film in every way, and add the scores to the sums."""
    everything = spoken_lines(conversation, stores, voice)
    linker = PersonLinker(voice.slope, voice.middle)
    ways = {
        "one unknown": None,
        "voice": [replace(line, faces=()) for line in everything],
        "face": [replace(line, voice=None) for line in everything],
        "both": everything,
        "both, named": [
            replace(line, name=who if who not in truth[:number] else None)
            for number, (line, who) in enumerate(zip(everything, truth, strict=True))
        ],
    }
    for way, lines in ways.items():
        linked = linker(lines) if lines else None
        people = [UNKNOWN] * len(truth) if linked is None else [p.name if p else UNKNOWN for p in linked.lines]
        error, purity, count = scores(everything, truth, people)
        row = {"films": 1, "error": error, "purity": purity, "people": count, "true": len(set(truth))}
        if linked is not None:
            sure = [person.confidence if person else 0.0 for person in linked.lines]
            row["sure"] = float(np.mean(sure))
        sums[kind, way].update(row)
        print(kind, way, {name: round(float(value), 3) for name, value in row.items()}, flush=True)


def conversation_of(film, plan):
    """The lines of a plan, without words."""
    spans = [(turn.start / FRAME_RATE, turn.end / FRAME_RATE) for turn in plan]
    return Conversation(
        "film",
        tuple(
            Utterance(str(number), UNKNOWN, "", start, end, video=Clip(str(film), start, end))
            for number, (start, end) in enumerate(spans, start=1)
        ),
        "test",
    )


def main() -> None:
    """Print a row per film and way, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--include", nargs="+", default=["*"])
    parser.add_argument("--films", type=int, default=6, help="films of each kind")
    parser.add_argument("--rendered", type=int, default=3)
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    clips = defaultdict(list)
    for name, person in json.loads((given.folder / "people.json").read_text()).items():
        if any(fnmatchcase(name, pattern) for pattern in given.include):
            try:
                length = len(read_sound(Clip(str(given.folder / name)))) / SAMPLE_RATE
            except ValueError:
                continue
            if length >= 2.6:
                clips[person].append((given.folder / name, length))
    draw, voice, lips = random.Random(given.seed), VoiceEncoder(), load_lipsync("lipsync")
    reader = TrackReader(FaceTracker(MTCNNDetector()), crop_size=lips.network.size)
    long = sorted(person for person, own in clips.items() if own[0][1] >= 8)
    several = sorted(person for person, own in clips.items() if len(own) >= 3)
    sums: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for number in range(given.films):
        for kind in ("side by side", "cuts", "other clips"):
            pool = several if kind == "other clips" else long
            people = min(2 + number % 3, len(pool))
            cast = draw.sample(pool, people)
            longest = 2.4 if kind == "other clips" else 3.0
            plan = plan_turns(people, LINES, number, longest=longest, pause=0.0 if kind != "side by side" else 0.2)
            with tempfile.TemporaryDirectory() as folder:
                film = Path(folder) / "talk.mp4"
                if kind == "side by side":
                    write_conversation(film, [clips[person][0][0] for person in cast], plan, number % 2 == 0)
                else:
                    cut_film(film, [clips[person] for person in cast], plan, draw, vary=kind == "other clips")
                conversation = conversation_of(film, plan)
                stores = stores_of(conversation, reader, lips, Path(folder))
                evaluate(kind, conversation, [cast[turn.person] for turn in plan], stores, voice, sums)
    for number in range(given.rendered):
        from merc.corpora.rendered import RenderConfig
        from merc.corpora.rendered.film import render_film

        with tempfile.TemporaryDirectory() as folder:
            film, transcript = render_film(Path(folder), RenderConfig(seed=number + 1, utterances=(12, 12)))
            lines = read_lines(TranscriptSource(Path(transcript)))
            utterances = [
                Utterance(str(n), UNKNOWN, "", line.start, line.end, video=Clip(str(film), line.start, line.end))
                for n, line in enumerate(lines, start=1)
            ]
            conversation = Conversation("film", tuple(utterances), "test")
            stores = stores_of(conversation, reader, lips, Path(folder))
            evaluate("rendered", conversation, [line.speaker for line in lines], stores, voice, sums)
    print("| film | linked by | people found (true) | error | purity | confidence |\n|---|---|---|---|---|---|")
    for (kind, way), row in sums.items():
        mean = {name: value / row["films"] for name, value in row.items()}
        print(
            f"| {kind} | {way} | {mean['people']:.1f} ({mean['true']:.1f}) | {100 * mean['error']:.0f} % "
            f"| {100 * mean['purity']:.0f} % | {100 * mean.get('sure', 0):.0f} % |"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
