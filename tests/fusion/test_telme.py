"""TelME's fusion against a slow version of its equations, and its borders."""

import pytest
import torch
from torch.nn import functional as F

from merc.fusion import TelMEFusion
from support.made_batches import make_batch

DIMS = {"text": 8, "audio": 8, "visual": 6}


def linear(layer, x):
    return layer.weight @ x + layer.bias


def attention(attend, query, keys):
    """Multi-head attention of one query, head by head."""
    width = len(query)
    weights, biases = attend.in_proj_weight.view(3, width, width), attend.in_proj_bias.view(3, width)
    q, (k, v) = weights[0] @ query + biases[0], (keys @ weights[i].T + biases[i] for i in (1, 2))
    size, heard = width // attend.num_heads, []
    for head in range(attend.num_heads):
        part = slice(head * size, (head + 1) * size)
        heard.append((k[:, part] @ q[part] / size**0.5).softmax(0) @ v[:, part])
    return linear(attend.out_proj, torch.cat(heard))


@pytest.mark.parametrize("theta", [0.01, 0.1, 100.0])
@pytest.mark.parametrize("over", ["modalities", "conversation"])
def test_utterance_by_utterance(over, theta):
    torch.manual_seed(0)
    head = TelMEFusion(DIMS, 4, attention_over=over, heads=2, theta=theta).eval()
    batch = make_batch([4, 1, 6], DIMS, absent=0.4)
    out = head(batch)
    for row in range(11):
        text = batch.features["text"][row]
        tokens = torch.zeros(11, 2, 8)
        for other in range(11):
            if batch.present["audio"][other]:
                tokens[other, 0] = batch.features["audio"][other]
            if batch.present["visual"][other]:
                tokens[other, 1] = linear(head.project["visual"], batch.features["visual"][other])
        there = torch.stack([batch.present["audio"], batch.present["visual"]], dim=1)
        fused = text
        if there[row].any():
            if over == "modalities":
                heard = [
                    attention(head.attend, tokens[row, s], tokens[row][there[row]]) * there[row, s] for s in (0, 1)
                ]
                attended = torch.cat(heard)
            else:
                mine = (batch.conversation == batch.conversation[row]) & there.any(1)
                attended = attention(head.attend, tokens[row].flatten(), tokens[mine].flatten(1))
            attended = head.attended_norm(tokens[row].flatten() + attended)
            gate = linear(head.gate, torch.cat([text, attended])).clamp(min=0)
            shift = gate * linear(head.shift, attended)
            scale = min(text.norm() / shift.norm() * theta, 1.0) if batch.present["text"][row] else 1.0
            fused = text + scale * shift
        fused = F.layer_norm(fused, (8,), head.norm.weight, head.norm.bias)
        torch.testing.assert_close(out.embeddings[row], fused, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out.logits[row], linear(head.classify, fused), atol=1e-5, rtol=1e-4)


def test_without_students_the_teacher_is_not_displaced():
    head = TelMEFusion(DIMS, 4, heads=2).eval()
    batch = make_batch([5], DIMS, absent=0.0)
    for name in ("audio", "visual"):
        batch.present[name].zero_()
    torch.testing.assert_close(head(batch).embeddings, head.norm(batch.features["text"]))


def test_where_nothing_is_displaced_gradients_are_finite():
    head = TelMEFusion(DIMS, 4, heads=2)
    head.gate.bias.data.fill_(-1e3)  # the gate is shut
    head(make_batch([5], DIMS)).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "gesture"}, "needs its teacher 'gesture' among dims"),
        ({"attention_over": "batch"}, "'modalities' or 'conversation', got 'batch'"),
        ({"heads": 3}, "got 3 heads and a width of 8"),
        ({"heads": 2, "theta": 0.0}, "theta must be above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TelMEFusion(DIMS, 4, **options)
