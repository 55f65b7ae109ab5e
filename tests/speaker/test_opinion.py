"""The second opinion: log-odds of face tracks frame by frame, and how they enter the choice."""

from pathlib import Path

import pytest
import torch

from merc.conversation import Clip
from merc.media import MFCC, FaceTrack, Frames, crop_faces
from merc.media.crops import grey
from merc.speaker import ActiveSpeakerNet, SyncScorer, add_opinion, choose_speaker, mean_log_odds, score_tracks
from support.light_asd import light_asd_weights

CLIPS = Path(__file__).resolve().parents[3] / "shared/data/clips"


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.model"
    torch.save(light_asd_weights(), path)
    return ActiveSpeakerNet.from_light_asd(path)


def film(frames, chunk=5):
    """Noise in which faces are nowhere and everywhere, in chunks."""
    images = torch.randint(0, 256, (frames, 3, 60, 80), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return [Frames(images[first : first + chunk], first, 25, 1.0) for first in range(0, frames, chunk)]


def track(first, frames, left=10.0):
    return FaceTrack(first, torch.tensor([left, 5, left + 40, 55]).expand(frames, 4), 0.99)


SOUND = 0.2 * torch.randn(640 * 12 + 240, generator=torch.Generator().manual_seed(2))


def test_every_frame_of_every_track_gets_what_the_network_says(net):
    frames, tracks = film(12), [track(0, 12), track(3, 6, left=30.0)]
    found = score_tracks(net, frames, tracks, SOUND)
    assert [odds.shape for odds in found] == [(12,), (6,)]
    images, heard = torch.cat([chunk.images for chunk in frames]), MFCC()(SOUND)
    for face, odds in zip(tracks, found, strict=True):
        crops = crop_faces(grey(images[face.first : face.end]), face.boxes, 112, region="speech", margin=0.0)
        expected = net(crops[None, :, 0], heard[None, 4 * face.first : 4 * face.end])[0]
        torch.testing.assert_close(odds, expected, atol=1e-4, rtol=1e-4)
        assert not odds.requires_grad


def test_the_crop_is_that_of_light_asd():
    # Its square has 1.4 half sides of the box, around a point 0.4 half sides below the middle.
    from merc.media.crops import crop_squares

    box = torch.tensor([[100.0, 50, 180, 150]])
    half, x, y = 50, 140, 100 + 0.4 * 50
    expected = torch.tensor([[x - 0.7 * half, y - 0.7 * half, x + 0.7 * half, y + 0.7 * half]])
    torch.testing.assert_close(crop_squares(box, "speech", 0.0).float(), expected)


def test_a_track_is_judged_alike_alone_and_beside_others_and_in_other_chunks(net):
    tracks = [track(0, 12), track(2, 7, left=20.0), track(9, 1, left=30.0)]
    together = score_tracks(net, film(12), tracks, SOUND)
    for face, odds in zip(tracks, together, strict=True):
        [alone] = score_tracks(net, film(12, chunk=12), [face], SOUND)
        torch.testing.assert_close(alone, odds, atol=1e-5, rtol=0)


def test_sound_that_ends_early_is_silent_from_there_on(net):
    tracks = [track(0, 12), track(8, 4)]
    short = score_tracks(net, film(12), tracks, SOUND[: 640 * 5])
    silent = score_tracks(net, film(12), tracks, torch.cat([SOUND[: 640 * 5], torch.zeros(640 * 20)]))
    none = score_tracks(net, film(12), tracks, torch.zeros(0))
    for a, b, c, face in zip(short, silent, none, tracks, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
        assert c.shape == (len(face),) and c.isfinite().all()


def test_no_tracks_and_missing_frames(net):
    assert score_tracks(net, film(12), [], SOUND) == []
    with pytest.raises(ValueError, match="show 10 of 12 faces"):
        score_tracks(net, film(10), [track(0, 12)], SOUND)


def test_means_are_over_the_frames_that_show_a_face():
    tracks = [track(0, 6), track(4, 4)]
    odds = [torch.tensor([1.0, 2, 3, 4, 5, 6]), torch.tensor([-1.0, -2, -3, -4])]
    found = mean_log_odds(tracks, odds, [(0, 2), (2, 6), (5, 9), (20, 24)])
    assert found.tolist() == [[1.5, 4.5, 6, 0], [0, -1.5, -3, 0]]
    assert mean_log_odds([], [], [(0, 4)]).shape == (0, 1)


def test_the_opinion_moves_a_score_by_at_most_its_weight_and_not_at_all_if_it_has_none():
    scores = torch.full((1, 4), -0.9)
    found = add_opinion(scores, torch.tensor([[0.0, 50, -50, 2]]), weight=0.3)
    expected = torch.tensor([[-0.9, -0.6, -1.2, -0.9 + 0.3 * (2 * torch.tensor(2.0).sigmoid() - 1)]])
    torch.testing.assert_close(found, expected)
    assert torch.equal(add_opinion(scores, torch.tensor([[0.0, 50, -50, 2]]), weight=0.0), scores)


def test_a_face_that_does_not_speak_loses_a_close_race():
    spans = SyncScorer().windows(40)
    tracks, visible = [track(0, 40), track(0, 40)], torch.ones(2, len(spans), dtype=torch.bool)
    scores = torch.tensor([[-0.80], [-0.85]]).expand(2, len(spans))
    opinion = mean_log_odds(tracks, [torch.full((40,), -4.0), torch.full((40,), 3.0)], spans)
    assert choose_speaker(scores, visible).track == 0
    assert choose_speaker(add_opinion(scores, opinion), visible).track == 1


@pytest.mark.skipif(not CLIPS.is_dir(), reason="no real clips in ../shared/data/clips")
def test_a_real_clip_gets_finite_log_odds_of_the_right_length(net):
    for package in ("av", "facenet_pytorch"):
        pytest.importorskip(package, reason="needs pip install 'merc[media]', and facenet-pytorch without deps")
    from merc.media import FaceTracker, MTCNNDetector, read_frames, read_sound

    clip = Clip(str(CLIPS / "two_faces_obama.mp4"), start=0.0, end=1.2)
    frames = list(read_frames(clip, max_height=360))
    tracks = FaceTracker(MTCNNDetector())(frames)
    found = score_tracks(net, frames, tracks, read_sound(clip))
    assert len(tracks) == 2 and [len(odds) for odds in found] == [len(face) for face in tracks]
    assert all(odds.isfinite().all() and odds.std() > 0 for odds in found)
