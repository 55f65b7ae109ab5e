"""Mouths and sounds from stores, dealt out as pairs that belong together and pairs that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from merc.batch import FlatBatch
from merc.conversation import SPLITS, Corpus, UtteranceKey, split_name
from merc.datamodules.batches import DrawnBatches, PlannedBatches, Repeated, TrainingLoader
from merc.datamodules.resumable import ResumableBatches
from merc.losses.sync import NEGATIVES
from merc.media.crops import crop_size
from merc.media.rates import MEL_PER_FRAME
from merc.media.tracks import rows_to_tracks
from merc.speaker.base import MouthTrack, mouth_tracks
from merc.speaker.choose import NOBODY, SpeakerChoice
from merc.store import FeatureStore, StoreError

_SHIFTED, _SAME_CLIP, _OTHER_CLIP, _SILENT = range(1, len(NEGATIVES) + 1)


@dataclass(frozen=True)
class LipSyncSource:
    """Clips whose faces were tracked: a corpus with the stores that the ``faces`` stage wrote.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        faces: Store of kind ``faces``.
        crops: Store of kind ``crops``.
        sound: Store of kind ``sound``.
        speaker: Store of kind ``speaker`` that says which track speaks, where that is known. Without it, tracks that
            are alone in the frame are taken to speak.
        weight: How often training draws from this source, relative to the others.
        validate: Whether validation and test go through it.
        predict: Whether prediction goes through it; not where it only adds to the training.
    """

    corpus: str | Path | Corpus
    faces: str | Path
    crops: str | Path
    sound: str | Path
    speaker: str | Path | None = None
    weight: float = 1.0
    validate: bool = True
    predict: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class LipSyncClip:
    """The mouths and the sound of one clip.

    Args:
        key: The utterance.
        tracks: Its face tracks, in the order of the store: by their first frame, then the largest face first.
        sound: ``(M, 80)`` log-mel.
        speaker: The track that is known to speak, -1 if it is known that none does, ``None`` if nothing is known.
        talking: Tracks whose lips are taken to belong to the sound: the speaker's, or, where nothing is known, those
            beside which no other face is visible (one person, whom cuts or turns of the head divide into tracks).
        missing: Why nothing can be chosen in it: the reason that the stores give, or that no face was found.
    """

    key: UtteranceKey
    tracks: tuple[MouthTrack, ...]
    sound: Tensor
    speaker: int | None = None
    talking: tuple[int, ...] = ()
    missing: str | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LipSyncClip:
        """The clip as it is: the scorer moves the windows that it needs."""
        return self


@dataclass(slots=True, eq=False)
class LipSyncBatch(FlatBatch):
    """Windows of V mouths and A sounds; the first A mouths belong to the sounds.

    Args:
        crops: ``(V, T, S, S)`` uint8 grey mouths.
        sound: ``(A, 4 T, 80)`` log-mels.
        kinds: ``(A, V)`` kind of negative that each pair is, counted from 1 in :data:`merc.losses.sync.NEGATIVES`;
            0 for none.
        speaks: ``(V,)`` 1 where the lips speak, 0 where they do not, -1 where that is not known.
    """

    crops: Tensor
    sound: Tensor
    kinds: Tensor
    speaks: Tensor


class LipSyncDataModule(L.LightningDataModule):
    """Self-supervised pairs of lips and sound (arXiv 2511.13731, section 3.2).

    A face that is alone in the frame is taken to speak. A training batch draws two windows from each of some tracks of
    one source; every sound in it has its own mouth, and as negatives the mouth at another time (at least ``min_shift``
    frames away), other tracks of its clip, the mouths of all other clips, and silent ones: tracks that are known not
    to speak, and frozen frames of any face. A batch comes from one source, so the network cannot recognise
    negatives by their camera. Nothing but stores is read.

    Args:
        sources: Where clips come from.
        window: Frames T of a training window.
        batch_size: Sounds a training step.
        batches_per_epoch: Training steps an epoch: windows are drawn at random, so an epoch has no end of its own.
        silent: Silent mouths in a batch, as a share of its sounds.
        min_shift: Fewest frames between two windows of a track that count as out of sync; 10 are 0.4 s.
        max_lag: Most frames, drawn uniformly, by which a sound is moved against its mouth and still fits.
        predict_splits: Splits that prediction goes through.

    Raises:
        ValueError: There is no source.
    """

    def __init__(
        self,
        sources: list[LipSyncSource],
        window: int = 32,
        batch_size: int = 24,
        batches_per_epoch: int = 50,
        silent: float = 0.25,
        min_shift: int = 10,
        max_lag: int = 1,
        predict_splits: Sequence[str] = SPLITS,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of few utterances some process has none
        if not sources:
            raise ValueError("LipSyncDataModule got no sources: expected at least one corpus with its stores.")
        self.sources = sources
        self.window = window
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.silent = silent
        self.min_shift = min_shift
        self.max_lag = max_lag
        self.predict_splits = [split_name(split) for split in predict_splits]
        self.opened: list[_OpenSource] = []

    def setup(self, stage: str | None = None) -> None:
        """Open the sources, once.

        Raises:
            FileNotFoundError: A corpus or a store is not there.
            StoreError: A store is damaged or of another kind.
        """
        if not self.opened:
            self.opened = [_OpenSource(source) for source in self.sources]

    @property
    def size(self) -> int:
        """Height and width of the mouth crops, in pixels."""
        return self.opened[0].size

    @property
    def trains_on(self) -> str:
        """The corpora that training draws from, in words."""
        return ", ".join(f"{source.corpus.name}/train" for source in self.opened)

    def clips(self, split: str) -> list[LipSyncClip]:
        """All clips of a split, of all sources in order."""
        return [source.clip(key) for source in self.opened for key in source.keys(split)]

    def train_dataloader(self, batches: int | None = None) -> DataLoader[LipSyncBatch]:
        """Batches of drawn windows, in every process others.

        Args:
            batches: Training steps an epoch. Default: ``batches_per_epoch``.
        """
        pools = [
            _Pool.of([source.clip(key) for key in source.keys("train")], self.window + 2 * self.max_lag)
            for source in self.opened
        ]
        if not any(pool.talks for pool in pools):
            raise StoreError(
                f"No clip of split train shows one face with its sound for {self.window} frames or more: expected "
                "some. Give more clips, a store that says who speaks, or a shorter window."
            )
        drawn = DrawnBatches(batches or self.batches_per_epoch, self.trainer)
        return TrainingLoader(_Draws(self, pools), trainer=self.trainer, sampler=drawn, batch_size=None)

    def val_dataloader(self) -> DataLoader[LipSyncClip]:
        """Clips of ``val``, one by one."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[LipSyncClip]:
        """Clips of ``test``, one by one."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader[LipSyncClip]:
        items = [(source, key) for source in self.opened if source.validate for key in source.keys(split)]
        batches = PlannedBatches([[index] for index in range(len(items))], self.trainer)
        return DataLoader(_Clips(items), sampler=batches, batch_size=None, generator=torch.Generator())

    def predict_dataloader(self) -> DataLoader[LipSyncClip]:
        """Clips of ``predict_splits`` that are not yet in the store being written."""
        wanted = [source for source in self.opened if source.predict]
        items = [(s, key) for s in wanted for split in self.predict_splits for key in s.utterances(split)]
        left = ResumableBatches([key for _, key in items], [[index] for index in range(len(items))], self.trainer)
        return DataLoader(_Clips(items), sampler=left, batch_size=None, generator=torch.Generator())


class _OpenSource:
    """A source with its stores open."""

    def __init__(self, source: LipSyncSource) -> None:
        self.weight, self.validate, self.predict = source.weight, source.validate, source.predict
        self.corpus = source.corpus if isinstance(source.corpus, Corpus) else Corpus.load(source.corpus)
        self.faces, self.crops, self.sound = (FeatureStore(path) for path in (source.faces, source.crops, source.sound))
        self.faces.require(kind="faces")
        self.crops.require(kind="crops")
        self.sound.require(kind="sound")
        self.speaker: dict[UtteranceKey, int] = {}
        if source.speaker is not None:
            store = FeatureStore(source.speaker)
            store.require(kind="speaker")
            rows, _ = store.gather(store.keys)
            self.speaker = {key: SpeakerChoice.from_row(row).track for key, row in zip(store.keys, rows, strict=True)}
        self.size = crop_size(self.crops.dim)
        self._there = set(self.faces.keys) & set(self.crops.keys) & set(self.sound.keys)

    def utterances(self, split: str) -> list[UtteranceKey]:
        """All utterances of a split; none if there is no such split."""
        if split not in self.corpus:
            return []
        return [key for conversation in self.corpus[split] for key in conversation.keys]

    def keys(self, split: str) -> list[UtteranceKey]:
        """The utterances of a split that have faces, crops and sound in the stores."""
        return [key for key in self.utterances(split) if key in self._there]

    def clip(self, key: UtteranceKey) -> LipSyncClip:
        """The clip of an utterance; without tracks and sound if a store lacks it."""
        if key not in self._there:
            lacks = next(store for store in (self.faces, self.crops, self.sound) if key not in store)
            return LipSyncClip(key, (), torch.empty(0, self.sound.dim), missing=lacks.why_missing([key])[key])
        rows, crops, sound = (store.sequence(key) for store in (self.faces, self.crops, self.sound))
        if len(rows) != len(crops):
            raise StoreError(
                f"{self.crops.path} has {len(crops)} crops of {key}, {self.faces.path} {len(rows)} boxes: expected "
                "one crop for every box. Write both stores in one run."
            )
        found = rows_to_tracks(rows)
        tracks = tuple(mouth_tracks(found, crops))
        speaker = self.speaker.get(key, 0 if len(tracks) == 1 else None)
        if speaker is None:
            talking = tuple(index for index, track in enumerate(tracks) if _is_alone(track, tracks))
        else:
            talking = () if speaker == NOBODY else (speaker,)
        return LipSyncClip(key, tracks, sound, speaker, talking, None if tracks else "no face was found")


def _is_alone(track: MouthTrack, tracks: Sequence[MouthTrack]) -> bool:
    """Whether no other face is visible beside a track."""
    return all(other is track or other.stop <= track.first or other.first >= track.stop for other in tracks)


class _Clips(Dataset[LipSyncClip]):
    """Clips, read when a batch of one asks for them."""

    def __init__(self, items: list[tuple[_OpenSource, UtteranceKey]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, indices: list[int]) -> LipSyncClip:
        [(source, key)] = [self.items[index] for index in indices]
        clip = source.clip(key)
        return replace(clip, speaker=None, talking=()) if isinstance(indices, Repeated) else clip


@dataclass(frozen=True)
class _Pool:
    """What training draws from, of one source."""

    talks: list[tuple[LipSyncClip, int]]
    """Clips and the track in them that speaks, long enough for a window."""
    silent: list[MouthTrack]
    """Tracks that are known not to speak."""

    @classmethod
    def of(cls, clips: list[LipSyncClip], shortest: int) -> _Pool:
        talks = [(clip, track) for clip in clips for track in clip.talking if _length(clip, track) >= shortest]
        silent = [
            track
            for clip in clips
            if clip.speaker is not None
            for index, track in enumerate(clip.tracks)
            if index != clip.speaker and len(track.crops) >= shortest
        ]
        return cls(talks, silent)


def _length(clip: LipSyncClip, track: int) -> int:
    """Frames of a track for which there is sound."""
    return min(clip.tracks[track].stop, len(clip.sound) // MEL_PER_FRAME) - clip.tracks[track].first


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """A window of a mouth: whose, and when."""

    clip: UtteranceKey | None
    track: int
    start: int
    crops: Tensor
    speaks: int


class _Draws(Dataset[LipSyncBatch]):
    """Training batches, each drawn from a seed; the random numbers of the training stay where they are."""

    def __init__(self, data: LipSyncDataModule, pools: list[_Pool]) -> None:
        self.data = data
        self.pools = [pool for pool in pools if pool.talks]
        weights = [source.weight for source, pool in zip(data.opened, pools, strict=True) if pool.talks]
        self.weights = torch.tensor(weights)

    def __getitem__(self, seed: list[int]) -> LipSyncBatch:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed[0])
            return self._draw()

    def _draw(self) -> LipSyncBatch:
        own: list[_Window] = []
        others: list[_Window] = []
        sounds: list[Tensor] = []
        pool = self.pools[int(torch.multinomial(self.weights, 1))]
        while len(own) < self.data.batch_size:
            clip, track = pool.talks[_below(len(pool.talks))]
            for start in self._starts(clip, track):
                own.append(self._window(clip, track, start, speaks=1))
                sounds.append(self._heard(clip, start))
            others += self._beside(clip, track, own[-1].start)
        own, sounds = own[: self.data.batch_size], sounds[: self.data.batch_size]
        others += [self._silence(pool) for _ in range(round(self.data.silent * len(own)))]
        windows = [*own, *others]
        return LipSyncBatch(
            crops=torch.stack([window.crops for window in windows]),
            sound=torch.stack(sounds),
            kinds=torch.tensor([[self._kind(anchor, window) for window in windows] for anchor in own]),
            speaks=torch.tensor([window.speaks for window in windows]),
        )

    def _starts(self, clip: LipSyncClip, track: int) -> list[int]:
        """One window of a track that speaks, and a second one out of sync with it if there is room."""
        lag = self.data.max_lag
        room = _length(clip, track) - self.data.window - 2 * lag
        first = _below(room + 1)
        away = [s for s in range(room + 1) if abs(s - first) >= self.data.min_shift]
        origin = clip.tracks[track].first + lag
        return [origin + first, *([origin + away[_below(len(away))]] if away else [])]

    def _window(self, clip: LipSyncClip, track: int, start: int, speaks: int) -> _Window:
        offset = start - clip.tracks[track].first
        return _Window(clip.key, track, start, clip.tracks[track].crops[offset : offset + self.data.window], speaks)

    def _heard(self, clip: LipSyncClip, start: int) -> Tensor:
        lag = self.data.max_lag
        moved = max(start + _below(2 * lag + 1) - lag, 0)
        return clip.sound[MEL_PER_FRAME * moved :][: MEL_PER_FRAME * self.data.window]

    def _beside(self, clip: LipSyncClip, speaker: int, start: int) -> list[_Window]:
        """The other tracks of a clip that are visible in the whole window."""
        return [
            self._window(clip, index, start, speaks=0)
            for index, track in enumerate(clip.tracks)
            if index != speaker and track.first <= start and start + self.data.window <= track.stop
        ]

    def _silence(self, pool: _Pool) -> _Window:
        """Lips that do not speak: a track that is known for it, or a frozen frame of one that may."""
        if pool.silent and _below(2):
            track = pool.silent[_below(len(pool.silent))]
            start = _below(len(track.crops) - self.data.window + 1)
            return _Window(None, 0, start, track.crops[start : start + self.data.window], 0)
        clip, talking = pool.talks[_below(len(pool.talks))]
        crops = clip.tracks[talking].crops
        frozen = crops[_below(len(crops))].expand(self.data.window, -1, -1)
        return _Window(None, 0, 0, frozen, 0)

    def _kind(self, anchor: _Window, window: _Window) -> int:
        if window.clip is None:
            return _SILENT
        if window.clip != anchor.clip:
            return _OTHER_CLIP
        if window.track != anchor.track:
            return _SAME_CLIP
        return _SHIFTED if abs(window.start - anchor.start) >= self.data.min_shift else 0


def _below(count: int) -> int:
    return int(torch.randint(count, ()).item())
