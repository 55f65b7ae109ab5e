"""Talking mouths in a few pixels: a dark gap that opens as loud as its sound is, in stores as extraction leaves it."""

import numpy as np
import torch

from merc.conversation import Conversation, Corpus, Utterance, UtteranceKey
from merc.labels import MELD
from merc.media.tracks import FaceTrack, tracks_to_rows
from merc.speaker import SpeakerChoice
from merc.store import StoreWriter

SIZE = 16


def talk(seed, frames=48, lead=0, size=SIZE):
    """Mouth crops ``(frames, size, size)`` and their log-mel ``(4 frames, 80)``, ``lead`` frames late."""
    rng = np.random.default_rng(seed)
    loud = np.convolve(rng.random(frames + 20), np.ones(3) / 3, mode="same")[10 : 10 + frames]
    loud = (loud - loud.min()) / (loud.max() - loud.min())
    crops = np.full((frames, size, size), 150.0)
    for index, opening in enumerate(loud):
        half = round(opening * size / 4)
        crops[index, size // 2 - half : size // 2 + half + 1, size // 4 : -size // 4] = 40
    crops += rng.normal(0, 2, crops.shape)
    heard = np.repeat(np.roll(loud, lead), 4)[:, None] * 4 - 8 + rng.normal(0, 0.1, (4 * frames, 80))
    return torch.tensor(crops).clamp(0, 255).byte(), torch.tensor(heard, dtype=torch.float32)


def still(seed, frames=48, size=SIZE):
    """A mouth that does not move."""
    return talk(seed, frames, size=size)[0][:1].expand(frames, -1, -1).contiguous()


def write_stores(folder, splits, size=SIZE):
    """Write ``splits``, a dict from split to clips ``(tracks, sound, speaker)``, as corpus and stores; tracks are
    ``(first, crops)``. Returns the arguments of a source."""
    writers = {
        kind: StoreWriter(folder / kind, kind=kind, provenance={"made": "for a test"})
        for kind in ("faces", "crops", "sound", "speaker")
    }
    conversations = {}
    for split, clips in splits.items():
        conversations[split] = []
        for number, (tracks, sound, speaker) in enumerate(clips):
            key = UtteranceKey(split, str(number), "0")
            conversations[split].append(Conversation(key.dialogue, (Utterance("0", "A", "hello"),), split))
            rows = tracks_to_rows(
                [
                    FaceTrack(first, torch.tensor([[0.0, 0, 50 + 10 * n, 50 + 10 * n]]).expand(len(crops), 4), 1.0)
                    for n, (first, crops) in enumerate(tracks)
                ]
            )
            crops = torch.cat([crops.flatten(1) for _, crops in tracks]) if tracks else torch.zeros(0, size**2).byte()
            writers["faces"].add([key], rows, [len(rows)])
            writers["crops"].add([key], crops, [len(crops)])
            writers["sound"].add([key], sound, [len(sound)])
            writers["speaker"].add([key], SpeakerChoice(speaker, 0.0, 0.0, 1.0).to_row()[None])
    for writer in writers.values():
        writer.commit()
    Corpus("lips", MELD, conversations).save(folder / "corpus.json")
    return {"corpus": str(folder / "corpus.json"), **{kind: str(folder / kind) for kind in ("faces", "crops", "sound")}}
