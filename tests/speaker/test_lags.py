"""Sounds in sync: what is late comes back, what is foreign is refused, what is too far is not touched."""

import pytest
import torch

from merc.speaker import LikelihoodScorer, PooledLipSyncNet
from merc.speaker.lags import sound_in_sync
from support.read_off import ReadOff, heard, like, mouths, signal

CALIBRATION = torch.tensor([0.5, 0.15])


def shifted(frames, length=100):
    """A face, and its sound that is late by so many frames; both fit only as well as real ones."""
    voice = signal(1, length + 40)
    lips = like(voice, 0.5, 2)[:, 20 : 20 + length]
    return mouths(lips), heard(voice[:, 20 - frames : 20 - frames + length]), heard(voice[:, 20 : 20 + length])


@pytest.mark.parametrize("frames", [-7, -3, 2, 6])
def test_a_constant_lag_is_corrected(frames):
    track, sound, true = shifted(frames)
    found = sound_in_sync(ReadOff(), [track], sound, calibration=CALIBRATION)
    assert found.lag == pytest.approx(frames / 25) and found.reason == ""
    assert found.sound.shape == sound.shape
    kept = slice(4 * max(0, -frames), 400 - 4 * max(0, frames))
    assert torch.equal(found.sound[kept], true[kept])


@pytest.mark.parametrize("frames", [-1, 0, 1])
def test_a_lag_that_training_varies_anyway_is_left(frames):
    track, sound, _ = shifted(frames)
    found = sound_in_sync(ReadOff(), [track], sound, calibration=CALIBRATION)
    assert found.sound is sound and found.lag == 0


@pytest.mark.parametrize("frames", [-9, 8, 12])
def test_a_lag_beyond_the_largest_is_not_corrected(frames):
    track, sound, _ = shifted(frames, length=250)
    found = sound_in_sync(ReadOff(), [track], sound, calibration=CALIBRATION)
    assert found.sound is None and found.lag == 0


@pytest.mark.parametrize("max_lag", [3, 7])
def test_the_sound_of_somebody_else_is_refused(max_lag):
    sound = heard(signal(7, 250))
    found = sound_in_sync(ReadOff(), [shifted(0, 250)[0]], sound, LikelihoodScorer(max_lag=max_lag), CALIBRATION)
    assert found.sound is None
    assert found.reason == "the sound does not fit the lips of the face at any lag"


def test_lags_are_no_larger_than_those_of_the_scorer():
    track, sound, _ = shifted(6, length=250)
    found = sound_in_sync(ReadOff(), [track], sound, LikelihoodScorer(max_lag=3), CALIBRATION)
    assert found.sound is None


def test_all_tracks_of_the_person_count():
    voice = signal(1, 140)
    lips = like(voice, 0.5, 2)
    tracks = [mouths(lips[:, 20:45]), mouths(lips[:, 60:85], 40), mouths(lips[:, 90:130], 70), mouths(lips[:, :5], 95)]
    sound = heard(voice[:, 15:115])
    assert sound_in_sync(ReadOff(), tracks, sound, calibration=CALIBRATION).lag == pytest.approx(0.2)


def test_where_nothing_can_be_told_the_sound_stays_as_it_is():
    track, sound, _ = shifted(5)
    short = mouths(signal(1, 11))
    late = mouths(signal(1, 30), 95)
    pooled = PooledLipSyncNet(size=16, width=2).eval()
    for network, tracks in ((ReadOff(), []), (ReadOff(), [short]), (ReadOff(), [late]), (pooled, [track])):
        found = sound_in_sync(network, tracks, sound)
        assert found.sound is sound and (found.lag, found.reason) == (0.0, "")
    brief = sound_in_sync(ReadOff(), [mouths(signal(3, 14))], heard(signal(4, 14)))
    assert brief.sound is not None  # half a second is too little to refuse anybody
