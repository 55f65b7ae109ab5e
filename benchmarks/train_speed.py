"""How long the four training stages of the main system take at the size of MELD, against the arithmetic they need.

python benchmarks/train_speed.py [--epochs 30] [--threads 2] [--fused]

Random features of MELD's sizes (9989, 1109 and 2610 utterances; 1024 wide for text and audio, 768 for video) lie in
stores on disk. Teacher (GAT, 4 layers of 256), audio student (GCN, 3), visual student (GAT, 3) and hierarchical fusion
(256) train one after the other through the tasks, the datamodule and a Trainer that clips gradients, validates and
saves checkpoints every epoch; the best checkpoint of each stage then writes the stores that the next one reads. With
fewer epochs than 30, the time of the epochs is scaled up; what a stage does once is not.

The floor is the multiply-adds of all training steps and validations, counted on one batch and scaled by utterances,
over the rate of matrix products with as many threads, measured before and after the stages. The rate is that of
the better of a large square product and the products of the layers' own shapes, so that a slow product of small
matrices is no excuse. ``--fused`` takes PyTorch's fused AdamW, which cannot go with gradient clipping under 16-mixed
and is therefore not in the shipped configs.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.flop_counter import FlopCounterMode

from merc.callbacks import StoreWriterCallback
from merc.conversation import Conversation, Corpus, Utterance
from merc.datamodules import ConversationDataModule
from merc.fusion import HierarchicalFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.labels import MELD
from merc.losses import FusionLoss
from merc.store import FeatureStore
from merc.tasks import FusionTask, StudentTask, TeacherTask
from merc.tasks.base import EmotionTask

EPOCHS = 30
REFERENCE_MINUTES = 126
"""What the public reference implementation takes for the same epochs: about 126 minutes on such a machine."""

SIZES = {"train": (1038, 9989), "val": (114, 1109), "test": (280, 2610)}
WIDTHS = {"text": 1024, "audio": 1024, "visual": 768}
DIM, C = 256, len(MELD)


def make_data(folder: Path) -> Path:
    """A corpus of MELD's size with labels drawn at random, and normal features, in ``folder``."""
    splits = {}
    for split, (dialogues, utterances) in SIZES.items():
        extra = torch.multinomial(torch.rand(dialogues), utterances - dialogues, replacement=True)
        lengths = 1 + extra.bincount(minlength=dialogues)
        splits[split] = [
            Conversation(
                str(number),
                tuple(
                    Utterance(str(index), f"speaker {index % 3}", label=MELD.names[int(torch.randint(C, ()))])
                    for index in range(length)
                ),
                partition=split,
            )
            for number, length in enumerate(lengths.tolist())
        ]
    corpus = Corpus("random", MELD, splits)
    corpus.save(folder / "corpus.json")
    keys = [key for split in corpus for conversation in corpus[split] for key in conversation.keys]
    for name, width in WIDTHS.items():
        FeatureStore.write(folder / name, keys, torch.randn(len(keys), width))
    return folder / "corpus.json"


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


def multiply_adds(task: EmotionTask, data: ConversationDataModule) -> float:
    """Multiply-adds of ``EPOCHS`` epochs of training and validation."""
    batch = data.split("train").select(range(data.batch_size))
    with FlopCounterMode(display=False) as training:
        torch.stack([*task.train().predict(batch).terms.values()]).sum().backward()
    with FlopCounterMode(display=False) as validation, torch.no_grad():
        task.eval().predict(batch)
    # The counter sees matrix products only. On each edge GATv2 multiplies and adds twice a channel, for the score and
    # for the sum of messages, the GCN once; the backward pass takes each of them twice.
    channels = sum(
        edges.index.shape[1] * DIM * len(task.network.layers) * (2 if isinstance(task.network, GATEncoder) else 1)
        for edges in batch.edges.values()
    )
    each = training.get_total_flops() / 2 + 3 * channels, validation.get_total_flops() / 2 + channels
    task.zero_grad()
    epoch = sum(work * SIZES[split][1] for work, split in zip(each, ("train", "val"), strict=True))
    return EPOCHS * epoch / batch.num_utterances


def rates() -> dict[str, float]:
    """Multiply-adds a second of matrix products, by shape; the best of several, as other jobs only slow them down."""
    found = {}
    for name, (rows, inner, columns) in {
        "square of 1024": (1024, 1024, 1024),
        "projection, 154 x 1024 x 256": (154, 1024, 256),
        "graph layer, 154 x 256 x 256": (154, 256, 256),
        "experts, 154 x 256 x 1024": (154, 256, 1024),
        "transformer, 462 x 256 x 512": (462, 256, 512),
    }.items():
        left, right, times = torch.randn(rows, inner), torch.randn(inner, columns), []
        for _ in range(30):
            start = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - start)
        found[name] = rows * inner * columns / min(times)
    return found


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def main() -> None:
    """Train all stages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fused", action="store_true", help="fused AdamW")
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    adam = partial(torch.optim.AdamW, lr=5e-4, weight_decay=1e-3, fused=options.fused or None)
    stages: dict[str, tuple[EmotionTask, dict[str, str], str | None]] = {
        "teacher": (TeacherTask(GATEncoder(1024, C, DIM, 4), "text", optimizer=adam), {"text": "text"}, "text"),
        "audio student": (
            StudentTask(GCNEncoder(1024, C, DIM, 3), "audio", optimizer=adam),
            {"audio": "audio", "teacher": "teacher/logits"},
            "audio",
        ),
        "visual student": (
            StudentTask(GATEncoder(768, C, DIM, 3), "visual", optimizer=adam),
            {"visual": "visual", "teacher": "teacher/logits"},
            "visual",
        ),
        "fusion": (
            FusionTask(HierarchicalFusion(dict.fromkeys(WIDTHS, DIM), C, DIM), FusionLoss(DIM), optimizer=adam),
            {"text": "teacher/hidden", "audio": "audio student/hidden", "visual": "visual student/hidden"},
            None,
        ),
    }
    seconds, work = {}, {}
    before = rates()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_data(folder)
        for stage, (task, stores, graph) in stages.items():
            data = ConversationDataModule(
                corpus,
                {feature: folder / path for feature, path in stores.items()},
                {graph: GraphBuilder()} if graph else None,
            )
            seconds[stage] = train(task, data, folder / stage, options.epochs)
            work[stage] = multiply_adds(task, data)
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
