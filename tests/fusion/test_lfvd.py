"""The parts of LFVD against slow versions of its equations, one conversation and one utterance at a time."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from merc.fusion import LFVDFusion
from merc.fusion.lfvd import ContextEncoder, LanguageGuidedAttention
from merc.losses import EmotionContrastiveLoss, ModalityContrastiveLoss, VariationalDistillationLoss
from support.made_batches import make_batch

DIMS = {"text": 10, "audio": 6, "visual": 5}
C, D, HEADS = 4, 8, 4


@pytest.fixture
def batch():
    return make_batch([5, 1, 8, 3], DIMS, absent=0.4, seed=3)


def head(**options):
    torch.manual_seed(0)
    made = LFVDFusion(DIMS, C, dim=D, attention_heads=HEADS, **options).eval()
    for name, parameter in made.named_parameters():  # nothing is zero or one, so that nothing is skipped unseen
        torch.nn.init.normal_(parameter, std=0.05 if name.startswith("gaussian") else 0.4)  # weights far from 1
    return made


def hidden_of(made, batch):
    return {n: made.context[n](batch.features[n], batch.present[n], batch) for n in made.dims}


def rows_of(batch):
    return [slice(start, stop) for start, stop in zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True)]


def norm(layer, x):
    centred = x - x.mean()
    return centred / (x.var(unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias


def slow_attention(block, query, keys, residual):
    """Equations 5 to 7 for one query, head by head and key by key."""
    w, b = block.attention.in_proj_weight.view(3, D, D), block.attention.in_proj_bias.view(3, D)
    width = D // HEADS
    q = w[0] @ query + b[0]
    heard = []
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        k = [(w[1] @ key + b[1])[part] for key in keys]
        v = [(w[2] @ key + b[2])[part] for key in keys]
        share = torch.stack([q[part] @ x / math.sqrt(width) for x in k]).softmax(0)
        heard.append(sum(s * x for s, x in zip(share, v, strict=True)))
    joined = block.attention.out_proj.weight @ torch.cat(heard) + block.attention.out_proj.bias
    middle = norm(block.norm, joined + residual)
    first, last = block.feed[0], block.feed[-1]
    fed = last.weight @ (first.weight @ middle + first.bias).clamp(min=0) + last.bias
    return norm(block.feed_norm, fed + middle)


def slow_augment(made, hidden, present, batch):
    """Equations 4 to 9, conversation by conversation."""
    augment, dominant = made.augment, made.dominant
    out = {name: x.clone() for name, x in hidden.items()}
    for rows in rows_of(batch):
        x = {name: list(values[rows]) for name, values in hidden.items()}
        here = {name: present[name][rows].tolist() for name in hidden}
        mixed = []
        for i in range(len(x[dominant])):
            total = x[dominant][i]
            for name in hidden:
                keys = [key for key, known in zip(x[name], here[name], strict=True) if known] or x[name]
                residual = x[name][i] if augment.residual == "auxiliary" else x[dominant][i]
                answer = slow_attention(augment.attend[name], x[dominant][i], keys, residual)
                if name == dominant or here[name][i]:
                    total = total + answer
            mixed.append(total)
        if augment.token is None:
            out[dominant][rows] = torch.stack(mixed)
        else:
            t = slow_attention(augment.attend_from_token, augment.token, [augment.token, *mixed], augment.token)
            for name in hidden:
                out[name][rows] = torch.stack([value + t for value in x[name]])
    return out


@pytest.mark.parametrize("options", [{}, {"residual": "dominant"}, {"atmosphere": False}, {"dominant": "visual"}])
@torch.no_grad()
def test_language_focused_transformer(batch, options):
    made = head(**options)
    batch.present["audio"][batch.ptr[2] : batch.ptr[3]] = False  # a conversation without any sound
    hidden = hidden_of(made, batch)
    found = made.augment(hidden, batch.present, batch)
    expected = slow_augment(made, hidden, batch.present, batch)
    for name in DIMS:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_query_among_others_is_a_query_alone():
    block = LanguageGuidedAttention(D, HEADS, 0.3).eval()
    query, keys = torch.randn(2, 3, D), torch.randn(2, 5, D)
    known = torch.tensor([[True, False, True, True, False], [True] * 5])
    found = block(query, keys, query, known)
    for b in range(2):
        for i in range(3):
            heard = [key for key, there in zip(keys[b], known[b], strict=True) if there]
            torch.testing.assert_close(found[b, i], slow_attention(block, query[b, i], heard, query[b, i]))


def slow_direction(gru, x, suffix):
    w_in, w_on = getattr(gru, f"weight_ih_l0{suffix}"), getattr(gru, f"weight_hh_l0{suffix}")
    b_in, b_on = getattr(gru, f"bias_ih_l0{suffix}"), getattr(gru, f"bias_hh_l0{suffix}")
    h, out = torch.zeros(D // 2), []
    for step in x:
        (r1, z1, n1), (r2, z2, n2) = (w_in @ step + b_in).view(3, -1), (w_on @ h + b_on).view(3, -1)
        z = (z1 + z2).sigmoid()
        h = (1 - z) * (n1 + (r1 + r2).sigmoid() * n2).tanh() + z * h
        out.append(h)
    return out


@torch.no_grad()
def test_context_reads_in_both_directions_and_never_padding(batch):
    encoder = ContextEncoder(10, D, layers=2, omega=1, dropout=0.3).eval()
    torch.nn.init.normal_(encoder.absent)
    found = encoder(batch.features["text"], batch.present["text"], batch)
    read = []
    for rows in rows_of(batch):
        pairs = zip(batch.features["text"][rows], batch.present["text"][rows], strict=True)
        x = [feature if there else encoder.absent for feature, there in pairs]
        ahead = slow_direction(encoder.gru, x, "")
        back = slow_direction(encoder.gru, x[::-1], "_reverse")[::-1]
        read += [torch.cat(both) for both in zip(ahead, back, strict=True)]
    torch.testing.assert_close(found, encoder.dag(torch.stack(read), batch))  # the DAG has tests of its own


def slow_divergence(p, q):
    """Mean over dimensions of KL(p || q), equations 14 and 15."""
    return kl_divergence(Normal(*p), Normal(*q)).mean()


@pytest.mark.parametrize("kind", ["variational", "sum", "concatenation", "gate"])
@torch.no_grad()
def test_fusion_and_classifier(batch, kind):
    """Equations 12 and 14 to 18, and the other fusions of Figure 2, one utterance after the other."""
    made = head(fusion=kind)
    hidden = made.augment(hidden_of(made, batch), batch.present, batch)
    out = made(batch)
    for i in range(batch.num_utterances):
        q = {}
        for name, x in hidden.items():
            layer = made.gaussian[name]
            q[name] = (layer.mean(x[i]), F.softplus(layer.scale(x[i])) + 1e-3)
        text, fused, row = hidden["text"][i], hidden["text"][i], [hidden["text"][i]]
        for name in (name for name in hidden if name != "text"):
            x, weight = hidden[name][i], 1.0
            if kind == "variational":
                apart = slow_divergence(q["text"], q[name]) + slow_divergence(q[name], q["text"])
                weight = torch.sigmoid(apart / 2)
                assert 0.5 < weight < 0.95
            if kind == "gate":
                linear = made.gate[name]
                weight = 1 / (1 + (-(linear.weight @ torch.cat([text, x]) + linear.bias)).exp())
            if batch.present[name][i]:
                fused = fused + weight * x
            row.append(x if batch.present[name][i] else torch.zeros_like(x))
        if kind == "concatenation":
            fused = made.join.weight @ torch.cat(row) + made.join.bias
        torch.testing.assert_close(out.embeddings[i], fused, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out.logits[i], made.classify(fused), atol=1e-4, rtol=1e-4)


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="fusion must be 'variational', 'sum', 'concatenation' or 'gate', got 'cat'"):
        head(fusion="cat")


@torch.no_grad()
def test_losses_are_of_the_enhanced_modalities(batch):
    made = head(temperature=0.7)
    hidden = made.augment(hidden_of(made, batch), batch.present, batch)
    losses = made(batch).losses
    q = {name: made.gaussian[name](x) for name, x in hidden.items()}
    torch.testing.assert_close(losses["self"], ModalityContrastiveLoss(0.7)(hidden, batch.present))
    torch.testing.assert_close(losses["full"], EmotionContrastiveLoss(0.7)(hidden, batch.present, batch.label))
    torch.testing.assert_close(losses["distillation"], VariationalDistillationLoss("text")(q, batch.present))


ALL = {"self", "full", "distillation"}
SWITCHES = {
    "residual": ({"residual": "dominant"}, ALL, set()),
    "omega": ({"omega": 3}, ALL, set()),
    "led by audio": ({"dominant": "audio"}, ALL, set()),
    "without LFA": ({"lfa": False}, ALL, {"augment"}),
    "without atmosphere": ({"atmosphere": False}, ALL, {"augment"}),
    "without contrast": ({"contrastive": False}, {"distillation"}, set()),
    "without CMVD": ({"fusion": "sum", "distillation": False}, {"self", "full"}, {"gaussian"}),
    "without weights": ({"fusion": "sum"}, ALL, set()),
    "without distillation": ({"distillation": False}, {"self", "full"}, set()),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_ablation_changes_the_losses_or_the_prediction(name, batch):
    options, losses, gone = SWITCHES[name]
    whole, other = head(), head(**options)
    assert set(whole(batch).losses) == ALL and set(other(batch).losses) == losses
    before = {key for key, _ in whole.named_parameters()}
    after = {key for key, _ in other.named_parameters()}
    assert {key.split(".")[0] for key in before - after} == gone and after <= before
    if losses == ALL or gone:
        other.load_state_dict({k: v for k, v in whole.state_dict().items() if k in after})
        assert (whole(batch).logits - other(batch).logits).abs().max() > 1e-4


def test_one_modality_has_neither_pairs_nor_weights(batch):
    alone = LFVDFusion({"audio": 6}, C, dim=D, dominant="audio")
    assert set(alone(batch).losses) == {"full", "distillation"}
    assert not LFVDFusion({"audio": 6}, C, dim=D, dominant="audio", distillation=False).gaussian


def test_what_neighbours_say_stands_for_a_missing_modality(batch):
    made = head()
    last = int(batch.ptr[3]) - 1  # of a conversation of eight
    lacks = {name: there.clone() for name, there in batch.present.items()}
    for there in lacks.values():
        there[last] = False
    lacking = replace(batch, present=lacks)
    before = made(lacking).logits
    near = replace(lacking, features={**batch.features, "text": batch.features["text"] + 1.0})
    lacks["text"][last - 1] = True
    assert before[last].isfinite().all()
    assert (made(near).logits - made(lacking).logits)[last].abs().max() > 1e-4


def test_evaluation_is_deterministic_and_training_is_not(batch):
    made = head()
    with torch.no_grad():
        assert torch.equal(made(batch).logits, made(batch).logits)
        made.train()
        assert not torch.equal(made(batch).logits, made(batch).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dominant": "smell"}, "'smell' is not in"),
        ({"dim": 10}, "divisible by attention_heads, got 10 and 4"),
        ({"dim": 9, "attention_heads": 3}, "dim must be even"),
        ({"residual": "both"}, "'auxiliary' or 'dominant', got 'both'"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"dag_layers": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LFVDFusion(DIMS, C, **options)
