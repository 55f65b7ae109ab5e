"""Lightning's subcommands: plain LightningCLI that finds shipped configs and writes predictions into stores."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import yaml
from lightning import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from merc.callbacks import StoreWriterCallback
from merc.cli import expand_configs

# Noise for whoever runs a stage: loading from memory needs no workers, and weights are meant to load without the
# state of the averaging.
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*using the WeightAveraging callback, but loading a checkpoint outside.*")
warnings.filterwarnings("ignore", message=".*The dirpath has changed.*")
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")


class MercCLI(LightningCLI):
    """LightningCLI over any task and any datamodule.

    Beyond LightningCLI it finds shipped configs by short name, and ``--out FOLDER`` of ``predict`` writes one
    feature store for each name in ``--outputs`` (features, hidden, logits) below FOLDER.

    Args:
        args: Arguments to parse, the subcommand first; default: those of the process.
        run: Carry the subcommand out; without it, trainer, model and datamodule are made and nothing runs.
    """

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        super().__init__(
            args=args,
            run=run,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "merc"},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with short config names expanded."""
        given = sys.argv[1:] if args is None else args
        if not isinstance(given, list):
            raise TypeError(f"Expected a list of arguments, got {type(given).__name__}.")
        self.config = parser.parse_args(expand_configs(given))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The two options that ``predict`` has beyond Lightning's."""
        parser.add_argument("--out", type=str | None, default=None, help="predict: folder for the feature stores")
        parser.add_argument(
            "--outputs",
            type=list[str],
            default=["hidden", "logits"],
            help="predict: what to store of features, hidden, logits",
        )

    def before_instantiate_classes(self) -> None:
        """Only training leaves a config.yaml: what tests or predicts has its config from there."""
        if self.subcommand not in (None, "fit"):
            self.save_config_callback = None

    def after_instantiate_classes(self) -> None:
        """Put the task's own config into its checkpoints, so that ``load_from_checkpoint(path)`` needs nothing else."""
        dump = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=False, skip_none=False, format="yaml"))
        config = (dump[self.subcommand] if self.subcommand else dump)["model"]
        self.model.save_hyperparameters(
            {
                "_class_path": config["class_path"],
                **config.get("init_args", {}),
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
            },
            logger=False,  # config.yaml has it all, and better than TensorBoard's flat table
        )

    def before_predict(self) -> None:
        """Make the stores that ``--out`` asks for."""
        out = self._get(self.config, "out")
        if out:
            add_store_writer(self.trainer, out, self._get(self.config, "outputs"))


def add_store_writer(trainer: Trainer, out: str | Path, outputs: list[str]) -> None:
    """Let a trainer write predictions into the stores ``out/<name>``, one for every name in ``outputs``."""
    writer = StoreWriterCallback({name: str(Path(out) / name) for name in outputs})
    trainer.callbacks.append(writer)  # type: ignore[attr-defined]
