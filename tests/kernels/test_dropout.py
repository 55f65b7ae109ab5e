"""Dropout on a CPU: what it drops, what it keeps, and its gradient."""

import pytest
import torch

from merc.kernels import Dropout


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("p", "dropped"), [(0.35, 90), (0.5, 128), (0.001, 0), (0.997, 255)])
def test_a_share_is_dropped_and_the_rest_scaled_up(p, dropped, dtype):
    torch.manual_seed(0)
    x = torch.full((300, 333), 2.0, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    y.sum().backward()
    kept = y != 0
    # Below a 512th and in half precision torch's own dropout is taken, with its own share and scale.
    share = dropped / 256 if dropped and dtype.itemsize >= 4 else p
    scale = torch.tensor(1 / (1 - share), dtype=dtype)
    torch.testing.assert_close(y[kept], (2 * scale).expand(int(kept.sum())))
    assert torch.equal(x.grad != 0, kept)
    torch.testing.assert_close(x.grad[kept], scale.expand(int(kept.sum())))
    assert 1 - float(kept.float().mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / x.numel()) ** 0.5)


def test_each_call_drops_others():
    x, layer = torch.ones(1000), Dropout(0.5)
    assert not torch.equal(layer(x), layer(x))


def test_in_evaluation_nothing_is_dropped():
    x = torch.randn(7, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5)(torch.zeros(0, 3)).shape == (0, 3)
