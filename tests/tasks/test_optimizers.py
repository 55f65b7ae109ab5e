"""Fused steps on a CPU: the same updates, and nobody's choice is overruled."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

from merc.tasks.optimizers import fused_on_cpu

MAKERS = {
    "adam": partial(torch.optim.Adam, lr=1e-2, weight_decay=7e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-2),
    "sgd": partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
}


def train(model, optimizer, steps=20):
    for step in range(steps):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_fused_steps_equal_plain_ones(make):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    fused = deepcopy(plain)
    optimizer = fused_on_cpu(make(fused.parameters()))
    assert optimizer.param_groups[0]["fused"] is True
    train(plain, make(plain.parameters(), foreach=False))
    train(fused, optimizer)
    for expected, found in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_training_goes_on_from_a_plain_optimizers_state():
    torch.manual_seed(0)
    model = nn.Linear(5, 2)
    plain = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, plain)
    other = deepcopy(model)
    resumed = fused_on_cpu(torch.optim.AdamW(other.parameters(), lr=1e-2))
    resumed.load_state_dict(deepcopy(plain.state_dict()))
    torch.testing.assert_close(train(other, resumed).weight, train(model, plain).weight)


@pytest.mark.parametrize("option", [{"fused": False}, {"foreach": True}])
def test_a_choice_is_kept(option):
    optimizer = fused_on_cpu(torch.optim.AdamW([nn.Parameter(torch.ones(2))], **option))
    assert not optimizer.param_groups[0]["fused"]


def test_an_optimizer_without_the_option_is_left_alone():
    optimizer = fused_on_cpu(torch.optim.RMSprop([nn.Parameter(torch.ones(2))]))
    assert "fused" not in optimizer.param_groups[0]
