"""What a row changes, told from what training sees: parameters, loss terms, gradients."""

from functools import partial

import pytest
import torch
from torch import nn

from merc.datamodules.made_up import made_up_batch
from merc.fusion import ConcatFusion, FusionHead, FusionOutput
from merc.graphs import GATEncoder, GraphBuilder
from merc.losses import PolynomialCrossEntropy
from merc.pipeline.ablation import Ablation, Reported, changed_pipeline, parts_of, rows_of, shipped_tables, what_differs
from merc.pipeline.plan import Pipeline
from merc.pipeline.stage import PipelineError, Stage
from merc.tasks import FusionTask, TeacherTask
from support.made_batches import facts_of

WIDTHS = {"text": 4, "audio": 3}


class Switched(FusionHead):
    """A head whose switches change what only some of the looks at it can see."""

    def __init__(
        self, dims, num_classes, *, wasted: bool = False, detached: bool = False, used: bool = True, only_tested=False
    ):
        super().__init__(dims, num_classes)
        if wasted:
            nn.Linear(4, 4)  # draws random numbers and is thrown away
        self.first = nn.Linear(7, 5)
        self.last = nn.Linear(5, 3)
        self.detached, self.used, self.only_tested = detached, used, only_tested

    def forward(self, batch):
        hidden = self.first(torch.cat([batch.features[name] for name in self.dims], -1))
        hidden = hidden.detach() if self.detached else hidden
        logits = self.last(hidden)
        return FusionOutput(-logits if self.only_tested and not self.training else logits, embeddings=hidden)


def fusion(head, **options):
    return FusionTask(partial(head, **options)).build(facts_of(WIDTHS, 3))


def batch():
    return made_up_batch(WIDTHS, 3, {})


def test_a_switch_that_only_draws_random_numbers_changes_nothing():
    assert what_differs(fusion(Switched), fusion(Switched, wasted=True), batch(), batch()) is None
    assert what_differs(fusion(Switched), fusion(Switched, used=False), batch(), batch()) is None


@pytest.mark.parametrize("switch", ["detached", "only_tested"])
def test_what_the_value_of_the_loss_does_not_tell_is_seen(switch):
    assert what_differs(fusion(Switched), fusion(Switched, **{switch: True}), batch(), batch()) == "loss"


def test_dropout_losses_graphs_and_layers_are_seen():
    def head(hidden_dim=8, **options):
        return fusion(ConcatFusion, hidden_dim=hidden_dim, **options)

    assert what_differs(head(), head(), batch(), batch()) is None
    assert what_differs(head(), head(dropout=0.1), batch(), batch()) == "loss"
    assert what_differs(head(), head(9), batch(), batch()) == "parameters"

    def teacher(loss=None):
        network = partial(GATEncoder, hidden_dim=8, num_layers=1, heads=2)
        return TeacherTask(network, loss=loss).build(facts_of(WIDTHS, 3))

    near, far = (made_up_batch(WIDTHS, 3, {"text": GraphBuilder(past=p, future=p)}) for p in (1, 5))
    assert what_differs(teacher(), teacher(), near, near) is None
    assert what_differs(teacher(), teacher(), near, far) == "loss"
    assert what_differs(teacher(), teacher(PolynomialCrossEntropy()), near, near) == "loss"


def test_the_random_numbers_of_the_caller_stay_as_they_were():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    task, other = fusion(Switched), fusion(Switched)
    torch.manual_seed(7)
    what_differs(task, other, batch(), batch())
    assert torch.equal(torch.rand(3), expected)


def test_made_up_batches_are_the_same_and_lack_something():
    first, again = batch(), batch()
    assert torch.equal(first.features["text"], again.features["text"]) and torch.equal(first.label, again.label)
    assert first.lengths.tolist() == [1, 3, 6, 9, 12, 15] and set(first.label.tolist()) == {0, 1, 2}
    assert all(not there.all() and there.any() for there in first.present.values())


def test_a_row_is_refused_where_the_corpus_is_not_imported_as_it_needs():
    row = Ablation("row", changes={"fusion": {"a": 2}}, needs={"iemocap": {"faces": "whole"}})
    for options, found in (({}, "its default"), ({"faces": "half"}, "half")):
        data = Stage("data", "import", "iemocap", options, once=True)
        with pytest.raises(PipelineError, match=f"imports iemocap with faces: whole; found faces: {found}"):
            row.changes_of(Pipeline([data]))
    whole = Stage("data", "import", "iemocap", {"faces": "whole"}, once=True)
    for stage in (whole, Stage("data", "import", "meld", once=True)):
        assert row.changes_of(Pipeline([stage])) == {"fusion": {"a": 2}}


def test_changes_go_by_the_corpus_and_keep_the_other_options():
    data, fit = Stage("data", "import", "simulated", once=True), Stage("fusion", "fit", "x", {"a": 1, "b": "{data}"})
    row = Ablation("row", changes={"fusion": {"a": 2}}, instead={"simulated": {"fusion": {"a": 3}}})
    assert row.changes_of(Pipeline([data, fit])) == {"fusion": {"a": 3}}
    assert row.changes_of(Pipeline([Stage("data", "import", "meld", once=True), fit])) == {"fusion": {"a": 2}}
    assert changed_pipeline(Pipeline([data, fit]), {"fusion": {"a": 3}}).stages[1].options == {"a": 3, "b": "{data}"}
    assert fit.options["a"] == 1
    with pytest.raises(PipelineError, match="it changes the stage 'other', and the pipeline has data, fusion"):
        changed_pipeline(Pipeline([data, fit]), {"other": {}})


def test_names_and_numbers():
    names = ["lfvd/table5/lfa", "lfvd/table55/lfa", "cmath/table5/text"]
    assert list(parts_of(names, "table5")) == [names[0], names[2]]
    assert list(parts_of(names, "lfvd/table5")) == [names[0]] and not list(parts_of(names, "able5"))
    assert Reported(66.8, 67.8).difference == -1.0


def test_rows_of_a_table_take_what_they_share():
    row = {"title": "alone", "reported": {"meld": {"row": 1.0, "full": 2.0}}}
    assert rows_of(row, "mine") == {"mine": row}
    table = {"paper": "P", "system": "a.Head", "full": {"meld": 2.0, "iemocap": 3.0}}
    rows = {"first": {"title": "x", "reported": {"meld": 1.0}}, "second": {"title": "y", "system": "its.Own"}}
    assert rows_of({**table, "rows": rows}, "mine") == {
        "mine/first": {"paper": "P", "system": "a.Head", **row, "title": "x"},
        "mine/second": {"paper": "P", "system": "its.Own", "title": "y", "reported": {}},
    }
    with pytest.raises(KeyError, match="meld"):
        rows_of({"rows": rows}, "mine")


def test_shipped_tables_go_by_paper_and_table():
    tables = shipped_tables()
    assert tables["hierarchical/table3"].parts[-2:] == ("hierarchical", "table3.yaml")
    assert {name.split("/")[0] for name in tables} == {"hierarchical", "telme", "lfvd", "cmath"}
