import csv

import pytest
import torch
from my_parts import BalancedCrossEntropy, CascadeDetector, HashedEncoder
from my_parts.doubtful import list_doubtful
from torch.testing import assert_close

from merc.conversation import Conversation, Utterance
from merc.corpora.simulated import simulate


def test_texts_with_the_same_beginnings_are_close():
    angry, angrier, glad = HashedEncoder().encode(["I am angry", "I am angrier", "so happy for you"])
    assert angry @ angrier > 0.5 > 0.1 > angry @ glad
    assert_close(angry.norm(), torch.tensor(1.0))


def test_a_vector_depends_on_its_own_text_only():
    encoder = HashedEncoder(64)
    alone = encoder.encode(["No!"])
    assert torch.equal(encoder.encode(["Yes?", "", "No!"])[2:], alone)
    assert not encoder.encode([""]).any()


def test_utterances_are_encoded_in_order():
    talk = Conversation("d", (Utterance("0", "Ann", "No!"), Utterance("1", "Bob", "Yes!")))
    encoder = HashedEncoder(64)
    batch = encoder.collate(encoder.tokenize([talk]))
    assert list(batch.keys) == list(talk.keys)
    assert torch.equal(encoder(batch), encoder.encode(["No!", "Yes!"]))


def test_rare_emotions_weigh_more_and_the_weights_mean_one():
    loss = BalancedCrossEntropy(beta=0.99)
    loss.set_class_counts([1000, 10, 0])
    assert loss.weight[0] < loss.weight[1] < loss.weight[2]
    assert_close(loss.weight.mean(), torch.tensor(1.0))
    loss = BalancedCrossEntropy(beta=0.0)
    loss.set_class_counts([1000, 10])
    logits, label = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, -100])
    assert_close(loss(logits, label), torch.nn.functional.cross_entropy(logits, label))


def test_a_loss_without_counts_is_cross_entropy():
    logits, label = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])
    assert_close(BalancedCrossEntropy()(logits, label), torch.nn.functional.cross_entropy(logits, label))


def test_the_least_certain_come_first(tmp_path):
    made = simulate(dialogues={"train": 2, "val": 1, "test": 4}, widths={"text": 8})
    made.save(tmp_path)
    from merc.store import FeatureStore

    keys = [key for talk in made.corpus["test"] for key in talk.keys]
    scale = torch.linspace(0, 5, len(keys))[torch.randperm(len(keys))]
    logits = scale[:, None] * torch.eye(7)[torch.randint(7, (len(keys),))]
    FeatureStore.write(
        tmp_path / "logits", keys, logits, kind="logits", provenance={"classes": list(made.corpus.labels.names)}
    )
    list_doubtful(tmp_path / "corpus.json", tmp_path / "logits", tmp_path / "out", most=5)
    with (tmp_path / "out/doubtful.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    entropies = [float(row["entropy"]) for row in rows]
    assert len(rows) == 5 and entropies == sorted(entropies, reverse=True)
    least = min(range(len(keys)), key=lambda index: float(scale[index]))
    assert (rows[0]["dialogue"], rows[0]["utterance"]) == (keys[least].dialogue, keys[least].utterance)


def test_a_face_is_found_where_it_is():
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    alone = CascadeDetector()(image[None])[0]
    assert len(alone) == 1
    left, top, right, bottom = alone.boxes[0].tolist()
    assert left < 225 < right and top < 120 < bottom  # the middle of the face
    together = CascadeDetector()(torch.stack([torch.zeros_like(image), image]))
    assert len(together[0]) == 0 and torch.equal(together[1].boxes, alone.boxes)
    assert len(CascadeDetector()(torch.zeros(1, 3, 20, 20, dtype=torch.uint8))[0]) == 0
