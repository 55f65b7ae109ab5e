"""Every shipped config runs, on a corpus of a few dialogues in its own widths: nothing ships untested.

A config that is added later is found by itself. If it needs something that is not known here (an import, a store
of the user's), the test that fails says what to add, and to which table.
"""

import functools
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    BertConfig,
    BertModel,
    TimesformerConfig,
    TimesformerModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

import merc.pipeline.run
from merc.configs.lookup import find_config, shipped_configs
from merc.conversation import Corpus
from merc.corpora.commands import IMPORTS
from merc.corpora.simulated import simulate
from merc.labels import IEMOCAP6, MELD
from merc.pipeline.lightning import MercCLI, add_store_writer
from merc.pipeline.run import run_pipeline
from merc.speaker import SpeakerChoice
from merc.store import FeatureStore
from support.tiny_media import CONVOLUTIONS, tiny_speech, tiny_video
from support.tiny_text import tiny_bert, tiny_corpus

DIALOGUES = {"train": 24, "val": 3, "test": 3}
LENGTHS = (0, 1, 1, 1, 1)  # of 2 to 5 utterances
WIDTH = 48  # of any store: 2, 3 and 4 attention heads divide it
EMOTIONS = {7: MELD.names, 6: IEMOCAP6.names}

# What pipelines read from disk, by import and option; the real readers have tests of their own. Widths by modality.
LAYOUTS = {
    "sdt-meld": (7, {"text": 1024, "audio": 300, "visual": 342}),
    "sdt-iemocap": (6, {"text": 1024, "audio": 1582, "visual": 342}),
}
TABLES = {"audio_features.csv": 10}  # MELD's prosody: by the end of the file's name, columns of numbers
MEDIA_OPTIONS = {
    "data.workers": 0,
    "data.reader.init_args.tracker.init_args.detector": "support.tiny_clips.SquareDetector",
}

CONFIGS = {name: yaml.safe_load(find_config(name).read_text(encoding="utf-8")) for name in shipped_configs()}
PIPELINES = [name for name, config in CONFIGS.items() if "stages" in config]
STAGES = [name for name, config in CONFIGS.items() if "stages" not in config]
FROM_CLIPS = ("merc.datamodules.MediaDataModule", "merc.datamodules.LipSyncDataModule")
MEDIA_STAGES = [name for name in STAGES if CONFIGS[name]["data"]["class_path"] in FROM_CLIPS]


def tiny(classes, widths=None):
    widths = widths or {"text": 8}
    return simulate(
        dialogues=DIALOGUES,
        emotions=dict.fromkeys(EMOTIONS[classes], 1),
        widths=widths,
        latent_dims={name: min(width, 6) for name, width in widths.items()},
        length_counts=LENGTHS,
    )


def on_disk(classes):
    """The corpus in the place of MELD or IEMOCAP: with text, and without features."""
    return tiny_corpus(24) if classes == 7 else tiny(classes).corpus


def small(corpus):
    """All of the training split, but few dialogues of the others."""
    splits = {split: conversations[: None if split == "train" else 3] for split, conversations in corpus.items()}
    return replace(corpus, splits=splits)


def random_store(path, corpus, width, kind="features"):
    keys = [key for split in corpus.values() for conversation in split for key in conversation.keys]
    about = {"classes": list(corpus.labels.names)}
    FeatureStore.write(path, keys, torch.randn(len(keys), width), kind=kind, provenance=about)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A text encoder as wide as MiniLM and nearly empty inside."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny_bert(folder)
    sizes = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=200, max_position_embeddings=512, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def standins(encoder, tmp_path_factory):
    """Encoders, by the class that reads them, that are nearly empty inside and as wide as those in the configs."""
    speech, video = (tmp_path_factory.mktemp(name) for name in ("speech", "video"))
    tiny_speech(speech)
    tiny_video(video)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    convolutions = {**CONVOLUTIONS, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 64, "layerdrop": 0.0}
    Wav2Vec2Model(Wav2Vec2Config(hidden_size=1024, **sizes, **convolutions)).save_pretrained(speech)
    TimesformerModel(
        TimesformerConfig(hidden_size=768, **sizes, num_frames=8, image_size=32, patch_size=16)
    ).save_pretrained(video)
    return {
        "merc.encoders.TextEncoder": encoder,
        "merc.encoders.AudioEncoder": str(speech),
        "merc.encoders.VisualEncoder": str(video),
    }


def standin(config, standins):
    """The options that put a stand-in into the place of pretrained weights."""
    encoder = config.get("model", {}).get("init_args", {}).get("encoder", {})
    model = standins.get(encoder.get("class_path"))
    return {} if model is None else {"model.encoder.model": model}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A corpus of clips, with the stores of their faces, crops, sound and speakers."""
    for package in ("av", "torchaudio", "facenet_pytorch"):
        pytest.importorskip(package, reason="clips need pip install 'merc[media]', and facenet-pytorch without deps")
    from support.tiny_clips import with_clips

    folder = tmp_path_factory.mktemp("clips")
    corpus = with_clips(small(tiny_corpus(4)), folder / "clips")
    corpus.save(folder / "corpus.json")
    track(folder / "corpus.json", folder)
    say_who_speaks(folder / "speaker", corpus)
    return folder


def track(corpus, out):
    options = {"data.corpus": corpus, "trainer.default_root_dir": out, **MEDIA_OPTIONS}
    cli = MercCLI(["--config", "rendered/faces.yaml", *quick(options)], run=False)
    add_store_writer(cli.trainer, out, ["faces", "crops", "sound"])
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)


def say_who_speaks(path, corpus):
    """A store in which the first track speaks everywhere."""
    keys = [key for split in corpus.values() for conversation in split for key in conversation.keys]
    FeatureStore.write(path, keys, SpeakerChoice(0, 1.0, 1.0, 1.0).to_row().expand(len(keys), -1), kind="speaker")


def source_of(clips, like):
    """The clips with the stores that a source of a config has, as an option."""
    stores = {kind: str(clips / kind) for kind in like if kind != "corpus"}
    return json.dumps([{"corpus": str(clips / "corpus.json"), **stores}])


def quick(options):
    return [f"--{name}={value}" for name, value in options.items()]


@pytest.mark.parametrize("name", MEDIA_STAGES)
def test_stage_on_clips(name, tmp_path, clips, standins, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS[name]
    data = config["data"]["init_args"]
    options = standin(config, standins)
    if "sources" in data:
        options["data.sources"] = source_of(clips, data["sources"][0])
    else:
        options |= {"data.corpus": clips / "corpus.json", "data.workers": 0}
        for store in {"faces", "speaker"} & data["reader"].get("init_args", {}).keys():
            options[f"data.reader.init_args.{store}"] = clips / store
    cli = MercCLI(
        ["--config", name, *quick(options), "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"], run=False
    )
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    if hasattr(task, "make_optimizer"):
        trainer.fit(task, datamodule=data)
        trainer.test(task, datamodule=data, verbose=False)
    add_store_writer(trainer, "out", config["outputs"])
    trainer.predict(task, datamodule=data, return_predictions=False)
    for output in config["outputs"]:
        store = FeatureStore(tmp_path / "out" / output)
        assert len(store) and store.kind == output


@pytest.mark.parametrize("name", [name for name in STAGES if name not in MEDIA_STAGES])
def test_stage(name, tmp_path, standins, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS[name]
    stores = config["data"]["init_args"].get("stores", {})
    options = ["--data.corpus=data/corpus.json", *(f"--data.stores.{store}=stores/{store}" for store in stores)]
    options += quick(standin(config, standins))
    if "warm_start" in config["model"].get("init_args", {}):
        options.append("--model.warm_start={}")  # pipelines start from what they have trained
    if "lipsync" in config["data"]["init_args"]:
        lips = config["data"]["init_args"]["lipsync"]["init_args"]["sources"][0]
        options.append(f"--data.lipsync.init_args.sources={source_of(request.getfixturevalue('clips'), lips)}")
    cli = MercCLI(["--config", name, *options, "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"], run=False)
    trainer, task, data = cli.trainer, cli.model, cli.datamodule

    classes = 6 if name.startswith("iemocap/") else 7
    network = config["model"].get("init_args", {}).get("network", {}).get("init_args", {})
    of_teacher = {getattr(task, "teacher", None): classes, getattr(task, "teacher_hidden", None): None}
    if "students" in config["model"].get("init_args", {}):
        of_teacher = {"teacher": classes}
    drawn = dict.fromkeys(("text", "audio", "visual") & stores.keys(), WIDTH)
    tiny(classes, drawn).save(tmp_path / "data")
    corpus = Corpus.load(tmp_path / "data/corpus.json")
    for store in stores:
        if store in drawn:
            (tmp_path / "stores").mkdir(exist_ok=True)
            (tmp_path / "stores" / store).symlink_to(tmp_path / "data/features" / store)
        elif store not in of_teacher:  # what the simulation has nothing of
            random_store(tmp_path / "stores" / store, corpus, WIDTH)
        elif of_teacher[store]:
            random_store(tmp_path / "stores" / store, corpus, classes, kind="logits")
        else:
            random_store(tmp_path / "stores" / store, corpus, network["hidden_dim"], kind="hidden")

    if hasattr(task, "facts"):
        trainer.fit(task, datamodule=data)
        trainer.test(task, datamodule=data, verbose=False)
    outputs = config.get("outputs", ["hidden", "logits"])
    add_store_writer(trainer, "out", outputs)
    trainer.predict(task, datamodule=data, return_predictions=False)
    for output in outputs:
        store = FeatureStore(tmp_path / "out" / output)
        assert len(store) and store.kind == output
        assert output != "logits" or store.dim == classes


@pytest.fixture
def imports(monkeypatch):
    """Small corpora in the place of those on disk."""

    def pickled(*, file, layout, out, **options):
        classes, widths = LAYOUTS[layout]
        tiny(classes, widths).save(out)

    def table(*, files, corpus, out, **options):
        (width,) = {TABLES[end] for end in TABLES for file in files if str(file).endswith(end)}
        random_store(out, Corpus.load(corpus), width)

    def shown(corpus, out):
        """The corpus with clips beside it, where clips can be written."""
        if importlib.util.find_spec("av") is not None:
            from support.tiny_clips import with_clips

            corpus = with_clips(corpus, out / "clips")
        corpus.save(out / "corpus.json")
        return corpus

    def rendered(*, out, **options):
        corpus = shown(small(tiny_corpus(10)), out)
        track(out / "corpus.json", out / "truth")
        say_who_speaks(out / "truth/speaker", corpus)

    standins = {
        "meld": lambda *, root, out: shown(small(on_disk(7)), out),
        "iemocap": lambda *, root, out, **options: shown(small(on_disk(6)), out),
        "pickle": pickled,
        "table": table,
        "rendered": rendered,
    }
    real = {name: merc.pipeline.run.resolve_import(name) for name in IMPORTS}
    # Under the signatures of the real ones, so that the options of the pipeline are checked.
    wrapped = {name: functools.wraps(real[name])(standin) for name, standin in standins.items()}
    known = {**{name: real[name] for name in ("simulated", "evidence", "lips", "writing")}, **wrapped}
    monkeypatch.setattr(merc.pipeline.run, "resolve_import", known.__getitem__)
    return known


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline(name, tmp_path, standins, imports):
    pipeline = CONFIGS[name]
    if any(stage.get("config") in MEDIA_STAGES for stage in pipeline["stages"]):
        for package in ("av", "torchaudio", "facenet_pytorch"):
            pytest.importorskip(package, reason="needs pip install 'merc[media]', and facenet-pytorch without deps")
    root = tmp_path / "root"
    root.mkdir()
    for stage in pipeline["stages"]:
        if stage["command"] == "import":
            assert stage["config"] in imports, f"add a stand-in for the import {stage['config']!r} to `imports`"
            if stage["config"] == "simulated":
                stage.setdefault("options", {}).update(dialogues=DIALOGUES)
            if stage["config"] == "lips":
                stage["options"] |= {"talking": {"train": 2}, "silent": {"train": 1}, "seconds": 1.6, "workers": 0}
        elif stage["command"] in ("fit", "predict"):
            stage["options"] |= standin(CONFIGS[stage["config"]], standins)
            if stage.get("outputs") == ["faces", "crops", "sound"]:
                stage["options"] |= MEDIA_OPTIONS
            if stage.get("outputs") == ["speaker"]:
                # After two batches the network knows nothing: that nobody speaks must not be its answer.
                stage["options"] |= {"data.batches_per_epoch": 2, "model.pair_frames": 30, "model.visible": 1.0}
    given = yaml.safe_dump(pipeline)
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    cpu = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    report = run_pipeline(file, out=tmp_path / "out", root=root if "{root}" in given else None, trainer_options=cpu)

    scores = json.loads((tmp_path / "out/summary.json").read_text())
    tested = [s["name"] for s in pipeline["stages"] if s["command"] in ("fit", "ensemble") and s.get("report", True)]
    assert list(scores) == tested and {"fusion", "hierarchical"} & set(tested)
    for stage in pipeline["stages"]:
        folder = tmp_path / "out" / (stage["name"] if stage.get("once") else f"seed-0/{stage['name']}")
        assert json.loads((folder / "stage.json").read_text())["finished"]
        for output in stage.get("outputs", []):
            assert len(FeatureStore(folder / output))
        if stage["name"] in tested:
            assert f"seed-0/{stage['name']}/report/report.md" in report.read_text()


def test_every_stage_config_that_a_pipeline_names_is_shipped():
    named = {s["config"] for name in PIPELINES for s in CONFIGS[name]["stages"] if s["command"] in ("fit", "predict")}
    assert named <= set(STAGES)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_what_it_is_and_learning_rates_are_numbers(name):
    text = Path(find_config(name)).read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "1e-" not in text  # YAML 1.1 reads 1e-3 as a word; 1.0e-3 is the number


def optimizers(value):
    """Every optimizer in a config, as class and options."""
    if isinstance(value, dict):
        if value.get("class_path", "").startswith("torch.optim.") and "lr_scheduler" not in value["class_path"]:
            yield value["class_path"], value.get("init_args", {})
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from optimizers(part)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_optimizer_inherits_the_weight_decay_of_another(name):
    # The parser keeps options of a task's default optimizer, AdamW, that the named class knows too. Its weight decay of
    # 0.01 acts on weights; in Adam it is a term of the loss, and far too strong.
    for kind, options in optimizers(CONFIGS[name]):
        assert kind == "torch.optim.AdamW" or "weight_decay" in options


def options_in(value):
    """Every option in a config, with the class that it is of."""
    if isinstance(value, dict):
        for option in value.get("init_args", {}):
            yield value.get("class_path", ""), option
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from options_in(part)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_data_knows_is_in_no_config(name):
    known = {option for kind, option in options_in(CONFIGS[name]) if not kind.startswith("merc.fusion.")}
    assert not known & {"num_classes", "dims", "dim", "class_counts"}
    heads = {option for kind, option in options_in(CONFIGS[name]) if kind.startswith("merc.fusion.")}
    assert not heads & {"num_classes", "dims"}
    changed = {option for stage in CONFIGS[name].get("stages", []) for option in stage.get("options", {})}
    assert not [option for option in changed if option.rsplit(".")[-1] in {"num_classes", "dims", "dim"}]
