"""A run of clips of a few frames, applied to films that it has never seen: whole, cut, deaf, blind, of text alone."""

import base64
import csv
import io
import json
import shutil
from dataclasses import replace

import lightning
import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")
pytest.importorskip("scipy", reason="face tracks need SciPy: pip install 'merc[media]'")

import merc.annotation.film
from merc.annotation import Annotation, LineTurn, annotate, as_csv, as_json, as_srt, describe, face_thumbnails
from merc.annotation.film import AnnotatedFilm
from merc.annotation.teller import Teller
from merc.annotation.video import read_film, write_results
from merc.cli import main
from merc.conversation import Corpus
from merc.corpora import read_transcript
from merc.corpora.transcripts import Line
from merc.evaluation import read_predictions
from merc.labels import LabelSet
from merc.media import FRAME_RATE, media_notes, probe
from merc.media.film import film_comment
from merc.media.planes import Planes
from merc.pipeline.apply import _needed, apply_pipeline, predicting_stage
from merc.pipeline.plan import RECORD, FinishedRun
from merc.pipeline.read import read_pipeline
from merc.pipeline.stage import PipelineError, Stage
from merc.speaker import SpeakerChoice, SpeakingSpan, spans_to_rows
from merc.speech import Transcript
from merc.store import FeatureStore
from support.made_media import beeps, write_media
from support.tiny_clips import HEIGHT, WIDTH, picture, write_clip
from support.tiny_run import EMOTIONS, stages, write_pipeline

LABELS = LabelSet("csv", tuple(EMOTIONS))
TRANSCRIPT = """1
00:00:00,200 --> 00:00:01,600
Anna: oh my

2
00:00:01,500 --> 00:00:03,000
Ben: no why?

3
00:00:03,000 --> 00:00:03,900
well okay

4
00:00:08,000 --> 00:00:09,000
Anna: here
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    pipeline = write_pipeline(folder)
    assert main(["run", str(pipeline), "--out", str(folder / "run"), "--root", str(folder / "corpus")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of four seconds with two faces, and its transcript."""
    folder = tmp_path_factory.mktemp("film")
    (folder / "talk.srt").write_text(TRANSCRIPT)
    return write_clip(folder / "talk.mp4", 100), str(folder / "talk.srt")


@pytest.fixture(scope="module")
def finished(run, film, tmp_path_factory):
    """What `merc annotate` leaves."""
    out = tmp_path_factory.mktemp("annotated")
    assert main(command(film, run, out)) == 0
    return out


@pytest.fixture
def done(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def command(film, run, out, *more):
    return ["annotate", film[0], "--transcript", film[1], "--model", str(run), "--out", str(out), *more]


def stages_that_run(capsys, args):
    capsys.readouterr()
    assert main(args) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage ")]
    return [line.split(": ")[1] for line in titles if "unchanged" not in line]


def read_keys(read):
    [conversation] = read.corpus["test"]
    return conversation.keys


def one_line(capsys, args):
    capsys.readouterr()
    assert main(args) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("merc annotate: ")]
    return line


# --- what it says


def test_applied_to_its_own_test_clips_a_run_says_what_it_said_in_its_test(run, tmp_path):
    corpus = Corpus.load(run / "data/corpus.json")
    unlabelled = [replace(c, utterances=tuple(replace(u, label=None) for u in c.utterances)) for c in corpus["test"]]
    applied = apply_pipeline(run, replace(corpus, splits={"test": unlabelled}), tmp_path)
    tested = read_predictions(run / "seed-0/fusion/report")
    logits, present = applied.logits.gather(tested.keys)
    assert present.all()
    torch.testing.assert_close(logits.softmax(-1), tested.probabilities, atol=1e-4, rtol=0)
    assert sorted(applied.missing) == ["audio", "text", "visual"] and applied.run["stage"] == "fusion"


def test_an_ensemble_says_the_mean_of_what_its_members_say(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copied / RECORD).read_text())
    members = ("teacher", "audio_student")
    options = {"members": [f"{{{name}}}" for name in members]}
    record["stages"].append({"name": "together", "command": "ensemble", "options": options})
    (copied / RECORD).write_text(json.dumps(record))
    (copied / "seed-0/together").mkdir()
    (copied / "seed-0/together/stage.json").write_text(json.dumps({"finished": True, "fingerprint": "together"}))
    corpus = Corpus.load(run / "data/corpus.json")
    new = replace(corpus, splits={"test": corpus["test"]})
    applied = apply_pipeline(copied, new, tmp_path / "out")
    teacher, student = (apply_pipeline(run, new, tmp_path / name, stage=name) for name in members)
    keys = teacher.logits.keys
    mean = (teacher.logits.gather(keys)[0].softmax(-1) + student.logits.gather(keys)[0].softmax(-1)) / 2
    torch.testing.assert_close(applied.logits.gather(keys)[0].softmax(-1), mean)
    assert sorted(applied.missing) == ["audio", "text"] and applied.run["stage"] == "together"
    checkpoints = [one.run["checkpoint"].replace(str(run), str(copied)) for one in (teacher, student)]
    assert applied.run["members"] == dict(zip(members, checkpoints, strict=True))
    before = (tmp_path / "out/together/logits/manifest.json").stat().st_mtime_ns
    apply_pipeline(copied, new, tmp_path / "out")
    assert (tmp_path / "out/together/logits/manifest.json").stat().st_mtime_ns == before


def test_every_line_has_its_face_emotion_and_modalities(finished):
    told = json.loads((finished / "annotation.json").read_text())
    assert told["emotions"] == EMOTIONS and told["run"]["stage"] == "fusion"
    names = [line["speaker"] for line in told["lines"]]
    assert names[:2] + names[3:] == ["Anna", "Ben", "Anna"] and names[2] in ("Anna", "Ben", "person 1")
    assert names == [line["person"] for line in told["lines"]]
    assert told["lines"][0]["person_confidence"] == 1.0 and 0 < told["lines"][2]["person_confidence"] <= 1
    assert told["notes"][0] == "1 of 4 lines have no speaker's name."
    assert "begin after the end of the video, 4.0 s" in told["notes"][1]
    assert "1 lines without a name are by 1 people" in told["notes"][2]
    assert "a run trained on the corpus" in told["notes"][3]
    assert told["notes"][4:] == [
        "1 of 4 lines have no audio (no sound in the clip): their emotions are told without.",
        "1 of 4 lines have no speaking face (no video in the clip): their emotions are told without.",
    ]
    for line in told["lines"]:
        assert sum(line["probabilities"].values()) == pytest.approx(1.0)
        assert line["emotion"] == max(line["probabilities"], key=line["probabilities"].get)
    for line in told["lines"][:3]:
        assert line["used"] == ["text", "audio", "visual"] and line["no_face"] is None
        face = line["face"]
        assert face["chosen_by"] == "lips" and face["coverage"] == pytest.approx(1.0) and face["margin"] > 0
        left, size = ((4, 20), (38, 16))[face["track"]]
        assert left - 2 < face["box"][0] < left + 6 and abs(face["box"][2] - face["box"][0] - size) < 3
    late = told["lines"][3]
    assert late["used"] == ["text"] and late["face"] is None
    assert late["modalities"]["audio"] == "no sound in the clip"
    assert late["modalities"]["visual"] == late["no_face"] == "no video in the clip"


def test_the_table_and_the_subtitles_say_the_same(finished, film, tmp_path):
    told = json.loads((finished / "annotation.json").read_text())["lines"]
    with (finished / "annotation.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, told, strict=True):
        assert (row["emotion"], row["text"], row["modalities"]) == (
            line["emotion"],
            line["text"],
            "+".join(line["used"]),
        )
        assert float(row["probability"]) == line["probabilities"][line["emotion"]] == float(row[line["emotion"]])
        assert row["track"] == ("" if line["face"] is None else str(line["face"]["track"]))
    corpus = read_transcript(finished / "annotation.srt", film[0], labels=LABELS)
    subtitles = (finished / "annotation.srt").read_text().split("\n\n")
    for utterance, block, line in zip(corpus["test"][0].utterances, subtitles, told, strict=True):
        assert (utterance.start, utterance.end) == (line["start"], line["end"])
        assert (utterance.speaker, utterance.text) == (line["speaker"], line["text"])
        assert block.splitlines()[2].startswith(f"[{line['emotion']} ") and block.rstrip().endswith(line["text"])


def test_the_page_has_the_film_and_the_speaking_faces(finished):
    from PIL import Image

    page = (finished / "annotation.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    told = json.loads((finished / "annotation.json").read_text())["lines"]
    assert [line["text"] for line in data["lines"]] == [line["text"] for line in told]
    assert base64.b64encode((finished / "annotated.mp4").read_bytes()).decode() in page
    assert data["film"]["name"] == "annotated.mp4" and data["lines"][3]["image"] is None
    for line in data["lines"][:3]:
        image = Image.open(io.BytesIO(base64.b64decode(line["image"]))).convert("RGB")
        red, green, blue = image.getpixel((36, 36))  # the squares are red and green, and a fifth of the size is around
        assert (red > 150 > green, green > 150 > red)[line["face"]["track"]] and blue < 100
        assert max(image.getpixel((2, 36))) < 100


def test_faces_are_those_of_the_middle_whether_the_film_is_drawn_or_searched(run, done, film):
    from PIL import Image

    applied = apply_pipeline(run, read_transcript(film[1], film[0], labels=LABELS), done / "stages")
    lines = describe(applied)
    painter = AnnotatedFilm(lines, applied)
    for _ in painter.frames(film[0], FRAME_RATE):
        pass
    assert list(painter.thumbnails) == [1, 2, 3]
    searched = face_thumbnails(lines, applied, film[0])
    assert searched.keys() == painter.thumbnails.keys()
    for line, image in searched.items():  # the film has half the pixels of chroma
        there, drawn = (
            np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), float) for jpeg in (image, painter.thumbnails[line])
        )
        assert np.abs(there - drawn).mean() < 8
    assert face_thumbnails(lines, applied, film[0], {2: b"known"})[2] == b"known"


def test_each_format_that_is_asked_for_has_its_file(done, run, film, capsys):
    args = command(film, run, done, "--film", "false", "--formats", "vtt,eaf,textgrid, .rttm")
    assert stages_that_run(capsys, args) == []
    told = json.loads((done / "annotation.json").read_text())["lines"]
    expected = [(line["start"], line["end"], line["speaker"], line["text"]) for line in told]
    for form in ("vtt", "eaf", "TextGrid"):
        utterances = read_transcript(done / f"annotation.{form}", film[0], labels=LABELS)["test"][0].utterances
        assert sorted((u.start, u.end, u.speaker, u.text) for u in utterances) == expected
    assert (done / "annotation.rttm").read_text().count("SPEAKER talk 1 ") == len(told)
    assert "merc writes no annotation as 'docx'" in one_line(capsys, command(film, run, done, "--formats", "docx"))


def test_the_film_is_as_long_as_the_video_and_has_its_sound(finished, film):
    info, source = probe(finished / "annotated.mp4"), probe(film[0])
    assert info.duration == pytest.approx(source.duration, abs=0.05) and info.sample_rate == source.sample_rate
    assert info.width == WIDTH and info.height > HEIGHT


def has_colour(planes, x, y, colour):
    """Whether a pixel of a frame was painted in a colour."""
    plain = Planes.of_rgb(torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 2, 2))
    steps = zip((1, 2, 2), planes.parts, plain.parts, strict=True)
    return all(part[y // step, x // step] == own[0, 0] for step, part, own in steps)


def test_on_its_pictures_the_speaking_face_is_framed_above_the_probabilities(run, done, film):
    corpus = read_transcript(film[1], film[0], labels=LABELS)
    applied = apply_pipeline(run, corpus, done / "stages")
    lines = describe(applied)
    painter = AnnotatedFilm(lines, applied)
    pictures = list(painter.frames(film[0], FRAME_RATE))
    assert len(pictures) == 100
    framed = {}
    for number, time in enumerate((0.6, 2.2, 3.4)):
        line, picture = lines[number], pictures[round(time * FRAME_RATE)]
        track = painter.faces.track(painter.keys[number], line.face.track)
        box = track.boxes[round((time - line.start) * FRAME_RATE) - track.first]
        x, y = (round(value) for value in box[:2].tolist())
        assert has_colour(picture, x + 3, y, painter.colours[line.emotion])
        framed[number] = picture.rgb()[:, HEIGHT:]
    assert not torch.equal(framed[0], framed[1])  # another line, other bars
    empty = pictures[-1]  # after the third line
    assert empty.rgb()[:, HEIGHT:].flatten(1).float().std(1).max() == 0


# --- who speaks when inside a line


@pytest.fixture
def with_turns(run, done, film):
    """A run whose stage `lipsync` gives probabilities and turns: in the first line first one face, then both."""
    applied = apply_pipeline(run, read_transcript(film[1], film[0], labels=LABELS), done / "stages")
    speaker, keys = applied.find("speaker"), [k for split in applied.corpus.values() for c in split for k in c.keys]
    spans = (
        [SpeakingSpan(1, 0.0, 1.0, 0.9, 0.4), SpeakingSpan(0, 0.6, 1.2, 0.7, 0.4)],
        [],
        [SpeakingSpan(0, 0, 0.3, 1.0)],
    )
    rows = [spans_to_rows(own) for own in spans]
    choices = [SpeakerChoice(track, 2.0, 1.0, 1.0, (), 0.875, 0.25).to_row() for track in (0, 1, -1)]
    missing = speaker.why_missing(keys[3:])
    lengths = [len(own) for own in rows]
    FeatureStore.write(done / "turns", keys[:3], torch.cat(rows), kind="turns", lengths=lengths, missing=missing)
    FeatureStore.write(done / "speaker", keys[:3], torch.stack(choices), kind="speaker", missing=missing)
    stores = {name: path for name, path in applied.stores.items() if not name.endswith("/speaker")}
    return replace(applied, stores={**stores, "lipsync/turns": done / "turns", "lipsync/speaker": done / "speaker"})


def test_a_run_without_turns_and_probabilities_says_so(finished):
    for line in json.loads((finished / "annotation.json").read_text())["lines"]:
        assert line["turns"] is None
        assert line["face"] is None or (line["face"]["probability"], line["face"]["activity"]) == (None, None)


def test_lines_have_the_probability_of_their_face_and_all_faces_that_speak(with_turns):
    lines = describe(with_turns)
    assert (lines[0].face.track, lines[0].face.probability, lines[0].face.activity) == (0, 0.875, 0.25)
    assert lines[0].turns == [LineTurn(1, 0.2, 1.2, 0.9, 0.4), LineTurn(0, 0.8, 1.4, 0.7, 0.4)]
    assert lines[1].turns == [] and lines[1].face.track == 1
    assert lines[2].face is None and lines[2].turns == [LineTurn(0, 3.0, 3.3, 1.0)]
    assert lines[3].turns == [] and lines[3].face is None
    annotation = Annotation(lines, LABELS, [], {})
    told = json.loads(json.dumps(as_json(annotation), allow_nan=False))["lines"]
    turn = {"track": 0, "start": 0.8, "end": 1.4, "probability": 0.7, "overlap": 0.4, "person": None}
    assert told[0]["turns"][1] == turn
    rows = list(csv.DictReader(as_csv(annotation).splitlines()))
    assert rows[0]["turns"] == "1 0.20-1.20 90%; 0 0.80-1.40 70%" and rows[1]["turns"] == ""
    assert (rows[0]["face_probability"], rows[0]["activity"], rows[2]["track"]) == ("0.875", "0.25", "")
    assert float(rows[0]["probability"]) == lines[0].probabilities[lines[0].emotion]


def test_the_film_frames_those_whose_turn_it_is_and_else_the_face_of_the_line(with_turns, film):
    lines = describe(with_turns)
    painter = AnnotatedFilm(lines, with_turns)
    pictures = list(painter.frames(film[0], FRAME_RATE))

    def framed(time, number):
        """The tracks whose upper edge has the colour of a line."""
        colour = painter.colours[lines[number].emotion]
        found = set()
        for track in (0, 1):
            boxes = painter.faces.track(painter.keys[number], track)
            frame = int((time - lines[number].start) * FRAME_RATE + 1e-6) - boxes.first
            x, y = boxes.boxes[frame, :2].round().int().tolist()
            if has_colour(pictures[round(time * FRAME_RATE)], x + 3, y, colour):
                found.add(track)
        return found

    assert [framed(time, 0) for time in (0.6, 1.0, 1.32)] == [{1}, {0, 1}, {0}]
    assert framed(1.44, 0) == {0}  # nobody's turn: the face of the line
    assert framed(2.2, 1) == {1}
    assert [framed(time, 2) for time in (3.12, 3.6)] == [{0}, set()]


# --- cuts and repetitions


def test_the_same_command_again_does_nothing(done, run, film, capsys, monkeypatch):
    film_file, page = done / "annotated.mp4", done / "annotation.html"
    before = film_comment(film_file), film_file.stat().st_mtime_ns
    assert stages_that_run(capsys, command(film, run, done)) == []
    assert (film_comment(film_file), film_file.stat().st_mtime_ns) == before
    made = page.stat().st_mtime_ns
    assert stages_that_run(capsys, command(film, run, done)) == [] and page.stat().st_mtime_ns == made
    assert stages_that_run(capsys, command(film, run, done, "--embed", "0")) == []
    assert page.stat().st_mtime_ns != made and '"source":"./annotated.mp4"' in page.read_text()


def test_boxes_that_have_moved_are_drawn_anew_though_the_lines_are_equal(run, done, film):
    """As another detector may find them: a line has the box of its middle frame alone."""
    read = read_film(*film, Teller.of(run), made=done / "transcript.json")
    applied = apply_pipeline(run, read.corpus, done / "stages")
    write_results(read, applied, done, formats=["html"])
    before, page = film_comment(done / "annotated.mp4"), (done / "annotation.html").read_text()
    write_results(read, applied, done, formats=["html"])
    assert film_comment(done / "annotated.mp4") == before
    faces = applied.find("faces")
    rows = [faces.sequence(key).clone() for key in faces.keys]
    rows[0][0, -4:] += 1  # the box of a first frame
    lengths, missing = [len(own) for own in rows], faces.why_missing([k for k in read_keys(read) if k not in faces])
    FeatureStore.write(done / "moved", faces.keys, torch.cat(rows), kind="faces", lengths=lengths, missing=missing)
    stores = {name: path for name, path in applied.stores.items() if not name.endswith("/faces")}
    moved = replace(applied, stores={**stores, "other/faces": done / "moved"})
    assert describe(moved) == describe(applied)
    write_results(read, moved, done, formats=["html"])
    assert film_comment(done / "annotated.mp4") != before and (done / "annotation.html").read_text() != page


@pytest.mark.parametrize("where", ["a stage", "the film"])
def test_after_ctrl_c_the_same_command_finishes(where, run, film, finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished / "stages", tmp_path / "stages")
    for name in ("teacher", "fusion"):
        shutil.rmtree(tmp_path / "stages" / name)
    owner, name = (lightning.Trainer, "predict") if where == "a stage" else (merc.annotation.film, "draw_box")
    original, calls = getattr(owner, name), []

    def broken(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        assert main(command(film, run, tmp_path)) == 130
    assert "The same command goes on from here." in capsys.readouterr().err
    assert not (tmp_path / "annotated.mp4").exists() and not list(tmp_path.glob(".*.tmp"))
    assert stages_that_run(capsys, command(film, run, tmp_path)) == (["fusion"] if where == "a stage" else [])
    assert (tmp_path / "annotation.json").read_text() == (finished / "annotation.json").read_text()
    assert film_comment(tmp_path / "annotated.mp4") == film_comment(finished / "annotated.mp4")


def test_the_transcript_is_read_as_the_options_say(run, film, tmp_path):
    (tmp_path / "other.csv").write_bytes("start,end,text\n0,1500,hi\n1500,3000,Да.\n".encode("koi8-r"))
    (tmp_path / "who.rttm").write_text("SPEAKER talk 1 0.1 1.2 <NA> <NA> Ann <NA> <NA>\n")
    reader, speakers = "merc.corpora.transcripts.tables.read_table", str(tmp_path / "who.rttm")
    options = ["--encoding", "koi8-r", "--speakers", speakers, "--reader", reader, "--film", "false"]
    options += ["--stage", "teacher", "--persons", "false"]
    args = command((film[0], tmp_path / "other.csv"), run, tmp_path / "out", *options)
    assert main([str(arg) for arg in args]) == 0
    told = json.loads((tmp_path / "out/annotation.json").read_text())
    found = [(line["start"], line["end"], line["speaker"], line["text"]) for line in told["lines"]]
    assert found == [(0.0, 1.5, "Ann", "hi"), (1.5, 3.0, "unknown", "Да.")]
    assert any("got theirs from who.rttm" in note for note in told["notes"])


class Beeps:
    """A transcriber without words."""

    def transcribe(self, media, progress=None):
        return Transcript([Line(0.2, 1.6, ""), Line(1.6, 3.0, "")], notes=["nobody has transcribed it"])

    def provenance(self):
        return {}


def test_without_words_sound_and_face_answer_and_the_text_is_missing(run, film, tmp_path):
    found = annotate(film[0], None, run, tmp_path, transcriber=Beeps(), film=False)
    assert [(line.start, line.end, line.text) for line in found.lines] == [(0.2, 1.6, ""), (1.6, 3.0, "")]
    for line in found.lines:
        assert line.used == ["audio", "visual"] and line.modalities["text"] == "no words"
        assert line.emotion is not None and line.face is not None
    assert "nobody has transcribed it" in found.notes
    store = FeatureStore(tmp_path / "stages/words/features")
    assert not len(store) and set(store.missing.values()) == {"no words"}
    alone = annotate(film[0], None, run, tmp_path / "alone", transcriber=Beeps(), film=False, stage="teacher")
    assert [line.emotion for line in alone.lines] == [None, None]


def test_another_transcript_is_told_anew_and_the_film_is_made_again(done, run, film, tmp_path, capsys):
    (tmp_path / "other.csv").write_text("from,to,text\n0.5,2.5,you\n")
    args = command((film[0], tmp_path / "other.csv"), run, done, "--columns.start", "from", "--columns.end", "to")
    before = film_comment(done / "annotated.mp4")
    assert stages_that_run(capsys, [str(arg) for arg in args])[0] == "data"
    assert [line["text"] for line in json.loads((done / "annotation.json").read_text())["lines"]] == ["you"]
    assert film_comment(done / "annotated.mp4") != before


# --- what is not there


def test_a_video_without_faces_and_sound_is_told_from_its_text(run, film, tmp_path):
    blind = write_clip(tmp_path / "empty.mp4", 100, faces=(), silent=True)
    annotation = annotate(blind, film[1], run, tmp_path / "out")
    assert {tuple(line.used) for line in annotation.lines} == {("text",)}
    assert {line.modalities["audio"] for line in annotation.lines} == {"no sound"}
    assert {line.modalities["visual"] for line in annotation.lines[:3]} == {"no sound"}  # to compare lips with
    assert all(line.face is None and line.emotion for line in annotation.lines)
    assert annotation.film == tmp_path / "out/annotated.mp4" and probe(annotation.film).sample_rate is None


def test_a_stretched_film_with_inverted_stereo_is_measured_as_displayed_and_says_so(run, film, tmp_path):
    tone = beeps([0.1 + 0.25 * beat for beat in range(15)], 4.0)
    how = {"pix_fmt": "yuv444p", "options": {"crf": "5"}, "sar": "2"}
    pictures = [picture(index) for index in range(100)]
    wide = write_media(tmp_path / "wide.mp4", pictures=pictures, sound=np.concatenate([tone, -tone]), **how)
    annotation = annotate(wide, film[1], run, tmp_path / "out")
    assert [note.split(":")[0] for note in annotation.notes if "pixels" in note or "channels" in note] == [
        "The pixels of the video are 2",
        "The channels of the sound cancel each other",
    ]
    assert json.loads((tmp_path / "out/annotation.json").read_text())["notes"] == annotation.notes
    for line in annotation.lines[:3]:
        left, top, right, bottom = line.face.box
        assert right - left == pytest.approx(2 * (bottom - top), abs=4)  # squares of stored pixels
    info = probe(annotation.film)
    assert info.width == 2 * WIDTH and media_notes(annotation.film)[1:] == []  # its pixels are square
    loudness = FeatureStore(tmp_path / "out/stages/voice/features")
    assert min(float(loudness[key][0]) for key in loudness.keys) > 0.01


def test_with_nobody_visible_the_picture_is_missing(run, film, tmp_path):
    empty = write_clip(tmp_path / "empty.mp4", 100, faces=())
    annotation = annotate(empty, film[1], run, tmp_path / "out", film=False)
    for line in annotation.lines[:3]:
        assert line.used == ["text", "audio"] and line.face is None
        assert line.modalities["visual"] == line.no_face == "no face was found"


def test_sound_alone_is_told_and_gives_no_film(run, film, tmp_path):
    deaf = write_clip(tmp_path / "sound.mp4", 100, seen=False)
    annotation = annotate(deaf, film[1], run, tmp_path / "out")
    assert [line.used for line in annotation.lines[:3]] == [["text", "audio"]] * 3
    assert annotation.lines[0].modalities["visual"] == "no video"
    assert annotation.film is None and not (tmp_path / "out/annotated.mp4").exists()


def test_a_stage_of_text_alone_looks_at_no_faces(run, film, tmp_path, capsys):
    args = command(film, run, tmp_path, "--stage", "teacher", "--film", "false")
    assert stages_that_run(capsys, args) == ["data", "words", "written", "text", "teacher"]
    told = json.loads((tmp_path / "annotation.json").read_text())["lines"]
    assert all(line["used"] == ["text"] and line["no_face"] == "this run does not look at faces" for line in told)
    assert not (tmp_path / "annotated.mp4").exists()


def test_a_line_of_which_nothing_is_there_has_no_emotion(run, film, tmp_path):
    annotation = annotate(film[0], film[1], run, tmp_path, stage="audio_student", film=False)
    last = annotation.lines[-1]
    assert (last.emotion, last.probabilities, last.used) == (None, {}, [])
    assert "4\n00:00:08,000 --> 00:00:09,000\n[?] Anna: here\n" in as_srt(annotation)


# --- what is refused


def test_errors_of_users_take_one_line(run, film, tmp_path, capsys):
    assert "holds no finished run" in one_line(capsys, command(film, tmp_path, tmp_path / "o"))
    assert "has the seeds 0, not 3" in one_line(capsys, command(film, run, tmp_path / "o", "--seed", "3"))
    assert "No stage 'none' of the run predicts emotions" in one_line(
        capsys, command(film, run, tmp_path / "o", "--stage", "none")
    )
    assert "There is no media file" in one_line(capsys, command((film[0] + "x", film[1]), run, tmp_path / "o"))
    (tmp_path / "late.csv").write_text("start,end,text\n100,101,too late\n")
    args = command((film[0], str(tmp_path / "late.csv")), run, tmp_path / "o")
    assert "begin after the end" in one_line(capsys, args)
    assert not (tmp_path / "o").exists()


def made_of(**changed):
    """The stages of the tiny pipeline, some of them with other options or commands."""
    return [Stage(**{**stage, **changed.get(stage["name"], {})}) for stage in stages()]


def test_what_came_with_the_corpus_alone_is_refused():
    found = made_of(text={"options": {"features": "{data}/features/text", "corpus": "{data}"}})
    with pytest.raises(PipelineError, match=r"'text' reads \{data\}/features/text, which came with the corpus"):
        _needed(found, predicting_stage(found, None))
    found = made_of(
        text={"command": "import", "config": "table", "options": {"files": ["{root}/a.csv"], "corpus": "{data}"}}
    )
    with pytest.raises(PipelineError, match=r"'text' only copies numbers \(table\)"):
        _needed(found, predicting_stage(found, None))


def test_who_truly_speaks_is_needed_in_training_alone():
    known = {"corpus": "{data}/corpus.json", "faces": "{faces}/faces", "speaker": "{data}/truth/speaker"}
    other = {"corpus": "elsewhere/corpus.json", "faces": "elsewhere/faces"}
    found = made_of(lipsync={"options": {"data.sources": [other, known]}})
    needed = {stage.name: stage for stage in _needed(found, predicting_stage(found, None))}
    [source] = needed["lipsync"].options["data.sources"]
    assert source == {"corpus": "{data}/corpus.json", "faces": "{faces}/faces"}


def test_where_a_training_started_is_needed_in_training_alone():
    start = {"model.init_args.warm_start": {"fusion": "{fusion}/best.ckpt"}}
    stores = {"text": "{teacher}/hidden", "audio": "{voice}/features"}
    joint = Stage("joint", "fit", "joint.yaml", {**start, "data.corpus": "{data}", "data.stores": stores})
    found = [*made_of(), joint]
    needed = [stage.name for stage in _needed(found, predicting_stage(found, None))]
    assert needed == ["data", "words", "voice", "written", "text", "teacher", "joint"]


@pytest.mark.parametrize("name", ["demo/video.yaml", "meld/hierarchical.yaml", "iemocap/hierarchical.yaml"])
def test_the_shipped_chains_can_be_applied(name):
    found = read_pipeline(name).stages
    needed = [stage.name for stage in _needed(found, predicting_stage(found, None))]
    assert needed[0] == "data" and needed[-1] == "fusion" and {"faces", "lipsync", "teacher"} < set(needed)
    assert not {"doctor", "lips", "face_true", "face_first"} & set(needed)


def test_of_systems_with_and_without_a_table_those_without_can_be_applied():
    found = read_pipeline("meld/minilm_systems.yaml").stages
    needed = [stage.name for stage in _needed(found, predicting_stage(found, "lfvd_text"))]
    assert needed == ["data", "minilm", "text", "marks", "writing", "lfvd_text"]
    together = [stage.name for stage in _needed(found, predicting_stage(found, None))]
    assert together == [*needed[:-1], "hierarchical_text", "lfvd_text", "averaged_text"]
    for name in ("lfvd", "averaged"):
        with pytest.raises(PipelineError, match=r"'prosody' only copies numbers \(table\)"):
            _needed(found, predicting_stage(found, name))


# --- the record of a run


def test_a_run_records_what_it_finished(run, tmp_path):
    record = FinishedRun.load(run)
    assert [stage.name for stage in record.pipeline.stages] == [stage["name"] for stage in stages()]
    assert record.seeds == (0,) and set(record.configs) == {
        s["name"] for s in stages() if s["command"] in ("fit", "predict")
    }
    here = replace(record, folder=tmp_path)
    here.save()
    replace(here, seeds=(2,)).save()
    assert FinishedRun.load(tmp_path).seeds == (0, 2)
    replace(here, sources={"root": "elsewhere"}).withdraw_others()
    assert not (tmp_path / RECORD).exists()
