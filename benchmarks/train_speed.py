"""How long the four training stages of the main system take at the size of MELD, against the arithmetic they need.

python benchmarks/train_speed.py [--epochs 30] [--threads 2]

Random features of MELD's sizes (1038, 114 and 280 dialogues, as long as there; 1024 wide for text and audio, 768 for
video) lie in stores on disk. Teacher (GAT, 4 layers of 256), audio student (GCN, 3), visual student (GAT, 3) and
hierarchical fusion (256) train one after the other through the tasks, the datamodule and a Trainer that clips
gradients, validates and saves checkpoints every epoch; the best checkpoint of each stage then writes the stores that
the next one reads. With fewer epochs than 30, the time of the epochs is scaled up; what a stage does once is not.

The floor is the multiply-adds of all training steps and validations, counted on one batch and scaled by utterances,
over the rate of matrix products with as many threads, measured before and after the stages. The rate is that of
the better of a large square product and the products of the layers' own shapes, so that a slow product of small
matrices is no excuse. ``benchmarks/systems_speed.py`` measures every system, one stage at a time.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.flop_counter import FlopCounterMode

from merc.batch import ConversationBatch
from merc.callbacks import StoreWriterCallback
from merc.conversation import Conversation, Corpus, Utterance
from merc.corpora.simulated import SimulationConfig
from merc.datamodules import ConversationDataModule
from merc.fusion import HierarchicalFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder, GraphEncoder
from merc.labels import MELD, LabelSet
from merc.losses import FusionLoss
from merc.store import FeatureStore, Kind
from merc.tasks import FusionTask, StudentTask, TeacherTask
from merc.tasks.base import EmotionTask

EPOCHS = 30
REFERENCE_MINUTES = 126
"""What the public reference implementation takes for the same epochs: about 126 minutes on such a machine."""

DIALOGUES = {"train": 1038, "val": 114, "test": 280}
WIDTHS = {"text": 1024, "audio": 1024, "visual": 768}
DIM = 256


def make_corpus(labels: LabelSet, dialogues: dict[str, int], counts: Sequence[float]) -> Corpus:
    """A corpus of random labels, whose dialogues are of 1, 2, 3, ... utterances as often as ``counts`` say."""
    cumulative = torch.tensor(counts, dtype=torch.double).cumsum(0)
    splits = {}
    for split, number in dialogues.items():
        places = (torch.arange(number) + 0.5) / number * cumulative[-1]
        lengths = 1 + torch.searchsorted(cumulative, places.double())[torch.randperm(number)]
        splits[split] = [
            Conversation(
                str(index),
                tuple(
                    Utterance(str(turn), f"speaker {turn % 3}", label=labels.names[int(torch.randint(len(labels), ()))])
                    for turn in range(length)
                ),
                partition=split,
            )
            for index, length in enumerate(lengths.tolist())
        ]
    return Corpus("random", labels, splits)


def utterances(corpus: Corpus, split: str) -> int:
    """Utterances of a split."""
    return sum(len(conversation) for conversation in corpus[split])


def write_store(path: Path, corpus: Corpus, width: int, kind: Kind = "features") -> None:
    """Normal features for every utterance of the corpus."""
    keys = [key for split in corpus for conversation in corpus[split] for key in conversation.keys]
    provenance = {"classes": list(corpus.labels.names)} if kind == "logits" else {}
    FeatureStore.write(path, keys, torch.randn(len(keys), width), kind=kind, provenance=provenance)


class EpochClock(Callback):
    """Seconds from the start of the first training epoch to the end of the last, validation included."""

    seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.start


def train(task: EmotionTask, data: ConversationDataModule, folder: Path, epochs: int) -> float:
    """Train a stage and write its stores; seconds, as if it had trained for ``EPOCHS``."""
    clock = EpochClock()
    best = ModelCheckpoint(folder, filename="best", monitor="val/weighted_f1", mode="max", save_last=True)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=1.0,
        callbacks=[best, clock],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    start = time.perf_counter()
    trainer.fit(task, datamodule=data)
    trainer.callbacks.append(StoreWriterCallback({name: str(folder / name) for name in ("hidden", "logits")}))
    trainer.predict(task, datamodule=data, ckpt_path=best.best_model_path, weights_only=True, return_predictions=False)
    return time.perf_counter() - start + clock.seconds * (EPOCHS / epochs - 1)


def multiply_adds(task: EmotionTask, batch: ConversationBatch) -> tuple[float, float]:
    """Multiply-adds of a training step and of a validation step, for each utterance of the batch."""
    with FlopCounterMode(display=False) as training:
        task.train().step(batch).loss.backward()
    with FlopCounterMode(display=False) as validation:
        task.eval().step(batch)
    task.zero_grad()
    # The counter sees matrix products only. On each edge GATv2 multiplies and adds twice a channel, for the score and
    # for the sum of messages, the GCN once; the backward pass takes each of them twice.
    channels = 0
    network = getattr(task, "network", None)
    if isinstance(network, GraphEncoder):
        times = len(network.layers) * network.hidden_dim * (2 if isinstance(network, GATEncoder) else 1)
        channels = sum(edges.index.shape[1] * times for edges in batch.edges.values())
    each = training.get_total_flops() / 2 + 3 * channels, validation.get_total_flops() / 2 + channels
    return each[0] / batch.num_utterances, each[1] / batch.num_utterances


PRODUCTS = {
    "square of 1024": (1024, 1024, 1024),
    "projection, 154 x 1024 x 256": (154, 1024, 256),
    "graph layer, 154 x 256 x 256": (154, 256, 256),
    "experts, 154 x 256 x 1024": (154, 256, 1024),
    "transformer, 462 x 256 x 512": (462, 256, 512),
}
"""Shapes of matrix products: rows, inner width, columns."""


def product_times(shape: tuple[int, int, int], clock: Callable[[], float], repeats: int = 30) -> list[float]:
    """Seconds of matrix products of a shape."""
    rows, inner, columns = shape
    left, right, times = torch.randn(rows, inner), torch.randn(inner, columns), []
    for _ in range(repeats):
        start = clock()
        left @ right
        times.append(clock() - start)
    return times


def rates() -> dict[str, float]:
    """Multiply-adds a second of matrix products, by shape; the best of several, as other jobs only slow them down."""
    return {
        name: shape[0] * shape[1] * shape[2] / min(product_times(shape, time.perf_counter))
        for name, shape in PRODUCTS.items()
    }


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def main() -> None:
    """Train all stages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    adam = partial(torch.optim.AdamW, lr=5e-4, weight_decay=1e-3)
    stages: dict[str, tuple[EmotionTask, dict[str, str], str | None]] = {
        "teacher": (
            TeacherTask(partial(GATEncoder, hidden_dim=DIM, num_layers=4), "text", optimizer=adam),
            {"text": "text"},
            "text",
        ),
        "audio student": (
            StudentTask(partial(GCNEncoder, hidden_dim=DIM, num_layers=3), "audio", optimizer=adam),
            {"audio": "audio", "teacher": "teacher/logits"},
            "audio",
        ),
        "visual student": (
            StudentTask(partial(GATEncoder, hidden_dim=DIM, num_layers=3), "visual", optimizer=adam),
            {"visual": "visual", "teacher": "teacher/logits"},
            "visual",
        ),
        "fusion": (
            FusionTask(partial(HierarchicalFusion, dim=DIM), FusionLoss, optimizer=adam),
            {"text": "teacher/hidden", "audio": "audio student/hidden", "visual": "visual student/hidden"},
            None,
        ),
    }
    seconds, work = {}, {}
    before = rates()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_corpus(MELD, DIALOGUES, SimulationConfig().length_counts)
        for feature, width in WIDTHS.items():
            write_store(folder / feature, corpus, width)
        for stage, (task, stores, graph) in stages.items():
            data = ConversationDataModule(
                corpus,
                {feature: folder / path for feature, path in stores.items()},
                {graph: GraphBuilder()} if graph else None,
            )
            seconds[stage] = train(task, data, folder / stage, options.epochs)
            each = multiply_adds(task, data.split("train").select(range(16)))
            epoch = sum(w * utterances(corpus, split) for w, split in zip(each, ("train", "val"), strict=True))
            work[stage] = EPOCHS * epoch
    after = rates()
    best = {shape: max(before[shape], after[shape]) for shape in before}
    rate = max(best.values())

    measured = "" if options.epochs == EPOCHS else f", scaled up from {options.epochs}"
    print(f"{EPOCHS} epochs{measured}; {options.threads} threads\n")
    for shape, value in best.items():
        print(f"{shape:32}{value / 1e9:6.1f} G multiply-adds a second ({min(before[shape], after[shape]) / 1e9:.1f})")
    print(f"\n{'':16}{'seconds':>9}{'floor':>9}{'ratio':>8}")
    for stage in [*stages, "all"]:
        took, least = (sum(x.values()) if stage == "all" else x[stage] for x in (seconds, work))
        print(f"{stage:16}{took:9.1f}{least / rate:9.1f}{took * rate / least:8.2f}")
    total = sum(seconds.values())
    ratio = 60 * REFERENCE_MINUTES / total
    print(f"\nThe public reference takes about {REFERENCE_MINUTES} minutes: {ratio:.0f} times as long.")
    print(f"Peak memory of the process: {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
