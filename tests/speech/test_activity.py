"""Voice activity: Silero's network against a step-by-step version of it, its decisions, and real speech."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from merc.conversation import Clip
from merc.media import SAMPLE_RATE, MediaError, read_sound
from merc.speech import Transcriber, VoiceActivity, load_silero
from merc.speech.activity import _judged
from merc.speech.silero import CHUNK, CONTEXT, STEP
from merc.weights import packaged
from support.made_media import write_media

CLIPS = Path(__file__).parents[3] / "shared/data/clips"

try:
    load_silero()
except ModuleNotFoundError:
    without_weights = True
else:
    without_weights = False
needs_weights = pytest.mark.skipif(without_weights, reason="needs weights: pip install --no-deps silero-vad")
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips in ../shared/data/clips")


def step_by_step(network, sound):
    """The network as its authors run it: chunk by chunk, with the cell of an LSTM."""
    cell = torch.nn.LSTMCell(128, 128)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in network.lstm.state_dict().items()})
    state, before, found = None, torch.zeros(CONTEXT), []
    sound = F.pad(sound, (0, -len(sound) % CHUNK))
    for chunk in sound.split(CHUNK):
        x = F.pad(torch.cat([before, chunk])[None, None], (0, 64), mode="reflect")
        x = F.conv1d(x, network.stft_conv.weight, stride=128)
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2) ** 0.5
        for number in range(1, 5):
            x = getattr(network, f"conv{number}")(x).clamp(min=0)
        state = cell(x[..., 0], state)
        found.append(torch.sigmoid(network.final_conv(state[0].clamp(min=0)[..., None])).item())
        before = chunk[-CONTEXT:]
    return torch.tensor(found)


@needs_weights
@needs_clips
@torch.no_grad()
def test_the_network_says_what_it_says_step_by_step_and_nearly_what_the_published_one_says():
    clip, network = Clip(str(CLIPS / "talk_1.mp4")), load_silero()
    sound = read_sound(clip)
    found = torch.cat([probabilities for probabilities, _ in _judged(network, clip)])
    torch.testing.assert_close(found, step_by_step(network, sound), atol=1e-5, rtol=0)
    file = packaged("silero_vad", "data/silero_vad.jit")
    published = torch.jit.load(str(file))  # other weights of the same network, which may run code
    other = [published(chunk[None], SAMPLE_RATE).item() for chunk in sound.split(CHUNK)[:-1]]
    agree = (torch.tensor(other) > 0.5) == (found[: len(other)] > 0.5)
    assert agree.float().mean() > 0.95 and 0.3 < found.gt(0.5).float().mean() < 0.95


@needs_weights
@needs_clips
def test_real_speech_is_cut_where_it_pauses():
    grid = VoiceActivity().spans(CLIPS / "grid_bbaf2n.mpg")  # a sentence of a second in a clip of three
    assert len(grid) == 1 and 0.5 < grid[0][0] < 1.1 and 1.9 < grid[0][1] < 2.6
    activity = VoiceActivity(longest=3.0)
    transcript = activity.transcribe(CLIPS / "portrait_d10.mp4")
    assert not transcript.has_words and "no words" in transcript.notes[0]
    lines = transcript.lines
    assert len(lines) > 2 and all(0 < line.end - line.start <= 3.0 + 2 * activity.margin for line in lines)
    assert all(first.end <= second.start for first, second in pairwise(lines))
    assert isinstance(activity, Transcriber)


@needs_weights
def test_in_noise_and_silence_nobody_speaks(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.05, (1, 2 * SAMPLE_RATE)).astype(np.float32)
    for name, sound in (("noise", noise), ("silence", np.zeros_like(noise))):
        write_media(tmp_path / f"{name}.mp4", sound=sound)
        assert VoiceActivity().spans(tmp_path / f"{name}.mp4") == []


@needs_weights
def test_a_film_without_sound_is_refused(tmp_path):
    write_media(tmp_path / "still.mp4", pictures=[np.zeros((48, 64, 3), np.uint8)] * 10)
    with pytest.raises(MediaError, match="no sound"):
        VoiceActivity().spans(tmp_path / "still.mp4")


def test_without_the_weights_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps silero-vad"):
        load_silero()


def probabilities(*runs):
    """Probabilities of so many seconds each."""
    return torch.cat([torch.full((round(seconds / STEP),), value) for seconds, value in runs])


def test_pauses_divide_and_short_dips_do_not():
    activity = VoiceActivity(pause=0.4, shortest=0.25, margin=0.0)
    given = probabilities((1, 0.1), (1, 0.9), (0.2, 0.1), (1, 0.9), (0.6, 0.1), (0.1, 0.9), (1, 0.1), (1, 0.8))
    duration = len(given) * STEP
    spans = activity.cut(given, duration)
    expected = [(1.0, 3.2), (duration - 1, duration)]  # a blip of 0.1 s is left out
    assert np.allclose(spans, expected, atol=2 * STEP)
    low = probabilities((1, 0.9), (1, 0.4), (1, 0.1))  # above threshold - 0.15 speech goes on, and never begins
    assert np.allclose(activity.cut(low, 3.0), [(0, 2)], atol=2 * STEP)
    assert activity.cut(low[round(1 / STEP) :], 2.0) == []


def test_margins_do_not_overlap_and_stay_within_the_sound():
    given = probabilities((0.5, 0.9), (0.5, 0.0), (0.5, 0.9))
    spans = VoiceActivity(margin=5.0).cut(given, len(given) * STEP)
    assert spans[0][0] == 0 and spans[1][1] == pytest.approx(len(given) * STEP, abs=1e-3)
    assert spans[0][1] == pytest.approx(spans[1][0], abs=2e-3)


def test_long_speech_is_divided_where_it_is_least_probable():
    given = probabilities((7, 0.95), (0.15, 0.6), (7, 0.95))
    spans = VoiceActivity(longest=10.0, margin=0.0).cut(given, len(given) * STEP)
    assert len(spans) == 2 and spans[0][1] == spans[1][0] == pytest.approx(7.07, abs=0.1)


@pytest.mark.parametrize("options", [{"threshold": 0.1}, {"threshold": 1.0}, {"shortest": 0}, {"shortest": 8.0}])
def test_options_that_leave_nothing_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        VoiceActivity(**options)
