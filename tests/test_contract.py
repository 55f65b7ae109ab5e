"""What every fusion head and every graph encoder must keep; a new network is one more line in MODELS."""

import copy
from dataclasses import replace
from functools import partial
from itertools import chain, combinations

import pytest
import torch
from torch import nn

from merc.batch import ConversationBatch
from merc.evaluation import audit_batch_independence
from merc.fusion import CMATHFusion, ConcatFusion, FusionHead, FusionOutput, HierarchicalFusion, LFVDFusion, TelMEFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.labels import IGNORE_INDEX
from merc.losses import DistillationLoss, DISTLoss, FeatureSimilarityLoss, FusionLoss
from merc.tasks.fusion import FusionTask
from merc.tasks.student import StudentTask
from merc.tasks.teacher import TeacherTask
from support.made_batches import FOUR, facts_of, make_batch

C = len(FOUR)
DIMS = {"text": 10, "audio": 6, "visual": 5}
ONE = {"audio": 6}
TWO = {"text": 10, "audio": 6}
GCN = partial(GCNEncoder, hidden_dim=16)
GRAPH = GraphBuilder(past=3, future=2, speaker=1, similar=2)


def concat(dims=DIMS):
    head = partial(ConcatFusion, hidden_dim=16)
    return FusionTask(head, loss=partial(FusionLoss, projection_dim=8)).build(facts_of(dims))


def hierarchical(dims=DIMS, **switches):
    head = partial(HierarchicalFusion, dim=16, **switches)
    return FusionTask(head, loss=partial(FusionLoss, projection_dim=8)).build(facts_of(dims))


def lfvd(dims=DIMS, **switches):
    return FusionTask(partial(LFVDFusion, dim=16, **switches)).build(facts_of(dims))


def cmath(dims=DIMS, **switches):
    head = partial(CMATHFusion, **{"dim": 16, "attention_heads": 4, **switches})
    task = FusionTask(head, head_weights={"low_level": 1.0, "high_level": 1.2}, aux_weight=len(dims))
    return task.build(facts_of(dims))


def telme(dims=DIMS, **switches):
    return FusionTask(partial(TelMEFusion, **{"dim": 16, "heads": 4, **switches})).build(facts_of(dims))


def taught_by_telme():
    task = StudentTask(GCN, "audio", DISTLoss(), feature_loss=FeatureSimilarityLoss())
    return task.build(facts_of(DIMS))


def student(network):
    return StudentTask(network, "audio", DistillationLoss(), teacher="teacher").build(facts_of(DIMS))


MODELS = {
    "concat": concat,
    "concat of one": lambda: concat(ONE),
    "hierarchical": hierarchical,
    "hierarchical of two": lambda: hierarchical(TWO),
    "hierarchical of one": lambda: hierarchical(ONE),
    "without gating": lambda: hierarchical(gating=False),
    "without cross-attention": lambda: hierarchical(cross_attention=False),
    "without experts": lambda: hierarchical(experts=0),
    "one expert of three": lambda: hierarchical(experts=3, top_k=1),
    "over the conversation": lambda: hierarchical(scope="conversation", layers=2),
    "without any part": lambda: hierarchical(experts=0, gating=False, cross_attention=False, layers=0, ensemble=1),
    "lfvd": lfvd,
    "lfvd of two": lambda: lfvd(TWO),
    "lfvd of one": lambda: lfvd(ONE, dominant="audio"),
    "lfvd without LFA": lambda: lfvd(lfa=False),
    "lfvd without atmosphere": lambda: lfvd(atmosphere=False),
    "lfvd without contrast": lambda: lfvd(contrastive=False),
    "lfvd without CMVD": lambda: lfvd(fusion="sum", distillation=False),
    "lfvd by concatenation": lambda: lfvd(fusion="concatenation"),
    "lfvd by gates": lambda: lfvd(fusion="gate"),
    "lfvd without weights": lambda: lfvd(fusion="sum"),
    "lfvd without distillation": lambda: lfvd(distillation=False),
    "lfvd led by audio": lambda: lfvd(dominant="audio", residual="dominant"),
    "cmath": cmath,
    "cmath of two": lambda: cmath(TWO),
    "cmath of one": lambda: cmath(ONE),
    "cmath without reconstruction": lambda: cmath(reconstruct=False),
    "cmath without transformer": lambda: cmath(transform=False),
    "cmath utterance by utterance": lambda: cmath(kernel_size=1, speakers=1),
    "telme": telme,
    "telme over the conversation": lambda: telme(attention_over="conversation"),
    "telme of two": lambda: telme(TWO),
    "telme of one": lambda: telme(ONE, teacher="audio"),
    "gat": lambda: TeacherTask(partial(GATEncoder, hidden_dim=16, num_layers=2), "audio").build(facts_of(DIMS)),
    "gcn": lambda: student(GCN),
    "gcn taught by TelME": taught_by_telme,
}

STILL = {
    # One modality is its own context whatever its quality, C = Q H / Q, and one token has all the attention.
    "hierarchical of one": ("head.quality.audio.", "head.pool.queries", "head.pool.key."),
}
"""Prefixes of parameters that may have no gradient, by model."""


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def task(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def batch_for(lengths, seed=0, **options):
    batch = make_batch(lengths, {**DIMS, "teacher": C, "teacher_hidden": 16}, seed=seed, **options)
    batch.edges["audio"] = GRAPH(batch, "audio")
    return batch


def outputs(task, batch):
    """Everything that a network says of each utterance, side by side."""
    if isinstance(task, FusionTask):
        out = task.head(batch)
        parts = [out.logits, out.embeddings, *out.aux_logits.values()]
        parts += [value[:, None] for value in out.uncertainty.values()]
    else:
        prediction = task.step(batch)
        parts = [prediction.logits, prediction.hidden]
    return torch.cat(parts, dim=1)


def loss_of(task, batch):
    return torch.stack([term.float() for term in task.step(batch).terms.values()]).sum()


def train(task, batches, autocast=False):
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    task.train()
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = loss_of(task, batch)
        loss.backward()
        optimizer.step()
    return task.eval()


def lacking(batch, names, garbage=0.0):
    """The batch without some modalities; what lies in their place must not matter."""
    nothing = torch.zeros(batch.num_utterances, dtype=torch.bool)
    features = {n: torch.full_like(batch.features[n], garbage) if n in names else batch.features[n] for n in DIMS}
    present = {n: nothing if n in names else batch.present[n] for n in DIMS}
    lacks = replace(batch, features={**batch.features, **features}, present={**batch.present, **present})
    lacks.edges = {"audio": GRAPH(lacks, "audio")}
    return lacks


def subsets(names):
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


def test_shapes(task):
    batch = batch_for([4, 1, 6])
    prediction = task.step(batch)
    assert prediction.logits.shape == (11, C)
    assert prediction.hidden.shape == (11, 16)
    assert all(term.shape == () for term in prediction.terms.values())
    if isinstance(task, FusionTask):
        assert isinstance(task.head, FusionHead)
        out = task.head(batch)
        assert set(out.aux_logits) <= set(task.head.dims)
        assert all(logits.shape == (11, C) for logits in out.aux_logits.values())
        assert all(doubt.shape == (11,) and (doubt >= 0).all() for doubt in out.uncertainty.values())


def test_every_parameter_learns(name, task):
    task.train()
    loss_of(task, batch_for([12, 1, 20, 30])).backward()
    still = [n for n, p in task.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert [n for n in still if not n.startswith(STILL.get(name, ()))] == []


def test_any_subset_of_modalities_predicts(task):
    batch = batch_for([5, 1, 7], absent=0.0)
    said = []
    for gone in subsets(list(DIMS)):
        with torch.no_grad():
            found = outputs(task, lacking(batch, gone))
            assert found.isfinite().all(), gone
            # Features of an absent modality are not read.
            torch.testing.assert_close(outputs(task, lacking(batch, gone, garbage=1e3)), found, atol=1e-6, rtol=0)
        said.append(found)
    full, nothing = said[0], said[-1]
    assert (full - nothing).abs().max() > 1e-3


def test_single_utterances_that_lack_everything_stay_harmless(task):
    batch = batch_for([6, 9], absent=0.8)
    nothing = ~torch.stack([batch.present[n] for n in DIMS]).any(0)
    assert nothing.any() and not nothing.all()
    loss = loss_of(task.train(), batch)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
    assert outputs(task.eval(), batch).isfinite().all()


def test_conversations_of_one_and_of_five_hundred(task):
    with torch.no_grad():
        assert outputs(task, batch_for([1])).isfinite().all()
        long = outputs(task, batch_for([500]))
    assert len(long) == 500 and long.isfinite().all()


def test_predictions_depend_on_their_conversation_alone(task):
    # After training: what begins at zero, or with statistics of no batch, would hide a dependence before it.
    train(task, [batch_for([4, 7, 1], seed=seed) for seed in range(3)])
    audit_batch_independence(lambda part: outputs(task, part), batch_for([5, 1, 12, 3], absent=0.3)).require()


def test_labels_are_not_read_when_predicting(task):
    batch = batch_for([5, 8])
    other = replace(batch, label=torch.full_like(batch.label, IGNORE_INDEX))
    before = copy.deepcopy(task.state_dict())
    with torch.no_grad():
        assert torch.equal(outputs(task, batch), outputs(task, other))
    for key, value in task.state_dict().items():  # nor does predicting leave a trace
        assert torch.equal(value, before[key]), key


def test_training_without_a_modality_stays_finite(task):
    gone = [lacking(batch_for([5, 3], seed=seed), names) for seed, names in enumerate(subsets(list(DIMS)))]
    train(task, gone)
    assert all(value.isfinite().all() for value in task.state_dict().values())
    assert outputs(task, gone[0]).isfinite().all()


def test_batches_without_labels_give_no_loss_from_labels(task):
    batch = batch_for([5, 3], unlabelled=1.0)
    terms = task.step(batch).terms
    # The teacher, the balance of the experts, contrast of modalities and variational distillation need no labels.
    unsupervised = {"kl", "head/balance", "head/self", "head/distillation"}
    unsupervised |= {"head/reconstruction", "head/low_level", "head/high_level"}
    unsupervised |= {"inter", "intra", "feature"}
    assert terms.keys() - unsupervised
    for term, value in terms.items():
        assert value.isfinite() and (term in unsupervised or value == 0), term
    train(task, [batch])
    assert all(value.isfinite().all() for value in task.state_dict().values())


def test_half_precision_is_close_to_full(task):
    batch = batch_for([5, 1, 7], absent=0.3)
    with torch.no_grad():
        full = outputs(task, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = outputs(task, batch).float()
    assert half.isfinite().all()
    # An expert at the edge of the top k may change with rounding: most utterances are close.
    gap = (half - full).abs().amax(1)
    assert gap.median() < 0.05
    train(task, [batch_for([4, 7, 1], seed=seed) for seed in range(2)], autocast=True)
    assert all(value.isfinite().all() for value in task.state_dict().values())
    assert all(value.dtype == torch.float32 for value in task.state_dict().values())


def test_networks_survive_a_state_dict(name, task):
    batch = batch_for([5, 3])
    train(task, [batch])
    torch.manual_seed(1)
    twin = MODELS[name]().eval()
    twin.load_state_dict(task.state_dict())
    with torch.no_grad():
        assert torch.equal(outputs(twin, batch), outputs(task, batch))


@pytest.mark.parametrize("dims", [{}, {"text": 0}])
@pytest.mark.parametrize("head", [CMATHFusion, ConcatFusion, HierarchicalFusion, LFVDFusion])
def test_heads_refuse_widths_that_are_none(head, dims):
    with pytest.raises(ValueError, match="needs positive widths"):
        head(dims, C)


def test_a_head_needs_nothing_but_forward():
    class Text(FusionHead):
        def __init__(self, dims, num_classes):
            super().__init__(dims, num_classes)
            self.classify = nn.Linear(dims["text"], num_classes)

        def forward(self, batch: ConversationBatch):
            return FusionOutput(self.classify(batch.features["text"]))

    prediction = FusionTask(Text).build(facts_of(DIMS)).step(make_batch([3], DIMS))
    assert prediction.logits.shape == (3, C) and prediction.hidden is None and set(prediction.terms) == {"ce"}
