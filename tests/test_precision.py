"""True half precision and torch.compile: every network gives what it gives in float32 and in eager mode."""

import copy
from contextlib import contextmanager

import pytest
import torch

from merc.losses import SyncLoss
from merc.speaker import LipSyncNet, SyncScorer
from merc.speaker.base import MouthTrack
from support.networks import NETWORKS, batch_of_three, loss, outputs, to_dtype

every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def gradients(network):
    return torch.cat([p.grad.flatten().double() for p in network.parameters() if p.grad is not None])


@contextmanager
def default_dtype(dtype):
    """As Lightning's ``bf16-true`` and ``16-true`` run every step."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@every_network
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_true_half_precision(make, dtype, tolerance):
    exact = make().eval()
    network = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(network.state_dict())  # the same rounded weights, in float32
    batch = to_dtype(batch_of_three(), dtype)
    with default_dtype(dtype):
        found, value = outputs(network, batch), loss(network, batch)
    expected = outputs(exact, to_dtype(batch, torch.float32))
    assert found[0].dtype == dtype
    torch.testing.assert_close(found[0].float(), expected[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1], expected[1], rtol=tolerance, atol=tolerance)
    value.backward()
    loss(exact, to_dtype(batch, torch.float32)).backward()
    ours, theirs = gradients(network), gradients(exact)
    assert (ours - theirs).norm() < 2 * tolerance * theirs.norm()
    # Training mode draws dropout and samples, so only what cannot depend on them is compared.
    with default_dtype(dtype):
        value = loss(network.train(), batch)
    value.backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in network.parameters())


@every_network
def test_bfloat16_autocast(make):
    network, batch = make().eval(), batch_of_three()
    expected = outputs(network, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = outputs(network, batch)
        value = loss(network.train(), batch)
    torch.testing.assert_close(found[0].float(), expected[0], rtol=0.1, atol=0.1)
    torch.testing.assert_close(found[1], expected[1], rtol=0.1, atol=0.1)
    value.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@every_network
def test_compiled(make):
    torch.compiler.reset()
    network, batch = make().eval(), batch_of_three([3, 1, 2])
    expected = outputs(network, batch)
    loss(network, batch).backward()
    exact = gradients(network)
    network.zero_grad()
    network.compile(backend="eager")  # in place: its calls are compiled from here on
    torch.testing.assert_close(outputs(network, batch), expected, rtol=1e-4, atol=1e-5)
    loss(network, batch).backward()
    torch.testing.assert_close(gradients(network), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lips_and_sound_in_true_half_precision(dtype):
    network = LipSyncNet(size=16, width=4, hidden=16).to(dtype).eval()
    exact = copy.deepcopy(network).float()
    track = MouthTrack(0, torch.randint(0, 256, (40, 16, 16), dtype=torch.uint8))
    sound, scorer = torch.randn(160, 80), SyncScorer(window=16, hop=8)
    with default_dtype(dtype):
        found, _ = scorer.score(network, [track], sound.to(dtype), scorer.windows(40))
        video, activity = network.embed_video(torch.stack([track.crops[:16], track.crops[16:32]]))
        audio = network.embed_audio(sound[:128].to(dtype).view(2, 64, 80))
        terms = SyncLoss(contrast=1.0)(video, audio, torch.tensor([[0, 3], [3, 0]]))
    expected, _ = scorer.score(exact, [track], sound.to(dtype).float(), scorer.windows(40))
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)
    (sum(terms.values()) + activity.float().sum()).backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in network.parameters())
