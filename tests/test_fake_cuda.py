"""Every network and loss on a device that is not the CPU: no tensor is left behind, forward and backward."""

import pytest
import torch
from torch import nn

from merc.conversation import UtteranceKey
from merc.datamodules import DataFacts, MediaBatch
from merc.datamodules.lipsync import LipSyncBatch
from merc.encoders import AudioEncoder, FaceBatch, SoundBatch, VisualEncoder
from merc.evaluation import EmotionMetrics
from merc.labels import IEMOCAP4
from merc.losses import DISTLoss, FusionLoss, SyncLoss
from merc.media import FaceTrack, Frames
from merc.speaker import ActiveSpeakerNet, LipSyncNet, PooledLipSyncNet, SyncAugmentation, SyncScorer, score_tracks
from merc.speaker.base import MouthTrack
from merc.tasks import EncoderStudentTask
from support.every_loss import LOSSES, total, unit_vectors
from support.networks import NETWORKS, batch_of_three, loss
from support.pretend_device import DEVICE, PretendDevice, move
from support.tiny_media import SPEECH, crops, keys, noises, tiny_speech, tiny_video


@pytest.fixture(autouse=True)
def _device():
    with PretendDevice():
        yield


def test_a_tensor_that_is_left_behind_is_found():
    here, there = torch.randn(3, 3), torch.randn(3, 3).to(DEVICE)
    assert there.device == DEVICE and (there @ there).cpu().device.type == "cpu"
    assert (there + torch.tensor(1.0)).device == DEVICE
    for mixed in (lambda: here + there, lambda: there @ here, lambda: torch.stack([there[0, 0], here[0, 0]])):
        with pytest.raises(RuntimeError, match="all tensors on one device"):
            mixed()


def test_a_network_that_keeps_a_tensor_to_itself_is_found():
    class Forgetful(nn.Linear):
        def forward(self, x):
            return super().forward(x) + self.constant

    network = Forgetful(3, 3)
    network.constant = torch.ones(3)  # not a buffer
    with pytest.raises(RuntimeError, match="all tensors on one device"):
        move(network)(torch.randn(2, 3).to(DEVICE))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_networks(make, training):
    network, batch = move(make()).train(training), batch_of_three().to(DEVICE)
    value = loss(network, batch)
    value.backward()
    assert value.device == DEVICE and value.isfinite()
    assert any(p.grad is not None for p in network.parameters())
    assert all(x.device == DEVICE for p in network.parameters() for x in (p, p.grad) if x is not None)


def test_networks_give_what_they_give_on_the_cpu():
    """The plain layers, which this device takes, against the kernels of the CPU."""
    for make in NETWORKS.values():
        network, batch = make().eval(), batch_of_three()
        expected = loss(network, batch)
        torch.testing.assert_close(loss(move(network), batch.to(DEVICE)).cpu(), expected)


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_losses(make):
    vectors = [x.to(DEVICE).requires_grad_() for x in unit_vectors()]
    value = total(make, *vectors)
    value.backward()
    assert value.device == DEVICE and vectors[0].grad.device == DEVICE


def test_the_projection_of_the_contrastive_loss():
    fusion_loss = move(FusionLoss(8))
    logits, embeddings = torch.randn(6, 4).to(DEVICE), torch.randn(6, 8).to(DEVICE)
    terms = fusion_loss(logits, (torch.arange(6) % 3).to(DEVICE), embeddings)
    sum(terms.values()).backward()
    assert all(p.grad.device == DEVICE for p in fusion_loss.parameters())


@pytest.mark.parametrize("kind", ["data2vec-audio", "wav2vec2-group", "timesformer", "videomae"])
def test_a_tuned_encoder(kind, tmp_path):
    heard = kind in SPEECH
    with torch.utils._python_dispatch._disable_current_modes():  # saved and loaded as on any machine
        encoder = AudioEncoder(tiny_speech(tmp_path, kind)) if heard else VisualEncoder(tiny_video(tmp_path, kind))
        loss = DISTLoss(alpha=0.0)
        task = EncoderStudentTask(encoder, loss=loss)
        task.build(DataFacts({}, tuple(IEMOCAP4.names), (1,) * 4, ()))
    read = SoundBatch.pad(keys(2), noises(3000, 5000)) if heard else FaceBatch.pad(keys(2), crops(4, 6))
    batch = MediaBatch(read, {UtteranceKey("train", "1", "0"): "no sound"}, torch.tensor([0, 1, 2])).to(DEVICE)
    prediction = move(task).train().step(batch)
    prediction.loss.backward()
    assert prediction.logits.device == prediction.loss.device == DEVICE
    assert all(p.grad.device == DEVICE for p in task.parameters())


def test_lips_and_sound():
    frames, mouths, sounds = 8, 5, 4
    batch = LipSyncBatch(
        crops=torch.randint(0, 255, (mouths, frames, 16, 16), dtype=torch.uint8),
        sound=torch.randn(sounds, 4 * frames, 80),
        kinds=torch.randint(1, 5, (sounds, mouths)).fill_diagonal_(0),
        speaks=torch.ones(mouths),
    ).to(DEVICE)
    network = move(LipSyncNet(size=16, width=4, hidden=8))
    crops, sound = SyncAugmentation()(batch.crops, batch.sound)
    video, speaks = network.embed_video(crops)
    terms = SyncLoss(contrast=1.0)(video, network.embed_audio(sound), batch.kinds)
    (sum(terms.values()) + nn.functional.binary_cross_entropy_with_logits(speaks, batch.speaks)).backward()
    assert all(p.grad.device == DEVICE for p in network.parameters())


def test_choosing_the_speaker():
    network, scorer = move(LipSyncNet(size=16, width=4, hidden=8)).eval(), SyncScorer(window=16, hop=8)
    tracks = [MouthTrack(0, torch.randint(0, 256, (40, 16, 16), dtype=torch.uint8)) for _ in range(2)]
    assert scorer.choose(network, tracks, torch.randn(160, 80)).track in (0, 1)


def test_the_network_of_the_paper():
    network = move(PooledLipSyncNet(size=16, width=4))
    video, _ = network.embed_video(torch.randint(0, 256, (3, 8, 16, 16), dtype=torch.uint8).to(DEVICE))
    (video * network.embed_audio(torch.randn(3, 32, 80).to(DEVICE))).sum().backward()
    assert all(p.grad.device == DEVICE for p in network.parameters())
    track = MouthTrack(0, torch.randint(0, 256, (40, 16, 16), dtype=torch.uint8))
    assert SyncScorer(window=None, max_lag=0).choose(network.eval(), [track], torch.randn(160, 80)).track == 0


def test_the_second_opinion():
    network = move(ActiveSpeakerNet())
    network(torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8).to(DEVICE), torch.randn(1, 12, 13).to(DEVICE))
    frames = Frames(torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8), 0, 25, 1.0)
    tracks = [FaceTrack(1, torch.tensor([[4.0, 4, 30, 36]]).expand(4, 4), 0.9)]
    [odds] = score_tracks(network.eval(), [frames], tracks, torch.randn(3000))
    assert odds.shape == (4,) and odds.device.type == "cpu"


def test_the_whole_batch_moves_and_comes_back():
    batch = batch_of_three()
    there = batch.to(DEVICE)
    assert there.select([2, 0]).edges["text"].index.device == DEVICE
    dense, real = there.to_dense(there.features["text"])
    assert dense.device == real.device == there.to_flat(dense).device == DEVICE
    for name in ("label", "speaker", "position", "ptr"):
        assert getattr(there, name).device == DEVICE
        assert getattr(there.to("cpu"), name).equal(getattr(batch, name))


def test_metrics():
    metrics = EmotionMetrics(IEMOCAP4)
    metrics.confusion = metrics.confusion.to(DEVICE)
    metrics.update(torch.eye(4).to(DEVICE), torch.tensor([0, 1, 2, -100]).to(DEVICE))
    assert metrics.compute()["accuracy"] == 1
