"""The audit finds every way in which a prediction can depend on its batch, and clears a model without one."""

import pytest
import torch

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.evaluation import BatchDependenceError, audit_batch_independence
from merc.labels import MELD


@pytest.fixture
def batch():
    torch.manual_seed(0)
    lengths = [5, 1, 3, 8, 2, 4, 4]
    conversations = [
        Conversation(str(d), tuple(Utterance(str(u), "AB"[u % 2], label="joy") for u in range(length)))
        for d, length in enumerate(lengths)
    ]
    made = ConversationBatch.from_conversations(conversations, MELD)
    total = made.num_utterances
    made.features["text"], made.present["text"] = torch.randn(total, 6), torch.ones(total, dtype=torch.bool)
    return made


def context_mean(batch):
    dense, mask = batch.to_dense(batch.features["text"])
    mean = dense.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    return batch.to_flat(dense + mean)


def test_a_model_of_its_own_conversation_passes(batch):
    result = audit_batch_independence(context_mean, batch)
    assert result.passed
    result.require()


def batch_statistics(batch):
    return batch.features["text"] - batch.features["text"].mean(0)


def forgotten_mask(batch):
    dense, _ = batch.to_dense(batch.features["text"])
    return batch.to_flat(dense + dense.mean(1, keepdim=True))


def forgotten_eval(batch):
    return torch.nn.functional.dropout(batch.features["text"], 0.5)


def leak_from_the_conversation_before(batch):
    text = batch.features["text"]
    return text + torch.cat([torch.zeros(1, 6), text[:-1]])


def index_in_the_batch(batch):
    return batch.conversation.float()


def not_a_number_in_company(batch):
    return batch.features["text"] * (1 if batch.num_conversations < 3 else float("nan"))


@pytest.mark.parametrize(
    "predict",
    [
        batch_statistics,
        forgotten_mask,
        forgotten_eval,
        leak_from_the_conversation_before,
        index_in_the_batch,
        not_a_number_in_company,
    ],
)
def test_dependence_is_found(batch, predict):
    result = audit_batch_independence(predict, batch)
    assert not result.passed
    with pytest.raises(BatchDependenceError, match=f"conversation {result.conversation} differ"):
        result.require()


def test_the_culprit_is_named(batch):
    def predict(part):
        shift = 0.5 * ((part.lengths[part.conversation] == 8) & (part.position == 6)) * (part.num_conversations > 6)
        return part.features["text"][:, 0] + shift

    result = audit_batch_independence(predict, batch)
    assert (result.conversation, result.utterance) == (3, 6)
    assert result.largest == pytest.approx(0.5, abs=1e-6)
    assert "whole batch" in result.setting


def test_what_cannot_be_audited_is_refused(batch):
    with pytest.raises(ValueError, match="at least two"):
        audit_batch_independence(context_mean, batch.select([0]))
    with pytest.raises(ValueError, match="returned 1 rows for 5"):
        audit_batch_independence(lambda part: part.features["text"][:1], batch)
