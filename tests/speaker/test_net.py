"""LipSyncNet: vectors that are correlations over time, one window at a time."""

import pytest
import torch

from merc.speaker import LipSyncNet


@pytest.fixture
def net():
    return LipSyncNet(size=16, width=4, hidden=16).eval()


def some(count, frames=12):
    return torch.randint(0, 256, (count, frames, 16, 16), dtype=torch.uint8), torch.randn(count, 4 * frames, 80) * 3 - 6


def test_a_window_of_32_pictures_is_256_numbers_of_length_1():
    net = LipSyncNet().eval()
    video, activity = net.embed_video(torch.randint(0, 256, (2, 32, 32, 32), dtype=torch.uint8))
    audio = net.embed_audio(torch.randn(2, 128, 80))
    assert video.shape == audio.shape == (2, 256)
    assert activity.shape == (2,)
    torch.testing.assert_close(video.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(audio.norm(dim=-1), torch.ones(2))


def test_half_the_squared_distance_is_one_minus_the_correlation_of_the_traces(net):
    crops, sound = some(1)
    (video, _), audio = net.embed_video(crops), net.embed_audio(sound)
    lips, voice = video.view(8, 12), audio.view(8, 12)
    torch.testing.assert_close(lips.mean(-1), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(voice.mean(-1), torch.zeros(8), atol=1e-6, rtol=0)
    correlation = (lips * voice).sum() / (lips.norm() * voice.norm())
    torch.testing.assert_close((video - audio).square().sum() / 2, 1 - correlation)


def test_a_window_does_not_depend_on_its_batch(net):
    crops, sound = some(5)
    video, activity = net.embed_video(crops)
    audio = net.embed_audio(sound)
    for index in (3, 0):
        alone, speaks = net.embed_video(crops[index : index + 1])
        torch.testing.assert_close(alone[0], video[index], atol=1e-5, rtol=0)
        torch.testing.assert_close(speaks[0], activity[index], atol=1e-5, rtol=0)
        torch.testing.assert_close(net.embed_audio(sound[index : index + 1])[0], audio[index], atol=1e-5, rtol=0)


def test_neither_brightness_nor_contrast_nor_level_matters(net):
    crops, sound = some(2)
    crops = crops.float() / 2
    video, _ = net.embed_video(crops + 30)
    brighter, _ = net.embed_video(1.5 * crops + 10)
    assert (video * brighter).sum(-1).min() > 0.999
    torch.testing.assert_close(net.embed_audio(sound), net.embed_audio(sound + 3), atol=1e-4, rtol=0)


def test_still_lips_and_silence_give_finite_numbers_and_gradients(net):
    video, activity = net.embed_video(torch.full((1, 12, 16, 16), 90.0))
    audio = net.embed_audio(torch.full((1, 48, 80), -23.0))
    (video.sum() + activity.sum() + audio.sum()).backward()
    assert torch.isfinite(video).all() and torch.isfinite(audio).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_gradients_reach_every_parameter(net):
    crops, sound = some(3)
    video, activity = net.train().embed_video(crops)
    ((video * net.embed_audio(sound)).sum() + activity.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_size_that_does_not_fit_the_strides_is_refused():
    with pytest.raises(ValueError, match="size is 30, expected a multiple of 8"):
        LipSyncNet(size=30)
