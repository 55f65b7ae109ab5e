"""LipSyncNet in the shape of the paper: vectors that are means over time, one score per utterance."""

import pytest
import torch

from merc.speaker import MouthTrack, PooledLipSyncNet, SyncNetwork, SyncScorer, choose_speaker


@pytest.fixture
def net():
    return PooledLipSyncNet(size=16, width=4).eval().requires_grad_(False)


def some(count, frames=12):
    return torch.randint(0, 256, (count, frames, 16, 16), dtype=torch.uint8), torch.randn(count, 4 * frames, 80) * 3 - 6


@pytest.mark.parametrize("frames", [2, 12, 50])
def test_a_window_of_any_length_is_256_numbers_of_length_1(net, frames):
    crops, sound = some(3, frames)
    (video, speaks), audio = net.embed_video(crops), net.embed_audio(sound)
    assert isinstance(net, SyncNetwork) and speaks is None
    assert video.shape == audio.shape == (3, 256)
    torch.testing.assert_close(video.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(audio.norm(dim=-1), torch.ones(3))


def test_a_vector_is_a_mean_over_time(net):
    crops, sound = some(1, 8)
    still, tone = crops[:, :1].expand(-1, 40, -1, -1), sound[:, :1].expand(-1, 160, -1)
    # Of a steady window only the edges depend on its length.
    assert (net.embed_video(still)[0] * net.embed_video(still[:, :30])[0]).sum() > 0.999
    assert (net.embed_audio(tone) * net.embed_audio(tone[:, :120])).sum() > 0.999


@pytest.mark.parametrize("training", [False, True])
def test_a_window_does_not_depend_on_its_batch(training):
    net = PooledLipSyncNet(size=16, width=4, dropout=0.0).train(training)
    crops, sound = some(5)
    (video, _), audio = net.embed_video(crops), net.embed_audio(sound)
    for index in (3, 0):
        torch.testing.assert_close(net.embed_video(crops[index][None])[0][0], video[index], atol=1e-5, rtol=0)
        torch.testing.assert_close(net.embed_audio(sound[index][None])[0], audio[index], atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter():
    net = PooledLipSyncNet(size=16, width=4)
    crops, sound = some(3)
    (net.embed_video(crops)[0] * net.embed_audio(sound)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(net, dtype):
    crops, sound = some(2)
    (video, _), audio = net.embed_video(crops), net.embed_audio(sound)
    with torch.autocast("cpu", dtype):
        found = net.embed_video(crops)[0], net.embed_audio(sound)
    net.to(dtype)
    for a, b in (found, (net.embed_video(crops)[0], net.embed_audio(sound.to(dtype)))):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, video, atol=0.03, rtol=0)
        torch.testing.assert_close(b, audio, atol=0.03, rtol=0)


def test_the_paper_gives_one_score_per_utterance_minus_the_distance(net):
    scorer = SyncScorer(window=None, max_lag=0, activity=0.0)
    tracks = [
        MouthTrack(first, torch.randint(0, 256, (frames, 16, 16), dtype=torch.uint8))
        for first, frames in [(0, 90), (7, 60)]
    ]
    sound = torch.randn(360, 80)
    spans = scorer.windows(90)
    assert spans == [(0, 90)]
    scores, visible = scorer.score(net, tracks, sound, spans)
    assert scores.shape == (2, 1) and visible.all()
    for track, score in zip(tracks, scores[:, 0], strict=True):
        video, audio = (
            net.embed_video(track.crops[None])[0],
            net.embed_audio(sound[None, 4 * track.first : 4 * track.stop]),
        )
        torch.testing.assert_close(score, -(video - audio).norm(), atol=1e-4, rtol=0)
    assert (
        scorer.choose(net, tracks, sound).track == int(scores[:, 0].argmax()) == choose_speaker(scores, visible).track
    )


def test_a_size_that_does_not_fit_the_strides_is_refused():
    with pytest.raises(ValueError, match="PooledLipSyncNet: size is 20, expected a multiple of 8"):
        PooledLipSyncNet(size=20)
