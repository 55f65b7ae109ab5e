"""A run becomes a model that predicts the same elsewhere, and refuses to be anything else than what was exported."""

import hashlib
import importlib
import inspect
import json
import math
import os
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

import merc
from merc.cli import main
from merc.conversation import Conversation, Corpus, CorpusError, Utterance
from merc.evaluation import ensemble, read_predictions
from merc.labels import LabelSet
from merc.models import ModelError, as_conversations, export_run, load
from merc.models.build import Maker
from merc.models.folder import CARD, CONFIG, WEIGHTS
from merc.pipeline.apply import apply_pipeline
from merc.pipeline.stage import PipelineError
from merc.store import FeatureStore, StoreError
from support.tiny_model import EMOTIONS, PACKAGE, write_run

STAGES = ("teacher", "student", "fusion", "both", "own", "tuned")
TALK = [("Ann", "no not why!"), ("Ben", "oh my"), ("Ann", "well okay here")]


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    """The folder of the package with the encoder, on the path."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "site").mkdir()
    sys.path.insert(0, str(folder / "site"))
    importlib.invalidate_caches()
    yield folder / "site"
    sys.path.remove(str(folder / "site"))


@pytest.fixture(scope="module")
def run(site):
    """The folder of a finished run of two seeds."""
    shutil.rmtree(site)
    out = site.parent / "run"
    assert main([*write_run(site.parent), "--out", str(out), "--seeds", "2"]) == 0
    return out


@pytest.fixture(scope="module")
def models(run, tmp_path_factory):
    """What is left of the run elsewhere: its models by stage, its reports, its corpus, and the table of numbers."""
    made = tmp_path_factory.mktemp("made")
    for stage in STAGES:
        export_run(run, made / stage, stage=stage, name=f"tiny-{stage}")
    folder = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.copytree(made, folder)
    shutil.rmtree(made)
    shutil.copytree(run / "numbers", folder / "numbers")
    shutil.copy(run / "data/corpus.json", folder)
    for report in sorted(run.glob("**/report")):
        shutil.copytree(report, folder / "reports" / report.relative_to(run).parent)
    hidden = run.with_name("hidden-run")
    run.rename(hidden)  # whatever a model needs of the run is not there
    yield folder
    hidden.rename(run)


@pytest.fixture
def copied(models, tmp_path):
    """A model of one's own to spoil."""
    return Path(shutil.copytree(models / "teacher", tmp_path / "model"))


def change(folder, edit):
    """Edit config.json as a forger would."""
    config = json.loads((folder / CONFIG).read_text())
    edit(config)
    (folder / CONFIG).write_text(json.dumps(config))


def forge(folder, tensors):
    """Put other weights into a model, with their digest."""
    (folder / WEIGHTS).write_bytes(tensors if isinstance(tensors, bytes) else save(tensors))
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    change(folder, lambda config: config["files"].update({WEIGHTS: digest}))


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_predicts_what_its_run_predicted(models, stage):
    corpus = Corpus.load(models)
    model = load(models / stage, trust_remote_code=stage == "own")
    given = {"numbers": models / "numbers"} if stage not in ("teacher", "tuned") else {}
    assert model.given == list(given)
    found = model.predict(corpus["test"], features=given)
    reports = [models / "reports" / stage] if stage in ("own", "tuned") else models.glob(f"reports/seed-*/{stage}")
    before = ensemble([read_predictions(report, corpus.labels) for report in reports])
    rows = [found.keys.index(key) for key in before.keys]
    torch.testing.assert_close(found.probabilities[rows], before.probabilities, rtol=0, atol=1e-6)
    assert {n: t[rows].tolist() for n, t in found.present.items()} == {n: t.tolist() for n, t in before.present.items()}
    assert found.to_predictions().metrics()["weighted_f1"] == pytest.approx(before.metrics()["weighted_f1"])


def test_one_seed_is_a_model_too_and_applying_the_run_says_the_same(models, tmp_path):
    run = next(models.parents[1].glob("run*/hidden-run"))
    model = export_run(run, seed=1, stage="teacher")
    assert list(model.steps) == ["words", "written", "text", "seed-1/teacher"] and model.about["seeds"] == [1]
    talk = Conversation("talk", tuple(Utterance(str(i), who, what) for i, (who, what) in enumerate(TALK)), "test")
    new = Corpus("new", LabelSet("data", tuple(EMOTIONS)), {"test": [talk]})
    applied = apply_pipeline(run, new, tmp_path, seed=1, stage="teacher")
    found = model.predict(talk)
    expected = applied.logits.gather(talk.keys)[0].softmax(-1)
    torch.testing.assert_close(found.probabilities, expected, rtol=0, atol=1e-6)
    with pytest.raises(PipelineError, match="has the seeds 0, 1, not 7"):
        export_run(run, seed=7)


def test_a_model_has_no_path_no_text_and_no_pickle(models):
    site = models.parents[1]
    for stage in STAGES:
        files = [file for file in (models / stage).rglob("*") if file.is_file()]
        assert sorted(file.name for file in files) == sorted([CARD, CONFIG, WEIGHTS])
        for file in files:
            content = file.read_bytes()
            assert str(site).encode() not in content and b"why you" not in content and b"pickle" not in content
            assert file.stat().st_mode & 0o444 == 0o444
    rows = {name: len(t) for name, t in load_file(models / "teacher" / WEIGHTS).items() if t.dim()}
    assert 30 not in rows.values()  # utterances of the train split: nothing is kept of a single one


def test_the_card_tells_data_scores_and_limits(models):
    card = (models / "both" / CARD).read_text()
    corpus = Corpus.load(models)
    reports = [read_predictions(path, corpus.labels) for path in sorted(models.glob("reports/seed-*/both"))]
    scores = ensemble(reports).metrics()
    assert card.startswith("---\nlibrary_name: merc\n") and "# tiny-both" in card
    assert f"weighted F1 {100 * scores['weighted_f1']:.2f}" in card and "seeds 0, 1" in card
    assert "| F1 |" in card and f"{100 * scores['f1/joy']:.2f}" in card
    assert corpus.protocol in card and "train 6 dialogues with 30 utterances" in card
    assert "`numbers`: 2 numbers per utterance" in card and f"`{PACKAGE}:bert`" in card
    assert "Do not decide about people" in card and "Not stated by who exported the model" in card


def test_every_form_of_a_conversation_gives_the_same(models, tmp_path, monkeypatch):
    model = load(models / "teacher")
    talk = Conversation("talk", tuple(Utterance(str(i), who, what) for i, (who, what) in enumerate(TALK)))
    (tmp_path / "talk.csv").write_text("Speaker;Text\n" + "\n".join(f"{who};{what}" for who, what in TALK) + "\n")
    table = types.SimpleNamespace(
        columns=["speaker", "text"], to_dict=lambda how: [{"speaker": w, "text": t} for w, t in TALK]
    )
    first = model.predict(TALK)
    assert first.label == [max(EMOTIONS, key=lambda n: row[EMOTIONS.index(n)]) for row in first.probabilities.tolist()]
    forms = (talk, [talk], tmp_path / "talk.csv", str(tmp_path / "talk.csv"), table, [TALK])
    for form in forms:
        found = model.predict(form)
        torch.testing.assert_close(found.probabilities, first.probabilities)
        assert found.lines == first.lines and found.used == [("text",)] * 3
    together = model.predict([[*TALK], [*TALK, *TALK]])
    torch.testing.assert_close(together.probabilities[:3], first.probabilities)
    assert len(together) == 9 and len({*together.keys}) == 9


def test_a_table_of_mixed_dialogues_keeps_the_order_of_its_rows(models, tmp_path):
    model = load(models / "teacher")
    file = tmp_path / "mixed.csv"
    rows = ["1,Ann,no not why!", "2,Cid,oh my", "1,Ben,oh my", "2,Ann,", "1,Ann,well okay here"]
    file.write_text("Dialogue_ID,speaker,Utterance\n" + "\n".join(rows) + "\n")
    found = model.predict(file)
    assert [text for _, text in found.lines] == ["no not why!", "oh my", "oh my", "", "well okay here"]
    assert [(key.dialogue, key.utterance) for key in found.keys][:3] == [("1", "0"), ("2", "0"), ("1", "1")]
    torch.testing.assert_close(found.probabilities[[0, 2, 4]], model.predict(TALK).probabilities)
    conversations, order = as_conversations(file)
    assert [len(c) for c in conversations] == [3, 2] and order == [0, 3, 1, 4, 2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "expected a Conversation"),
        (7, "was asked int '7'"),
        ([("Ann",)], "expected a Conversation"),
        ([[]], "expected a Conversation"),
        (types.SimpleNamespace(columns=["said"], to_dict=list), "has no column 'text': found 'said'"),
        (types.SimpleNamespace(columns=["text"], to_dict=lambda how: []), "has no row"),
    ],
)
def test_what_is_no_conversation_is_refused(models, asked, message):
    with pytest.raises(ModelError, match=message):
        as_conversations(asked)
    with pytest.raises(CorpusError, match="No file"):
        as_conversations("nothing.csv")


def test_the_result_tells_how_certain_it_is(models, monkeypatch):
    found = load(models / "teacher").predict(TALK)
    expected = [-sum(p * math.log(p) for p in row) for row in found.probabilities.double().tolist()]
    assert found.uncertainty.tolist() == pytest.approx(expected, abs=1e-6)
    even = replace(found, probabilities=torch.full((3, 3), 1 / 3))
    assert even.uncertainty.tolist() == pytest.approx([math.log(3)] * 3)
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    table = found.to_pandas()
    assert table["emotion"] == found.label and table["used"] == ["text"] * 3
    assert table["p_joy"] == found.probabilities[:, 1].tolist() and table["speaker"] == ["Ann", "Ben", "Ann"]


def test_labels_of_the_question_score_and_those_of_other_sets_do_not_matter(models):
    model = load(models / "teacher")
    talk = [Utterance("0", "A", "oh my", label="joy"), Utterance("1", "B", "no", label="rage")]
    found = model.predict(Conversation("d", tuple(talk)))
    assert found.gold.tolist() == [1, -100] and found.to_predictions().confusion.sum() == 1


def test_features_that_are_not_given_are_missing(models):
    corpus = Corpus.load(models)
    model = load(models / "fusion")
    alone = model.predict(corpus["test"])
    assert set(alone.used) == {("text",)} and not alone.present["audio"].any()
    both = model.predict(corpus["test"], features={"numbers": FeatureStore(models / "numbers")})
    assert ("audio", "text") in both.used and ("text",) in both.used
    assert not torch.allclose(alone.probabilities, both.probabilities)
    with pytest.raises(ModelError, match="takes no features voice: expected numbers"):
        model.predict(corpus["test"], features={"voice": models / "numbers"})
    with pytest.raises(ModelError, match="expected none, it reads transcripts alone"):
        load(models / "teacher").predict(TALK, features={"numbers": models / "numbers"})


def test_features_of_another_source_are_refused(models, tmp_path):
    corpus, model = Corpus.load(models), load(models / "student")
    keys = [key for c in corpus["test"] for key in c.keys]
    other = FeatureStore.write(tmp_path / "other", keys, torch.ones(len(keys), 2), provenance={"source": "ears"})
    with pytest.raises(ModelError, match=r"features of another source.*expected 'table of numbers', found 'ears'"):
        model.predict(corpus["test"], features={"numbers": other})
    assert len(model.predict(corpus["test"], features={"numbers": other}, other_encoders=True)) == len(keys)
    wide = FeatureStore.write(tmp_path / "wide", keys, torch.ones(len(keys), 3))
    with pytest.raises(StoreError, match="width 3, expected 2"):
        model.predict(corpus["test"], features={"numbers": wide}, other_encoders=True)


def test_a_model_goes_on_as_it_came(models, tmp_path):
    model = load(models / "both")
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / CONFIG).read_bytes() == (models / "both" / CONFIG).read_bytes()
    model.save_pretrained(tmp_path / "again")  # in its own place too
    torch.testing.assert_close(load(tmp_path / "again").predict(TALK).probabilities, model.predict(TALK).probabilities)


@pytest.mark.parametrize("stage", ["teacher", "tuned"])
def test_encoders_that_are_included_need_no_package(models, tmp_path, monkeypatch, stage):
    model = load(models / stage)
    model.save_pretrained(tmp_path / "whole", with_encoders=True)
    expected = model.predict(TALK).probabilities
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not (Path(place) / PACKAGE).is_dir()])
    importlib.invalidate_caches()
    sys.modules.pop(PACKAGE, None)
    with pytest.raises((ModelError, FileNotFoundError), match=PACKAGE):
        load(models / stage)
    whole = load(tmp_path / "whole")
    torch.testing.assert_close(whole.predict(TALK).probabilities, expected)
    again = load(whole.save_pretrained(tmp_path / "again"))  # what was included stays so
    torch.testing.assert_close(again.predict(TALK).probabilities, expected)
    name = next(iter(json.loads((tmp_path / "again" / CONFIG).read_text())["steps"]))
    (tmp_path / "again/encoders" / name / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, which config\.json does not list"):
        load(tmp_path / "again")


def test_an_encoder_in_a_folder_of_this_machine_must_be_included(models, site, tmp_path):
    model = load(models / "teacher")
    model.steps["words"].spec = {**model.steps["words"].spec, "init_args": {"model": str(site / PACKAGE / "bert")}}
    with pytest.raises(ModelError, match="would not be there elsewhere: include it"):
        model.save_pretrained(tmp_path / "model")
    saved = load(model.save_pretrained(tmp_path / "model", with_encoders=True))
    assert str(site).encode() not in (tmp_path / "model" / CONFIG).read_bytes() and len(saved.predict(TALK)) == 3


def test_other_weights_of_an_encoder_are_refused(copied, site, monkeypatch):
    weights = site / PACKAGE / "bert/model.safetensors"
    before = weights.read_bytes()
    tensors = load_file(weights)
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"] + 1
    save_file(tensors, weights, metadata={"format": "pt"})
    try:
        with pytest.raises(ModelError, match="its weights are not those of the training"):
            load(copied)
    finally:
        weights.write_bytes(before)


def damage(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def pickled(folder):
    torch.save({"words": nn.Linear(1, 1)}, folder / "weights.bin")
    return (folder / "weights.bin").read_bytes()


def without_first(folder):
    _, *others = load_file(folder / WEIGHTS).items()
    return dict(others)


def renamed(folder):
    return {name.replace("mean", "median"): tensor for name, tensor in load_file(folder / WEIGHTS).items()}


def stranger(folder):
    return {**load_file(folder / WEIGHTS), "nobody:weight": torch.zeros(1)}


def infinite(folder):
    return {name: tensor / 0 for name, tensor in load_file(folder / WEIGHTS).items()}


def steps(config):
    return config["steps"]


TAMPERED = {
    "a byte of the weights": (damage, "does not match its digest"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "lacks its file model.safetensors"),
    "renamed file": (lambda f: (f / WEIGHTS).rename(f / "weights.safetensors"), "lacks its file model.safetensors"),
    "a pickle as safetensors": (lambda f: forge(f, pickled(f)), "is no safetensors file"),
    "a pickle by name": (
        lambda f: (pickled(f), change(f, lambda c: c["files"].update({"weights.bin": "0"}))),
        "names the file 'weights.bin'.*never read",
    ),
    "a file above": (lambda f: change(f, lambda c: c["files"].update({"encoders/../../x.json": "0"})), "plain name"),
    "an absolute file": (lambda f: change(f, lambda c: c["files"].update({"/etc/passwd": "0"})), "plain name"),
    "an encoder above": (
        lambda f: change(f, lambda c: steps(c)["words"]["encoder"]["init_args"].update(model="../secret")),
        "'../secret', a place outside its folder",
    ),
    "an encoder above a package": (
        lambda f: change(f, lambda c: steps(c)["words"]["encoder"]["init_args"].update(model="torch:../secret")),
        "a place outside its folder",
    ),
    "a step above": (lambda f: change(f, lambda c: steps(c).update({"../x": steps(c)["words"]})), "outside its folder"),
    "missing weights": (lambda f: forge(f, without_first(f)), "expected .*the weights do not fit config.json"),
    "renamed weights": (lambda f: forge(f, renamed(f)), "text/mean have the shape nothing"),
    "weights of nobody": (lambda f: forge(f, stranger(f)), "has weights of 'nobody'"),
    "weights that are not finite": (lambda f: forge(f, infinite(f)), "are not finite"),
    "fewer labels": (
        lambda f: change(f, lambda c: c["labels"].update(names=["a", "b"], report_order=[])),
        "has 2 outputs",
    ),
    "fewer classes": (
        lambda f: change(f, lambda c: steps(c)["seed-0/teacher"].update(classes=2)),
        "the weights do not fit config.json",
    ),
    "another width": (lambda f: change(f, lambda c: steps(c)["text"].update(width=4)), "do not fit config.json"),
    "an import of anything": (
        lambda f: change(f, lambda c: steps(c)["seed-0/teacher"]["network"].update(class_path="os.system")),
        "uses os.system, which is not merc's.*trust_remote_code=True",
    ),
    "an argument that is a class": (
        lambda f: change(
            f, lambda c: steps(c)["words"]["encoder"]["init_args"].update(model={"class_path": "subprocess.Popen"})
        ),
        "uses subprocess.Popen, which is not merc's",
    ),
    "merc's, but no network": (
        lambda f: change(
            f, lambda c: steps(c)["seed-0/teacher"]["network"].update(class_path="merc.store.StoreWriter")
        ),
        "merc.store.StoreWriter where a Module is expected",
    ),
    "no step of that kind": (lambda f: change(f, lambda c: steps(c)["text"].update(kind="magic")), "is damaged"),
    "a step that is not there": (lambda f: change(f, lambda c: steps(c).pop("written")), "which no step before it"),
    "no answer": (lambda f: change(f, lambda c: c.update(output="text")), "gives no logits"),
    "another format": (lambda f: change(f, lambda c: c.update(format="x/1")), "has the format 'x/1'"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "cannot be read"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "has the format None"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_model_is_refused_in_one_line(copied, how):
    spoil, message = TAMPERED[how]
    load(copied)
    spoil(copied)
    with pytest.raises(ModelError, match=message) as refused:
        load(copied)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_classes_of_other_packages_need_trust(models, run_of_code):
    with pytest.raises(ModelError, match=r"uses support.tiny_model.OwnHead.*trust_remote_code=True"):
        load(models / "own")
    assert load(models / "own", trust_remote_code=True).about["packages"] == ["support"]
    with pytest.raises(ModelError, match="which is not merc's"):
        Maker().find(f"{run_of_code}.Anything", nn.Module)
    assert run_of_code not in sys.modules  # not even imported


@pytest.fixture
def run_of_code(tmp_path, monkeypatch):
    """A package whose import would do harm."""
    (tmp_path / "harmful_package.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "harmful_package"


def test_a_model_goes_to_the_hub_and_comes_back(models, tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    asked = {}

    class Api:
        def __init__(self, token=None):
            asked["token"] = token

        def create_repo(self, repo_id, *, private, exist_ok):
            asked["repo"] = (repo_id, private, exist_ok)
            return types.SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, hub / repo_id)
            return f"https://huggingface.co/{repo_id}/commit/1"

    def download(repo_id, *, revision, token, allow_patterns):
        assert [*allow_patterns] == [CONFIG, WEIGHTS, CARD, "encoders/*"] and revision == "v1"
        if not (hub / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        return str(hub / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load(models / "teacher")
    assert model.push_to_hub("ann/tiny", private=True, token="t").endswith("ann/tiny/commit/1")
    assert asked == {"token": "t", "repo": ("ann/tiny", True, True)}
    back = load("ann/tiny", revision="v1")
    torch.testing.assert_close(back.predict(TALK).probabilities, model.predict(TALK).probabilities)
    with pytest.raises(FileNotFoundError, match="no model 'ann/nothing'"):
        load("ann/nothing", revision="v1")
    with pytest.raises(FileNotFoundError, match="There is no model in"):
        load(tmp_path / "nowhere")


def test_what_the_hub_is_asked_is_what_it_knows():
    # The calls above are of a stand-in: the real ones must take the same arguments.
    def takes(function, *names):
        return {*names} <= inspect.signature(function).parameters.keys()

    assert takes(huggingface_hub.HfApi, "token")
    assert takes(huggingface_hub.HfApi.create_repo, "repo_id", "private", "exist_ok")
    assert takes(huggingface_hub.HfApi.upload_folder, "repo_id", "folder_path", "commit_message")
    assert takes(huggingface_hub.snapshot_download, "repo_id", "revision", "token", "allow_patterns")


def test_the_command_line_exports_and_predicts(models, tmp_path, capsys):
    run = next(models.parents[1].glob("run*/hidden-run"))
    assert main(["export", str(run), "--stage", "teacher", "--seed", "0", "--out", str(tmp_path / "model")]) == 0
    assert "reads text; anger, joy, neutral" in capsys.readouterr().out
    (tmp_path / "talk.csv").write_text("speaker,text\nAnn,oh my\nBen,no not why\n")
    words = ["predict", "--model", str(tmp_path / "model"), str(tmp_path / "talk.csv")]
    assert main([*words, "--out", str(tmp_path / "predictions.csv")]) == 0
    assert "2 utterances: " in capsys.readouterr().out
    found = read_predictions(tmp_path / "predictions.csv")
    expected = load(tmp_path / "model").predict(tmp_path / "talk.csv")
    assert found.lines == [("Ann", "oh my"), ("Ben", "no not why")]
    torch.testing.assert_close(found.probabilities[:, [0, 1, 2]], expected.probabilities, rtol=0, atol=1e-6)
    assert main(["predict", "--model", str(tmp_path / "none"), "x.csv", "--out", "y.csv"]) == 1
    assert "There is no model in" in capsys.readouterr().err


def test_a_model_is_read_without_lightning(models, site):
    code = f"import sys, merc; merc.load({str(models / 'teacher')!r}).predict([('A', 'oh')]); "
    code += "print([m for m in ('lightning', 'torchmetrics', 'matplotlib') if m in sys.modules])"
    path = os.pathsep.join([str(site), str(Path(merc.__file__).parents[1])])
    told = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert told.stdout == b"[]\n", told.stderr
