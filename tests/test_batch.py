from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.batch import ConversationBatch, Edges
from merc.conversation import Conversation, Utterance, UtteranceKey
from merc.labels import MELD


@st.composite
def batches(draw, min_conversations=0):
    lengths = draw(st.lists(st.integers(1, 6), min_size=min_conversations, max_size=6))
    conversations = [
        Conversation(
            str(number),
            tuple(
                Utterance(str(i), draw(st.sampled_from("abc")), label=draw(st.none() | st.sampled_from(MELD.names)))
                for i in range(length)
            ),
        )
        for number, length in enumerate(lengths)
    ]
    batch = ConversationBatch.from_conversations(conversations, MELD)
    total = sum(lengths)
    for name, width in (("text", 3), ("audio", 2)):
        batch.features[name] = torch.randn(total, width)
        batch.present[name] = torch.rand(total) < 0.7
    sources, targets, counts = [], [], []
    for start, length in zip(batch.ptr.tolist(), lengths, strict=False):
        pairs = st.tuples(st.integers(0, length - 1), st.integers(0, length - 1))
        inside = draw(st.lists(pairs, max_size=5))
        sources += [start + a for a, _ in inside]
        targets += [start + b for _, b in inside]
        counts.append(len(inside))
    batch.edges["text"] = Edges(
        torch.tensor([sources, targets], dtype=torch.long).view(2, -1),
        torch.randn(len(sources), 4),
        torch.rand(len(sources)),
        torch.tensor([0, *counts]).cumsum(0),
    )
    return batch


def tensors(batch):
    """Every tensor of a batch by name, edges included."""
    found = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        for name, part in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(part, Edges):
                found |= {f"{item.name}.{name}.{f.name}": getattr(part, f.name) for f in fields(part)}
            elif isinstance(part, torch.Tensor):
                found[f"{item.name}.{name}"] = part
    return found


def slow_select(batch, chosen):
    """Conversation by conversation, utterance by utterance, edge by edge."""
    rows, ptr, edges, edge_ptr = [], [0], [], [0]
    graph = batch.edges["text"]
    for index in chosen:
        first, last = batch.ptr[index].item(), batch.ptr[index + 1].item()
        for edge in range(graph.ptr[index].item(), graph.ptr[index + 1].item()):
            source, target = graph.index[:, edge].tolist()
            edges.append((edge, source - first + len(rows), target - first + len(rows)))
        rows += range(first, last)
        ptr.append(len(rows))
        edge_ptr.append(len(edges))
    columns = torch.tensor(rows, dtype=torch.long)
    kept = torch.tensor([edge for edge, _, _ in edges], dtype=torch.long)
    return ConversationBatch(
        features={name: value[columns] for name, value in batch.features.items()},
        present={name: value[columns] for name, value in batch.present.items()},
        label=batch.label[columns],
        speaker=batch.speaker[columns],
        position=batch.position[columns],
        ptr=torch.tensor(ptr),
        edges={
            "text": Edges(
                torch.tensor([pair for _, *pair in edges], dtype=torch.long).view(-1, 2).T,
                *(getattr(graph, field.name)[kept] for field in fields(graph)[1:3]),
                torch.tensor(edge_ptr),
            )
        },
        keys=[batch.keys[row] for row in rows],
    )


def assert_same(found, expected):
    found_tensors, expected_tensors = tensors(found), tensors(expected)
    assert found_tensors.keys() == expected_tensors.keys()
    for name, tensor in expected_tensors.items():
        assert found_tensors[name].dtype == tensor.dtype, name
        assert torch.equal(found_tensors[name], tensor), name
    assert list(found.keys) == list(expected.keys)


@given(batches(min_conversations=1), st.data())
def test_select_equals_the_slow_version(batch, data):
    chosen = data.draw(st.lists(st.integers(0, batch.num_conversations - 1), max_size=8))
    picked = batch.select(chosen)
    assert_same(picked, slow_select(batch, chosen))
    assert_same(batch.select(torch.tensor(chosen, dtype=torch.long)), picked)


@given(batches())
def test_selecting_everything_changes_nothing(batch):
    assert_same(batch.select(range(batch.num_conversations)), batch)


@given(batches(min_conversations=1), st.data())
def test_selections_chain(batch, data):
    index = st.integers(0, batch.num_conversations - 1)
    first = data.draw(st.lists(index, min_size=1, max_size=5))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), max_size=5))
    assert_same(batch.select(first).select(second), batch.select([first[i] for i in second]))


@given(batches())
def test_the_empty_selection_is_a_batch(batch):
    empty = batch.select([])
    assert (empty.num_conversations, empty.num_utterances) == (0, 0)
    assert empty.ptr.tolist() == [0]
    assert empty.features["text"].shape == (0, 3)
    assert empty.edges["text"].index.shape == (2, 0)
    dense, mask = empty.to_dense(empty.features["text"])
    assert dense.shape == (0, 0, 3)
    assert mask.shape == (0, 0)
    assert empty.to_flat(dense).shape == (0, 3)


@given(batches(), st.sampled_from([(), (3,), (2, 2)]))
def test_dense_and_back(batch, trailing):
    values = torch.randn(batch.num_utterances, *trailing)
    dense, mask = batch.to_dense(values)
    assert torch.equal(batch.to_flat(dense), values)
    assert mask.sum(1).tolist() == batch.lengths.tolist()
    assert not dense[~mask].any(), "padding is zero"
    for row, (start, end) in enumerate(zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True)):
        assert torch.equal(dense[row, : end - start], values[start:end])
        assert mask[row, : end - start].all()


@given(batches())
def test_structure(batch):
    spans = list(zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True))
    assert batch.conversation.tolist() == [row for row, (start, end) in enumerate(spans) for _ in range(start, end)]
    assert batch.position.tolist() == [i for start, end in spans for i in range(end - start)]
    for start, end in spans:
        heard = batch.speaker[start:end].tolist()
        assert sorted(set(heard), key=heard.index) == list(range(len(set(heard)))), "local, by first appearance"


def test_from_conversations():
    said = (Utterance("4", "Joey", label="joy"), Utterance("9", "Ross"), Utterance("10", "Joey", label="anger"))
    batch = ConversationBatch.from_conversations(
        [Conversation("7", said, "val"), Conversation("8", (Utterance("0", "Ross", label="fear"),), "val")], MELD
    )
    assert batch.label.tolist() == [4, -100, 6, 2]
    assert batch.speaker.tolist() == [0, 1, 0, 0]
    assert batch.position.tolist() == [0, 1, 2, 0]
    assert batch.ptr.tolist() == [0, 3, 4]
    assert list(batch.keys) == [UtteranceKey("val", "7", i) for i in ("4", "9", "10")] + [UtteranceKey("val", "8", "0")]
    assert all(tensor.dtype == torch.long for tensor in (batch.label, batch.speaker, batch.position, batch.ptr))


def test_no_conversations_make_an_empty_batch_of_the_same_types():
    batch = ConversationBatch.from_conversations([], MELD)
    assert batch.ptr.tolist() == [0]
    assert all(tensor.dtype == torch.long for tensor in (batch.label, batch.speaker, batch.position, batch.ptr))


@given(batches())
def test_to_moves_every_tensor_and_keeps_the_keys(batch):
    moved = batch.to("meta")
    assert all(tensor.device.type == "meta" for tensor in tensors(moved).values())
    assert tensors(moved).keys() == tensors(batch).keys()
    assert moved.keys == batch.keys
    assert_same(batch.to("cpu"), batch)


@pytest.mark.gpu
def test_a_batch_on_a_gpu_is_selected_there():
    said = tuple(Utterance(str(i), "a") for i in range(3))
    batch = ConversationBatch.from_conversations([Conversation(str(i), said) for i in range(4)], MELD)
    batch.features["text"], batch.present["text"] = torch.randn(12, 2), torch.ones(12, dtype=torch.bool)
    graph = torch.arange(12)
    batch.edges["text"] = Edges(torch.stack([graph, graph]), torch.ones(12, 1), torch.ones(12), batch.ptr)
    assert_same(batch.pin_memory().to("cuda", non_blocking=True).select([2, 0]).to("cpu"), batch.select([2, 0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"text": torch.zeros(2, 5)}, "present": {"text": torch.ones(3)}}, "2 rows of 'text'"),
        ({"features": {"text": torch.zeros(3, 5)}, "present": {"text": torch.ones(4)}}, "4 rows of 'text'"),
        ({"features": {"text": torch.zeros(3, 5)}}, r"Features \['text'\] and presence \[\] differ"),
        ({"speaker": torch.zeros(2)}, "2 rows of 'speaker'"),
        ({"position": torch.zeros(4)}, "4 rows of 'position'"),
        ({"keys": [UtteranceKey("train", "0", "0")]}, "1 rows of 'keys'"),
    ],
)
def test_tensors_that_cover_other_utterances_are_refused(changes, message):
    whole = {
        "features": {},
        "present": {},
        "label": torch.zeros(3, dtype=torch.long),
        "speaker": torch.zeros(3, dtype=torch.long),
        "position": torch.arange(3),
        "ptr": torch.tensor([0, 3]),
    }
    with pytest.raises(ValueError, match=message):
        ConversationBatch(**(whole | changes))


@given(batches(), st.integers(0, 5))
def test_in_any_against_a_loop(batch, seed):
    chosen = torch.rand(batch.num_utterances, generator=torch.Generator().manual_seed(seed)) < 0.3
    starts = batch.ptr.tolist()
    expected = [chosen[a:b].any().item() for a, b in pairwise(starts) for _ in range(a, b)]
    assert batch.in_any(chosen).tolist() == expected
