"""What an epoch of each system takes at the sizes of MELD and IEMOCAP, against the arithmetic it needs.

python benchmarks/systems_speed.py [--threads 1] [--epochs 3] [--share 1] [--corpora meld iemocap]
    [--systems hierarchical TelME LFVD CMATH Concat]

Each system trains as its shipped configs say: network, batch size, optimizer, validation, checkpoints and logging of
every epoch, on normal features of the corpus's number of dialogues and of its widths (LFVD, CMATH and Concat: the
community's, 1024, 300 or 1582, 342; the others: 1024, 1024, 768). TelME's teacher is RoBERTa itself and not measured.
Each runs in a process of its own, whose peak memory is given. The first epoch warms up. With a ``--share`` of the
dialogues, times are scaled up; what an epoch does once, such as its checkpoints, is so counted several times.

The floor is the multiply-adds of an epoch's training and validation over the rate of matrix products with as many
threads. They are counted on a batch of conversations of equal length, in which nothing is padded. The rate is that of
the fastest shape of ``train_speed.PRODUCTS``, measured between the epochs. Both in seconds of the processor, all
threads together, since other jobs may compete for it; medians. Beside it:

- padding: time for an utterance in the batches of the corpus, beyond that in batches of equal length. For comparison
  the share of empty places that the same batches would have as rectangles.
- DAG: its layers against a loop over conversations and utterances with the same weights and the same results.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from train_speed import DIALOGUES, PRODUCTS, make_corpus, multiply_adds, peak_mb, product_times, utterances, write_store

from merc.batch import ConversationBatch
from merc.configs.lookup import shipped_configs
from merc.conversation import Conversation, Utterance
from merc.corpora.simulated import SimulationConfig
from merc.datamodules import ConversationDataModule
from merc.datamodules.batches import UtteranceBatches
from merc.fusion import ConcatFusion
from merc.graphs import DAGEncoder
from merc.labels import IEMOCAP6, MELD, LabelSet
from merc.pipeline.lightning import MercCLI, quiet_lightning
from merc.tasks import FusionTask
from merc.tasks.base import EmotionTask

SYSTEMS = {
    "hierarchical": ["teacher", "audio_student", "visual_student", "hierarchical"],
    "TelME": ["telme_audio", "telme_visual", "telme"],
    "LFVD": ["lfvd"],
    "CMATH": ["cmath"],
    "Concat": ["lfvd"],  # with another head
}
"""The configs of the stages of each system."""

COMMUNITY = {"text": 1024, "audio": 300, "visual": 342}
WIDTHS = {
    "teacher": {"text": 768},
    "audio_student": {"audio": 1024},
    "visual_student": {"visual": 768},
    "hierarchical": dict.fromkeys(("text", "audio", "visual"), 256),
    "telme_audio": {"audio": 1024, "teacher_hidden": 768},
    "telme_visual": {"visual": 768, "teacher_hidden": 768},
    "telme": dict.fromkeys(("text", "audio", "visual"), 768),
    "lfvd": COMMUNITY,
    "cmath": COMMUNITY,
}
"""The widths of what each stage reads: those of the papers' features; openSMILE has 1582 numbers on IEMOCAP."""


@dataclass
class Size:
    """Of which size a corpus is: its labels, dialogues by split, and frequencies of dialogues of 1, 2, 3, ... turns."""

    labels: LabelSet
    dialogues: dict[str, int]
    counts: list[float]


SIZES = {
    "meld": Size(MELD, DIALOGUES, list(SimulationConfig().length_counts)),
    # 7433 utterances in 151 dialogues: 49 on average; a bell of which the ends are those of the corpus.
    "iemocap": Size(
        IEMOCAP6,
        {"train": 108, "val": 12, "test": 31},
        [math.exp(-(((n - 49) / 17) ** 2) / 2) if n >= 8 else 0.0 for n in range(1, 111)],
    ),
}


@dataclass
class Row:
    """What was measured of a stage."""

    stage: str
    parameters: int
    wall: float
    processor: float
    floor: float
    padding: float
    empty: float
    peak: float


@dataclass
class EpochClock(Callback):
    """Seconds of every epoch after the first, and the rate of matrix products before each."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the last epoch's clock, measure the rate, and start the next one's."""
        self._stop(trainer)
        self.rate.append(rate())
        self.start = time.perf_counter(), time.process_time()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the last epoch."""
        self._stop(trainer, last=1)

    def _stop(self, trainer: L.Trainer, last: int = 0) -> None:
        if trainer.current_epoch - last >= 1:
            self.wall.append(time.perf_counter() - self.start[0])
            self.processor.append(time.process_time() - self.start[1])


def rate() -> float:
    """Multiply-adds a processor second of the fastest product."""
    return max(
        math.prod(shape) / statistics.median(product_times(shape, time.process_time, 15)) for shape in PRODUCTS.values()
    )


def equal_lengths(data: ConversationDataModule, number: int, length: int) -> ConversationBatch:
    """A batch of ``number`` conversations of ``length``, of three speakers, with features and graphs as in the data."""
    turns = tuple(Utterance(str(i), f"speaker {i % 3}", label=data.labels.names[i % 6]) for i in range(length))
    batch = ConversationBatch.from_conversations([Conversation(str(i), turns) for i in range(number)], data.labels)
    for name, values in data.split("train").features.items():
        batch.features[name] = torch.randn(number * length, values.shape[1])
        batch.present[name] = torch.ones(number * length, dtype=torch.bool)
    for name, build in data.graphs.items():
        batch.edges[name] = build(batch, name)
    return batch


def padding(task: EmotionTask, data: ConversationDataModule, equal: ConversationBatch) -> tuple[float, float]:
    """How much longer an utterance takes in batches of the corpus, and their share of empty places as rectangles."""
    whole = data.split("train")
    order = [torch.tensor(chosen) for chosen in islice(UtteranceBatches(whole.lengths.tolist(), data.batch_size), 20)]
    task.train()

    def seconds(batch: ConversationBatch) -> float:
        start = time.process_time()
        task.step(batch).loss.backward()
        return time.process_time() - start

    # In turn, as the machine is not always equally fast.
    pairs = [(seconds(whole.select(chosen)), seconds(equal)) for chosen in order]
    lengths = whole.lengths[torch.cat(order)]
    uneven, even = (sum(column) for column in zip(*pairs, strict=True))
    rectangles = sum(len(chosen) * int(whole.lengths[chosen].max()) for chosen in order)
    each = uneven / int(lengths.sum()), even / (len(order) * equal.num_utterances)
    return each[0] / each[1] - 1, 1 - int(lengths.sum()) / rectangles


def measure(corpus_name: str, system: str, threads: int, epochs: int, share: float) -> list[Row]:
    """Train the stages of a system."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    size = SIZES[corpus_name]
    dialogues = {split: round(share * number) for split, number in size.dialogues.items()}
    corpus = make_corpus(size.labels, dialogues, size.counts)
    rows = []
    for stage in SYSTEMS[system]:
        with tempfile.TemporaryDirectory() as name, quiet_lightning(quiet=True):
            folder = Path(name)
            corpus.save(folder / "corpus.json")
            names = ("text", "audio", "visual", "teacher", "teacher_hidden")
            configs = [f"paper/{stage}.yaml", f"paper/{stage}_{corpus_name}.yaml"]
            arguments = [word for name in configs if name in shipped_configs() for word in ("--config", name)]
            arguments += ["--data.corpus", str(folder / "corpus.json")]
            arguments += ["--trainer.default_root_dir", name, "--trainer.accelerator", "cpu"]
            arguments += ["--trainer.num_sanity_val_steps", "0", "--trainer.max_epochs", str(epochs)]
            arguments += ["--trainer.max_steps", "-1", "--trainer.check_val_every_n_epoch", "1"]
            arguments += ["--trainer.val_check_interval", "1.0"]
            arguments += ["--trainer.enable_model_summary", "false"]
            cli = MercCLI(
                [*arguments, "--data.stores", json.dumps({each: str(folder / each) for each in names})], run=False
            )
            task, data = cli.model, cli.datamodule
            if system == "Concat":
                task = FusionTask(ConcatFusion, optimizer=task.make_optimizer)
            wanted = dict(WIDTHS[stage])
            if corpus_name == "iemocap" and WIDTHS[stage] is COMMUNITY:
                wanted["audio"] = 1582
            if getattr(getattr(task, "loss", None), "needs_teacher", False):
                wanted["teacher"] = len(size.labels)
            for each, width in wanted.items():
                write_store(folder / each, corpus, width, "logits" if each == "teacher" else "features")
            data = ConversationDataModule(
                folder / "corpus.json", {each: folder / each for each in wanted}, data.graphs, data.batch_size
            )
            clock = EpochClock()
            cli.trainer.callbacks[:] = [clock, *(c for c in cli.trainer.callbacks if not isinstance(c, ProgressBar))]
            cli.trainer.fit(task, datamodule=data)
            train = utterances(corpus, "train")
            length = round(train / len(corpus["train"]))
            equal = equal_lengths(data, max(1, round(data.batch_size / length)), length)
            training, validation = multiply_adds(task, equal)
            work = training * train + validation * utterances(corpus, "val")
            costs, empty = padding(task, data, equal)
            rows.append(
                Row(
                    stage if len(SYSTEMS[system]) > 1 else "",
                    sum(p.numel() for p in task.parameters()),
                    statistics.median(clock.wall) / share,
                    statistics.median(clock.processor) / share,
                    work / statistics.median(clock.rate) / share,
                    costs,
                    empty,
                    peak_mb(),
                )
            )
    return rows


def loop(encoder: DAGEncoder, values: torch.Tensor, batch: ConversationBatch) -> torch.Tensor:
    """DAG-ERC conversation by conversation and utterance by utterance."""
    incoming, same = encoder.edges(batch)
    joined = []
    for number, rows in enumerate(values.split(batch.lengths.tolist())):
        states = [rows]
        for layer in encoder.layers:
            done: list[torch.Tensor] = []
            for turn, below in enumerate(states[-1].split(1)):
                gathered = torch.zeros_like(below)
                if turn:
                    past = torch.cat(done)[incoming[number, turn, :turn]]
                    kin = same[number, turn, :turn][incoming[number, turn, :turn], None]
                    alpha = layer.score(past).softmax(0)
                    other, own = layer.relate(past).chunk(2, dim=1)
                    gathered = (alpha * torch.where(kin, own, other)).sum(0, keepdim=True)
                done.append(layer.content(below, gathered) + layer.context(gathered, below))
            states.append(torch.cat(done))
        joined.append(encoder.join(torch.cat(states, dim=1)))
    return torch.cat(joined)


def dag(corpus_name: str, threads: int) -> str:
    """Forward and backward of the DAG layers on a batch of LFVD, beside the loop."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    size = SIZES[corpus_name]
    corpus = make_corpus(size.labels, {"train": size.dialogues["train"]}, size.counts)
    batch = ConversationBatch.from_conversations(corpus["train"][: 32 if corpus_name == "meld" else 20], size.labels)
    encoder, values = DAGEncoder(256), torch.randn(batch.num_utterances, 256)
    with torch.no_grad():
        difference = float((encoder(values, batch) - loop(encoder, values, batch)).abs().max())

    def seconds(encode: Callable[[], torch.Tensor]) -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        encode().sum().backward()
        return time.process_time() - processor, time.perf_counter() - wall

    ours, theirs = [], []
    for _ in range(5):
        ours.append(seconds(lambda: encoder(values, batch)))
        theirs.append(seconds(lambda: loop(encoder, values, batch)))
    processor, wall = (
        (statistics.median(x[clock] for x in ours), statistics.median(x[clock] for x in theirs)) for clock in (0, 1)
    )
    return (
        f"DAG layers, {corpus_name}, {batch.num_conversations} conversations of {batch.num_utterances} utterances: "
        f"{processor[0] * 1e3:.0f} ms, loop {processor[1] * 1e3:.0f} ms of processor time "
        f"({processor[1] / processor[0]:.1f} times; by the wall {wall[1] / wall[0]:.1f}); "
        f"largest difference {difference:.0e}"
    )


def main() -> None:
    """Print a row for each stage of each system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3, help="at least 2, of which the first is not counted")
    parser.add_argument("--share", type=float, default=1.0, help="of the dialogues, above 0")
    parser.add_argument("--corpora", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    options = parser.parse_args()

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for corpus in options.corpora:
            print(f"{corpus}, {options.threads} threads; an epoch, in seconds", flush=True)
            print(
                f"{'':12}{'':14}{'million':>9}{'':>9}{'':>11}{'':>8}{'ratio':>8}{'':>10}{'empty':>8}{'peak':>8}\n"
                f"{'system':12}{'stage':14}{'weights':>9}{'wall':>9}{'processor':>11}{'floor':>8}{'':>8}{'padding':>10}"
                f"{'places':>8}{'MB':>8}"
            )
            for system in options.systems:
                rows = processes.submit(
                    measure, corpus, system, options.threads, options.epochs, options.share
                ).result()
                for row in rows:
                    print(
                        f"{system:12}{row.stage:14}{row.parameters / 1e6:9.1f}{row.wall:9.2f}{row.processor:11.2f}"
                        f"{row.floor:8.2f}{row.processor / row.floor:8.2f}{row.padding:+10.0%}{row.empty:8.0%}"
                        f"{row.peak:8.0f}",
                        flush=True,
                    )
                if len(rows) > 1:
                    wall, processor, floor = (sum(getattr(r, n) for r in rows) for n in ("wall", "processor", "floor"))
                    print(f"{system:12}{'all':23}{wall:9.2f}{processor:11.2f}{floor:8.2f}{processor / floor:8.2f}")
            print(processes.submit(dag, corpus, options.threads).result() + "\n", flush=True)


if __name__ == "__main__":
    main()
