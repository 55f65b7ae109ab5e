"""Conversations put together from clips of one talking face each, side by side in one film, with known turns."""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from merc.conversation import Clip
from merc.media import FRAME_RATE, SAMPLE_RATE, read_frames, read_sound
from support.made_media import write_media

SIDE = 240
"""Pixels: height and width of the field of each person."""

_PER_FRAME = SAMPLE_RATE // FRAME_RATE


@dataclass(frozen=True)
class Turn:
    """Who speaks when: the place of the person from the left, and frames of the film."""

    person: int
    start: int
    end: int


def plan_turns(people, turns, seed, shortest=1.5, longest=3.0, pause=0.2, overlap=0.0):
    """Turns of ``people`` who take over from each other, one after the other; ``overlap`` is the share that begin up to
    a second before the end of the one before."""
    draw, plan = random.Random(seed), []
    for _ in range(turns):
        person = draw.choice([n for n in range(people) if not plan or n != plan[-1].person])
        end = plan[-1].end if plan else -round(pause * FRAME_RATE)
        start = end + round(pause * FRAME_RATE)
        if plan and draw.random() < overlap:
            start = end - draw.randint(FRAME_RATE // 2, FRAME_RATE)
        plan.append(Turn(person, start, start + round(draw.uniform(shortest, longest) * FRAME_RATE)))
    return plan


def write_conversation(path, clips, plan, frozen):
    """Write a film of clips side by side. Each is heard in its turns only.

    Otherwise its face is ``frozen``, or goes on talking without its sound. A clip that ends begins again.
    """
    length = max(turn.end for turn in plan)
    fields, heard = [], np.zeros(length * _PER_FRAME, np.float32)
    for person, clip in enumerate(clips):
        images, sound = _clip(clip)
        own = np.zeros(length, bool)
        for turn in plan:
            if turn.person == person:
                own[turn.start : turn.end] = True
        shown = np.maximum(np.cumsum(own) - 1, 0) if frozen else np.arange(length) + 7 * person
        shown = shown % len(images)
        fields.append(images[torch.from_numpy(shown)])
        loud = np.concatenate([sound[at * _PER_FRAME : (at + 1) * _PER_FRAME] for at in shown])
        heard += loud * np.repeat(own, _PER_FRAME)
    pictures = torch.cat(fields, dim=3).permute(0, 2, 3, 1).numpy()
    hiss = np.random.default_rng(0).normal(0, 1e-3, len(heard)).astype(np.float32)  # no room is silent
    sound = np.clip(heard + hiss, -1, 1)[None]
    return write_media(Path(path), pictures=list(pictures), sound=sound, options={"crf": "18"})


def _clip(path):
    """Frames ``(T, 3, SIDE, SIDE)`` of at most 20 s, from the middle of the clip's width, and as much sound, equally
    loud for all."""
    clip = Clip(str(path), 0.0, 20.0)
    frames = torch.cat([chunk.images for chunk in read_frames(clip, max_height=SIDE)])
    width = frames.shape[3]
    if width > frames.shape[2]:
        left = (width - frames.shape[2]) // 2
        frames = frames[:, :, :, left : left + frames.shape[2]]
    frames = functional.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
    sound = read_sound(clip)
    sound = functional.pad(sound, (0, max(0, len(frames) * _PER_FRAME - len(sound))))[: len(frames) * _PER_FRAME]
    return frames, (0.1 * sound / sound.square().mean().sqrt().clamp(min=1e-4)).numpy()


def diarization_error(plan, found, people):
    """Missed speech, false alarms and confused speech, each over the speech that there is (NIST's, without collar).

    ``found`` are ``(person, start, end)`` in seconds.
    """
    rate = 100
    length = max([turn.end / FRAME_RATE for turn in plan] + [end for _, _, end in found])
    truth = np.zeros((people, round(length * rate) + 1), bool)
    said = np.zeros_like(truth)
    for turn in plan:
        truth[turn.person, round(turn.start * rate / FRAME_RATE) : round(turn.end * rate / FRAME_RATE)] = True
    extra = np.zeros(truth.shape[1], int)
    for person, start, end in found:
        if person is None:
            extra[round(start * rate) : round(end * rate)] += 1
        else:
            said[person, round(start * rate) : round(end * rate)] = True
    speech, claimed = truth.sum(0), said.sum(0) + extra
    right = (truth & said).sum(0)
    parts = np.maximum(speech - claimed, 0), np.maximum(claimed - speech, 0), np.minimum(speech, claimed) - right
    return tuple(float(part.sum() / speech.sum()) for part in parts)


def right_turns(plan, found):
    """How many turns of the plan have a face, and in how many of these it is the right one for the longest time."""
    known = right = 0
    for turn in plan:
        heard = Counter()
        for person, start, end in found:
            heard[person] += max(0.0, min(end, turn.end / FRAME_RATE) - max(start, turn.start / FRAME_RATE))
        if heard and max(heard.values()) > 0:
            known += 1
            right += max(heard, key=heard.get) == turn.person
    return known, right


def person_at(box, people):
    """Whose field the middle of a box is in."""
    place = int((box[0] + box[2]) / 2 // SIDE)
    return place if 0 <= place < people else None
