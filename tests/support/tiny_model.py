"""A run on transcripts and a table of numbers, small enough for a test: two seeds, a fusion, an ensemble."""

import csv
from pathlib import Path

import torch
import yaml
from torch import nn

from merc.fusion import FusionHead, FusionOutput
from support.tiny_text import tiny_bert

EMOTIONS = ["anger", "joy", "neutral"]
WORDS = {"anger": "no not why", "joy": "yes oh my", "neutral": "well okay here"}
PACKAGE = "tiny_encoder_package"


class OwnHead(FusionHead):
    """A fusion head that is not merc's."""

    def __init__(self, dims, num_classes, gain=1.0):
        super().__init__(dims, num_classes)
        self.gain = gain
        self.classify = nn.Linear(sum(dims.values()), num_classes)

    def forward(self, batch):
        fused = torch.cat([batch.features[name] for name in self.dims], dim=-1)
        return FusionOutput(self.gain * self.classify(fused))


def _class(path, **init):
    return {"class_path": path, "init_args": init}


def _trainer():
    quiet = {"enable_progress_bar": False, "accelerator": "cpu", "num_sanity_val_steps": 0}
    return {"max_epochs": 1, **quiet}


def _task(path, modality=None, **init):
    data = _class("merc.datamodules.ConversationDataModule", corpus="none", stores={}, batch_size=8)
    if modality is not None:
        init |= {"modality": modality, "network": _class("merc.graphs.GATEncoder", hidden_dim=8, num_layers=1, heads=2)}
        data["init_args"]["graphs"] = {modality: _class("merc.graphs.GraphBuilder", past=2, future=2)}
    optimizer = _class("torch.optim.Adam", lr=0.02)
    return {"trainer": _trainer(), "model": _class(path, optimizer=optimizer, **init), "data": data}


def _words(task, bert, **more):
    encoder = _class("merc.encoders.TextEncoder", model=bert, **more)
    return {"trainer": _trainer(), "model": _class(task, encoder=encoder), "data": _text()}


def _text():
    return _class("merc.datamodules.TextDataModule", corpus="none")


def _configs(bert):
    return {
        "words": _words("merc.tasks.ExtractTask", bert, context="none", pooling="mean"),
        "tuned": _words("merc.tasks.TextEncoderTask", bert, context="past", prompt="{speaker} {mask}", pooling="mask"),
        "teacher": _task("merc.tasks.TeacherTask", "text"),
        "student": _task("merc.tasks.StudentTask", "audio"),
        "fusion": _task(
            "merc.tasks.FusionTask", head=_class("merc.fusion.HierarchicalFusion", dim=8, attention_heads=2)
        ),
        "own": _task("merc.tasks.FusionTask", head=_class("support.tiny_model.OwnHead", gain=2.0)),
    }


def _stages():
    hidden = {"text": "{teacher}/hidden", "audio": "{student}/hidden"}
    return [
        {"name": "data", "command": "import", "config": "corpus", "options": {"source": "{corpus}"}},
        {"name": "words", "command": "predict", "outputs": ["features"]},
        {"name": "written", "command": "writing", "options": {"features": "{words}/features"}},
        {"name": "text", "command": "evidence", "options": {"features": "{written}", "append": True}},
        {"name": "numbers", "command": "import", "config": "table", "options": {"files": ["{root}"]}},
        {"name": "audio", "command": "evidence", "options": {"features": "{numbers}", "standardize": True}},
        {"name": "teacher", "command": "fit", "stores": {"text": "{text}"}, "outputs": ["hidden", "logits"]},
        {
            "name": "student",
            "command": "fit",
            "stores": {"audio": "{audio}", "teacher": "{teacher}/logits"},
            "outputs": ["hidden"],
        },
        {"name": "own", "command": "fit", "stores": {"text": "{text}", "audio": "{audio}"}, "once": True},
        {"name": "tuned", "command": "fit", "once": True},
        {"name": "fusion", "command": "fit", "stores": hidden},
        {"name": "both", "command": "ensemble", "options": {"members": ["{teacher}", "{fusion}"]}},
    ]


def write_run(folder):
    """Write the pipeline with all that it reads; the words of its `merc run`, without `--out`.

    Its encoder lies in the package :data:`PACKAGE`, in ``folder / "site"``, which must be on the path.
    """
    folder = Path(folder)
    package = folder / "site" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    tiny_bert(package / "bert")
    with (folder / "talk.csv").open("w", newline="") as said, (folder / "all.csv").open("w", newline="") as measured:
        rows, numbers = csv.writer(said), csv.writer(measured)
        rows.writerow(["dialogue", "utterance", "speaker", "text", "emotion", "split"])
        numbers.writerow(["clip", "loud", "high"])
        dialogue = 0
        for split, count in {"train": 6, "val": 2, "test": 2}.items():
            for _ in range(count):
                for turn in range(5):
                    emotion = EMOTIONS[(turn * 2 + dialogue) % 3]
                    text = f"{WORDS[emotion]} {'you' * (turn % 2)}{'!' * (dialogue % 3)}"
                    rows.writerow([dialogue, turn, "AB"[turn % 2], text, emotion, split])
                    if (dialogue + turn) % 5:  # some have no numbers
                        loud = EMOTIONS.index(emotion) + 0.3 * (turn % 3)
                        numbers.writerow([f"dia{dialogue}_utt{turn}.wav", loud, (dialogue * 7 + turn) % 5])
                dialogue += 1
    stages = _stages()
    configs = _configs(f"{PACKAGE}:bert")
    for stage in stages:
        if stage["name"] in configs:
            stage["config"] = str(folder / f"{stage['name']}.yaml")
            Path(stage["config"]).write_text(yaml.safe_dump(configs[stage["name"]]))
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"corpus": "data", "stages": stages}))
    return [
        "run",
        str(folder / "pipeline.yaml"),
        "--corpus",
        str(folder / "talk.csv"),
        "--root",
        str(folder / "all.csv"),
    ]
