"""A model brings the recipe of its voices and faces: it annotates films where nothing of its run is left."""

import json
import shutil
import sys

import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")
pytest.importorskip("scipy", reason="face tracks need SciPy: pip install 'merc[media]'")

from merc.annotation import annotate
from merc.cli import main
from merc.models import ModelError, export_run, load
from merc.models.folder import CONFIG
from support.tiny_clips import write_clip
from support.tiny_run import write_pipeline

SAID = [("Anna", "oh my"), ("Ben", "no why?"), ("Anna", "well okay")]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of four seconds with two faces, and its transcript; the last line is after its end."""
    folder = tmp_path_factory.mktemp("film")
    times = [(0.2, 1.6), (1.5, 3.0), (8.0, 9.0)]
    rows = [f"{start},{end},{who},{text}" for (start, end), (who, text) in zip(times, SAID, strict=True)]
    (folder / "talk.csv").write_text("\n".join(["start,end,speaker,text", *rows]))
    return write_clip(folder / "talk.mp4", 100), folder / "talk.csv"


@pytest.fixture(scope="module")
def told_by_run(film, tmp_path_factory):
    """What the run says of the film, and where it is."""
    folder = tmp_path_factory.mktemp("run")
    pipeline = write_pipeline(folder)
    assert main(["run", str(pipeline), "--out", str(folder / "run"), "--root", str(folder / "corpus")]) == 0
    return annotate(*film, folder / "run", folder / "annotated", film=False), folder / "run"


@pytest.fixture(scope="module")
def models(told_by_run, tmp_path_factory):
    """The models of the run, on another path, with the run out of reach."""
    _, run = told_by_run
    made = tmp_path_factory.mktemp("made")
    for stage in ("fusion", "teacher"):
        export_run(run, made / stage, stage=stage, with_encoders=True)
    moved = shutil.move(made, tmp_path_factory.mktemp("moved") / "elsewhere")
    hidden = run.with_name("hidden")
    run.rename(hidden)
    yield moved
    hidden.rename(run)


@pytest.fixture
def copied(models, tmp_path):
    return shutil.copytree(models / "fusion", tmp_path / "model")


def change(folder, edit):
    config = json.loads((folder / CONFIG).read_text())
    edit(config["steps"])
    (folder / CONFIG).write_text(json.dumps(config))


def test_a_model_says_of_a_film_what_its_run_says(told_by_run, models, film, tmp_path):
    run, _ = told_by_run
    model = load(models / "fusion", trust_remote_code=True)
    assert sorted(model.given) == ["face", "voice"] and model.needs_recordings
    found = model.annotate(*film, tmp_path / "out", film=False)
    assert found.run == {"model": "fusion"}
    for line, expected in zip(found.lines, run.lines, strict=True):
        assert line.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert line.modalities == expected.modalities and line.parts == {}
        assert (line.face, line.no_face, line.turns) == (expected.face, expected.no_face, expected.turns)
    assert found.lines[0].face is not None and found.lines[2].used == ["text"]
    assert any(note.startswith("The emotions are those of the model fusion, trained on ") for note in found.notes)
    assert any("1 of 3 lines have no speaking face (no video in the clip)" in note for note in found.notes)


def test_what_is_finished_is_skipped_and_what_is_changed_is_not(models, film, tmp_path, capsys):
    def steps_that_run():
        capsys.readouterr()
        load(models / "fusion", trust_remote_code=True).annotate(*film, tmp_path / "out", film=False)
        titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
        return [line.split(": ")[1] for line in titles if "unchanged" not in line]

    assert sorted(steps_that_run()) == ["face", "faces", "lipsync", "voice"]
    assert steps_that_run() == []
    shutil.rmtree(tmp_path / "out/stages/voice/features")
    assert steps_that_run() == ["voice"]


def test_the_recipe_names_no_place_and_holds_the_weights_of_the_lips(models):
    text = (models / "fusion" / CONFIG).read_text()
    steps = json.loads(text)["steps"]
    assert {steps[name]["kind"] for name in ("faces", "lipsync", "voice", "face")} == {"tracks", "speaker", "recorded"}
    assert (
        steps["face"]["faces"] == "faces" and steps["face"]["speaker"] == "lipsync" and steps["voice"]["faces"] is None
    )
    assert "/tmp" not in text and "@" not in text
    assert any("lipsync:network." in name for name in load(models / "fusion", trust_remote_code=True)._tensors())


def test_a_model_of_text_reads_no_recording(models, film, tmp_path, monkeypatch):
    model = load(models / "teacher")
    assert model.given == [] and not model.needs_recordings
    with_film = model.annotate(*film, tmp_path / "out")
    assert with_film.film is not None and not (tmp_path / "out/stages/faces").exists()
    monkeypatch.setitem(sys.modules, "av", None)
    without = model.annotate(*film, tmp_path / "without")
    assert without.film is None and any("PyAV is not installed" in note for note in without.notes)
    for line, expected in zip(without.lines, with_film.lines, strict=True):
        assert line.emotion == expected.emotion and line.used == ["text"]
    with pytest.raises(ImportError, match="PyAV"):
        load(models / "fusion", trust_remote_code=True).annotate(*film, tmp_path / "faces")


def test_classes_of_others_need_trust(models):
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        load(models / "fusion")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s["face"]["reader"].update(faces="elsewhere"), "gives its reader faces"),
        (lambda s: s["face"].update(faces="nothing"), "needs 'nothing'"),
        (lambda s: s["face"]["encoder"].update(class_path="torch.nn.Nothing"), "cannot be imported"),
        (lambda s: s["lipsync"]["network"]["init_args"].update(width=7), "do not fit config.json"),
        (lambda s: s["lipsync"]["network"].update(class_path="merc.graphs.GATEncoder"), "SyncNetwork is expected"),
        (lambda s: s["faces"]["detector"].update(init_args={"weights": "/etc/passwd"}), "outside its folder"),
        (lambda s: s["faces"].pop("tracker"), "is damaged"),
    ],
)
def test_forged_recipes_are_refused(copied, edit, message):
    change(copied, edit)
    with pytest.raises(ModelError, match=message):
        load(copied, trust_remote_code=True)


def test_merc_s_own_detectors_need_no_trust_and_others_do(copied):
    def of_merc(steps):
        for name in ("voice", "face"):
            steps[name]["encoder"] = {"class_path": "merc.encoders.ProsodyEncoder"}
        steps["faces"]["detector"] = {"class_path": "merc.media.MTCNNDetector"}

    change(copied, of_merc)
    assert load(copied).needs_recordings
    change(copied, lambda steps: steps["faces"]["detector"].update(class_path="merc.store.StoreWriter"))
    with pytest.raises(ModelError, match=r"merc\.store\.StoreWriter: expected merc\.media\.MTCNNDetector"):
        load(copied)


def test_options_that_a_reader_does_not_have_are_told(copied, film, tmp_path):
    change(copied, lambda steps: steps["faces"]["reader"].update(colour="red"))
    with pytest.raises(ModelError, match="A TrackReader of the model cannot be made"):
        load(copied, trust_remote_code=True).annotate(*film, tmp_path / "out")


def test_seeds_and_stages_are_chosen_at_the_export(models, film, tmp_path):
    with pytest.raises(ModelError, match="no seed or stage"):
        annotate(*film, models / "teacher", tmp_path / "out", seed=1)


def test_the_command_takes_models(models, film, tmp_path, capsys):
    words = ["annotate", str(film[0]), "--transcript", str(film[1]), "--out", str(tmp_path / "out"), "--film", "false"]
    assert main([*words, "--model", str(models / "teacher")]) == 0
    assert "trained on" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/annotation.json").read_text())["run"] == {"model": "teacher"}
    assert main([*words, "--model", str(tmp_path / "nothing")]) == 1
    assert "There is no model" in capsys.readouterr().err


def test_in_memory_the_recipe_is_not_needed(models):
    model = load(models / "fusion", trust_remote_code=True)
    found = model.predict(SAID)
    assert found.used == [("text",)] * 3 and torch.isfinite(found.probabilities).all()
