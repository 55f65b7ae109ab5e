"""Conversations put together from real clips of people whom the shipped weights have not seen, with known turns."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")
pytest.importorskip("scipy", reason="face tracks need SciPy: pip install 'merc[media]'")

import itertools

from merc.annotation import diarize
from merc.conversation import Clip
from merc.media import SAMPLE_RATE, read_frames, read_sound
from support.conversations import SIDE, Turn, diarization_error, person_at, plan_turns, right_turns, write_conversation
from support.made_media import numbered, write_media

REAL = Path(__file__).resolve().parents[3] / "shared/data"
CASTS = {
    "two of television": ["clips/talk_1.mp4", "clips/talk_3.mp4"],
    "three of portraits": ["faces/dhfacevid/dh_005.mp4", "faces/dhfacevid/dh_020.mp4", "faces/dhfacevid/dh_050.mp4"],
}


def found_in(film, people):
    """The turns of a film as ``(person, start, end)``."""
    return [(person_at(turn.box, people), turn.start, turn.end) for turn in diarize(film).turns]


@pytest.mark.slow
def test_real_faces_are_found_in_their_turns(tmp_path):
    """A floor, below what the shipped weights reach on these films: by chance 42 % of the turns would be right."""
    pytest.importorskip("facenet_pytorch", reason="needs MTCNN: pip install --no-deps facenet-pytorch==2.6.0")
    if not all((REAL / name).is_file() for cast in CASTS.values() for name in cast):
        pytest.skip(f"the real clips are not at {REAL}")
    turns = known = right = 0
    errors, told = [], []
    for (cast, names), frozen in product(CASTS.items(), (True, False)):
        people = len(names)
        plan = plan_turns(people, 7, seed=1)
        film = write_conversation(tmp_path / "talk.mp4", [REAL / name for name in names], plan, frozen)
        found = found_in(film, people)
        faces, fitting = right_turns(plan, found)
        turns, known, right = turns + len(plan), known + faces, right + fitting
        errors.append(sum(diarization_error(plan, found, people)))
        told.append(f"{cast}, {'frozen' if frozen else 'talking'}: {faces} known, {fitting} right, {errors[-1]:.2f}")
    assert known >= 0.9 * turns and right >= 0.7 * known, told
    assert sum(errors) / len(errors) < 0.6, told


def test_a_conversation_shows_and_plays_what_its_plan_says(tmp_path):
    clips = []
    for person in range(2):
        clock = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
        tone = 0.2 * np.sin(2 * np.pi * (400 + 400 * person) * clock).astype(np.float32)[None]
        pictures = [numbered(100 * person + index) for index in range(50)]
        clips.append(write_media(tmp_path / f"{person}.mp4", pictures=pictures, sound=tone, options={"crf": "5"}))
    plan = [Turn(0, 0, 25), Turn(1, 20, 45), Turn(0, 50, 60)]
    film = Clip(write_conversation(tmp_path / "film.mp4", clips, plan, frozen=True))
    images = torch.cat([chunk.images for chunk in read_frames(film)])
    assert images.shape == (60, 3, SIDE, 2 * SIDE)
    fields = [images[:, :, :, :SIDE], images[:, :, :, SIDE:]]
    assert all(
        (one - other.float()).abs().mean() < 3 for one, other in zip(fields[0][25:50], fields[0][26:50], strict=False)
    )
    assert (fields[0][52].float() - fields[0][24]).abs().mean() > 3  # goes on where it stopped
    power = [_power(read_sound(film), frequency) for frequency in (400, 800)]
    for person, heard in enumerate(power):
        for frame in (2, 22, 35, 48, 55):
            speaks = any(turn.person == person and turn.start <= frame < turn.end for turn in plan)
            assert (float(heard[frame]) > 1e-3) is speaks


def _power(sound, frequency):
    """The power of a tone in every frame."""
    frames = sound[: len(sound) // 640 * 640].view(-1, 640)
    clock = torch.arange(640) / SAMPLE_RATE * 2 * torch.pi * frequency
    return ((frames * clock.sin()).mean(1).square() + (frames * clock.cos()).mean(1).square()) * 4


def test_plans_take_turns_and_overlap_as_told():
    plan = plan_turns(3, 40, seed=0, overlap=0.5)
    late = [after.start - before.end for before, after in itertools.pairwise(plan)]
    assert all(before.person != after.person for before, after in itertools.pairwise(plan))
    assert all(37 <= turn.end - turn.start <= 75 for turn in plan) and {turn.person for turn in plan} == {0, 1, 2}
    assert {gap for gap in late if gap > 0} == {5} and 10 < sum(gap < 0 for gap in late) < 30


def test_the_diarization_error_counts_each_mistake():
    plan = [Turn(0, 0, 50), Turn(1, 50, 100)]
    assert diarization_error(plan, [(0, 0.0, 2.0), (1, 2.0, 4.0)], 2) == (0, 0, 0)
    assert diarization_error(plan, [(0, 0.0, 2.0)], 2) == (0.5, 0, 0)
    assert diarization_error(plan, [(0, 0.0, 4.0)], 2) == (0, 0, 0.5)
    assert diarization_error(plan, [(0, 0.0, 4.0), (1, 2.0, 4.0), (None, 4.0, 5.0)], 2) == (0, 0.75, 0)
