"""Whose lips fit the sound? LipSyncNet on real clips of people whom it has not seen, and on rendered scenes.

python benchmarks/lipsync.py --clips FOLDER --lips FOLDER [--people people.json] [--rendered runs/video]

The clips show one talking face each; one with two faces whose name contains ``two_faces`` is tested apart, and
``--right`` says where its speaker is. ``people.json`` maps clip names to people, where one person is in several clips.
``--lips`` is a folder that ``merc import lips --out FOLDER`` wrote: its train split is added to the training.
``--rendered`` is the folder of ``merc run demo/video.yaml``, whose scenes are tested too. People are left out in turn,
a fold at a time, in several divisions into folds; nothing is chosen on those left out, training has a fixed length.

hard    two talking faces and the sound of one, for 3 s: every ordered pair of the clips left out
still   a talking face beside itself standing still; silent: beside drawn faces that keep still, smile or chew
drawn   two to four drawn faces of people who are not in the training, some of them talking, for 3 s
scenes  rendered video clips of 1.2 to 2.5 s with two to four faces, with cuts and occlusion
windows the clip with two faces, in windows of 2 s

"motion" is the correlation of mouth-motion energy with loudness, at the best of five shifts. Differences have
confidence intervals from a paired bootstrap over clips.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from merc.callbacks import StoreWriterCallback
from merc.conversation import Conversation, Corpus, Utterance
from merc.datamodules import LipSyncDataModule, LipSyncSource, MediaDataModule, TrackReader
from merc.datamodules.lipsync import LipSyncClip
from merc.evaluation.sync import SyncTrial, pair_scores
from merc.labels import MELD
from merc.losses import SyncLoss
from merc.media import FaceTracker, MTCNNDetector
from merc.media.rates import MEL_PER_FRAME
from merc.media.tracks import FaceTrack, rows_to_tracks
from merc.speaker import LipSyncNet, PooledLipSyncNet, SyncAugmentation, SyncNetwork, SyncScorer
from merc.speaker.choose import NOBODY
from merc.speaker.score import MouthTrack
from merc.store import FeatureStore
from merc.tasks import FacesTask, LipSyncTask

FRAMES = 74
"""Pictures of a test: 3 s."""

KINDS = ("faces", "crops", "sound")


@dataclass
class Result:
    """Scores of every sound (row) with every face (column) of some clips, by method."""

    names: list[str]
    scores: dict[str, Tensor]
    still: dict[str, Tensor]


def track_clips(folder: Path, out: Path) -> Corpus:
    """Find the faces of all clips of a folder, once; what is there is used again."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    talks = [Conversation(path.name, (Utterance("0", "?", "", media=str(path)),)) for path in files]
    corpus = Corpus(folder.name, MELD, {"train": talks})
    writer = StoreWriterCallback({kind: str(out / kind) for kind in KINDS})
    data = MediaDataModule(corpus, TrackReader(FaceTracker(MTCNNDetector())), workers=0)
    quiet_trainer(callbacks=[writer]).predict(FacesTask(), datamodule=data, return_predictions=False)
    return corpus


def quiet_trainer(**options: object) -> L.Trainer:
    """A Trainer that leaves nothing behind."""
    defaults = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(**{"enable_checkpointing": False, **defaults, **options})  # type: ignore[arg-type]


def train(make: Callable[[], LipSyncTask], sources: list[LipSyncSource], steps: int, seed: int) -> LipSyncTask:
    """Train for a fixed number of steps; nothing is chosen on anything."""
    L.seed_everything(seed, verbose=False)
    task = make()
    task.make_lr_scheduler = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps // 10)
    data = LipSyncDataModule(sources, batches_per_epoch=10)
    trainer = quiet_trainer(
        max_steps=steps, num_sanity_val_steps=0, check_val_every_n_epoch=10**6, gradient_clip_val=1.0, accelerator="cpu"
    )
    trainer.fit(task, datamodule=data)
    trainer.validate(task, datamodule=data, verbose=False)  # sets the threshold, on the val split of the drawn lips
    return task.eval()


def motion_scores(clips: Sequence[LipSyncClip]) -> Tensor:
    """The simple cue: correlation of mouth-motion energy with loudness, the best of shifts of -2..2 pictures."""
    moves = [(t.crops[1:].float() - t.crops[:-1].float()).abs().mean((1, 2)) for t in (c.tracks[0] for c in clips)]
    moves = [torch.cat([m[:1], m])[:FRAMES] for m in moves]
    power = [c.sound[: MEL_PER_FRAME * FRAMES].exp().sum(1).view(FRAMES, MEL_PER_FRAME).mean(1).sqrt() for c in clips]
    return torch.stack([torch.stack([best_correlation(move, loud) for move in moves]) for loud in power])


def best_correlation(a: Tensor, b: Tensor, reach: int = 2) -> Tensor:
    """The largest correlation over shifts."""
    found = []
    for shift in range(-reach, reach + 1):
        x, y = a[max(0, shift) : len(a) + min(0, shift)], b[max(0, -shift) : len(b) - max(0, shift)]
        found.append(torch.corrcoef(torch.stack([x, y]))[0, 1])
    return torch.stack(found).max()


def test(tasks: dict[str, LipSyncTask], clips: Sequence[LipSyncClip]) -> Result:
    """Play every sound of some clips against every face of them, by every method."""
    result = Result([clip.key.dialogue for clip in clips], {"motion": motion_scores(clips)}, {})
    for name, task in tasks.items():
        for scorer_name, scorer in variants(task.scorer).items():
            trials = [SyncTrial.of(task.network, scorer, c.tracks[0], c.sound, FRAMES) for c in clips]
            scores, still = pair_scores(scorer, [trial for trial in trials if trial is not None])
            result.scores[name + scorer_name], result.still[name + scorer_name] = scores, still
    return result


def variants(scorer: SyncScorer) -> dict[str, SyncScorer]:
    """The scorer as it is, and what each of its parts is worth."""
    without = {", no activity": replace(scorer, activity=0.0), ", no lag": replace(scorer, max_lag=0)}
    return {"": scorer, **{name: other for name, other in without.items() if other != scorer}}


def silent_scores(task: LipSyncTask, clips: Sequence[LipSyncClip], silent: Sequence[MouthTrack]) -> list[bool]:
    """Whether each clip's face wins over each silent one, under its sound, for as long as both are there."""
    wins = []
    for clip in clips:
        for other in silent:
            frames = min(FRAMES, len(other.crops))
            faces = [MouthTrack(0, clip.tracks[0].crops[:frames]), MouthTrack(0, other.crops[:frames])]
            scores, _ = task.scorer.score(task.network, faces, clip.sound, task.scorer.windows(frames))
            wins.append(bool(scores[0].mean() > scores[1].mean()))
    return wins


def pair_wins(results: Sequence[Result], method: str, people: dict[str, str]) -> list[tuple[str, str, bool]]:
    """Sound, face and whether the own face won, for every ordered pair of different people of one fold."""
    wins = []
    for result in results:
        scores = result.scores[method]
        for i, sound in enumerate(result.names):
            for j, face in enumerate(result.names):
                if people.get(sound, sound) != people.get(face, face):
                    wins.append((sound, face, bool(scores[i, i] > scores[i, j])))
    return wins


def bootstrap(a: list[tuple[str, str, bool]], b: list[tuple[str, str, bool]], draws: int = 4000) -> tuple[float, ...]:
    """Difference of two methods on the same pairs, its 95% interval over clips, and how often it is not positive."""
    names = sorted({name for sound, face, _ in a for name in (sound, face)})
    place = {name: index for index, name in enumerate(names)}
    rows = torch.tensor([[place[s], place[f], x - y] for (s, f, x), (_, _, y) in zip(a, b, strict=True)])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(names), (draws, len(names)), generator=generator)
    counts = F.one_hot(drawn, len(names)).sum(1).double()
    weight = counts[:, rows[:, 0]] * counts[:, rows[:, 1]]
    differences = (weight * rows[:, 2]).sum(1) / weight.sum(1).clamp(min=1)
    low, high = differences.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return float(rows[:, 2].double().mean()), low, high, float((differences <= 0).double().mean())


def windows_right(task: LipSyncTask, clip: LipSyncClip, right: int, frames: int = 50) -> list[bool]:
    """Whether the right face is chosen in every window of 2 s."""
    wins = []
    for start in range(0, len(clip.sound) // MEL_PER_FRAME - frames + 1, frames // 2):
        spans = [(start + a, start + b) for a, b in task.scorer.windows(frames)]
        scores, visible = task.scorer.score(task.network, clip.tracks, clip.sound, spans)
        means = (scores * visible).sum(1) / visible.sum(1).clamp(min=1)
        wins.append(int(means.masked_fill(~visible.any(1), -9).argmax()) == right)
    return wins


def speaking(found: Sequence[FaceTrack], true: Sequence[FaceTrack]) -> set[int]:
    """Which of the tracks that were found are a true one of the speaker, who has one in every shot that shows him."""
    return {number for number, track in enumerate(found) if any(overlap(track, other) > 0.4 for other in true)}


def overlap(a: FaceTrack, b: FaceTrack) -> float:
    """Intersection over union of two tracks, over the pictures of the shorter one that both have."""
    first, end = max(a.first, b.first), min(a.end, b.end)
    if first >= end:
        return 0.0
    x, y = a.boxes[first - a.first : end - a.first], b.boxes[first - b.first : end - b.first]
    sides = (torch.minimum(x[:, 2:], y[:, 2:]) - torch.maximum(x[:, :2], y[:, :2])).clamp(min=0).prod(1)
    union = (x[:, 2:] - x[:, :2]).prod(1) + (y[:, 2:] - y[:, :2]).prod(1) - sides
    return float((sides / union).sum()) / min(len(a), len(b))


def rendered_truth(run: Path) -> tuple[LipSyncSource, dict[tuple[str, str, str], set[int]]]:
    """The rendered corpus of a run, and which of the tracks that were found truly are the speaker's: none if unseen."""
    faces = {kind: str(run / "faces" / kind) for kind in KINDS}
    found, true = FeatureStore(faces["faces"]), FeatureStore(run / "data/truth/faces")
    people = json.loads((run / "data/truth/tracks.json").read_text())
    truth = {}
    for key in found.keys:
        tracks = zip(rows_to_tracks(true.sequence(key)), people[str(key)], strict=True)
        truth[key] = speaking(
            rows_to_tracks(found.sequence(key)), [track for track, person in tracks if person["speaks"]]
        )
    return LipSyncSource(str(run / "data/corpus.json"), **faces), truth


def is_right(track: int, truth: set[int]) -> bool:
    """Whether a choice is a track of the speaker, or nobody if none is."""
    return track in truth if truth else track == NOBODY


def seconds_per_window(network: SyncNetwork, frames: int = 32, repeats: int = 5) -> float:
    """Median seconds to score one track against one sound in one window."""
    crops = torch.randint(0, 256, (1, frames, network.size, network.size), dtype=torch.uint8)
    sound, times = torch.randn(1, MEL_PER_FRAME * frames, 80), []
    network.eval()
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            network.embed_video(crops)
            network.embed_audio(sound)
            times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def share(wins: Sequence[bool]) -> str:
    """A percentage with its count."""
    return f"{100 * sum(wins) / len(wins):.1f}% of {len(wins)}" if wins else ""


def main() -> None:
    """Train and test fold by fold, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--lips", type=Path, required=True)
    parser.add_argument("--people", type=Path)
    parser.add_argument("--rendered", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/lipsync-benchmark"))
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--divisions", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--right", choices=["left", "right"], default="right", help="place of the speaker of two faces")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()

    corpus = track_clips(options.clips, options.work / "clips")
    stores = {kind: str(options.work / "clips" / kind) for kind in KINDS}
    people = json.loads(options.people.read_text()) if options.people else {}
    clips = {clip.key.dialogue: clip for clip in opened(LipSyncSource(corpus, **stores)).clips("train")}
    print("tracks:", ", ".join(f"{name} {[len(t.crops) for t in clip.tracks]}" for name, clip in clips.items()))
    talks = {name: clip for name, clip in clips.items() if len(clip.tracks) == 1}
    pairs_of_faces = [clip for name, clip in clips.items() if "two_faces" in name]

    places = {kind: str(options.lips / kind) for kind in KINDS}
    lips = LipSyncSource(str(options.lips / "corpus.json"), **places, speaker=str(options.lips / "speaker"))
    drawn = opened(lips).clips("test")
    silent = [clip.tracks[0] for clip in drawn if clip.speaker == NOBODY]
    composites = composed([clip for clip in drawn if clip.speaker == 0], silent)
    scenes: list[tuple[LipSyncClip, set[int]]] = []
    if options.rendered:
        source, truth = rendered_truth(options.rendered)
        scenes = [(clip, truth[clip.key]) for clip in opened(source).clips("test") if len(clip.tracks) > 1]

    results: list[Result] = []
    wins: dict[str, dict[str, list[bool]]] = {name: {} for name in options.networks}
    for division in range(options.divisions):
        groups = sorted({people.get(name, name) for name in talks})
        random.Random(division).shuffle(groups)
        for fold in range(options.folds):
            out = {name for name in talks if people.get(name, name) in groups[fold :: options.folds]}
            rest = [talk for talk in corpus["train"] if talk.id in talks.keys() - out]
            sources = [LipSyncSource(Corpus(corpus.name, MELD, {"train": rest}), **stores), lips]
            tasks = {name: train(NETWORKS[name], sources, options.steps, division) for name in options.networks}
            held_out = [talks[name] for name in sorted(out)]
            results.append(test(tasks, held_out))
            for name, task in tasks.items():
                found = {
                    "silent": silent_scores(task, held_out, silent),
                    "windows": [
                        right
                        for clip in pairs_of_faces
                        for right in windows_right(
                            task, clip, by_place(options.work / "clips", clip)[options.right == "right"]
                        )
                    ],
                    "drawn": [chosen(task, tracks, sound) == 0 for tracks, sound in composites],
                    "scenes": [is_right(chosen(task, c.tracks, c.sound), speaker) for c, speaker in scenes],
                }
                for column, right in found.items():
                    wins[name].setdefault(column, []).extend(right)
            so_far = {m: share([w for *_, w in pair_wins(results, m, people)]) for m in results[0].scores}
            print(f"division {division + 1}, fold {fold + 1}: hard so far {so_far}", flush=True)

    columns = ["silent", "windows", "drawn", "scenes"]
    print(f"\n| method | hard | over motion [95% interval], p | still | {' | '.join(columns)} |")
    print("|---|---|---|---|" + "---|" * len(columns))
    floor = pair_wins(results, "motion", people)
    for method in results[0].scores:
        hard = pair_wins(results, method, people)
        difference, low, high, p = bootstrap(hard, floor)
        over = "" if method == "motion" else f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], {p:.4f}"
        still = [bool(x) for r in results if method in r.still for x in r.scores[method].diagonal() > r.still[method]]
        cells = [still, *(wins.get(method, {}).get(column, []) for column in columns)]
        print(f"| {method} | {share([w for *_, w in hard])} | {over} | {' | '.join(map(share, cells))} |")
    if scenes:
        print(f"| first face | | | | | | | {share([is_right(0, speaker) for _, speaker in scenes])} |")
    small, large = seconds_per_window(LipSyncNet()), seconds_per_window(PooledLipSyncNet(size=224), repeats=1)
    parameters = sum(p.numel() for p in LipSyncNet().parameters())
    print(
        f"\n32 pictures: {1000 * small:.1f} ms at 32 px ({parameters / 1e6:.2f} M parameters), {1000 * large:.0f} ms "
        f"for the pooled shape at 224 px: {large / small:.0f} times faster"
    )


def opened(source: LipSyncSource) -> LipSyncDataModule:
    """A datamodule on one source, ready."""
    data = LipSyncDataModule([source])
    data.setup()
    return data


def composed(talks: Sequence[LipSyncClip], silent: Sequence[MouthTrack]) -> list[tuple[list[MouthTrack], Tensor]]:
    """Scenes of two to four drawn faces with the sound of the first; the others talk or are silent, half of each."""
    draw = random.Random(0)
    scenes = []
    for clip in talks:
        talking = [other.tracks[0] for other in talks if other is not clip]
        others = [draw.choice(talking if draw.random() < 0.5 else silent) for _ in range(draw.randint(1, 3))]
        scenes.append(([clip.tracks[0], *others], clip.sound))
    return scenes


def chosen(task: LipSyncTask, tracks: Sequence[MouthTrack], sound: Tensor) -> int:
    """The track that the task takes for the speaker."""
    return task.scorer.choose(task.network, tracks, sound, float(task.threshold)).track


def task_of(network: SyncNetwork, loss: SyncLoss) -> LipSyncTask:
    """A task with merc's own choice."""
    return LipSyncTask(network, loss=loss, augment=SyncAugmentation())


def as_published() -> LipSyncTask:
    """The paper's network, loss and choice, as in paper/lipsync.yaml."""
    scorer = SyncScorer(window=None, max_lag=0, activity=0.0)
    return LipSyncTask(PooledLipSyncNet(), SyncLoss(), SyncAugmentation(), scorer, activity=0.0)


NETWORKS: dict[str, Callable[[], LipSyncTask]] = {
    "traces": lambda: task_of(LipSyncNet(), SyncLoss(rank=0.0, align=0.0, contrast=1.0)),
    "pooled": lambda: task_of(PooledLipSyncNet(), SyncLoss(rank=0.0, align=0.0, contrast=1.0)),
    "paper loss": lambda: task_of(LipSyncNet(), SyncLoss()),
    "both losses": lambda: task_of(LipSyncNet(), SyncLoss(contrast=1.0)),
    "as published": as_published,
}
"""What is compared: merc's network and the paper's shape, the paper's loss alone and added, and all of the paper's."""


def by_place(folder: Path, clip: LipSyncClip) -> list[int]:
    """The tracks of a clip from left to right."""
    tracks = rows_to_tracks(FeatureStore(folder / "faces").sequence(clip.key))
    return sorted(range(len(tracks)), key=lambda index: float(tracks[index].boxes[:, 0].mean()))


if __name__ == "__main__":
    main()
