"""Every task under one Trainer, in as many processes as there are: what it validates, tests, predicts and learns.

``python two_processes.py FOLDER OUT`` starts two processes as ``torchrun --nproc-per-node 2`` does, once it reads a
line. FOLDER is that of :func:`prepare`.
"""

import json
import logging
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from merc.callbacks import StoreWriterCallback, WeightEMA
from merc.conversation import Corpus
from merc.corpora.simulated import simulate
from merc.datamodules import (
    ConversationDataModule,
    JointDataModule,
    LipSyncDataModule,
    LipSyncSource,
    TextDataModule,
)
from merc.encoders import TextEncoder
from merc.features.table import FeaturedCorpus
from merc.fusion import HierarchicalFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.losses import FusionLoss
from merc.speaker import LipSyncNet, SyncScorer
from merc.store import FeatureStore
from merc.tasks import FusionTask, JointTask, LipSyncTask, StudentTask, TeacherTask, TextEncoderTask
from support.tiny_lips import SIZE, talk, write_stores
from support.tiny_text import tiny_bert, tiny_corpus

DIMS = {"text": 5, "audio": 6, "visual": 3}
GRAPH = GraphBuilder(past=2, future=2, speaker=1, similar=1)
ADAM = partial(torch.optim.AdamW, lr=1e-2)


def prepare(folder: Path) -> None:
    """Make the data: of five conversations to validate, two processes get three and two."""
    made = simulate(dialogues={"train": 9, "val": 5, "test": 5}, widths=DIMS, latent_dims=dict.fromkeys(DIMS, 3))
    FeaturedCorpus.save(made, folder)
    keys = [key for split in made.corpus.values() for talk in split for key in talk.keys]
    torch.manual_seed(0)
    about = {"classes": list(made.corpus.labels.names)}
    FeatureStore.write(folder / "teacher", keys, torch.randn(len(keys), 7), kind="logits", provenance=about)

    def clip(seed):
        crops, sound = talk(seed)
        return [(0, crops)], sound, 0

    splits = {"train": range(4), "val": range(70, 75), "test": range(80, 83)}
    write_stores(folder / "lips", {split: [*map(clip, seeds)] for split, seeds in splits.items()})
    tiny_bert(folder / "bert")
    tiny_corpus().save(folder / "spoken.json")
    one = Corpus.load(folder / "corpus.json")
    Corpus(one.name, one.labels, {"test": one["test"][:1]}).save(folder / "one.json")


def student(name: str) -> StudentTask:
    """A student of any modality."""
    encoder = {"audio": GCNEncoder, "visual": GATEncoder}[name]
    return StudentTask(partial(encoder, hidden_dim=8, num_layers=2), name, optimizer=ADAM)


def fusion() -> FusionTask:
    """A fusion whose head and loss have parameters and terms of their own."""
    head, loss = partial(HierarchicalFusion, dim=16), partial(FusionLoss, projection_dim=8)
    return FusionTask(head, loss, optimizer=ADAM, head_weights={"balance": 0.25})


def lipsync() -> LipSyncTask:
    """A small LipSyncNet."""
    network = LipSyncNet(size=SIZE, width=4, hidden=8, dropout=0.0)
    return LipSyncTask(network, scorer=SyncScorer(window=24, hop=12), pair_frames=48, optimizer=ADAM)


def systems(folder: Path):
    """By name, what makes a task and its data."""
    features = {name: folder / "features" / name for name in DIMS}

    def conversations(*names, **options):
        stores = {**features, "teacher": folder / "teacher"}
        stores = {name: stores[name] for name in names}
        graphs = {name: GRAPH for name in names if name != "teacher"}
        kind = JointDataModule if "lipsync" in options else ConversationDataModule
        corpus = options.pop("corpus", folder / "corpus.json")
        return kind(corpus=corpus, stores=stores, graphs=graphs, batch_size=20, eval_batch_size=20, **options)

    def lips():
        paths = {name: str(folder / "lips" / name) for name in ("faces", "crops", "sound", "speaker")}
        source = LipSyncSource(corpus=folder / "lips/corpus.json", **paths)
        return LipSyncDataModule([source], window=24, batch_size=4, batches_per_epoch=3)

    def spoken():
        return TextDataModule(folder / "spoken.json", batch_size=4, batch_tokens=60)

    def joint():
        return JointTask({name: student(name) for name in ("audio", "visual")}, fusion(), lipsync=lipsync())

    text = ConversationDataModule(folder / "corpus.json", {"text": features["text"]})
    assert text.graphs == {}
    return {
        "teacher": (
            lambda: TeacherTask(partial(GATEncoder, hidden_dim=8), optimizer=ADAM),
            lambda: conversations("text"),
        ),
        "student": (lambda: student("audio"), lambda: conversations("audio", "teacher")),
        "fusion": (fusion, lambda: conversations(*DIMS)),
        "joint": (joint, lambda: conversations(*DIMS, "teacher", lipsync=lips())),
        "lipsync": (lipsync, lips),
        "text encoder": (lambda: TextEncoderTask(TextEncoder(str(folder / "bert")), optimizer=ADAM), spoken),
        "one conversation": (fusion, lambda: conversations(*DIMS, corpus=folder / "one.json")),
    }


def trainer(out: Path, *callbacks, **options) -> L.Trainer:
    """On the CPU, in all processes that torchrun has started."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    spread = {"devices": world, "strategy": "ddp"} if world > 1 else {}
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        callbacks=list(callbacks),
        **spread,
        **options,
    )


def evaluate(name, make, data, out: Path, start: str) -> dict[str, float]:
    """Scores of a checkpoint, and its predictions in stores."""
    given = {"datamodule": data(), "ckpt_path": start, "weights_only": True}
    found: dict[str, float] = {}
    if name != "one conversation":
        (val,) = trainer(out).validate(make(), **given, verbose=False)
        (test,) = trainer(out).test(make(), **given, verbose=False)
        found = {**val, **test}
    kinds = {"lipsync": ["speaker"], "text encoder": ["features", "logits"]}.get(name, ["hidden", "logits"])
    writer = StoreWriterCallback({kind: str(out / kind) for kind in kinds})
    trainer(out, writer).predict(make(), **given, return_predictions=False)
    return found


def learn(make, data, out: Path) -> tuple[str, float, float]:
    """A short training: its best checkpoint with its score, and how far the weights of the processes are apart."""
    L.seed_everything(0, verbose=False)
    module = data()
    monitor, mode = ("val/pair_loss", "min") if isinstance(module, LipSyncDataModule) else ("val/weighted_f1", "max")
    best = ModelCheckpoint(out, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    task, run = make(), trainer(out, best, WeightEMA(0.5), max_epochs=2)
    run.fit(task, datamodule=module)
    weights = torch.cat([p.detach().flatten() for p in task.parameters()])
    apart = 0.0
    if torch.distributed.is_initialized():
        everywhere = [torch.zeros_like(weights) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everywhere, weights)
        apart = max(float((other - weights).abs().max()) for other in everywhere)
    return best.best_model_path, float(best.best_model_score), apart


def main(folder: Path, out: Path) -> None:
    """Train every task, and evaluate the checkpoints in FOLDER, or if there are none those of the training."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = {}
    for name, (make, data) in systems(folder).items():
        place = out / name
        if name == "one conversation":
            start, learnt = folder / "fusion.ckpt", None
        else:
            best, score, apart = learn(make, data, place / "trained")
            start, learnt = folder / f"{name}.ckpt", {"score": score, "apart": apart, "best": best}
            if not start.exists() and int(os.environ.get("RANK", 0)) == 0:
                start.write_bytes(Path(best).read_bytes())
        found[name] = {"scores": evaluate(name, make, data, place, str(start)), "learnt": learnt}
    if int(os.environ.get("RANK", 0)) == 0:
        (out / "found.json").write_text(json.dumps(found))


def launch(folder: Path, out: Path) -> None:
    """:func:`main` in two processes of torchrun's launcher, forked so that they need not import everything again."""
    torch.set_num_threads(1)
    config = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork")
    elastic_launch(config, main)(folder, out)


if __name__ == "__main__":
    if sys.stdin.readline():  # nothing if the tests ended first
        launch(Path(sys.argv[1]), Path(sys.argv[2]))
