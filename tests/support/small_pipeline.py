"""A pipeline of three small stages that train in a second, on a small simulated corpus."""

import lightning
import yaml


def trainer():
    best = {"monitor": "val/weighted_f1", "mode": "max", "filename": "best-{epoch}"}
    last = {"filename": "last", "enable_version_counter": False}
    kind = "lightning.pytorch.callbacks.ModelCheckpoint"
    return {
        "max_epochs": 2,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "callbacks": [{"class_path": kind, "init_args": best}, {"class_path": kind, "init_args": last}],
    }


def a(path, **init):
    return {"class_path": path, "init_args": init}


def graph_task(name, modality):
    network = a("merc.graphs.GATEncoder", hidden_dim=8, num_layers=1, heads=2)
    optimizer = a("torch.optim.AdamW", lr=0.03)
    graph = a("merc.graphs.GraphBuilder", past=1, future=1, speaker=0, similar=0)
    return {
        "trainer": trainer(),
        "model": a(f"merc.tasks.{name}", modality=modality, network=network, optimizer=optimizer),
        "data": a("merc.datamodules.ConversationDataModule", corpus="none", stores={}, graphs={modality: graph}),
    }


def fusion():
    head = a("merc.fusion.HierarchicalFusion", dim=8, experts=0)
    loss = a("merc.losses.FusionLoss", projection_dim=8)
    optimizer = a("torch.optim.AdamW", lr=0.03)
    return {
        "trainer": trainer(),
        "model": a("merc.tasks.FusionTask", head=head, loss=loss, optimizer=optimizer),
        "data": a("merc.datamodules.ConversationDataModule", corpus="none", stores={}),
    }


CORPUS = {"data.corpus": "{data}/corpus.json"}
WIDTHS = {"text": 8, "audio": 8}
SIMULATED = {"dialogues": {"train": 8, "val": 4, "test": 6}, "widths": WIDTHS, "latent_dims": dict.fromkeys(WIDTHS, 6)}
STUDENT = {"data.stores": {"audio": "{data}/features/audio", "teacher": "{teacher}/logits"}}
HIDDEN = {"data.stores": {"text": "{teacher}/hidden", "audio": "{audio_student}/hidden"}}
TEXT = {"data.stores": {"text": "{data}/features/text"}}


def stage(name, options, **more):
    return {"name": name, "command": "fit", "options": {**CORPUS, **options}, "config": f"{name}.yaml", **more}


STAGES = [
    {"name": "data", "command": "import", "config": "simulated", "options": SIMULATED, "once": True},
    stage("teacher", TEXT, outputs=["hidden", "logits"]),
    stage("audio_student", STUDENT, outputs=["hidden"]),
    stage("aside", TEXT, config="teacher.yaml", report=False),
    stage("fusion", HIDDEN),
]


def write_pipeline(folder):
    """The pipeline and its configs."""
    configs = {
        "teacher": graph_task("TeacherTask", "text"),
        "audio_student": graph_task("StudentTask", "audio"),
        "fusion": fusion(),
    }
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    stages = [{**s, "config": str(folder / s["config"]) if s["command"] == "fit" else s["config"]} for s in STAGES]
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def fitted(monkeypatch):
    """A list that takes the folder of every stage that is trained from now on."""
    folders, fit = [], lightning.Trainer.fit

    def counted(self, *args, **kwargs):
        folders.append("/".join(str(self.default_root_dir).split("/")[-3:]))
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(lightning.Trainer, "fit", counted)
    return folders
