"""Teacher, student and fusion in plain Python, on a simulated corpus: ``python examples/quickstart.py``.

Read it from top to bottom. It takes about a minute on one core and writes everything to ``runs/quickstart``.
"""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from rich import print

from merc.callbacks import StoreWriterCallback
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.evaluation import compare_seeds, read_predictions
from merc.fusion import HierarchicalFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.losses import DistillationLoss, FusionLoss
from merc.tasks import FusionTask, StudentTask, TeacherTask

# Lightning explains itself at length; here the table at the end is what matters.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="lightning")


def train(task: L.LightningModule, data: ConversationDataModule, folder: Path, epochs: int) -> None:
    """Train a task, report its best checkpoint on test, and store its hidden states and logits.

    Args:
        task: What to train.
        data: What it is trained on.
        folder: Where checkpoint, ``report/``, ``hidden/`` and ``logits/`` go.
        epochs: Passes through the training split.
    """
    print(f"Training {type(task).__name__} into {folder}")
    best = ModelCheckpoint(folder, filename="best", monitor="val/weighted_f1", mode="max", enable_version_counter=False)
    stores = StoreWriterCallback({name: str(folder / name) for name in ("hidden", "logits")})
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        gradient_clip_val=1.0,
        callbacks=[best, stores],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, ckpt_path="best", weights_only=True, verbose=False)
    trainer.predict(task, datamodule=data, ckpt_path="best", weights_only=True, return_predictions=False)


def main(out: str | Path = "runs/quickstart", dialogues: int = 400, epochs: int = 12) -> None:
    """Run the whole chain.

    Args:
        out: Folder for all results.
        dialogues: Dialogues to train on, and as many to test on.
        epochs: Passes through the training split, for each stage.
    """
    out = Path(out)
    L.seed_everything(0, verbose=False)

    # 1. A corpus. This one is drawn from a known model, so the best score that anybody can reach on it is known too.
    corpus = simulate(dialogues={"train": dialogues, "val": dialogues // 2, "test": dialogues}, seed=0)
    corpus.save(out / "data")  # corpus.json, and a feature store for text, audio and visual

    # 2. The teacher reads text. Its graph connects each utterance with its neighbours in the same conversation.
    data = ConversationDataModule(
        corpus=out / "data/corpus.json",
        stores={"text": out / "data/features/text"},
        graphs={"text": GraphBuilder(past=5, future=5, speaker=2, similar=3)},
    )
    teacher = TeacherTask(partial(GATEncoder, hidden_dim=128, num_layers=2), modality="text")
    train(teacher, data, out / "teacher", epochs)

    # 3. The student hears audio. It learns from the labels and from the logits that the teacher has stored.
    data = ConversationDataModule(
        corpus=out / "data/corpus.json",
        stores={"audio": out / "data/features/audio", "teacher": out / "teacher/logits"},
        graphs={"audio": GraphBuilder()},
    )
    network = partial(GCNEncoder, hidden_dim=128, num_layers=2)  # widths and emotions come from the data
    student = StudentTask(network, modality="audio", loss=DistillationLoss(alpha=0.65, temperature=2.0))
    train(student, data, out / "audio_student", epochs)

    # 4. Fusion reads the hidden states that both have stored. Any FusionHead can stand here: write your own.
    data = ConversationDataModule(
        corpus=out / "data/corpus.json",
        stores={"text": out / "teacher/hidden", "audio": out / "audio_student/hidden"},
    )
    train(FusionTask(partial(HierarchicalFusion, dim=128), loss=FusionLoss), data, out / "fusion", epochs)

    # 5. Every stage on the test split, beside the optimum.
    modalities = {"teacher": ["text"], "audio_student": ["audio"], "fusion": ["text", "audio"]}
    scores = {stage: [read_predictions(out / stage / "report").metrics()] for stage in modalities}
    optimum = {stage: 100 * corpus.optimum("test", names) for stage, names in modalities.items()}
    print(compare_seeds(scores, optimum).table("Simulated corpus, test split, in percent", per_class=False))
    print(f"Reports: {out}/*/report/report.md")


if __name__ == "__main__":
    main()
