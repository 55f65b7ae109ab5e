"""Every shipped config runs, on a corpus of a few dialogues in its own widths: nothing ships untested.

A config that is added later is found by itself. If it needs something that is not known here (an import, a store
of the user's), the test that fails says what to add, and to which table.
"""

import functools
import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny_text import tiny_bert, tiny_corpus
from transformers import BertConfig, BertModel

import merc.cli.run
from merc.cli import find_config, shipped_configs
from merc.cli.lightning import MercCLI, add_store_writer
from merc.cli.run import run_pipeline
from merc.conversation import Corpus
from merc.corpora.simulated import simulate
from merc.labels import IEMOCAP6, MELD
from merc.store import FeatureStore

DIALOGUES = {"train": 24, "val": 3, "test": 3}
LENGTHS = (0, 1, 1, 1, 1)  # of 2 to 5 utterances
EMOTIONS = {7: MELD.names, 6: IEMOCAP6.names}

# What pipelines read from disk, by import and option; the real readers have tests of their own. Widths by modality.
LAYOUTS = {
    "sdt-meld": (7, {"text": 1024, "audio": 300, "visual": 342}),
    "sdt-iemocap": (6, {"text": 1024, "audio": 1582, "visual": 342}),
}
TABLES = {"audio_features.csv": 10}  # MELD's prosody: by the end of the file's name, columns of numbers
ROOT_STORES = {"features/audio": 1024, "features/visual": 768}  # stores of the user's own under --root

CONFIGS = {name: yaml.safe_load(find_config(name).read_text(encoding="utf-8")) for name in shipped_configs()}
PIPELINES = [name for name, config in CONFIGS.items() if "stages" in config]
STAGES = [name for name, config in CONFIGS.items() if "stages" not in config]


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


def reads_text(config):
    return "merc.encoders.TextEncoder" in yaml.safe_dump(config.get("model", {}))


@pytest.mark.parametrize("name", STAGES)
def test_stage(name, tmp_path, encoder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS[name]
    stores = config["data"]["init_args"].get("stores", {})
    options = ["--data.corpus=data/corpus.json", *(f"--data.stores.{store}=stores/{store}" for store in stores)]
    if reads_text(config):
        options.append(f"--model.encoder.model={encoder}")
    cli = MercCLI(["--config", name, *options, "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"], run=False)
    trainer, task, data = cli.trainer, cli.model, cli.datamodule

    classes = getattr(task, "num_classes", 7)
    widths = getattr(task, "modalities", {})
    tiny(classes, widths).save(tmp_path / "data")
    corpus = Corpus.load(tmp_path / "data/corpus.json")
    for store in stores:
        if store in widths:
            (tmp_path / "stores").mkdir(exist_ok=True)
            (tmp_path / "stores" / store).symlink_to(tmp_path / "data/features" / store)
        else:  # the logits of a teacher
            random_store(tmp_path / "stores" / store, corpus, classes, kind="logits")

    if hasattr(task, "training_step") and "num_classes" in vars(task):
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

    def pickled(*, file, layout, out):
        classes, widths = LAYOUTS[layout]
        tiny(classes, widths).save(out)

    def table(*, files, corpus, out, **options):
        (width,) = {TABLES[end] for end in TABLES for file in files if str(file).endswith(end)}
        random_store(out, Corpus.load(corpus), width)

    standins = {
        "meld": lambda *, root, out: on_disk(7).save(out / "corpus.json"),
        "iemocap": lambda *, root, out, **options: on_disk(6).save(out / "corpus.json"),
        "pickle": pickled,
        "table": table,
    }
    real = merc.cli.run.IMPORTS
    # Under the signatures of the real ones, so that the options of the pipeline are checked.
    wrapped = {name: functools.wraps(real[name])(standin) for name, standin in standins.items()}
    known = {"simulated": real["simulated"], "evidence": real["evidence"], **wrapped}
    monkeypatch.setattr(merc.cli.run, "IMPORTS", known)
    return known


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline(name, tmp_path, encoder, imports):
    pipeline = CONFIGS[name]
    root = tmp_path / "root"
    root.mkdir()
    for stage in pipeline["stages"]:
        if stage["command"] == "import":
            assert stage["config"] in imports, f"add a stand-in for the import {stage['config']!r} to `imports`"
            if stage["config"] == "simulated":
                stage.setdefault("options", {}).update(dialogues=DIALOGUES)
        elif reads_text(CONFIGS.get(stage["config"], {})):
            stage["options"]["model.encoder.model"] = encoder
    given = yaml.safe_dump(pipeline)
    classes = 6 if "iemocap" in given else 7
    for path, width in ROOT_STORES.items():
        if "{root}/" + path in given:
            random_store(root / path, on_disk(classes), width)

    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    cpu = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    report = run_pipeline(file, out=tmp_path / "out", root=root if "{root}" in given else None, trainer_options=cpu)

    scores = json.loads((tmp_path / "out/summary.json").read_text())
    tested = [s["name"] for s in pipeline["stages"] if s["command"] == "fit" and s.get("report", True)]
    assert list(scores) == tested and "fusion" in tested
    for stage in pipeline["stages"]:
        folder = tmp_path / "out" / (stage["name"] if stage.get("once") else f"seed-0/{stage['name']}")
        assert json.loads((folder / "stage.json").read_text())["finished"]
        for output in stage.get("outputs", []):
            assert len(FeatureStore(folder / output))
        if stage["name"] in tested:
            assert f"seed-0/{stage['name']}/report/report.md" in report.read_text()


def test_every_stage_config_that_a_pipeline_names_is_shipped():
    named = {s["config"] for name in PIPELINES for s in CONFIGS[name]["stages"] if s["command"] != "import"}
    assert named <= set(STAGES)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_what_it_is_and_learning_rates_are_numbers(name):
    text = Path(find_config(name)).read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "1e-" not in text  # YAML 1.1 reads 1e-3 as a word; 1.0e-3 is the number
