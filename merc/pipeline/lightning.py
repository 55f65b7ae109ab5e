"""LightningCLI for one stage: it finds shipped configs by name and writes predictions into stores."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import Namespace
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from merc.callbacks import StoreWriterCallback
from merc.configs.lookup import expand_configs
from merc.conversation import Corpus
from merc.evaluation.values import stored_table
from merc.files import write_text
from merc.pipeline.problems import ShortParser
from merc.pipeline.stage import STATE
from merc.store import FeatureStore
from merc.tasks.checkpoints import read_checkpoint
from merc.tasks.classifier import ClassifierTask

# Warnings that need no action: loading from memory needs no workers, every value is logged once an
# epoch however few batches it has, weights are meant to load without the state of the averaging, and networks that fit
# into memory need no sharding.
_NOISE = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*using the WeightAveraging callback, but loading a checkpoint outside.*",
    ".*using the WeightAveraging callback with a model that overrides the configure_model.*",
    ".*The dirpath has changed.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # metrics are put together before they are logged
    ".*Using `DistributedSampler` with the dataloaders.*",  # merc's repeat no utterance that counts
)

_DEFAULTS = {
    "best.monitor": "val/weighted_f1",
    "best.mode": "max",
    "best.filename": "best-{step}",
    "best.auto_insert_metric_name": False,
    "best.enable_version_counter": False,
    "last.filename": "last",
    "last.enable_version_counter": False,
    "trainer.log_every_n_steps": 10,
}
"""What no config needs to repeat: a training keeps its best checkpoint and its last."""


def run_folder(folder: str | Path) -> dict[str, Any]:
    """Options of a Trainer that put all that a run leaves into one folder, not into numbered ones below it.

    Args:
        folder: Where logs, config, ``checkpoints/`` and ``report/`` go.
    """
    place = {"save_dir": str(folder), "name": "", "version": ""}
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": place}
    return {"default_root_dir": str(folder), "logger": logger}


@contextmanager
def quiet_lightning(quiet: bool = False) -> Iterator[None]:
    """Silence what Lightning says that needs no action, and turn its complaints about a setup into ``ValueError``.

    Args:
        quiet: Show no messages below warnings.

    Raises:
        ValueError: Trainer, task and datamodule do not go together, or not with this machine.
    """

    def matters(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING if quiet else "Tip: For seamless" not in record.getMessage()

    handlers = [h for name in ("lightning.pytorch", "lightning.fabric") for h in logging.getLogger(name).handlers]
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        for handler in handlers:
            handler.addFilter(matters)
        try:
            yield
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error
        finally:
            for handler in handlers:
                handler.removeFilter(matters)


class _Parser(ShortParser, LightningArgumentParser):
    """Lightning's parser, with short errors."""

    def dump(self, *args: Any, **kwargs: Any) -> str:  # noqa: ANN401 - those of jsonargparse
        """The config as text, without a second validation of what has just been parsed."""
        text: str = super().dump(*args, **{**kwargs, "skip_validation": True})
        return text


class MercCLI(LightningCLI):
    """LightningCLI over any task and any datamodule.

    Beyond LightningCLI it finds shipped configs by short name and says where results are. ``--out FOLDER`` is the
    folder of all results: of ``fit`` logs, config and ``checkpoints/``; of ``test`` the ``report/``; of ``predict`` one
    feature store for each name in ``--outputs`` (features, hidden, logits), and with logits ``predictions.csv``.

    Args:
        args: Arguments to parse, the subcommand first; default: those of the process.
        run: Carry the subcommand out; without it, trainer, model and datamodule are made, nothing runs, and arguments
            that cannot be parsed raise :class:`argparse.ArgumentError` instead of ending the process.
        parsed: What a :class:`MercParser` made of these arguments, which are not parsed again then.
    """

    making = True
    """Whether the classes are made that the arguments name."""

    def __init__(self, args: ArgsType = None, run: bool = True, parsed: Namespace | None = None) -> None:
        given = sys.argv[1:] if args is None else args
        if not isinstance(given, list):
            raise TypeError(f"Expected a list of arguments, got {type(given).__name__}.")
        self._given: list[str] = given
        self._parsed = parsed
        super().__init__(
            args=args,
            run=run,
            load_from_checkpoint_support=self.making,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=_Parser,
            parser_kwargs={"prog": "merc", "exit_on_error": run},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the subcommand that is given: making the parsers of all four would take half of the time of parsing."""
        known = super().subcommands()
        return {name: skipped for name, skipped in known.items() if name in self._given[:1]} or known

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with short config names expanded."""
        self.config = self._parsed or parser.parse_args(expand_configs(self._given))

    def _parse_ckpt_path(self) -> None:
        """Leave the model as the config and the options say it is.

        Lightning would replace it, without a word, by the one that the checkpoint was trained with. The task refuses
        a checkpoint that does not fit.
        """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The checkpoints that a training keeps, and the folder of the results."""
        for name in ("best", "last"):
            parser.add_lightning_class_args(ModelCheckpoint, name)
        parser.set_defaults(_DEFAULTS)
        parser.add_argument("--out", type=str | None, default=None, help="folder for all results")
        parser.add_argument(
            "--outputs",
            type=list[str],
            default=["hidden", "logits"],
            help="predict: what to store of features, hidden, logits",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - those of Trainer
        """Make the trainer, with the checkpoints ``best`` and ``last`` unless its options say otherwise.

        A ``ModelCheckpoint`` with a monitor among its callbacks takes the place of ``best``, whose own monitor the task
        may never log.
        """
        given = self._get(self.config_init, "trainer")
        callbacks = given.callbacks if isinstance(given.callbacks, list) else [given.callbacks]
        checkpoints = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
        added = []
        if given.enable_checkpointing is not False and not given.fast_dev_run:
            if all(checkpoint.monitor is None for checkpoint in checkpoints):
                added.append(self._get(self.config_init, "best"))
            last = self._get(self.config_init, "last")
            if last.state_key not in {checkpoint.state_key for checkpoint in checkpoints}:
                added.append(last)
        config = {**given, "callbacks": [callback for callback in callbacks if callback is not None] + added}
        return self._instantiate_trainer({**config, **kwargs}, [])

    def before_instantiate_classes(self) -> None:
        """Refuse a damaged checkpoint, take the defaults that suit merc, and put all results into ``--out``."""
        if self.subcommand is None:
            return
        given = self.config[self.subcommand]
        if given.get("weights_only") is None:
            given["weights_only"] = True  # merc's checkpoints hold plain values
        if given["weights_only"] and given.get("ckpt_path") and Path(given["ckpt_path"]).is_file():
            check_checkpoint(given["ckpt_path"])
        if self.subcommand == "test" and not given.get("ckpt_path"):
            raise ValueError("An untrained network is not worth a test: expected --ckpt_path CHECKPOINT.")
        if self.subcommand == "predict":
            given["trainer"]["logger"] = False  # nothing is logged, and the folder of the model may be read-only
            if given.get("return_predictions") is None:
                given["return_predictions"] = False  # they go into stores; nobody waits for them in memory
        if self.subcommand != "fit":
            self.save_config_callback = None  # what tests or predicts has its config from the training
        if given.get("out"):
            self._move_to(given["out"], given)
        folder = given["trainer"].get("default_root_dir")
        if self.subcommand in ("fit", "test") and folder and Path(folder, STATE).exists():
            raise ValueError(
                f"{folder} is a stage of `merc run`, and its results are those of that run: expected --out FOLDER for "
                f"the results of `merc {self.subcommand}`."
            )

    def _move_to(self, out: str, given: Namespace) -> None:
        """Let the Trainer work in a folder.

        Raises:
            ValueError: A new training would mix with the one that is there.
        """
        last = Path(out, "checkpoints", "last.ckpt")
        if self.subcommand == "fit" and last.parent.is_dir() and not given.get("ckpt_path"):
            raise ValueError(
                f"{out} holds a training already: expected another --out, or --ckpt_path {last} to go on with it."
            )
        options, trainer = run_folder(out), given["trainer"]
        trainer["default_root_dir"] = options["default_root_dir"]
        if trainer["logger"] in (None, True):
            logger = options["logger"]
            trainer["logger"] = Namespace(class_path=logger["class_path"], init_args=Namespace(**logger["init_args"]))  # type: ignore[no-untyped-call]
        loggers = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
        for logger in filter(None, loggers):
            in_files = logger["class_path"].endswith((".TensorBoardLogger", ".CSVLogger"))
            moved = options["logger"]["init_args"] if in_files else {"save_dir": out}
            init = logger["init_args"]
            for name in moved.keys() & init.keys():
                init[name] = moved[name]

    def after_instantiate_classes(self) -> None:
        """Put the task's own config into its checkpoints, so that ``load_from_checkpoint(path)`` needs nothing else."""
        config = self.config_dump["model"]
        if isinstance(self.model, ClassifierTask):
            self.model.config_digest = _digest(config, self.config_dump.get("data") or {})
        self.model.save_hyperparameters(
            {
                "_class_path": config["class_path"],
                **config.get("init_args", {}),
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
            },
            logger=False,  # config.yaml has it all, and better than TensorBoard's flat table
        )

    def after_fit(self) -> None:
        """Say which checkpoint is the best, and how to test it."""
        best = self.trainer.checkpoint_callback
        folder = Path(self.trainer.log_dir or "")  # asks all processes, so all of them come here
        if isinstance(best, ModelCheckpoint) and best.best_model_path and self.trainer.is_global_zero:
            score = "" if best.best_model_score is None else f" ({best.monitor} {float(best.best_model_score):.4f})"
            print(f"Best checkpoint: {best.best_model_path}{score}")
            config = folder / "config.yaml"
            print(f"To test it: merc test --config {config} --ckpt_path {best.best_model_path}")

    def after_test(self) -> None:
        """Say where the report is."""
        folder = getattr(self.model, "report_folder", None)  # asks all processes, as above
        if folder is not None and self.trainer.is_global_zero:
            print(f"Report: {folder / 'report.md'}")

    def before_predict(self) -> None:
        """Make the stores that ``--out`` asks for.

        Raises:
            ValueError: Nothing would be kept of the predictions.
        """
        out = self._get(self.config, "out")
        if out:
            add_store_writer(self.trainer, out, self._get(self.config, "outputs"))
        elif not any(isinstance(c, StoreWriterCallback | BasePredictionWriter) for c in callbacks_of(self.trainer)):
            raise ValueError("Nothing would be kept of the predictions: expected --out FOLDER for the stores.")

    def after_predict(self) -> None:
        """Say where the stores are, and write a table of the predictions beside those of logits."""
        corpus = getattr(self.datamodule, "corpus", None)
        if not self.trainer.is_global_zero:
            return
        for callback in callbacks_of(self.trainer):
            if isinstance(callback, StoreWriterCallback):
                print(f"Stores: {', '.join(callback.outputs.values())}")
                for store in map(Path, callback.outputs.values()):
                    if store.name == "logits" and isinstance(corpus, Corpus):
                        file = store.with_name("predictions.csv")
                        write_text(file, stored_table(FeatureStore(store), corpus))
                        print(f"Predictions: {file}")


class MercParser(MercCLI):
    """Parses the arguments of a stage and makes nothing of them."""

    making = False
    _shared: ClassVar[LightningArgumentParser | None] = None

    def __init__(self, args: list[str]) -> None:
        super().__init__(args, run=False)

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - those of LightningCLI
        """Make the parser once for all stages: that takes a third of the time, and parsing leaves it as it is."""
        if MercParser._shared is None:
            super().setup_parser(*args, **kwargs)
            MercParser._shared = self.parser
        self.parser = MercParser._shared

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def after_instantiate_classes(self) -> None:
        """There is nothing to complete."""


def chosen_by(config: Mapping[str, Any]) -> tuple[str, str]:
    """The score by which a training chooses its best checkpoint, and whether ``max`` or ``min`` is best.

    Args:
        config: What a :class:`MercParser` has parsed, as nested mappings.
    """
    callbacks = config["trainer"]["callbacks"] or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        options = callback.get("init_args", {})
        if callback["class_path"].endswith("ModelCheckpoint") and options.get("monitor"):
            return options["monitor"], options["mode"]
    return config["best"]["monitor"], config["best"]["mode"]


def _digest(model: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """A digest of a configuration: the options of model and data, wherever corpus, stores and weights lie."""
    plain = {name: value for name, value in data.get("init_args", {}).items() if name not in ("corpus", "stores")}
    init = {name: value for name, value in model.get("init_args", {}).items() if name != "warm_start"}
    text = json.dumps([model["class_path"], init, data.get("class_path"), plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def add_store_writer(trainer: Trainer, out: str | Path, outputs: list[str]) -> None:
    """Let a trainer write predictions into the stores ``out/<name>``, one for every name in ``outputs``."""
    callbacks_of(trainer).append(StoreWriterCallback({name: str(Path(out) / name) for name in outputs}))


def check_checkpoint(path: str | Path) -> None:
    """Refuse a checkpoint that cannot be read whole.

    Raises:
        ValueError: It is truncated, or holds more than plain values.
    """
    read_checkpoint(path)


def end_averaging(trainer: Trainer) -> None:
    """Take the averaging of weights away from a trainer that goes on with a checkpoint.

    While it is among the callbacks, Lightning answers a checkpoint that is loaded after `fit` with the weights before
    averaging: not those that were validated and chosen.
    """
    callbacks = callbacks_of(trainer)
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a trainer, as the list that it works with."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
