"""CMATH, equation by equation, against slow versions; what is absent, and the switches."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from merc.fusion import CMATHFusion
from merc.fusion.cmath import (
    CMATransformer,
    MaskedAttention,
    ModalityReconstruction,
    Refinement,
    VariationalFusion,
    sinusoidal_position,
)
from merc.labels import IGNORE_INDEX
from merc.tasks.fusion import FusionTask
from support.made_batches import facts_of, make_batch

DIMS = {"text": 10, "audio": 6, "visual": 5}
NAMES = list(DIMS)
C = 4
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return make_batch([5, 1, 8], DIMS, absent=0.3)


def build(dims=DIMS, **switches):
    torch.manual_seed(0)
    return CMATHFusion(dims, C, **{"dim": 8, "attention_heads": 2, **switches}).eval()


def linear(layer, x):
    return layer.weight @ x + layer.bias


def norm(layer, x):
    centred = x - x.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def attend(layer, query, sources):
    """Multi-head attention of one utterance to a list of others."""
    heads, dim = layer.num_heads, layer.embed_dim
    if not sources:
        return torch.zeros(dim)
    (wq, wk, wv), (bq, bk, bv) = layer.in_proj_weight.view(3, dim, dim), layer.in_proj_bias.view(3, dim)
    q = (wq @ query + bq).view(heads, -1)
    k = torch.stack([(wk @ s + bk).view(heads, -1) for s in sources])
    v = torch.stack([(wv @ s + bv).view(heads, -1) for s in sources])
    answers = [(k[:, h] @ q[h] / math.sqrt(dim // heads)).softmax(0) @ v[:, h] for h in range(heads)]
    return linear(layer.out_proj, torch.cat(answers))


def refine(layer, answer, centre):
    middle = norm(layer.first_norm, answer + centre)
    grown = linear(layer.feed_forward[0], middle).clamp(min=0)
    return norm(layer.last_norm, linear(layer.feed_forward[3], grown) + middle)


def convolve(layer, rows):
    """A convolution along a list of utterances, beyond whose ends there is nothing."""
    reach = layer.kernel_size[0] // 2
    return [
        layer.bias
        + sum(
            layer.weight[:, :, offset + reach] @ rows[i + offset]
            for offset in range(-reach, reach + 1)
            if 0 <= i + offset < len(rows)
        )
        for i in range(len(rows))
    ]


def conversations(batch):
    return [range(int(a), int(b)) for a, b in zip(batch.ptr[:-1], batch.ptr[1:], strict=True)]


@pytest.mark.parametrize("dim", [8, 7, 1])
def test_positions_are_sines_and_cosines(dim):
    """Equations 6 and 7."""
    found = sinusoidal_position(torch.tensor([0, 1, 7, 499]), dim)
    for row, i in enumerate([0, 1, 7, 499]):
        for column in range(dim):
            angle = i / 10000 ** (column // 2 * 2 / dim)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert found[row, column].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_reconstruction_ends_where_the_conversation_ends(batch, kernel_size):
    """Equations 1 and 2, each conversation on its own."""
    layer = ModalityReconstruction(10, 8, kernel_size)
    compressed, rebuilt = layer(batch.features["text"], batch)
    for rows in conversations(batch):
        small = convolve(layer.down, [batch.features["text"][i] for i in rows])
        torch.testing.assert_close(compressed[rows.start : rows.stop], torch.stack(small), **CLOSE)
        torch.testing.assert_close(rebuilt[rows.start : rows.stop], torch.stack(convolve(layer.up, small)), **CLOSE)


def test_reconstruction_error_counts_what_is_there(batch):
    """Equations 3 and 4, as means over the utterances that have the modality."""
    head = build()
    expected = 0.0
    for name in DIMS:
        _, rebuilt = head.compress[name](batch.features[name], batch)
        rows = [i for i in range(14) if batch.present[name][i]]
        gaps = [(rebuilt[i] - batch.features[name][i]).square().sum() for i in rows]
        expected += sum(gaps).item() / len(rows) / DIMS[name]
    assert head(batch).losses["reconstruction"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("speakers", [9, 2, 1])
def test_speaker_and_position_are_added(batch, speakers):
    """Equations 5 and 8; speakers beyond the rows share the last one."""
    head = build(speakers=speakers)
    assert batch.speaker.max() == 2
    hidden, _ = head._hidden(batch, batch.present)
    for name in DIMS:
        compressed, _ = head.compress[name](batch.features[name], batch)
        for row in range(14):
            who = min(int(batch.speaker[row]), speakers - 1)
            place = sinusoidal_position(batch.position[row : row + 1], 8)[0]
            torch.testing.assert_close(hidden[name][row], compressed[row] + head.speaker.weight[who] + place, **CLOSE)


def test_more_speakers_than_rows_predict():
    crowd = make_batch([40], DIMS, speakers=30)
    assert crowd.speaker.max() >= 9
    assert build()(crowd).logits.isfinite().all()


def test_attention_hears_what_is_known():
    torch.manual_seed(0)
    layer = MaskedAttention(8, 2, 0.0)
    nn.init.normal_(layer.attend.in_proj_bias)
    nn.init.normal_(layer.attend.out_proj.bias)
    batch = make_batch([6, 3, 8], {})
    query, source = torch.randn(17, 8), torch.randn(17, 8)
    known = torch.rand(17) < 0.5
    known[6:9] = False
    found = layer(query, source, known, batch)
    for rows in conversations(batch):
        heard = [source[j] for j in rows if known[j]]
        for i in rows:
            torch.testing.assert_close(found[i], attend(layer.attend, query[i], heard), **CLOSE)
    assert (found[6:9] == 0).all()


def test_refinement():
    torch.manual_seed(0)
    layer = Refinement(8, 0.3).eval()
    for one in (layer.first_norm, layer.last_norm):
        nn.init.normal_(one.weight)
        nn.init.normal_(one.bias)
    answer, centre = torch.randn(10, 8), torch.randn(10, 8)
    found = layer(answer, centre)
    for i in range(10):
        torch.testing.assert_close(found[i], refine(layer, answer[i], centre[i]), **CLOSE)


def test_transformer_of_each_centre(batch):
    """Equations 9 to 14, one utterance after the other; nothing is heard of other conversations."""
    head = build()
    hidden = {m: torch.randn(14, 8) for m in DIMS}
    found = head._augmented(batch, hidden, batch.present)
    for centre in DIMS:
        block = head.transform[centre]
        for rows in conversations(batch):
            known = {m: [hidden[m][j] for j in rows if batch.present[m][j]] for m in DIMS}
            for i in rows:
                asking = hidden[centre][i]
                heard = {m: attend(block.attend[m].attend, asking, known[m]) for m in DIMS}
                heard[centre] = sum(heard.values())
                sources = {m: refine(block.refine[m], heard[m], asking) for m in DIMS}
                gates = {m: (block.gate.weight @ sources[m]).exp() for m in DIMS if known[m]}
                total = sum(gates.values())
                if known[centre]:
                    expected = sum(gates[m] / total * sources[m] for m in gates)
                    torch.testing.assert_close(found[centre][i], expected, **CLOSE)


def test_a_modality_that_a_conversation_lacks_is_as_if_it_were_none():
    torch.manual_seed(0)
    three, two = CMATransformer("text", NAMES, 8, 2, 0.0), CMATransformer("text", NAMES[:2], 8, 2, 0.0)
    two.load_state_dict({name: three.state_dict()[name] for name in two.state_dict()})
    batch = make_batch([4, 4], {})
    hidden = {m: torch.randn(8, 8) for m in DIMS}
    known = {m: torch.full((8,), m != "visual") for m in DIMS}
    torch.testing.assert_close(three(hidden, known, batch), two(hidden, known, batch), **CLOSE)


def test_variational_fusion(batch, monkeypatch):
    """Equations 15 to 17: noise in training, the mean in evaluation, over the modalities that are there."""
    torch.manual_seed(0)
    fuse = VariationalFusion(NAMES, 8, dropout=0.0)
    augmented = {m: torch.randn(14, 8) for m in DIMS}
    noise = torch.randn(14, 8)
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    drawn, mean = fuse.train()(augmented, batch.present), fuse.eval()(augmented, batch.present)

    def perceptron(layers, x):
        return linear(layers[3], linear(layers[0], x).clamp(min=0))

    for row in range(14):
        here = [m for m in DIMS if batch.present[m][row]]
        mu, sigma = torch.zeros(8), torch.zeros(8)
        for m in here:
            mu = mu + perceptron(fuse.mean[m], augmented[m][row]) / len(here)
            sigma = sigma + (1 + perceptron(fuse.deviation[m], augmented[m][row]).exp()).log() / len(here)
        torch.testing.assert_close(mean[row], mu, **CLOSE)
        torch.testing.assert_close(drawn[row], mu + noise[row] * sigma, **CLOSE)
        assert (sigma > 0).all() == bool(here)


def test_the_draw_is_repeated_by_a_seed_and_evaluation_draws_nothing(batch):
    head = build(dropout=0.0).train()

    def logits(seed):
        torch.manual_seed(seed)
        return head(batch).logits

    assert torch.equal(logits(1), logits(1)) and not torch.equal(logits(1), logits(2))
    head.eval()
    assert torch.equal(logits(1), logits(2))


def distilled(head, batch):
    """Equations 18 and 23 from the outputs, in loops."""
    hidden, _ = head._hidden(batch, batch.present)
    augmented = head._augmented(batch, hidden, batch.present)
    out = head(batch)
    low = high = 0.0
    for m in DIMS:
        rows = [i for i in range(14) if batch.present[m][i]]
        for i in rows:
            low += (out.embeddings[i] - augmented[m][i]).square().sum().item() / len(rows) / 8
            p, q = out.logits[i].softmax(0), linear(head.auxiliary[m], augmented[m][i]).softmax(0)
            high += sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True)) / len(rows)
    return low, high


def test_hierarchical_distillation(batch):
    head = build()
    low, high = distilled(head, batch)
    out = head(batch)
    assert out.losses["low_level"].item() == pytest.approx(low, rel=1e-4)
    assert out.losses["high_level"].item() == pytest.approx(high, rel=1e-4)


def test_distillation_teaches_the_modalities_and_not_their_teacher(batch):
    for term in ("low_level", "high_level"):
        head = build().train()
        head(batch).losses[term].backward()
        assert all(p.grad is None for part in (head.fuse, head.classify) for p in part.parameters())
        assert all(p.grad.abs().max() > 0 for p in head.transform.parameters())


def test_the_task_adds_up_the_whole_loss(batch):
    """Equations 20 to 22 and 24."""
    head = build()
    task = FusionTask(lambda *_: head, head_weights={"low_level": 1.0, "high_level": 1.8}, aux_weight=3.0)
    task.build(facts_of(DIMS)).eval()
    out = head(batch)

    def cross_entropy(logits, present):
        rows = [i for i in range(14) if present[i] and batch.label[i] != IGNORE_INDEX]
        return sum(-math.log(logits[i].softmax(0)[batch.label[i]].item()) for i in rows) / len(rows)

    low, high = distilled(head, batch)
    expected = cross_entropy(out.logits, [True] * 14)
    expected += sum(cross_entropy(out.aux_logits[m], batch.present[m]) for m in DIMS)
    expected += out.losses["reconstruction"].item() + 1.0 * low + 1.8 * high
    assert task.step(batch).loss.item() == pytest.approx(expected, rel=1e-4)


def test_what_is_absent_is_not_read(batch):
    head = build()
    garbage = {m: batch.features[m].masked_fill(~batch.present[m][:, None], math.nan) for m in DIMS}
    out, other = head(batch), head(replace(batch, features=garbage))
    assert torch.equal(out.logits, other.logits)
    assert all(torch.equal(out.losses[term], other.losses[term]) for term in out.losses)


def test_losses_do_not_depend_on_padding(batch):
    """The losses of a batch are those of its conversations, each counted by what it has."""
    head = build()
    batch.present = {m: torch.ones_like(there) for m, there in batch.present.items()}
    together = head(batch).losses
    alone = [head(batch.select([c])).losses for c in range(3)]
    for term, value in together.items():
        share = sum(n * part[term] for n, part in zip([5, 1, 8], alone, strict=True)) / 14
        torch.testing.assert_close(value, share, **CLOSE)


def test_an_utterance_without_anything_gets_the_bias_of_the_classifier(batch):
    nothing = {m: torch.zeros(14, dtype=torch.bool) for m in DIMS}
    out = build()(replace(batch, present=nothing))
    assert (out.logits == build().classify.bias).all()
    assert all(term == 0 for term in out.losses.values())


SWITCHES = {
    "reconstruct": {"reconstruct": False},
    "transform": {"transform": False},
    "kernel_size": {"kernel_size": 5},
    "speakers": {"speakers": 2},
    "attention_heads": {"attention_heads": 4},
    "dim": {"dim": 16},
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_changes_parameters_or_outputs(batch, switch):
    plain, other = build(), build(**switch)
    if [p.shape for p in plain.parameters()] == [p.shape for p in other.parameters()]:
        other.load_state_dict(plain.state_dict())
        with torch.no_grad():
            assert (plain(batch).logits - other(batch).logits).abs().max() > 1e-5


def test_the_ablations_of_the_paper_change_the_loss(batch):
    """Table 4: without MR, CMA-T, LLD, HLD, HD."""

    def terms(weights=None, **switches):
        weights = {"low_level": 1.0, "high_level": 1.2, **(weights or {})}
        task = FusionTask(lambda *_: build(**switches), head_weights=weights, aux_weight=3.0)
        return task.build(facts_of(DIMS)).eval().step(batch).terms

    full = terms()
    named = {f"head/{term}" for term in ("reconstruction", "low_level", "high_level")}
    assert full.keys() == {"ce", "aux", *named}
    assert full.keys() - terms(reconstruct=False).keys() == {"head/reconstruction"}
    assert abs(terms(transform=False)["ce"] - full["ce"]) > 1e-4
    assert full.keys() - terms({"low_level": 0.0}).keys() == {"head/low_level"}
    assert full.keys() - terms({"high_level": 0.0}).keys() == {"head/high_level"}
    assert terms({"low_level": 0.0, "high_level": 0.0}).keys() == {"ce", "aux", "head/reconstruction"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_heads": 3}, "divisible by attention_heads and speakers positive, got dim=8, attention_heads=3"),
        ({"speakers": 0}, "speakers=0"),
        ({"kernel_size": 2}, "odd number of utterances, got 2"),
        ({"kernel_size": 0}, "odd number of utterances, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
