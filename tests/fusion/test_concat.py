"""Early fusion against its own formula."""

import torch

from merc.fusion import ConcatFusion
from support.made_batches import make_batch


def test_it_is_one_hidden_layer_over_what_is_there():
    batch = make_batch([4, 3], {"text": 5, "audio": 3}, absent=0.4)
    head = ConcatFusion({"text": 5, "audio": 3}, 4, hidden_dim=6).eval()
    linear = head.hidden[1]
    out = head(batch)
    for row in range(batch.num_utterances):
        there = [float(batch.present[name][row]) for name in ("text", "audio")]
        x = torch.cat([batch.features["text"][row], batch.features["audio"][row], torch.tensor(there)])
        fused = (linear.weight @ x + linear.bias).clamp(min=0)
        torch.testing.assert_close(out.embeddings[row], fused)
        torch.testing.assert_close(out.logits[row], head.classify.weight @ fused + head.classify.bias)


def test_an_absent_modality_differs_from_one_of_zeros():
    batch = make_batch([3], {"text": 5}, absent=0.0)
    head = ConcatFusion({"text": 5}, 4).eval()
    batch.features["text"].zero_()
    there = head(batch).logits
    batch.present["text"] = torch.zeros(3, dtype=torch.bool)
    assert (head(batch).logits - there).abs().max() > 1e-3
