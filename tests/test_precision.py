"""True half precision and torch.compile: every network gives what it gives in float32 and in eager mode."""

import copy

import pytest
import torch
from networks import NETWORKS, batch_of_three, loss, outputs, to_dtype

every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def gradients(network):
    return torch.cat([p.grad.flatten().double() for p in network.parameters() if p.grad is not None])


@every_network
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_true_half_precision(make, dtype, tolerance):
    exact = make().eval()
    network = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(network.state_dict())  # the same rounded weights, in float32
    batch = to_dtype(batch_of_three(), dtype)
    found, expected = outputs(network, batch), outputs(exact, to_dtype(batch, torch.float32))
    assert found[0].dtype == dtype
    torch.testing.assert_close(found[0].float(), expected[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1], expected[1], rtol=tolerance, atol=tolerance)
    loss(network, batch).backward()
    loss(exact, to_dtype(batch, torch.float32)).backward()
    ours, theirs = gradients(network), gradients(exact)
    assert (ours - theirs).norm() < 2 * tolerance * theirs.norm()
    # Training mode draws dropout and samples, so only what cannot depend on them is compared.
    loss(network.train(), batch).backward()
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
