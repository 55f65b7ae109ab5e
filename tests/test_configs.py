"""Every shipped config runs, on a corpus of a few dialogues in its own widths: nothing ships untested.

A config that is added later is found by itself. If it needs something that is not known here (an import, a store
of the user's), the test that fails says what to add, and to which table.
"""

import functools
import importlib.util
import json
import re
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

import merc.pipeline.kinds
from merc.configs.lookup import CONFIGS as FOLDER
from merc.configs.lookup import find_config, shipped_configs
from merc.conversation import Corpus
from merc.corpora.commands import IMPORTS, resolve_import
from merc.corpora.simulated import simulate
from merc.labels import IEMOCAP6, MELD
from merc.pipeline.lightning import MercCLI, MercParser, add_store_writer
from merc.pipeline.read import _merged, _spelled_out, read_pipeline
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
TABLE_WIDTH = 10
MEDIA_OPTIONS = {
    "data.workers": 0,
    "data.reader.init_args.tracker.init_args.detector": "support.tiny_clips.SquareDetector",
}

CONFIGS = {name: yaml.safe_load(find_config(name).read_text(encoding="utf-8")) for name in shipped_configs()}
PIPELINES = [name for name, config in CONFIGS.items() if "stages" in config]
NAMED = {tuple(s.configs) for name in PIPELINES for s in read_pipeline(name).stages if s.command in ("fit", "predict")}
SYSTEMS = ["teacher", "hierarchical", "lfvd", "cmath", "concat", "telme", "telme_audio", "telme_visual"]
APART = [
    *(("systems/" + name + ".yaml", "simulated/" + name + ".yaml") for name in SYSTEMS),
    ("systems/telme_visual.yaml",),
    ("systems/visual_student.yaml",),
    ("systems/teacher.yaml", "simulated/telme_teacher.yaml"),
    ("paper/lfvd.yaml",),
    ("paper/lfvd.yaml", "paper/lfvd_iemocap.yaml"),
    ("paper/cmath.yaml",),
    ("paper/cmath.yaml", "paper/cmath_iemocap.yaml"),
]
"""Stages that no pipeline has as they are."""
DATA_ALONE = {name for name in CONFIGS if name.startswith("corpora/")}
FEATURES = {"encoders/minilm_tuned.yaml"}
"""A stage of text that no pipeline has: tests/tasks/test_text_encoder.py trains its like."""


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


def standin(configs, standins):
    """The options that put a stand-in into the place of pretrained weights."""
    for name in configs:
        encoder = CONFIGS[name].get("model", {}).get("init_args", {}).get("encoder", {})
        if model := standins.get(encoder.get("class_path")):
            return {"model.encoder.model": model}
    return {}


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
    cli = MercCLI(["--config", "faces.yaml", *quick(options)], run=False)
    add_store_writer(cli.trainer, out, ["faces", "crops", "sound"])
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)


def say_who_speaks(path, corpus):
    """A store in which the first track speaks everywhere."""
    keys = [key for split in corpus.values() for conversation in split for key in conversation.keys]
    FeatureStore.write(path, keys, SpeakerChoice(0, 1.0, 1.0, 1.0).to_row().expand(len(keys), -1), kind="speaker")


def quick(options):
    return [f"--{name}={value}" for name, value in options.items()]


def test_every_config_is_tested_here():
    tested = {name for configs in [*NAMED, *APART] for name in configs} | DATA_ALONE | FEATURES | set(PIPELINES)
    assert tested == set(CONFIGS)


@pytest.mark.parametrize("configs", APART, ids=" ".join)
def test_a_stage_that_no_pipeline_has(configs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = 6 if "iemocap" in configs[-1] else 7
    tiny(classes, dict.fromkeys(("text", "audio", "visual"), WIDTH)).save(tmp_path / "data")
    corpus = Corpus.load(tmp_path / "data")
    random_store("teacher", corpus, classes, kind="logits")
    modality = next(
        (m for m in ("audio", "visual") if f"{m}_student" in configs[0] or f"telme_{m}" in configs[0]), None
    )
    stores = {name: f"data/features/{name}" for name in ((modality,) if modality else ("text", "audio", "visual"))}
    if modality is not None:
        random_store("hidden", corpus, 256, kind="hidden")
        stores |= {"teacher": "teacher", "teacher_hidden": "hidden"}
    if configs[0] == "systems/teacher.yaml":
        stores = {"text": "data/features/text"}
    args = [word for name in configs for word in ("--config", name)]
    args += ["--data.corpus=data/corpus.json", f"--data.stores={json.dumps(stores)}", "--trainer.accelerator=cpu"]
    cli = MercCLI([*args, "--trainer.fast_dev_run=true"], run=False)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    add_store_writer(cli.trainer, "out", ["hidden", "logits"])
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)
    assert FeatureStore("out/logits").dim == classes and len(FeatureStore("out/hidden"))


def shown(corpus, out):
    """The corpus with clips beside it, where clips can be written."""
    if importlib.util.find_spec("av") is not None:
        from support.tiny_clips import with_clips

        corpus = with_clips(corpus, out / "clips")
    corpus.save(out / "corpus.json")
    return corpus


@pytest.fixture
def imports(monkeypatch):
    """Small corpora in the place of those on disk."""

    def pickled(*, file, layout, out, **options):
        classes, widths = LAYOUTS[layout]
        tiny(classes, widths).save(out)

    def table(*, files, corpus, out, **options):
        random_store(out, Corpus.load(corpus), TABLE_WIDTH)

    def rendered(*, out, **options):
        corpus = shown(small(tiny_corpus(10)), out)
        track(out / "corpus.json", out / "truth")
        say_who_speaks(out / "truth/speaker", corpus)

    replaced = {
        "meld": lambda *, root, out: shown(small(on_disk(7)), out),
        "iemocap": lambda *, root, out, **options: shown(small(on_disk(6)), out),
        "pickle": pickled,
        "table": table,
        "rendered": rendered,
    }
    real = {name: resolve_import(name) for name in IMPORTS}
    # Under the signatures of the real ones, so that the options of the pipeline are checked.
    wrapped = {name: functools.wraps(real[name])(function) for name, function in replaced.items()}
    known = {**{name: real[name] for name in ("simulated", "lips", "corpus")}, **wrapped}
    monkeypatch.setattr(merc.pipeline.kinds, "resolve_import", known.__getitem__)
    return known


SLOW = {name for name in PIPELINES if name.startswith("iemocap/")} | {"meld/joint.yaml", "text_audio.yaml"}
"""Pipelines that are another one with a stage more, or with another corpus."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PIPELINES]
)
def test_pipeline(name, tmp_path, standins, imports):
    stages = _spelled_out(_merged(find_config(name), ()))
    if any(stage.get("config") == "faces.yaml" for stage in stages):
        for package in ("av", "torchaudio", "facenet_pytorch"):
            pytest.importorskip(package, reason="needs pip install 'merc[media]', and facenet-pytorch without deps")
    root = tmp_path / "root"
    root.mkdir()
    for stage in stages:
        if stage["command"] == "import":
            assert stage["config"] in imports, f"add a stand-in for the import {stage['config']!r} to `imports`"
            if stage["config"] == "simulated":
                stage["options"] |= {"dialogues": DIALOGUES}
            if stage["config"] == "lips":
                stage["options"] |= {"talking": {"train": 2}, "silent": {"train": 1}, "seconds": 1.6, "workers": 0}
            if stage["config"] == "corpus":
                shown(small(on_disk(7)), root)
        elif stage["command"] in ("fit", "predict"):
            configs = [stage["config"]] if isinstance(stage["config"], str) else stage["config"]
            stage["options"] |= standin(configs, standins)
            if stage.get("outputs") == ["faces", "crops", "sound"]:
                stage["options"] |= MEDIA_OPTIONS
            if stage.get("outputs") == ["speaker"]:
                # After two batches the network knows nothing: that nobody speaks must not be its answer.
                stage["options"] |= {"data.batches_per_epoch": 2, "model.pair_frames": 30, "model.visible": 1.0}
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    cpu = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    report = run_pipeline(file, out=tmp_path / "out", root=root, corpus=root, trainer_options=cpu)

    scores = json.loads((tmp_path / "out/summary.json").read_text())
    planned = read_pipeline(file).stages
    tested = [stage.name for stage in planned if stage.tested]
    assert list(scores) == tested and {"fusion", "hierarchical", "teacher"} & set(tested)
    for stage in planned:
        folder = tmp_path / "out" / (stage.name if stage.once else f"seed-0/{stage.name}")
        assert json.loads((folder / "stage.json").read_text())["finished"]
        for output in stage.outputs:
            assert len(FeatureStore(folder / output))
        if stage.tested:
            assert f"seed-0/{stage.name}/report/report.md" in report.read_text()


def test_an_overlay_changes_what_it_is_laid_over():
    for configs in [*NAMED, *APART]:
        for above in range(1, len(configs)):
            args = [[word for name in configs[:n] for word in ("--config", name)] for n in (above, above + 1)]
            data = ["--data.corpus=c.json", "--data.stores={}"]
            under, over = (MercParser([*words, *data]).config for words in args)
            assert under != over, configs[: above + 1]


def test_the_data_of_a_corpus_lie_where_its_command_writes_them():
    for name in DATA_ALONE:
        data, text = CONFIGS[name]["data"], find_config(name).read_text(encoding="utf-8")
        command = re.search(r"^# merc (import|run) (\S+).* --out (\S+)$", text, re.MULTILINE)
        paths = [data["corpus"], *data["stores"].values()]
        assert command is not None and all(path.startswith(f"{command[3]}/") for path in paths)
        kept = [path.removeprefix(f"{command[3]}/") for path in paths]
        if command[1] == "import":
            assert kept == ["corpus.json", *(f"features/{store}" for store in data["stores"])]
        else:
            stages = {stage.name for stage in read_pipeline(command[2]).stages if stage.once}
            assert {path.split("/")[0] for path in kept} <= stages


class Unique(yaml.SafeLoader):
    """A loader that refuses a key that is there twice."""


def _unique(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice: {keys}"
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


Unique.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)


def test_no_key_is_there_twice_and_all_of_them_together_are_short():
    lines = 0
    for file in FOLDER.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        yaml.load(text, Unique)
        lines += len(text.splitlines())
        assert not re.search(r"num_classes|dims\b|dim_in", text), file
    assert lines <= 1200


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
