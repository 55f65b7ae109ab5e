"""The edges of conversation graphs against the rules, utterance by utterance."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.graphs import EDGE_ATTRIBUTES, GATEncoder, GCNEncoder, GraphBuilder
from merc.graphs.build import _angular
from merc.labels import MELD
from support.made_batches import make_batch

COLUMN = {name: column for column, name in enumerate(EDGE_ATTRIBUTES)}


def conversations(speakers):
    """One conversation for every word, one utterance for every letter, which is its speaker."""
    return ConversationBatch.from_conversations(
        [
            Conversation(str(n), tuple(Utterance(str(i), s) for i, s in enumerate(word)))
            for n, word in enumerate(speakers)
        ],
        MELD,
    )


@st.composite
def batches(draw):
    batch = conversations(draw(st.lists(st.text("abc", min_size=1, max_size=9), max_size=4)))
    total = batch.num_utterances
    # Few values, so that equal and opposite vectors, ties, and vectors of nothing but zeros occur.
    vector = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=2, max_size=2)
    features = torch.tensor(draw(st.lists(vector, min_size=total, max_size=total))).reshape(total, 2)
    present = torch.tensor(draw(st.lists(st.booleans(), min_size=total, max_size=total)), dtype=torch.bool)
    batch.features["text"], batch.present["text"] = features * present[:, None], present
    return batch


@st.composite
def builders(draw):
    few = st.integers(0, 3)
    context = draw(st.sampled_from(["full", "causal"]))
    return GraphBuilder(past=draw(few), future=draw(few), speaker=draw(few), similar=draw(few), context=context)


def cosine(x, i, j):
    a, b = x[i].double(), x[j].double()
    norms = a.norm() * b.norm()
    return (a @ b / norms).item() if norms > 0 else 0.0


def slow_rules(batch, builder):
    """For every target its conversation, and the sources that each rule but similarity names."""
    for start, stop in zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True):
        for i in range(start, stop):
            mates = [j for j in range(start, stop) if batch.speaker[j] == batch.speaker[i]]
            later = [] if builder.causal else [j for j in mates if j > i][: builder.speaker]
            earlier = [j for j in mates if j < i][::-1][: builder.speaker]
            yield (
                i,
                range(start, stop),
                {
                    "self": {i},
                    "past": {j for j in range(start, stop) if i - builder.past <= j < i},
                    "future": {j for j in range(start, stop) if i < j <= i + builder.future and not builder.causal},
                    "speaker": {*earlier, *later},
                },
            )


@given(batches(), builders())
def test_edges_follow_the_rules(batch, builder):
    edges = builder(batch, "text")
    x, present = batch.features["text"], batch.present["text"]
    found = {}
    for number, (source, target) in enumerate(edges.index.T.tolist()):
        assert (source, target) not in found
        found[source, target] = edges.attributes[number]

    expected = {}
    for i, conversation, rules in slow_rules(batch, builder):
        for kind, sources in rules.items():
            for j in sources:
                expected.setdefault((j, i), set()).add(kind)
        similar = [j for j, t in found if t == i and found[j, t][COLUMN["similar"]] == 1]
        candidates = [j for j in conversation if present[i] and present[j] and j != i and (j < i or not builder.causal)]
        assert set(similar) <= set(candidates)
        best = sorted((cosine(x, i, j) for j in candidates), reverse=True)[: builder.similar]
        # Among equally similar ones any will do, so scores are compared, not sources.
        assert sorted((cosine(x, i, j) for j in similar), reverse=True) == pytest.approx(best, abs=1e-6)
        for j in similar:
            expected.setdefault((j, i), set()).add("similar")
    assert found.keys() == expected.keys()

    for (j, i), attributes in found.items():
        kinds = {kind for kind in EDGE_ATTRIBUTES[:5] if attributes[COLUMN[kind]] == 1}
        assert kinds == expected[j, i]
        distance = j - i
        offset = math.copysign(math.log2(1 + abs(distance)), distance) if distance else 0.0
        weight = 1.0 if i == j else max(1 - math.acos(max(-1.0, min(1.0, cosine(x, i, j)))) / math.pi, 0.01)
        assert attributes[COLUMN["same_speaker"]] == float(batch.speaker[i] == batch.speaker[j])
        assert attributes[COLUMN["offset"]].item() == pytest.approx(offset, abs=1e-6)
        # The arc cosine of a rounded 1 is off by the square root of the rounding.
        assert attributes[COLUMN["weight"]].item() == pytest.approx(weight, abs=3e-4)
    assert torch.equal(edges.weight, edges.attributes[:, COLUMN["weight"]])


@pytest.mark.parametrize("block", [1, 3, 20])
def test_edges_are_weighed_in_blocks(block):
    unit = torch.nn.functional.normalize(torch.randn(6, 5), dim=1)
    source, target = torch.randint(6, (2, 20))
    cosine = (unit[source] * unit[target]).sum(1).masked_fill(source == target, 1.0)
    expected = (1 - cosine.clamp(-1, 1).arccos() / math.pi).clamp(min=0.01)
    torch.testing.assert_close(_angular(unit, source, target, block), expected)


@given(batches(), builders())
def test_edges_are_sorted_and_cut_by_conversation(batch, builder):
    edges = builder(batch, "text")
    source, target = edges.index
    assert torch.equal(target, target.sort().values)
    assert edges.index.dtype == torch.long and len(edges.ptr) == batch.num_conversations + 1
    assert edges.ptr[0] == 0 and edges.ptr[-1] == len(target)
    for number, (start, stop) in enumerate(zip(edges.ptr[:-1].tolist(), edges.ptr[1:].tolist(), strict=True)):
        assert (batch.conversation[source[start:stop]] == number).all()
        assert (batch.conversation[target[start:stop]] == number).all()
    if builder.causal:
        assert (source <= target).all()


def test_a_graph_by_hand():
    batch = conversations(["abab"])
    batch.features["text"] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 2.0]])
    batch.present["text"] = torch.tensor([True, True, False, True])
    edges = GraphBuilder(past=1, future=0, speaker=1, similar=1)(batch, "text")
    named = [
        (source, target, "+".join(name for name in EDGE_ATTRIBUTES[:5] if row[COLUMN[name]]))
        for (source, target), row in zip(edges.index.T.tolist(), edges.attributes, strict=True)
    ]
    assert named == [
        (0, 0, "self"),
        (2, 0, "speaker"),
        (3, 0, "similar"),
        (0, 1, "past"),
        (1, 1, "self"),
        (3, 1, "speaker+similar"),
        (0, 2, "speaker"),
        (1, 2, "past"),
        (2, 2, "self"),
        (1, 3, "speaker+similar"),
        (2, 3, "past"),
        (3, 3, "self"),
    ]
    weight = {(s, t): w for (s, t), w in zip(edges.index.T.tolist(), edges.weight.tolist(), strict=True)}
    assert weight[3, 0] == pytest.approx(1 - math.atan(2) / math.pi, abs=1e-4)
    assert weight[0, 1] == pytest.approx(0.5, abs=1e-4)  # 90 degrees
    assert weight[2, 0] == pytest.approx(0.5, abs=1e-4)  # nothing to compare


def test_a_conversation_has_the_same_graph_in_any_batch():
    batch = make_batch([4, 1, 7, 12, 3], {"text": 6})
    build = GraphBuilder()
    batch.edges["text"] = build(batch, "text")
    for chosen in ([2], [4, 0, 3], [1, 2, 2]):
        picked = batch.select(chosen)
        again = build(replace(picked, edges={}), "text")
        assert torch.equal(again.index, picked.edges["text"].index)
        assert torch.equal(again.ptr, picked.edges["text"].ptr)
        torch.testing.assert_close(again.attributes, picked.edges["text"].attributes, atol=2e-4, rtol=0)


def test_edges_grow_with_the_utterances_and_not_with_their_square():
    batch = make_batch([3000], {"text": 4})
    for context, most in (("full", 1 + 4 + 3 + 2 * 2 + 5), ("causal", 1 + 4 + 2 + 5)):
        edges = GraphBuilder(past=4, future=3, speaker=2, similar=5, context=context)(batch, "text")
        assert edges.index.shape[1] <= 3000 * most
        assert edges.index.shape[1] > 3000 * 4


def test_similarity_is_found_across_blocks():
    batch = make_batch([50], {"text": 8}, absent=0.3)
    build = GraphBuilder(past=0, future=0, speaker=0, similar=4)
    unit = torch.nn.functional.normalize(batch.features["text"], dim=-1)
    whole = torch.cat(list(build._similar(batch, unit, batch.present["text"])))
    blocks = torch.cat(list(build._similar(batch, unit, batch.present["text"], block=7)))
    assert torch.equal(whole.sort().values, blocks.sort().values)


@pytest.mark.parametrize("network", [GATEncoder, GCNEncoder])
@pytest.mark.parametrize("context", ["full", "causal"])
def test_a_causal_prediction_ignores_what_comes_later(network, context):
    now = make_batch([14], {"text": 6}, speakers=3, seed=1)
    other = make_batch([14], {"text": 6}, speakers=3, seed=2)
    cut = 8
    later = now.position >= cut
    changed = replace(
        now,
        features={"text": now.features["text"].where(~later[:, None], other.features["text"])},
        present={"text": now.present["text"].where(~later, other.present["text"])},
        speaker=now.speaker.where(~later, other.speaker),
    )
    model = network(6, 4, hidden_dim=16, num_layers=3).eval()
    build = GraphBuilder(past=3, future=3, speaker=2, similar=2, context=context)
    with torch.no_grad():
        logits = [model(b.features["text"], b.present["text"], build(b, "text")).logits for b in (now, changed)]
    gap = (logits[0] - logits[1])[:cut].abs().max()
    assert gap < 1e-6 if context == "causal" else gap > 1e-4
    assert (logits[0] - logits[1])[cut:].abs().max() > 1e-4


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="Graph option similar must be at least 0, got -1"):
        GraphBuilder(similar=-1)
    with pytest.raises(ValueError, match="'full' or 'causal', got 'past'"):
        GraphBuilder(context="past")
