import pytest
import torch
from my_fusion import TextFirst

from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.evaluation import audit_batch_independence

MODALITIES = ("text", "audio", "visual")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Twelve simulated conversations with their features."""
    folder = tmp_path_factory.mktemp("corpus")
    simulate(dialogues={"train": 12}, widths=dict.fromkeys(MODALITIES, 32)).save(folder)
    stores = {name: folder / "features" / name for name in MODALITIES}
    return ConversationDataModule(folder / "corpus.json", stores).split("train")


def head(*names):
    torch.manual_seed(0)
    return TextFirst(dict.fromkeys(names, 32), num_classes=7, dim=16)


@pytest.mark.parametrize("names", [MODALITIES, ("text",), ("audio", "text")])
def test_every_utterance_gets_logits_and_every_parameter_a_gradient(batch, names):
    model = head(*names)
    output = model(batch)
    assert output.logits.shape == (batch.num_utterances, 7)
    assert output.embeddings.shape == (batch.num_utterances, 16)
    loss = torch.nn.functional.cross_entropy(output.logits, batch.label)
    (loss + sum(output.losses.values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_absent_modality_changes_nothing(batch):
    model = head(*MODALITIES).eval()
    lacking = ~batch.present["visual"]
    assert lacking.any()
    before = model(batch).logits
    batch.features["visual"][lacking] = 1e3
    assert torch.equal(model(batch).logits, before)
    batch.features["visual"][lacking] = 0.0


def test_a_prediction_depends_on_its_own_conversation_only(batch):
    model = head(*MODALITIES).eval()
    audit_batch_independence(lambda part: model(part).logits, batch).require()


def test_a_head_without_text_is_refused():
    with pytest.raises(ValueError, match="starts from the text, but dims has only audio"):
        head("audio")
