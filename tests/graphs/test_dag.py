"""DAG-ERC against a loop over conversations, utterances and edges."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.graphs import DAGEncoder
from merc.labels import MELD
from support.made_batches import make_batch

D = 6
words = st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=4)


def conversations(speakers):
    """One conversation for every word, one utterance for every letter, which is its speaker."""
    return ConversationBatch.from_conversations(
        [
            Conversation(str(n), tuple(Utterance(str(i), s) for i, s in enumerate(word)))
            for n, word in enumerate(speakers)
        ],
        MELD,
    )


def slow_sources(word, i, omega):
    """Back from the utterance before i, until the speaker of i was met omega times."""
    sources, met = [], 0
    for j in range(i - 1, -1, -1):
        sources.append(j)
        met += word[j] == word[i]
        if met == omega:
            break
    return sorted(sources)


def slow_dag(encoder, word, x, own):
    """Equations 3 to 7 of arXiv 2105.12907 for one conversation; ``own`` is the part of w that meets h_i."""
    below = list(x)
    every = [below]
    for layer in encoder.layers:
        w = torch.cat([own, layer.score.weight[0]])
        other, same = layer.relate.weight.view(2, D, D)
        above = []
        for i in range(len(word)):
            gathered = torch.zeros(D)
            sources = slow_sources(word, i, encoder.omega)
            if sources:
                alpha = torch.stack([w @ torch.cat([below[i], above[j]]) for j in sources]).softmax(0)
                for a, j in zip(alpha, sources, strict=True):
                    gathered = gathered + a * ((same if word[i] == word[j] else other) @ above[j])
            above.append(slow_gru(layer.content, below[i], gathered) + slow_gru(layer.context, gathered, below[i]))
        below = above
        every.append(above)
    return torch.stack([encoder.join(torch.cat([states[i] for states in every])) for i in range(len(word))])


def slow_gru(cell, x, h):
    """Cho et al. 2014, gate by gate."""
    reset_x, update_x, new_x = (cell.weight_ih @ x + cell.bias_ih).view(3, D)
    reset_h, update_h, new_h = (cell.weight_hh @ h + cell.bias_hh).view(3, D)
    reset, update = (reset_x + reset_h).sigmoid(), (update_x + update_h).sigmoid()
    return (1 - update) * (new_x + reset * new_h).tanh() + update * h


@settings(deadline=None, max_examples=40)
@given(words, st.integers(1, 3), st.integers(1, 3), st.integers(0, 5))
def test_batched_equals_utterance_by_utterance(speakers, omega, layers, seed):
    torch.manual_seed(seed)
    encoder = DAGEncoder(D, layers, omega)
    for layer in encoder.layers:
        nn.init.normal_(layer.score.weight)
    batch = conversations(speakers)
    x = torch.randn(batch.num_utterances, D)
    with torch.no_grad():
        found = encoder(x, batch)
        for n, word in enumerate(speakers):
            rows = slice(int(batch.ptr[n]), int(batch.ptr[n + 1]))
            torch.testing.assert_close(found[rows], slow_dag(encoder, word, x[rows], torch.randn(D)))


@given(words, st.integers(1, 3))
def test_edges_reach_back_to_the_own_speaker(speakers, omega):
    batch = conversations(speakers)
    incoming, same = DAGEncoder(D, omega=omega).edges(batch)
    for n, word in enumerate(speakers):
        for i in range(len(word)):
            assert incoming[n, i].nonzero()[:, 0].tolist() == slow_sources(word, i, omega)
            assert same[n, i, : len(word)].tolist() == [other == word[i] for other in word]


def test_edges_by_hand():
    incoming, _ = DAGEncoder(D).edges(conversations(["abbaca"]))
    assert [row.nonzero()[:, 0].tolist() for row in incoming[0]] == [[], [0], [1], [0, 1, 2], [0, 1, 2, 3], [3, 4]]


def test_nothing_is_heard_from_later_or_from_another_conversation():
    batch = make_batch([7, 4], {"text": D})
    encoder = DAGEncoder(D, layers=2)
    x = torch.randn(11, D, requires_grad=True)
    encoder(x, batch)[4].sum().backward()
    heard = x.grad.abs().sum(1) > 0
    assert heard[4] and heard[3] and not heard[5:].any()


def test_speakers_matter_and_their_names_do_not():
    batch = make_batch([8], {"text": D}, speakers=2)
    encoder = DAGEncoder(D)
    x = torch.randn(8, D)
    with torch.no_grad():
        said = encoder(x, batch)
        torch.testing.assert_close(encoder(x, replace(batch, speaker=1 - batch.speaker)), said)
        assert (encoder(x, replace(batch, speaker=torch.zeros(8, dtype=torch.long))) - said).abs().max() > 1e-3


@pytest.mark.parametrize("omega", [1, 2])
def test_gradients_are_the_derivatives(omega):
    torch.manual_seed(omega)
    batch = conversations(["abba", "a", "abcab", "bb"])
    encoder = DAGEncoder(3, layers=2, omega=omega).double()
    values = torch.randn(batch.num_utterances, 3, dtype=torch.double, requires_grad=True)

    def encode(values, *weights):
        return torch.func.functional_call(encoder, dict(zip(names, weights, strict=True)), (values, batch))

    names = [name for name, _ in encoder.named_parameters()]
    assert torch.autograd.gradcheck(encode, (values, *encoder.parameters()))


def test_the_recurrence_is_in_full_precision_under_autocast():
    torch.manual_seed(0)
    batch = conversations(["abbabbaabb", "aba"])
    encoder = DAGEncoder(D, layers=2)
    values = torch.randn(batch.num_utterances, D)
    exact = encoder(values, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder(values, batch)
    torch.testing.assert_close(rough.float(), exact, atol=0.02, rtol=0.02)
    rough.float().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_every_parameter_learns():
    batch = make_batch([6, 1, 9], {"text": D})
    encoder = DAGEncoder(D, layers=3, omega=2)
    encoder(torch.randn(16, D), batch).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9] == []


@pytest.mark.parametrize("options", [{"layers": 0}, {"omega": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="dim, layers and omega must be at least 1"):
        DAGEncoder(D, **options)
