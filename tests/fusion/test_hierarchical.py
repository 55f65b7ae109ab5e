"""The parts of hierarchical fusion against slow versions, and its switches."""

import math
from dataclasses import replace

import pytest
import torch

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.fusion import HierarchicalFusion
from merc.fusion.context import ConversationAttention
from merc.fusion.hierarchical import AttentionPooling, MixtureOfExperts, ModalityQuality
from merc.labels import IGNORE_INDEX, MELD
from support.made_batches import make_batch

DIMS = {"text": 10, "audio": 6, "visual": 5}
C = 4


def linear(layer, x):
    return layer.weight @ x + layer.bias


@pytest.mark.parametrize(("experts", "top_k"), [(4, 2), (3, 3), (3, 1), (1, 1)])
def test_mixture_of_experts_sample_by_sample(experts, top_k):
    moe = MixtureOfExperts(6, 8, experts, top_k)
    x, present = torch.randn(20, 6), torch.rand(20) < 0.7
    mixed, balance = moe(x, present)
    share, belief = [0.0] * experts, [0.0] * experts
    for row in range(20):
        probability = linear(moe.route, x[row]).softmax(0)
        chosen = probability.argsort(descending=True)[:top_k].tolist()
        total = sum(probability[e] for e in chosen)
        weights, biases = moe.project.weight.view(experts, 8, 6), moe.project.bias.view(experts, 8)
        expected = sum(probability[e] / total * (weights[e] @ x[row] + biases[e]) for e in chosen)
        torch.testing.assert_close(mixed[row], expected)
        if present[row]:
            for e in range(experts):
                share[e] += (e in chosen) / (int(present.sum()) * top_k)
                belief[e] += probability[e].item() / int(present.sum())
    slow = experts * sum(f * p for f, p in zip(share, belief, strict=True))
    assert balance.item() == pytest.approx(slow, abs=1e-5)


def test_the_balance_is_least_where_experts_share_the_work():
    even, one = MixtureOfExperts(4, 8, 4, 1), MixtureOfExperts(4, 8, 4, 1)
    x = torch.eye(4).repeat(5, 1)
    for moe, router in ((even, 20 * torch.eye(4)), (one, torch.tensor([20.0, 0, 0, 0])[:, None].expand(4, 4))):
        moe.route.weight.data.copy_(router)
        moe.route.bias.data.zero_()
    everywhere = torch.ones(20, dtype=torch.bool)
    assert even(x, everywhere)[1].item() == pytest.approx(1.0, abs=1e-4)
    assert one(x, everywhere)[1].item() == pytest.approx(4.0, abs=1e-4)


def test_no_experts_is_a_plain_projection():
    moe = MixtureOfExperts(6, 8, experts=0)
    x = torch.randn(3, 6)
    mixed, balance = moe(x, torch.ones(3, dtype=torch.bool))
    assert torch.equal(mixed, moe.project(x)) and balance == 0 and moe.project.out_features == 8


@pytest.mark.parametrize("top_k", [0, 5])
def test_top_k_must_be_among_the_experts(top_k):
    with pytest.raises(ValueError, match=f"between 1 and experts=4, got {top_k}"):
        MixtureOfExperts(6, 8, 4, top_k)


def two_pass(hidden, label, present):
    """Frequency, mean and variance of every class: the mean first, then the squared deviations from it."""
    rows = [i for i in range(len(label)) if present[i] and label[i] != IGNORE_INDEX]
    frequency, mean, variance = torch.zeros(C), torch.zeros(C, hidden.shape[1]), torch.zeros(C)
    for c in range(C):
        mine = [hidden[i].double() for i in rows if label[i] == c]
        if mine:
            centre = sum(mine) / len(mine)
            frequency[c] = len(mine) / len(rows)
            mean[c] = centre
            variance[c] = sum(((x - centre) ** 2).mean() for x in mine) / max(len(mine) - 1, 1)
    return frequency, mean, variance


def observed(seed, classes=C):
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (40,), generator=random)
    label[torch.rand(40, generator=random) < 0.2] = IGNORE_INDEX
    hidden = torch.randn(40, 6, generator=random) + 3 * label[:, None].clamp(min=0)
    return hidden, label, torch.rand(40, generator=random) < 0.8


def test_statistics_of_the_first_batch_are_its_own():
    quality = ModalityQuality(6, C)
    quality.observe(*observed(0))
    for found, expected in zip(
        (quality.frequency, quality.prototype, quality.variance), two_pass(*observed(0)), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_statistics_move_by_the_momentum_and_only_for_classes_that_were_seen():
    quality = ModalityQuality(6, C, momentum=0.1)
    first, second = observed(0), observed(1, classes=3)
    quality.observe(*first)
    quality.observe(*second)
    (f1, m1, v1), (f2, m2, v2) = two_pass(*first), two_pass(*second)
    assert f1[3] > 0 and f2[3] == 0
    torch.testing.assert_close(quality.frequency, 0.9 * f1 + 0.1 * f2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quality.prototype[:3], (0.9 * m1 + 0.1 * m2)[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quality.variance[:3], (0.9 * v1 + 0.1 * v2)[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quality.prototype[3], m1[3], atol=1e-4, rtol=1e-4)


def test_the_variance_of_pairs_is_that_of_the_class():
    """Batches with two utterances of a class: a variance over n would be half the truth, which is 1."""
    torch.manual_seed(0)
    quality = ModalityQuality(6, C, momentum=0.01)
    found = []
    for _ in range(1500):
        quality.observe(torch.randn(2, 6), torch.tensor([1, 1]), torch.ones(2, dtype=torch.bool))
        found.append(quality.variance[1].item())
    assert sum(found[500:]) / 1000 == pytest.approx(1.0, abs=0.05)


def test_a_single_utterance_says_nothing_of_the_variance_of_its_class():
    quality = ModalityQuality(6, C)
    hidden, label, present = observed(0)
    quality.observe(hidden, label, present)
    before, there = quality.variance.clone(), torch.ones(1, dtype=torch.bool)
    quality.observe(torch.full((1, 6), 100.0), torch.tensor([2]), there)
    torch.testing.assert_close(quality.variance, before)
    alone = ModalityQuality(6, C)
    alone.observe(torch.tensor([[0.0] * 6, [2.0] * 6, [5.0] * 6]), torch.tensor([0, 0, 1]), torch.ones(3).bool())
    assert alone.variance.tolist() == [2, 0, 0, 0]
    # Class 1 counts as the others: between is 2/3 (1 - 7/3)^2 + 1/3 (5 - 7/3)^2, within 2.
    assert alone.separation().item() == pytest.approx((2 / 3 * (4 / 3) ** 2 + 1 / 3 * (8 / 3) ** 2) / 2, rel=1e-4)


def test_a_class_that_comes_late_starts_from_its_first_batch():
    quality = ModalityQuality(6, C)
    quality.observe(*observed(0, classes=3))
    quality.observe(*observed(1))
    torch.testing.assert_close(quality.prototype[3], two_pass(*observed(1))[1][3], atol=1e-4, rtol=1e-4)


def test_batches_without_labels_or_modality_leave_the_statistics():
    quality = ModalityQuality(6, C)
    hidden, label, present = observed(0)
    quality.observe(hidden, label, present)
    before = [buffer.clone() for buffer in quality.buffers()]
    quality.observe(hidden, torch.full_like(label, IGNORE_INDEX), present)
    quality.observe(hidden, label, torch.zeros_like(present))
    assert all(torch.equal(a, b) for a, b in zip(before, quality.buffers(), strict=True))


def test_statistics_are_exact_under_half_precision():
    quality = ModalityQuality(6, C)
    hidden, label, present = observed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quality.observe(hidden + 50, label, present)
    torch.testing.assert_close(quality.variance, two_pass(hidden, label, present)[2], atol=1e-2, rtol=1e-2)


def test_quality_of_every_utterance():
    """Equations 11 to 14, one utterance after the other."""
    quality = ModalityQuality(6, C)
    hidden, label, present = observed(0)
    quality.observe(hidden, label, present)
    frequency, mean, variance = two_pass(hidden, label, present)
    centre = sum(f * m for f, m in zip(frequency, mean, strict=True))
    between = sum(f * ((m - centre) ** 2).mean() for f, m in zip(frequency, mean, strict=True))
    q_stats = between / (sum(f * v for f, v in zip(frequency, variance, strict=True)) + 1e-6)
    logits = 2 * torch.randn(len(hidden), C)
    found = quality(hidden, logits)
    for row in range(len(hidden)):
        p = logits[row].softmax(0)
        q_entropy = -sum(x * x.log() for x in p)
        q_neural = linear(quality.neural, hidden[row]).sigmoid()
        q = linear(quality.combine, torch.stack([q_stats, q_entropy, q_neural[0]])).sigmoid().clamp(0.1, 1.0)
        torch.testing.assert_close(found[row], q, atol=1e-4, rtol=1e-4)


def test_quality_is_never_nothing():
    quality = ModalityQuality(6, C)
    quality.combine.bias.data.fill_(-50)
    assert (quality(torch.randn(3, 6), torch.randn(3, C)) == 0.1).all()
    assert quality.separation() == 0  # before the first label


@pytest.fixture
def batch():
    return make_batch([5, 1, 8], DIMS, absent=0.3)


def test_gates(batch):
    """Equations 15 to 17: a context weighted by quality, over the modalities that are there."""
    head = HierarchicalFusion(DIMS, C, dim=8).eval()
    hidden = {m: torch.randn(14, 8) * batch.present[m][:, None] for m in DIMS}
    logits = {m: torch.randn(14, C) for m in DIMS}
    found = head._gated(batch, hidden, logits)
    for row in range(14):
        here = [m for m in DIMS if batch.present[m][row]]
        q = {m: head.quality[m](hidden[m][row : row + 1], logits[m][row : row + 1])[0] for m in here}
        context = sum((q[m] * hidden[m][row] for m in here), torch.zeros(8)) / sum(q.values()) if here else 0
        for m in here:
            gate = linear(head.gate[m], torch.cat([hidden[m][row], context])).sigmoid()
            torch.testing.assert_close(found[m][row], gate * hidden[m][row], atol=1e-5, rtol=1e-4)


def attend(layer, asking, query, keys):
    """Multi-head attention of one modality over some keys and one key of zeros."""
    heads, width = layer.project.shape[2:4]
    (wq, wk, wv), (bq, bk, bv) = layer.project[:, asking].flatten(1, 2), layer.bias[:, asking].flatten(1)
    q = (wq @ query + bq).view(heads, width)
    zero = torch.zeros_like(q)
    k = torch.stack([*((wk @ key + bk).view(heads, width) for key in keys), zero])
    v = torch.stack([*((wv @ key + bv).view(heads, width) for key in keys), zero])
    answers = []
    for h in range(heads):
        weight = (k[:, h] @ q[h] / math.sqrt(width)).softmax(0)
        answers.append(weight @ v[:, h])
    return layer.join[asking] @ torch.cat(answers) + layer.join_bias[asking]


def test_cross_attention(batch):
    """Equation 18: a modality asks the others that are there, and adds itself."""
    head = HierarchicalFusion(DIMS, C, dim=8, attention_heads=2).eval()
    assert head.alpha.tolist() == pytest.approx([0.7] * 3) and head.beta.tolist() == pytest.approx([0.3] * 3)
    torch.nn.init.normal_(head.cross.bias)
    torch.nn.init.normal_(head.cross.join_bias)
    gated = {m: torch.randn(14, 8) * batch.present[m][:, None] for m in DIMS}
    present = torch.stack([batch.present[m] for m in DIMS], dim=1)
    found = head._crossed(gated, present)
    for row in range(14):
        for index, m in enumerate(DIMS):
            others = [gated[o][row] for o in DIMS if o != m and batch.present[o][row]]
            expected = 0.7 * attend(head.cross, index, gated[m][row], others) + 0.3 * gated[m][row]
            expected = expected * batch.present[m][row]
            torch.testing.assert_close(found[row, index], expected, atol=1e-5, rtol=1e-4)


def test_pooling_asks_the_tokens_that_are_there():
    pool = AttentionPooling(8, queries=3)
    tokens = torch.randn(10, 3, 8)
    present = torch.rand(10, 3) < 0.6
    present[0] = False
    found = pool(tokens, present)
    for row in range(10):
        here = [tokens[row, m] for m in range(3) if present[row, m]] or list(tokens[row])
        answers = []
        for query in pool.queries:
            score = torch.stack([pool.key.weight @ token @ query / math.sqrt(8) for token in here])
            # Where there is no token the masked scores are equal: the mean of zeros, in use.
            weight = score.softmax(0) if present[row].any() else torch.full((3,), 1 / 3)
            answers.append(sum(w * token for w, token in zip(weight, here, strict=True)))
        torch.testing.assert_close(found[row], linear(pool.join, torch.cat(answers)), atol=1e-5, rtol=1e-4)


def test_uncertainty_is_the_disagreement_of_heads_and_the_entropy_of_their_mean(batch):
    head = HierarchicalFusion(DIMS, C, dim=8, ensemble=3).eval()
    out = head(batch)
    for row in range(14):
        votes = [h(out.embeddings[row]) for h in head.heads]
        torch.testing.assert_close(out.votes[:, row], torch.stack(votes))
        mean = sum(votes) / 3
        torch.testing.assert_close(out.logits[row], mean)
        p = mean.softmax(0)
        assert out.uncertainty["entropy"][row].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-5)
        chances = [vote.softmax(0) for vote in votes]
        centre = sum(chances) / 3
        spread = sum(((c - centre) ** 2).sum() for c in chances) / 3
        assert out.uncertainty["disagreement"][row].item() == pytest.approx(spread.item(), abs=1e-6)


def test_one_head_never_disagrees(batch):
    out = HierarchicalFusion(DIMS, C, dim=8, ensemble=1).eval()(batch)
    assert (out.uncertainty["disagreement"] == 0).all()


def test_scope_decides_whether_an_utterance_hears_its_conversation(batch):
    for scope, hears in (("utterance", False), ("conversation", True)):
        head = HierarchicalFusion(DIMS, C, dim=8, scope=scope).eval()
        present = {m: p.clone() for m, p in batch.present.items()}
        present["text"][7] = ~present["text"][7]
        with torch.no_grad():
            gap = (head(replace(batch, present=present)).logits - head(batch).logits).abs().amax(1)
        company = (batch.conversation == batch.conversation[7]) & (torch.arange(14) != 7)
        assert gap[7] > 1e-4
        assert (gap[company] > 1e-6).any() == hears
        assert (gap[batch.conversation != batch.conversation[7]] < 1e-6).all()


SWITCHES = {
    "experts": {"experts": 0},
    "top_k": {"top_k": 1},
    "gating": {"gating": False},
    "cross_attention": {"cross_attention": False},
    "scope": {"scope": "conversation"},
    "layers": {"layers": 2},
    "attention_heads": {"attention_heads": 2},
    "queries": {"queries": 2},
    "ensemble": {"ensemble": 2},
    "dim": {"dim": 16},
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_changes_parameters_or_outputs(batch, switch):
    plain, other = (HierarchicalFusion(DIMS, C, **{"dim": 8, **options}) for options in ({}, switch))
    if [p.shape for p in plain.parameters()] == [p.shape for p in other.parameters()]:
        other.load_state_dict(plain.state_dict())
        with torch.no_grad():
            assert (plain.eval()(batch).logits - other.eval()(batch).logits).abs().max() > 1e-5


def test_switches_of_one_name_cannot_be_misspelt():
    with pytest.raises(ValueError, match="'utterance' or 'conversation', got 'dialogue'"):
        HierarchicalFusion(DIMS, C, scope="dialogue")


def test_attention_along_a_conversation_against_a_loop():
    talk = [
        Conversation(str(n), tuple(Utterance(str(u), "ab"[(u * n) % 2], label="joy") for u in range(n)))
        for n in (1, 5, 3)
    ]
    batch = ConversationBatch.from_conversations(talk, MELD)
    layer = ConversationAttention(8, heads=2, reach=2).eval()
    torch.nn.init.normal_(layer.bias)
    values = torch.randn(batch.num_utterances, 8)
    query, key, value = layer.query_key_value(layer.norm(values)).unflatten(-1, (3, 2, 4)).unbind(1)
    for i in range(len(values)):
        answers = []
        for head in range(2):
            mates = [j for j in range(len(values)) if batch.conversation[i] == batch.conversation[j]]
            score = torch.stack(
                [
                    query[i, head] @ key[j, head] / 2
                    + layer.bias[int(batch.speaker[i] == batch.speaker[j]), min(max(j - i, -2), 2) + 2, head]
                    for j in mates
                ]
            )
            answers.append(score.softmax(0) @ value[mates, head])
        expected = values[i] + layer.output(torch.cat(answers))
        torch.testing.assert_close(layer(values, batch)[i], expected, atol=1e-5, rtol=1e-5)
