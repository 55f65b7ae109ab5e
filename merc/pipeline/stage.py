"""A stage: one step of a pipeline, and that step for one seed, in a folder of its own."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merc.evaluation.report import METRICS, REPORT
from merc.files import write_json
from merc.store import MANIFEST, FeatureStore, StoreError
from merc.store.manifest import AGAIN, digest_of

if TYPE_CHECKING:  # kinds act on stages, so this module cannot import them at the top
    from merc.pipeline.kinds import StageKind

STATE = "stage.json"
"""File in a stage's folder: what the stage was made from, and whether it is finished."""

BEST = "best.ckpt"
"""Link in a stage's folder to its best checkpoint, ``{NAME}/best.ckpt`` for later stages."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class PipelineError(ValueError):
    """A pipeline's config does not hold together; the message says where."""


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Args:
        name: Names the stage, its folder, and the placeholder by which later stages refer to that folder.
        command: What the stage does: the name of one of :data:`merc.pipeline.kinds.KINDS`, such as ``import``, ``fit``
            or ``predict``, or the import path of a :class:`~merc.pipeline.kinds.StageKind` of your own.
        config: For ``fit`` and ``predict`` one config or several, each a path or a short name; later ones override
            earlier ones. For ``import`` and ``doctor`` the function to call. Nothing for the other kinds.
        options: Options as on the command line. ``{root}``, ``{corpus}`` and ``{seed}`` are those of the run,
            ``{NAME}`` is the folder of the earlier stage NAME.
        outputs: What ``fit`` and ``predict`` store for later stages, of features, hidden, logits and so on; each
            becomes a feature store of that name in the stage's folder. ``ensemble`` stores logits if all its members
            do.
        once: Whether the stage is the same for every seed, and so runs once. Default: a stage that trains runs for
            every seed, and so does one that refers to a stage that does.
        report: Whether ``fit`` tests the best checkpoint and reports it, and whether an ensemble's report counts.
        optimum: Modalities by whose optimum the stage is judged on simulated data, for example ``text+audio``.
    """

    name: str
    command: str
    config: str | list[str] = ""
    options: dict[str, Any] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    once: bool | None = None
    report: bool = True
    optimum: str | None = None

    @property
    def kind(self) -> StageKind:
        """What the stage does.

        Raises:
            PipelineError: ``command`` names no kind of stage.
        """
        from merc.pipeline.kinds import kind_of

        return kind_of(self)

    @property
    def configs(self) -> list[str]:
        """The configs, as a list."""
        given = [self.config] if isinstance(self.config, str) else self.config
        return [name for name in given if name]

    @property
    def config_names(self) -> list[str]:
        """The configs as messages and records name them: short names, and files without their folder."""
        return [Path(name).name if Path(name).is_absolute() else name for name in self.configs]

    @property
    def tested(self) -> bool:
        """Whether the stage leaves a report."""
        return self.report and self.kind.reports


def references(value: object) -> set[str]:
    """The placeholders in the strings of a nested value."""
    if isinstance(value, str):
        return set(_PLACEHOLDER.findall(value))
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return set().union(*(references(part) for part in parts))


def substitute(value: Any, places: Mapping[str, str]) -> Any:  # noqa: ANN401 - nested JSON values
    """``value`` with every placeholder in its strings replaced."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: places[match[1]], value)
    if isinstance(value, Mapping):
        return {k: substitute(v, places) for k, v in value.items()}
    if isinstance(value, list):
        return [substitute(v, places) for v in value]
    return value


@dataclass
class StageRun:
    """A stage for one seed, with its folder and all that decides its result.

    Args:
        stage: The stage, its placeholders replaced.
        folder: Where its results go.
        seed: Seed of the run; 0 for a stage that runs once.
        fingerprint: Digest of everything that decides the result; a finished stage with the same one is skipped.
        reads: The folders of the stages that it refers to, by their names.
        callbacks: Callbacks of Lightning that watch the training, and decide nothing of its result.
    """

    stage: Stage
    folder: Path
    seed: int
    fingerprint: str
    reads: Mapping[str, Path] = field(default_factory=dict)
    callbacks: Sequence[Any] = ()  # of Lightning, which takes seconds to import

    @property
    def state(self) -> dict[str, Any]:
        """What the state file in the folder says; empty if there is none or it cannot be read."""
        try:
            state: dict[str, Any] = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state

    @property
    def finished(self) -> bool:
        """Whether the stage was finished from the very same inputs, and its results are still there.

        Of stores only the sizes are compared; :meth:`damage` reads them.
        """
        return self.marked and self.damage(verify=False) is None

    @property
    def marked(self) -> bool:
        """Whether the folder is marked as that of this stage, finished, whatever became of the results since."""
        state = self.state
        return bool(state.get("finished")) and state.get("fingerprint") == self.fingerprint

    def damage(self, *, verify: bool = True) -> str | None:
        """What is wrong with the results of a finished stage; ``None`` if nothing is.

        Args:
            verify: Read every byte of the stores, not just their sizes. Costs one pass over the files.
        """
        if self.state.get("inputs") != self.inputs():
            return f"It was made from other stores of {', '.join(sorted(self.reads))} than are there now."
        try:
            for store in {*_stores_below(self.folder), *(self.folder / output for output in self.stage.outputs)}:
                FeatureStore(store, verify=verify)
        except (FileNotFoundError, StoreError) as error:
            return str(error).removesuffix(AGAIN).strip()
        return f"It lacks its report {self.metrics}." if self.stage.tested and not self.metrics.is_file() else None

    def inputs(self) -> dict[str, str | None]:
        """Digests of what the stages that this one reads have stored; ``None`` for one whose stores are damaged."""
        return {name: _stored_in(folder) for name, folder in sorted(self.reads.items())}

    @property
    def root(self) -> Path:
        """The folder of the run that the stage is part of."""
        return self.folder.parent if self.stage.once else self.folder.parents[1]

    @property
    def metrics(self) -> Path:
        """The scores of its test."""
        return self.folder / REPORT / METRICS

    def begin(self) -> None:
        """Make the folder ready: results of other inputs are set aside as ``<folder>.previous``, not lost.

        Raises:
            PipelineError: A folder is in the way that is not of a pipeline.
        """
        state, inputs = self.state, self.inputs()
        if (state.get("fingerprint"), state.get("inputs")) == (self.fingerprint, inputs):
            return
        if self.folder.exists():
            self._set_aside()
        self.update_state(finished=False, inputs=inputs)

    def discard(self) -> None:
        """Remove the folder, finished or not."""
        _remove(self.folder)

    def _set_aside(self) -> None:
        previous = self.folder.with_name(f"{self.folder.name}.previous")
        for folder in (self.folder, previous):
            if folder.exists() and not (folder / STATE).is_file() and any(folder.glob("[!.]*")):
                raise PipelineError(f"{folder} is not the result of a stage: move it away, or give another --out.")
        if previous.exists() and not self.state.get("finished"):
            _remove(self.folder)  # an interrupted result is worth less than the finished one that is aside already
            return
        _remove(previous)
        self.folder.rename(previous)

    def link_best(self, checkpoint: Path) -> None:
        """Give the best checkpoint one name, whatever its step: a link for later stages.

        Args:
            checkpoint: Its path in the folder.
        """
        link = self.folder / f".{BEST}.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint)
        link.replace(self.folder / BEST)

    def update_state(self, **values: Any) -> None:  # noqa: ANN401 - JSON values
        """Add values to the state file in the folder."""
        state = {**self.state, "fingerprint": self.fingerprint, "stage": asdict(self.stage), "seed": self.seed}
        write_json(self.folder / STATE, {**state, **values})


def _stores_below(folder: Path) -> list[Path]:
    return sorted(manifest.parent for manifest in folder.rglob(MANIFEST))


def _stored_in(folder: Path) -> str | None:
    try:
        stores = {str(store.relative_to(folder)): FeatureStore(store, verify=False) for store in _stores_below(folder)}
    except (FileNotFoundError, StoreError):
        return None
    return digest_of({name: store.digest for name, store in stores.items()})


def _remove(folder: Path) -> None:
    """Remove a folder; one that is removed in part, because of a kill, cannot be taken for whole."""
    if folder.exists():
        doomed = folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp"))
        shutil.rmtree(doomed)
