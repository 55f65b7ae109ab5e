"""A pipeline from clips of a few frames to fused emotions, small enough to run in a test."""

import csv
from pathlib import Path

import yaml

from support.tiny_clips import GREEN, RED, write_clip
from support.tiny_text import tiny_bert

EMOTIONS = ["anger", "joy", "neutral"]
WORDS = {"anger": "no not why", "joy": "yes oh my", "neutral": "well okay here"}


def _trainer():
    best = {"monitor": "val/weighted_f1", "mode": "max", "filename": "best-{epoch}"}
    return {
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best},
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"filename": "last", "enable_version_counter": False},
            },
        ],
    }


def _class(path, **init):
    return {"class_path": path, "init_args": init}


def _extract(encoder, data):
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return {"trainer": quiet, "model": _class("merc.tasks.ExtractTask", encoder=encoder), "data": data}


def _media(reader):
    data = _class("merc.datamodules.MediaDataModule", corpus="none", workers=0, batch_size=1, reader=reader)
    return data


def _graph_task(name, modality):
    network = _class("merc.graphs.GATEncoder", hidden_dim=8, num_layers=1, heads=2)
    graph = _class("merc.graphs.GraphBuilder", past=2, future=2)
    return {
        "trainer": _trainer(),
        "model": _class(f"merc.tasks.{name}", modality=modality, network=network),
        "data": _class("merc.datamodules.ConversationDataModule", corpus="none", stores={}, graphs={modality: graph}),
    }


def configs(folder):
    """The configs of all stages, by name."""
    tracker = _class(
        "merc.media.FaceTracker", detector=_class("support.tiny_clips.SquareDetector"), every=4, min_seconds=0.2
    )
    tracks = _media(_class("merc.datamodules.TrackReader", tracker=tracker, crop_size=16))
    lips = {
        "network": _class("merc.speaker.LipSyncNet", size=16, width=6, hidden=16),
        "scorer": _class("merc.speaker.SyncScorer", window=24, hop=12),
        "pair_frames": 74,  # no clip is that long, so there is no threshold: of visible faces one is chosen
    }
    fusion = _class("merc.fusion.ConcatFusion", hidden_dim=8)
    words = _class("merc.encoders.TextEncoder", model=tiny_bert(Path(folder) / "bert"), context="none", pooling="mean")
    return {
        "faces": {**_extract({}, tracks), "model": _class("merc.tasks.FacesTask")},
        "lipsync": {
            "trainer": {**_trainer(), "callbacks": []},
            "best": {"monitor": "train/loss", "mode": "min"},
            "model": _class("merc.tasks.LipSyncTask", **lips),
            "data": _class(
                "merc.datamodules.LipSyncDataModule", sources=[], window=24, batch_size=4, batches_per_epoch=2
            ),
        },
        "words": _extract(words, _class("merc.datamodules.TextDataModule", corpus="none")),
        "voice": _extract(_class("support.tiny_clips.Loudness"), _media(_class("merc.datamodules.SoundReader"))),
        "face": _extract(
            _class("support.tiny_clips.Colour"), _media(_class("merc.datamodules.FaceReader", faces="none"))
        ),
        "teacher": _graph_task("TeacherTask", "text"),
        "audio_student": _graph_task("StudentTask", "audio"),
        "visual_student": _graph_task("StudentTask", "visual"),
        "fusion": {
            "trainer": _trainer(),
            "model": _class("merc.tasks.FusionTask", head=fusion),
            "data": _class("merc.datamodules.ConversationDataModule", corpus="none", stores={}),
        },
    }


CORPUS = {"data.corpus": "{data}/corpus.json"}
LIPS = {"corpus": "{data}/corpus.json", "faces": "{faces}/faces", "crops": "{faces}/crops", "sound": "{faces}/sound"}
READER = {"data.reader.init_args.faces": "{faces}/faces", "data.reader.init_args.speaker": "{lipsync}/speaker"}
HIDDEN = {"text": "{teacher}/hidden", "audio": "{audio_student}/hidden", "visual": "{visual_student}/hidden"}


def stages():
    """The stages of the pipeline."""

    def stage(name, command, options, outputs=(), once=True, config=None, **more):
        return {
            "name": name,
            "command": command,
            "config": f"{name}.yaml" if config is None else config,
            "options": options,
            "outputs": list(outputs),
            "once": once,
            **more,
        }

    writing = {"features": "{words}/features", "corpus": "{data}/corpus.json"}
    evidence = {"features": "{written}", "corpus": "{data}/corpus.json"}
    audio = {**CORPUS, "data.stores": {"audio": "{voice}/features", "teacher": "{teacher}/logits"}}
    visual = {**CORPUS, "data.stores": {"visual": "{face}/features", "teacher": "{teacher}/logits"}}
    return [
        stage("data", "import", {"files": ["{root}/all.csv"], "labels": EMOTIONS, "media": "clip"}, config="csv"),
        stage("faces", "predict", CORPUS, ["faces", "crops", "sound"]),
        stage("lipsync", "fit", {"data.sources": [LIPS]}, ["speaker"], report=False),
        stage("words", "predict", CORPUS, ["features"]),
        stage("voice", "predict", CORPUS, ["features"]),
        stage("face", "predict", {**CORPUS, **READER}, ["features"]),
        stage("written", "writing", writing, config=""),
        stage("text", "evidence", evidence, config=""),
        stage("teacher", "fit", {**CORPUS, "data.stores": {"text": "{text}"}}, ["hidden", "logits"], once=False),
        stage("audio_student", "fit", audio, ["hidden"], once=False),
        stage("visual_student", "fit", visual, ["hidden"], once=False),
        stage("fusion", "fit", {**CORPUS, "data.stores": HIDDEN}, once=False),
    ]


TEXT_ONLY = ("data", "words", "written", "text", "teacher")


def write_pipeline(folder, names=None):
    """Write the pipeline, or some of its stages, with configs and a corpus below ``folder``; the pipeline's file."""
    folder = Path(folder)
    (folder / "corpus").mkdir(parents=True)
    casts = {"red": (RED,), "both": (RED, GREEN), "green": (GREEN,)}
    for tone, (name, cast) in enumerate(casts.items(), start=1):
        write_clip(folder / "corpus" / f"{name}.mp4", 36, cast, 200.0 * tone)
    with (folder / "corpus/all.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["dialogue", "utterance", "speaker", "text", "label", "split", "clip"])
        for split, dialogues in {"train": 3, "val": 2, "test": 1}.items():
            for dialogue in range(dialogues):
                for turn in range(5):
                    emotion = EMOTIONS[(turn + dialogue) % 3]
                    said, clip = f"{WORDS[emotion]} {'you' * (turn % 2)}", f"{list(casts)[turn % 3]}.mp4"
                    rows.writerow([f"{split}{dialogue}", turn, "AB"[turn % 2], said, emotion, split, clip])
    made = configs(folder)
    chosen = [stage for stage in stages() if names is None or stage["name"] in names]
    for stage in chosen:
        config = folder / stage["config"]
        if stage["command"] in ("fit", "predict"):
            config.write_text(yaml.safe_dump(made[stage["name"]]))
            stage["config"] = str(config)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"stages": chosen}))
    return folder / "pipeline.yaml"
