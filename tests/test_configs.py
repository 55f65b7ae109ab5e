"""Every shipped config runs, on a corpus of a few dialogues in its own widths: nothing ships untested.

A config that is added later is found by itself. If it needs something that is not known here (an import, a store
of the user's), the test that fails says what to add, and to which table.
"""

import functools
import importlib.util
import json
import re
import shlex
from dataclasses import asdict, replace
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
import merc.pipeline.run
from merc.cli import main
from merc.configs.lookup import CONFIGS, find_config, shipped_configs
from merc.conversation import Corpus
from merc.corpora.commands import IMPORTS, resolve_doctor, resolve_import
from merc.corpora.simulated import simulate
from merc.labels import IEMOCAP6, MELD
from merc.pipeline.kinds import NetworkStage
from merc.pipeline.lightning import MercCLI, MercParser, add_store_writer, quiet_lightning
from merc.pipeline.plan import plan
from merc.pipeline.read import read_pipeline, with_import_options
from merc.pipeline.run import run_pipeline
from merc.pipeline.stage import references
from merc.speaker import SpeakerChoice, load_lipsync
from merc.store import FeatureStore
from support import made_pickles, tiny_lips
from support.tiny_media import CONVOLUTIONS, tiny_speech, tiny_video
from support.tiny_text import tiny_bert, tiny_corpus

DIALOGUES = {"train": 24, "val": 3, "test": 3}
LENGTHS = (0, 1, 1, 1, 1)  # of 2 to 5 utterances
WIDTH = 48  # of any store: 2, 3 and 4 attention heads divide it
EMOTIONS = {7: MELD.names, 6: IEMOCAP6.names}
MODALITIES = ("text", "audio", "visual")
LINES = 1590
"""What all of the YAML may have: a config that says what another one says belongs into one of them."""

# What pipelines read from disk, by import and option; the real readers have tests of their own. Widths by modality.
LAYOUTS = {
    "sdt-meld": (7, {"text": 1024, "audio": 300, "visual": 342}),
    "sdt-iemocap": (6, {"text": 1024, "audio": 1582, "visual": 342}),
}
GIVEN = {"file": "features.pkl", "layout": "sdt-meld"}  # to pickle.yaml, on the command line
TABLE = "audio_features.csv"  # how the names of tables end
MEDIA_OPTIONS = {"data.reader.init_args.tracker.init_args.detector": "support.tiny_clips.SquareDetector"}

FILES = {path.relative_to(CONFIGS).as_posix(): path for path in sorted(CONFIGS.rglob("*.yaml"))}
RAW = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
PIPELINES = [name for name in shipped_configs() if {"stages", "base"} & RAW[name].keys()]
NETWORKS = [name for name in shipped_configs() if "class_path" in RAW[name].get("model", {})]
CORPORA = [name for name in shipped_configs() if name.startswith("corpora/")]
OVERLAYS = sorted({*shipped_configs()} - {*PIPELINES, *NETWORKS, *CORPORA})
READ = {name: read_pipeline(name) for name in PIPELINES}


def header(name):
    """The comment that a config begins with."""
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("#")]


def below(overlay):
    """The configs that an overlay is for."""
    if overlay == "demo/short.yaml":
        return ["systems/teacher.yaml", "simulated/teacher.yaml"]
    if overlay in ("values.yaml", "emotions_and_values.yaml"):
        return ["systems/concat.yaml"]
    named = re.search(r"after (systems/\w+\.yaml)", header(overlay)[0])
    return [named[1] if named else overlay.replace("_iemocap", "")]


STACKS = [(name,) for name in NETWORKS] + [(*below(name), name) for name in OVERLAYS]
COMMANDS = [
    (name, shlex.split(found[1]))
    for name in shipped_configs()
    for line in header(name)
    if (found := re.search(r"(?:^# |: )merc ((?:run|fit|import|predict|ablate) .*)", line))
]


class Strict(yaml.SafeLoader):
    """Refuses a mapping with the same key twice, of which YAML would take the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"twice the same of {keys} at line {node.start_mark.line + 1}"
        return super().construct_mapping(node, deep)


def leaves(value, path=()):
    """Every value in nested mappings and lists that is neither, with its path."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, *str(key).split(".")))
    else:
        yield path, value


# What they say


def test_keys_are_given_once():
    with pytest.raises(AssertionError, match="twice"):
        yaml.load("a: {b: 1, b: 2}", Strict)
    for name, path in FILES.items():
        assert yaml.load(path.read_text(encoding="utf-8"), Strict) == RAW[name]


def test_they_stay_few():
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES.values()) <= LINES


def test_every_config_is_of_a_known_kind():
    others = [name for name in OVERLAYS if not name.startswith(("simulated/", "demo/")) and "_iemocap" not in name]
    assert others == ["emotions_and_values.yaml", "values.yaml"]
    assert CORPORA and OVERLAYS and NETWORKS and len(PIPELINES) > 10


@pytest.mark.parametrize("name", shipped_configs())
def test_a_config_says_what_it_is(name):
    assert header(name)[0].startswith("# ")


@pytest.mark.parametrize("name", FILES)
def test_numbers_are_numbers(name):
    def number(value):
        try:
            return isinstance(value, str) and float(value) is not None
        except ValueError:
            return False

    assert number("1e-3")  # which YAML 1.1 reads as a word; 1.0e-3 is the number
    assert [path for path, value in leaves(RAW[name]) if number(value)] == []


@pytest.mark.parametrize("name", FILES)
def test_what_the_data_knows_is_in_no_config(name):
    known = {"num_classes", "dims", "class_counts"}
    for path, _ in leaves(RAW[name]):
        assert not known & {*path}, path
        # That of a head is the width it works with, not that of what it reads.
        assert "dim" not in path or "head" in path, path


def optimizers(value):
    """Every optimizer in a config, as class and options."""
    if isinstance(value, dict):
        if value.get("class_path", "").startswith("torch.optim.") and "lr_scheduler" not in value["class_path"]:
            yield value["class_path"], value.get("init_args", {})
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from optimizers(part)


@pytest.mark.parametrize("name", FILES)
def test_no_optimizer_inherits_the_weight_decay_of_another(name):
    # The parser keeps options of a task's default optimizer, AdamW, that the named class knows too. Its weight decay of
    # 0.01 acts on weights; in Adam it is a term of the loss, and far too strong.
    for kind, options in optimizers(RAW[name]):
        assert kind == "torch.optim.AdamW" or "weight_decay" in options


@functools.cache
def parsed(*configs):
    """The whole config of a stage, with all defaults."""
    stores = ["--data.stores={}"] if "ConversationDataModule" in RAW[configs[0]]["data"]["class_path"] else []
    given = [word for name in configs for word in ("--config", name)]
    return MercParser([*given, "--data.corpus=none", *stores]).config.as_dict()


def at(config, path):
    """What stands at a path whose options are named without ``init_args``, as on the command line."""
    for key in path:
        config = config["init_args"] if key not in config and "init_args" in config else config
        config = config.get(key)
    return config


def options_of(overlay, path=()):
    """The options that an overlay gives, by path; a mapping of weights and a list are one option."""
    for key, value in overlay.items():
        whole = not isinstance(value, dict) or key == "head_weights"
        if whole and key != "class_path":
            yield (*path, key), value
        elif not whole:
            yield from options_of(value, (*path, key))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_option_of_an_overlay_changes_something(name):
    base, changed = parsed(*below(name)), parsed(*below(name), name)
    for path, value in options_of(RAW[name]):
        assert at(base, path) != at(changed, path), f"{'.'.join(path)}: {value} is what {below(name)} say"


@pytest.mark.parametrize("name", [name for name in PIPELINES if "base" in RAW[name]])
def test_a_pipeline_on_another_changes_every_stage_that_it_names(name):
    beside = FILES[name].parent / RAW[name]["base"]
    base = {stage.name: stage for stage in read_pipeline(beside if beside.is_file() else RAW[name]["base"]).stages}
    own = {stage.name: stage for stage in READ[name].stages}
    elsewhere = RAW[name].get("corpus")
    for stage in RAW[name].get("stages", []):
        # Where others read another corpus than in the base, one that still reads that of the base says so.
        assert own[stage["name"]] != base.get(stage["name"]) or (elsewhere and stage["corpus"] != elsewhere)


# What their comments say


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=lambda value: " ".join(value) if value is list else None)
def test_commands_in_comments_parse(name, words, monkeypatch, capsys):
    assert all(find_config(word) for word in words if word.endswith(".yaml"))
    if words[0] == "run":
        ran = {}
        monkeypatch.setattr(merc.pipeline.run, "run_pipeline", lambda pipeline, **given: ran.update({pipeline: given}))
        assert main(words) == 0
        ((pipeline, given),) = ran.items()
        needed = references([stage.options for stage in READ[pipeline].stages]) & {"root", "corpus"}
        assert pipeline == name or name.startswith("corpora/")
        assert needed == {source for source in ("root", "corpus") if given[source] is not None}
    elif words[0] == "import":
        with pytest.raises(SystemExit) as end:
            main([*words, "--print_config"])
        assert end.value.code == 0, capsys.readouterr().err
    else:
        assert words[0] == "fit" and (name in words or name.startswith("corpora/"))
        MercParser(words[1:])


def test_every_pipeline_says_how_it_is_run():
    assert {name for name, words in COMMANDS if words[0] == "run"} - {*CORPORA} == {*PIPELINES}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder in which the commands of corpora/ have left what they write, with a few dialogues."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in CORPORA:
            command = next(words for of, words in COMMANDS if of == name and words[0] != "fit")
            if command[0] == "import":
                widths = {**made_pickles.WIDTHS, **dict.fromkeys(MODALITIES, WIDTH)}
                path, _ = made_pickles.write(folder, command[command.index("--layout") + 1], widths=widths)
                path.replace(folder / command[2])
                assert main(command) == 0
            else:
                pipeline, out = command[1], command[command.index("--out") + 1]
                stages = [asdict(stage) for stage in READ[pipeline].stages if stage.command in ("import", "evidence")]
                stages[0]["options"]["dialogues"] = DIALOGUES
                Path("pipeline.yaml").write_text(yaml.safe_dump({"stages": stages}))
                run_pipeline("pipeline.yaml", out=out)
    return folder


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_are_where_their_commands_leave_them(name, written):
    data = RAW[name]["data"]
    assert RAW[name].keys() == {"data"} and data.keys() == {"corpus", "stores"}
    corpus = Corpus.load(written / data["corpus"])
    for path in data["stores"].values():
        assert {key for split in corpus.values() for c in split for key in c.keys} >= set(
            FeatureStore(written / path).keys
        )


def quick(options):
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


CPU = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
FITS = [pytest.param(words[1:], id=" ".join(words[2::2])) for _, words in COMMANDS if words[0] == "fit"]


@pytest.mark.parametrize("words", FITS)
def test_commands_that_train_in_comments_train(words, written, monkeypatch):
    monkeypatch.chdir(written)
    cli = MercCLI([*words, *CPU, "--trainer.fast_dev_run=true"], run=False)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)


# Stand-ins for what is downloaded or recorded


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
    if classes == 7:
        return tiny_corpus(8)
    corpus = tiny(classes).corpus
    return replace(corpus, splits={**corpus.splits, "train": corpus["train"][:12]})


def small(corpus):
    """All of the training split, but few dialogues of the others."""
    splits = {split: conversations[: None if split == "train" else 3] for split, conversations in corpus.items()}
    return replace(corpus, splits=splits)


def shown(corpus, out):
    """The corpus with clips beside it, where clips can be written."""
    if importlib.util.find_spec("av") is not None:
        from support.tiny_clips import with_clips

        corpus = with_clips(corpus, out / "clips")
    corpus.save(out / "corpus.json")
    return corpus


def random_store(path, corpus, width, kind="features"):
    keys = [key for split in corpus.values() for conversation in split for key in conversation.keys]
    about = {"classes": list(corpus.labels.names)}
    FeatureStore.write(path, keys, torch.randn(len(keys), width), kind=kind, provenance=about)


@pytest.fixture(scope="module")
def standins(tmp_path_factory):
    """Encoders, by name or by the class that reads them, nearly empty inside and as wide as those in the configs."""
    text, speech, video = (tmp_path_factory.mktemp(name) for name in ("text", "speech", "video"))
    tiny_bert(text)
    tiny_speech(speech)
    tiny_video(video)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    convolutions = {**CONVOLUTIONS, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 64, "layerdrop": 0.0}
    BertModel(BertConfig(vocab_size=200, max_position_embeddings=512, hidden_size=384, **sizes)).save_pretrained(text)
    Wav2Vec2Model(Wav2Vec2Config(hidden_size=1024, **sizes, **convolutions)).save_pretrained(speech)
    TimesformerModel(
        TimesformerConfig(hidden_size=768, **sizes, num_frames=8, image_size=32, patch_size=16)
    ).save_pretrained(video)
    narrow = tmp_path_factory.mktemp("narrow")
    tiny_speech(narrow)
    Wav2Vec2Model(Wav2Vec2Config(hidden_size=768, **sizes, **convolutions)).save_pretrained(narrow)
    return {
        "facebook/data2vec-audio-base-960h": str(narrow),
        "merc.encoders.TextEncoder": str(text),
        "merc.encoders.AudioEncoder": str(speech),
        "merc.encoders.VisualEncoder": str(video),
    }


def standin(configs, standins):
    """The options that put a stand-in into the place of pretrained weights, and of processes that read."""
    options = {}
    for config in map(RAW.get, configs):
        encoder = config.get("model", {}).get("init_args", {}).get("encoder", {})
        names = [encoder.get("init_args", {}).get("model"), encoder.get("class_path")]
        known = [standins[name] for name in names if name in standins]
        if known:
            options["model.encoder.model"] = known[0]
        if config.get("data", {}).get("class_path") == "merc.datamodules.MediaDataModule":
            options["data.workers"] = 0
    return options


def track(corpus, out):
    options = {"data.corpus": str(corpus), "data.workers": 0, "trainer.default_root_dir": str(out), **MEDIA_OPTIONS}
    cli = MercCLI(["--config", "faces.yaml", *quick(options), *CPU], run=False)
    add_store_writer(cli.trainer, out, ["faces", "crops", "sound"])
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)


def say_who_speaks(path, corpus):
    """A store in which the first track speaks everywhere."""
    keys = [key for split in corpus.values() for conversation in split for key in conversation.keys]
    FeatureStore.write(path, keys, SpeakerChoice(0, 1.0, 1.0, 1.0).to_row().expand(len(keys), -1), kind="speaker")


@pytest.fixture
def imports(monkeypatch):
    """Small corpora in the place of those on disk."""

    def pickled(*, file, layout, out, **options):
        classes, widths = LAYOUTS[layout]
        tiny(classes, widths).save(out)

    def table(*, files, corpus, out, **options):
        assert all(str(file).endswith(TABLE) for file in files)
        random_store(out, Corpus.load(corpus), 10)

    def rendered(*, out, **options):
        corpus = shown(small(tiny_corpus(7)), out)
        track(out / "corpus.json", out / "truth")
        say_who_speaks(out / "truth/speaker", corpus)

    def filmed(*, root, out, **options):
        from support.tiny_clips import RED, write_clip

        names = [f"{number}.mp4" for number in range(7)]
        for name in names:
            write_clip(Path(root) / name, frames=50, faces=(RED,))
        real["films"](root=root, out=out, splits={"train": ["*"], "val": names[:2], "test": names[2:4]})

    made = {
        "films": filmed,
        "meld": lambda *, root, out: shown(small(on_disk(7)), out),
        "iemocap": lambda *, root, out, **options: shown(small(on_disk(6)), out),
        "pickle": pickled,
        "table": table,
        "rendered": rendered,
    }
    real = {name: resolve_import(name) for name in IMPORTS}
    # Under the signatures of the real ones, so that the options of the pipeline are checked.
    wrapped = {name: functools.wraps(real[name])(standin) for name, standin in made.items()}
    known = {**{name: real[name] for name in ("corpus", "folds", "simulated", "lips")}, **wrapped}
    monkeypatch.setattr(merc.pipeline.kinds, "resolve_import", known.__getitem__)
    monkeypatch.setattr(
        merc.pipeline.kinds, "resolve_doctor", lambda name: functools.wraps(resolve_doctor(name))(lambda **options: 0)
    )
    return known


# Pipelines


def run_by(pipeline):
    """The configs of the stages that a pipeline trains or applies."""
    return {tuple(stage.configs) for stage in READ[pipeline].stages if isinstance(stage.kind, NetworkStage)}


def covered(name):
    """Whether all stages of a pipeline are stages of another one too."""
    return any(other != name and all(s in READ[other].stages for s in READ[name].stages) for other in PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_options_of_every_stage_parse(name, tmp_path):
    sources = {"root": str(tmp_path), "corpus": str(tmp_path)}
    with quiet_lightning(quiet=True):
        imports = GIVEN if any(stage.config == "pickle" for stage in READ[name].stages) else {}
        for run in plan(with_import_options(READ[name], imports), tmp_path / "out", sources, [0]):
            run.stage.kind.check(run, ["--trainer.accelerator=cpu"])
    assert not list(tmp_path.iterdir())


def shortened(stage, imports, standins):
    """A stage on little data, with stand-ins."""
    options = dict(stage.options)
    if stage.command == "import":
        assert stage.config in imports, f"add a stand-in for the import {stage.config!r} to `imports`"
        if stage.config == "simulated":
            options["dialogues"] = DIALOGUES
        if stage.config == "folds":
            options["folds"] = 10  # a tenth of so few leaves every emotion in train
        if stage.config == "lips":
            options |= {"talking": {"train": 2}, "silent": {"train": 1}, "seconds": 1.6, "workers": 0}
        if stage.config == "pickle":
            options = {**GIVEN, **options}
    elif isinstance(stage.kind, NetworkStage):
        options |= standin(stage.configs, standins)
        if "faces" in stage.outputs:
            options |= MEDIA_OPTIONS
        if RAW[stage.configs[0]]["model"]["class_path"] == "merc.tasks.LipSyncTask":
            # After two batches the network knows nothing: that nobody speaks must not be its answer.
            scorer = {"class_path": "merc.speaker.LikelihoodScorer", "init_args": {"visible": 0.9999}}
            options |= {"data.batches_per_epoch": 2, "model.pair_frames": 30, "model.scorer": scorer}
    return {**asdict(stage), "options": options}


def expensive(name):
    """The pipelines that differ from another one in the corpus, or that are long: every config of theirs is parsed."""
    long = {
        "demo/video.yaml",
        "demo/simulated_joint.yaml",
        "meld/joint.yaml",
        "meld/minilm_systems.yaml",
        "meld/pickle.yaml",
        "meld/telme.yaml",
        "meld/telme_audio_teacher.yaml",
        "meld/telme_published.yaml",
        "meld/telme_visual_teacher.yaml",
        "shipped/lipsync.yaml",
        "shipped/lipsync_research.yaml",
        "shipped/text_meld.yaml",
        "text_audio.yaml",  # media.yaml builds on it
        "text_table.yaml",
    }
    slow = name.startswith("iemocap/") or name in long
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


@pytest.mark.parametrize("name", [expensive(name) for name in PIPELINES if not covered(name)])
def test_pipeline(name, tmp_path, standins, imports):
    stages = READ[name].stages
    if "faces" in {output for stage in stages for output in stage.outputs}:
        for package in ("av", "torchaudio", "facenet_pytorch"):
            pytest.importorskip(package, reason="needs pip install 'merc[media]', and facenet-pytorch without deps")
    needed = references([stage.options for stage in stages])
    root, corpus, file = tmp_path / TABLE, tmp_path / "mine/corpus.json", tmp_path / "pipeline.yaml"
    root.mkdir()
    if "corpus" in needed:
        corpus.parent.mkdir()
        shown(small(on_disk(7)), corpus.parent)
    raw = [shortened(stage, imports, standins) for stage in stages]
    file.write_text(yaml.safe_dump({"stages": raw, "compare": READ[name].compare}, sort_keys=False))
    report = run_pipeline(
        file,
        out=tmp_path / "out",
        root=root if "root" in needed else None,
        corpus=corpus if "corpus" in needed else None,
        trainer_options=["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"],
    )
    tested, summary = [stage.name for stage in stages if stage.tested], tmp_path / "out/summary.json"
    assert tested or stages[-1].command == "export_lipsync"
    assert (list(json.loads(summary.read_text())) if summary.is_file() else []) == tested
    for run in plan(read_pipeline(file), tmp_path / "out", {"root": str(root), "corpus": str(corpus)}, [0]):
        assert json.loads((run.folder / "stage.json").read_text())["finished"]
        for output in run.stage.outputs:
            assert len(FeatureStore(run.folder / output))
        if run.stage.tested:
            assert f"seed-0/{run.stage.name}/report/report.md" in report.read_text()
        if run.stage.command == "export_lipsync":
            assert load_lipsync(run.folder).trained_on == run.stage.options.get(
                "data", f"{TABLE}/train, rendered lips/train"
            )


def test_every_config_that_a_pipeline_names_is_shipped():
    assert {config for name in PIPELINES for configs in run_by(name) for config in configs} <= {*NETWORKS, *OVERLAYS}


# Stages that no pipeline and no command in a comment runs


def elsewhere():
    """The stacks of configs that other tests here run."""
    ran = set().union(*(run_by(name) for name in PIPELINES))
    return ran | {tuple(w for w in words if w.endswith(".yaml") and w not in CORPORA) for _, words in COMMANDS}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A simulated corpus with features of every modality and what a teacher leaves."""
    folder = tmp_path_factory.mktemp("stored")
    tiny(7, dict.fromkeys(MODALITIES, WIDTH)).save(folder)
    corpus = Corpus.load(folder / "corpus.json")
    random_store(folder / "features/teacher", corpus, 7, kind="logits")
    random_store(folder / "features/teacher_hidden", corpus, 256, kind="hidden")
    return folder


def on_lips(stack):
    """Whether a stack learns from lips and sound, and not from features of utterances."""
    return RAW[stack[0]]["data"]["class_path"] == "merc.datamodules.LipSyncDataModule"


FACES = ("encoders/fer.yaml",)  # predicts from faces, in the place of the face statistics of media.yaml
LEFT = sorted(set(STACKS) - elsewhere() - {FACES})


def test_expressions_take_the_place_of_face_statistics(tmp_path):
    base = f"base: {CONFIGS / 'media.yaml'}\nstages:\n  - {{name: face, config: {FACES[0]}}}\n"
    (tmp_path / "my_media.yaml").write_text(base)
    stages = read_pipeline(tmp_path / "my_media.yaml").stages
    [face] = [stage for stage in stages if stage.name == "face"]
    assert face.configs == [*FACES] and face.options["data.reader.init_args.speaker"] == "{lipsync}/speaker"
    given = ["--config", FACES[0], *(f"--{name}={value}" for name, value in face.options.items())]
    parsed = MercParser(given).config.as_dict()
    assert parsed["model"]["init_args"]["encoder"]["class_path"] == "merc.encoders.FerEncoder"


@pytest.mark.parametrize("stack", [stack for stack in LEFT if not on_lips(stack)], ids=" + ".join)
def test_stage(stack, tmp_path, stored, standins):
    model = parsed(*stack)["model"]
    reads = [model["init_args"]["modality"]] if "modality" in model["init_args"] else list(MODALITIES)
    if model["class_path"].endswith("StudentTask"):
        reads += ["teacher", "teacher_hidden"]
    options = {"data.corpus": str(stored / "corpus.json"), **standin(stack, standins)}
    if "encoder" not in model["init_args"]:
        options["data.stores"] = {name: str(stored / "features" / name) for name in reads}
    options["trainer.default_root_dir"] = str(tmp_path)
    cli = MercCLI(
        [
            *(word for name in stack for word in ("--config", name)),
            *quick(options),
            *CPU,
            "--trainer.fast_dev_run=true",
        ],
        run=False,
    )
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    add_store_writer(cli.trainer, tmp_path / "out", ["logits"])
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)
    assert FeatureStore(tmp_path / "out/logits").dim == 7


@pytest.mark.parametrize("stack", [stack for stack in LEFT if on_lips(stack)], ids=" + ".join)
def test_stage_on_lips(stack, tmp_path):
    size = RAW[stack[0]]["model"]["init_args"]["network"]["init_args"]["size"]
    clips = [([(0, crops)], sound, 0) for crops, sound in (tiny_lips.talk(seed, 60, size=size) for seed in range(4))]
    source = tiny_lips.write_stores(tmp_path, {"train": clips, "val": clips[:2], "test": clips}, size)
    options = {"data.sources": [source], "data.batch_size": 4, "trainer.default_root_dir": str(tmp_path)}
    given = [*(word for name in stack for word in ("--config", name)), *quick(options), *CPU]
    cli = MercCLI([*given, "--trainer.max_steps=1", "--trainer.val_check_interval=1"], run=False)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    add_store_writer(cli.trainer, tmp_path / "out", ["speaker"])
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)
    assert len(FeatureStore(tmp_path / "out/speaker")) == 10
