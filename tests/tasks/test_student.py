"""A student that also reads the hidden states of its teacher."""

from functools import partial

import pytest
import torch

from merc.graphs import GCNEncoder, GraphBuilder
from merc.losses import DISTLoss, FeatureSimilarityLoss
from merc.tasks import StudentTask
from support.made_batches import FOUR, facts_of, make_batch


@pytest.fixture
def batch():
    made = make_batch([4, 5], {"audio": 6, "teacher": 4, "teacher_hidden": 8}, absent=0.4)
    made.edges["audio"] = GraphBuilder(past=0, future=0, speaker=0, similar=0)(made, "audio")
    return made


def task(**options):
    torch.manual_seed(0)
    network = partial(GCNEncoder, hidden_dim=8)
    made = StudentTask(network, "audio", DISTLoss(), feature_loss=FeatureSimilarityLoss(), **options)
    return made.build(facts_of({"audio": 6})).eval()


def test_the_terms_are_those_of_both_losses(batch):
    student = task()
    found = student.step(batch)
    both = batch.present["teacher_hidden"] & batch.present["audio"]
    assert found.terms.keys() == {"ce", "inter", "intra", "feature"}
    expected = FeatureSimilarityLoss()(found.hidden[both], batch.features["teacher_hidden"][both])
    torch.testing.assert_close(found.terms["feature"], expected["feature"])


def test_it_predicts_without_its_teacher(batch):
    for name in ("teacher", "teacher_hidden"):
        del batch.features[name], batch.present[name]
    assert task().step(batch).terms == {}


def test_the_teachers_store_of_hidden_states_is_checked(monkeypatch):
    asked = {}

    class Data:
        labels = FOUR

        def require(self, name, **demands):
            asked[name] = demands

    monkeypatch.setattr("merc.tasks.base.EmotionTask.setup", lambda self, stage: None)
    monkeypatch.setattr(StudentTask, "data", Data())
    task(teacher_hidden="roberta").setup("fit")
    assert asked["roberta"] == {"dim": 8} and asked["teacher"]["kind"] == "logits"
    asked.clear()
    task().setup("predict")
    assert not asked


def test_graph_of_self_edges_makes_a_network_of_the_single_utterance(batch):
    student = task()
    before = student.step(batch).logits
    batch.features["audio"][0] += 1
    changed = (student.step(batch).logits - before).abs().amax(1) > 1e-6
    assert not changed[1:].any()
