"""Ablations as data: what a row of a paper's table takes out of a pipeline, and what the paper says that costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merc.configs.lookup import CONFIGS
from merc.pipeline.plan import Pipeline
from merc.pipeline.stage import PipelineError

if TYPE_CHECKING:  # torch takes seconds to import, and reading rows needs none
    from torch import Tensor

    from merc.batch import ConversationBatch
    from merc.tasks.base import EmotionTask

ROWS = CONFIGS / "ablations"
"""The shipped rows: ``<paper>/<table>.yaml``."""


@dataclass(frozen=True)
class Reported:
    """What a paper reports, weighted F1 in percent.

    Args:
        row: Of the row.
        full: Of the full model.
    """

    row: float
    full: float

    @property
    def difference(self) -> float:
        """The row minus the full model, in points."""
        return round(self.row - self.full, 2)


@dataclass(frozen=True)
class Ablation:
    """One row of a table of ablations.

    Args:
        title: The row, as the table of results names it.
        paper: The paper, for example ``arXiv 2511.13731``.
        table: The table of the paper, for example ``Table 3``.
        reported: The paper's own numbers, by corpus.
        system: Class of the fusion head whose ablation it is; default: any.
        changes: Options as on the command line, by the stage of the pipeline that they change.
        instead: Other changes, for pipelines whose first import is another corpus than those of the paper: by the name
            of the import, for example ``simulated``.
        needs: Options that the first import must have for the row to measure anything, by the name of the import.
        modalities: By stage, the modalities that its fusion keeps, as ``model.modalities``.
        stage: The stage whose score is that of the row, if it is not the one that the full model is judged by: the
            score of a single modality is that of its student.
    """

    title: str
    paper: str = ""
    table: str = ""
    reported: dict[str, Reported] = field(default_factory=dict)
    system: str | None = None
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    instead: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    needs: dict[str, dict[str, Any]] = field(default_factory=dict)
    modalities: dict[str, list[str]] = field(default_factory=dict)
    stage: str | None = None

    def changes_of(self, pipeline: Pipeline) -> dict[str, dict[str, Any]]:
        """The changes that are meant for a pipeline, by the corpus that it imports.

        Raises:
            PipelineError: The pipeline imports the corpus with other options than the row needs.
        """
        source = next((stage for stage in pipeline.stages if stage.command == "import"), None)
        if source is None:
            return self.changes
        for option, value in self.needs.get(str(source.config), {}).items():
            if source.options.get(option) != value:
                found = source.options.get(option, "its default")
                raise PipelineError(
                    f"it measures nothing unless {source.name} imports {source.config} with {option}: {value}; found "
                    f"{option}: {found}"
                )
        return self.instead.get(str(source.config), self.changes)


def shipped_tables() -> dict[str, Path]:
    """The files of the shipped tables, by name: ``hierarchical/table3``."""
    return {file.relative_to(ROWS).with_suffix("").as_posix(): file for file in sorted(ROWS.rglob("*.yaml"))}


def rows_of(raw: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The rows of a file, spelled out, by name.

    Args:
        raw: A row, or a table: what its rows share (``paper``, ``table``, ``system``), what the paper reports of the
            ``full`` model by corpus, and ``rows`` by name, whose ``reported`` numbers are then plain numbers.
        name: The name of the file.

    Returns:
        ``{name: row}``, or for a table ``{name/row: row}``.

    Raises:
        KeyError: A row reports a corpus of which there is no number of the full model.
    """
    if "rows" not in raw:
        return {name: dict(raw)}
    full = raw.get("full", {})
    shared = {key: value for key, value in raw.items() if key not in ("rows", "full")}
    found = {}
    for row, own in raw["rows"].items():
        reported = {corpus: {"row": score, "full": full[corpus]} for corpus, score in own.get("reported", {}).items()}
        found[f"{name}/{row}"] = {**shared, **own, "reported": reported}
    return found


def changed_pipeline(pipeline: Pipeline, changes: Mapping[str, Mapping[str, Any]]) -> Pipeline:
    """A pipeline with other options in some of its stages.

    Args:
        pipeline: The pipeline.
        changes: Options by stage.

    Raises:
        PipelineError: The pipeline lacks a stage, or the options refer to one that does not come before.
    """
    names = [stage.name for stage in pipeline.stages]
    for name in changes:
        if name not in names:
            raise PipelineError(f"it changes the stage {name!r}, and the pipeline has {', '.join(names)}")
    return Pipeline([replace(s, options={**s.options, **changes.get(s.name, {})}) for s in pipeline.stages])


def what_differs(
    full: EmotionTask, row: EmotionTask, batch: ConversationBatch, batch_of_row: ConversationBatch
) -> str | None:
    """What training sees of a difference between two tasks.

    Args:
        full: The task of the full model.
        row: The task of the row; it gets the weights of the full model, if they fit.
        batch: A batch for the full model.
        batch_of_row: The same features, with the graphs of the row.

    Returns:
        ``parameters`` if their names or shapes differ. ``loss`` if with equal weights, random numbers and features a
        loss term, or the gradient of a parameter, or the logits in evaluation differ. Else nothing.
    """
    shapes, shapes_of_row = ({n: p.shape for n, p in task.named_parameters()} for task in (full, row))
    if shapes != shapes_of_row:
        return "parameters"
    row.load_state_dict(full.state_dict(), strict=False)  # buffers may differ: they are no parameters
    ours, theirs = _seen(full, batch), _seen(row, batch_of_row)
    return None if _equal(ours, theirs) else "loss"


def _seen(task: EmotionTask, batch: ConversationBatch) -> dict[str, Tensor]:
    """Loss terms and gradients of a training step, then the logits in evaluation."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prediction = task.train().step(batch)
        parameters = dict(task.named_parameters())
        gradients = torch.autograd.grad(prediction.loss, list(parameters.values()), allow_unused=True)
        seen = {f"term {name}": term.detach() for name, term in prediction.terms.items()}
        seen |= {f"gradient {n}": g for n, g in zip(parameters, gradients, strict=True) if g is not None}
        with torch.no_grad():
            seen["logits"] = task.eval().step(batch).logits
    return seen


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether they are equal but for the order in which sums were taken."""
    return ours.keys() == theirs.keys() and all(
        value.allclose(theirs[name], rtol=1e-4, atol=1e-7) for name, value in ours.items()
    )


def parts_of(names: Sequence[str], asked: str) -> Iterator[str]:
    """Those of the names ``a/b/c`` that have ``asked`` as a part, such as ``b`` or ``b/c``."""
    return (name for name in names if f"/{asked}/" in f"/{name}/")
