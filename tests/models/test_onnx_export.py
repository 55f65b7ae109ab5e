"""Networks as ONNX: ONNX Runtime says what PyTorch says, of any number of utterances, frames and edges."""

import json
from functools import partial
from importlib import util

import pytest
import torch

import merc.models.onnx_export
from merc.batch import ConversationBatch
from merc.cli import main
from merc.conversation import Conversation, Utterance
from merc.graphs import GraphBuilder, GraphEncoder
from merc.labels import LabelSet
from merc.models import Model, ModelError, export_onnx
from merc.models.build import Maker
from merc.models.steps import Encode, Given, Network
from merc.speaker import LipSyncNet, PooledLipSyncNet, load_lipsync
from support.tiny_text import tiny_bert

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'merc[onnx]'")

LABELS = LabelSet("tiny", ("anger", "joy", "neutral", "sadness"))
DIMS = {"text": 6, "audio": 4}
GRAPH = {"class_path": "merc.graphs.GraphBuilder", "init_args": {"past": 2, "future": 2, "speaker": 1, "similar": 1}}


def model_of(path, dims=DIMS, graphs=(), **options):
    """A model of one network on given features."""
    torch.manual_seed(0)
    given = [Given(name, width, {}) for name, width in dims.items()]
    stores = {name: f"{name}/features" for name in dims}
    spec = {"class_path": path, "init_args": options}
    step = Network("seed-0/net", spec, stores, dims, len(LABELS), dict.fromkeys(graphs, GRAPH), Maker())
    return Model(LABELS, [*given, step], step.name)


def batch_of(size, dims=DIMS, graphs=(), seed=0):
    """One conversation with features, of which some are missing."""
    lines = tuple(Utterance(str(n), "AnnBenAnnCat"[3 * (n % 4) :][:3], "x") for n in range(size))
    batch = ConversationBatch.from_conversations([Conversation("0", lines)], LABELS)
    source = torch.Generator().manual_seed(seed)
    for name, width in dims.items():
        batch.present[name] = torch.rand(size, generator=source) > 0.3
        batch.features[name] = torch.randn(size, width, generator=source) * batch.present[name][:, None]
    for name in graphs:
        batch.edges[name] = GraphBuilder(**GRAPH["init_args"])(batch, name)
    return batch


def asked(session, batch):
    """What ONNX Runtime says of a conversation, by output."""
    tensors = {"speaker": batch.speaker}
    tensors |= {f"features_{name}": value for name, value in batch.features.items()}
    tensors |= {f"present_{name}": value for name, value in batch.present.items()}
    for name, edges in batch.edges.items():
        parts = {"index": edges.index, "attributes": edges.attributes, "weight": edges.weight}
        tensors |= {f"edge_{part}_{name}": value for part, value in parts.items()}
    wanted = [given.name for given in session.get_inputs()]
    names = [given.name for given in session.get_outputs()]
    found = session.run(None, {name: tensors[name].numpy() for name in wanted})
    return {name: torch.as_tensor(numbers) for name, numbers in zip(names, found, strict=True)}


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("path", "dims", "graphs", "options"),
    [
        ("merc.fusion.ConcatFusion", DIMS, (), {"hidden_dim": 8}),
        ("merc.graphs.GATEncoder", {"text": 6}, ("text",), {"hidden_dim": 8, "num_layers": 2, "heads": 2}),
        slow("merc.graphs.GCNEncoder", {"audio": 4}, ("audio",), {"hidden_dim": 8, "num_layers": 2}),
        slow("merc.fusion.HierarchicalFusion", DIMS, (), {"dim": 8, "scope": "utterance"}),
        slow("merc.fusion.HierarchicalFusion", DIMS, (), {"dim": 8, "scope": "conversation"}),
        slow("merc.fusion.CMATHFusion", DIMS, (), {"dim": 8}),
        slow("merc.fusion.TelMEFusion", DIMS, (), {"dim": 8, "heads": 2}),
        slow("merc.fusion.TelMEFusion", DIMS, (), {"dim": 8, "heads": 2, "attention_over": "conversation"}),
    ],
)
def test_onnx_runtime_agrees_on_conversations_of_any_length(path, dims, graphs, options, tmp_path):
    model = model_of(path, dims, graphs, **options)
    about, file = export_onnx(model, tmp_path)
    described = json.loads(about.read_text())["networks"]["seed-0/net"]
    assert file == tmp_path / "seed-0-net.onnx" and described["file"] == file.name
    session = onnxruntime.InferenceSession(file)
    assert {given.name: given.shape for given in session.get_inputs()} == described["inputs"]
    assert [given.name for given in session.get_outputs()] == list(described["outputs"])
    network = model.steps["seed-0/net"].network
    for size in (1, 2, 9, 120):
        batch = batch_of(size, dims, graphs, seed=size)
        found = asked(session, batch)
        if isinstance(network, GraphEncoder):
            [name] = dims
            logits, hidden = network(batch.features[name], batch.present[name], batch.edges[name])
        else:
            output = network(batch)
            logits, hidden = output.logits, output.embeddings
        torch.testing.assert_close(found["logits"], logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found["hidden"], hidden, atol=1e-4, rtol=1e-4)
        assert found["logits"].shape == (size, len(LABELS))


@pytest.mark.parametrize("labels", [LabelSet("none", ()), LABELS])
@pytest.mark.parametrize(
    ("path", "dims", "graphs", "options"),
    [
        ("merc.fusion.ConcatFusion", DIMS, (), {"hidden_dim": 8}),
        ("merc.graphs.GATEncoder", {"text": 6}, ("text",), {"hidden_dim": 8, "num_layers": 2, "heads": 2}),
        slow("merc.fusion.HierarchicalFusion", DIMS, (), {"dim": 8, "scope": "utterance"}),
        slow("merc.fusion.CMATHFusion", DIMS, (), {"dim": 8}),
        slow("merc.fusion.TelMEFusion", DIMS, (), {"dim": 8, "heads": 2}),
    ],
)
def test_onnx_runtime_gives_the_numbers_of_a_model(labels, path, dims, graphs, options, tmp_path):
    torch.manual_seed(0)
    given = [Given(name, width, {}) for name, width in dims.items()]
    stores, graphs = {name: f"{name}/features" for name in dims}, dict.fromkeys(graphs, GRAPH)
    spread = {"valence": (3.0, 0.7), "arousal": (2.0, 1.5)}
    spec = {"class_path": path, "init_args": options}
    step = Network("net", spec, stores, dims, len(labels) + 2, graphs, Maker(), spread)
    scales = {"valence": (1.0, 5.0), "arousal": (0.0, 5.0)}
    model = Model(labels, [*given, step], "net", dimensions=scales)
    about, file = export_onnx(model, tmp_path)
    described = json.loads(about.read_text())
    assert described["labels"] == list(labels.names) and described["dimensions"] == {
        k: list(v) for k, v in scales.items()
    }
    for size in (1, 9):
        batch = batch_of(size, dims, graphs, seed=size)
        found = asked(onnxruntime.InferenceSession(file), batch)["logits"]
        mean, deviation = torch.tensor([described["steps"]["net"]["values"][name] for name in scales]).T
        told = torch.cat([found[:, : len(labels)], found[:, len(labels) :] * deviation + mean], 1)
        with torch.no_grad():
            torch.testing.assert_close(told, step._run(batch)["logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["shipped", slow("pooled"), slow("large")])
def test_onnx_runtime_agrees_on_lips_and_sounds_of_any_length(kind, tmp_path):
    made = {
        "shipped": lambda: load_lipsync("lipsync").network,
        "pooled": lambda: PooledLipSyncNet(size=16, dim=8, width=4).eval(),
        "large": lambda: LipSyncNet(size=48, channels=4, width=4, hidden=16).eval(),
    }
    network = made[kind]()
    export_onnx("lipsync" if kind == "shipped" else network, tmp_path)
    lips, voice = (onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("lips", "voice"))
    traced = kind != "pooled"
    for windows, frames in ((1, 3), (2, 32), (5, 75)):
        crops = torch.randint(256, (windows, frames, network.size, network.size), dtype=torch.uint8)
        sound = torch.randn(windows, 4 * frames, 80) * 3 - 5
        with torch.no_grad():
            video = network.trace_video(crops) if traced else network.embed_video(crops)
            audio = network.trace_audio(sound) if traced else network.embed_audio(sound)
        found = [torch.as_tensor(numbers) for numbers in lips.run(None, {"crops": crops.numpy()})]
        torch.testing.assert_close(found, [part for part in video if part is not None], atol=1e-4, rtol=1e-4)
        [found] = voice.run(None, {"sound": sound.numpy()})
        torch.testing.assert_close(torch.as_tensor(found), audio, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mask", slow("mean")])
def test_an_exported_text_encoder_says_the_same(pooling, tmp_path):
    prompt = {"prompt": "{speaker} {mask}"} if pooling == "mask" else {}
    init = {"model": tiny_bert(tmp_path / "bert"), "context": "past", "pooling": pooling, **prompt}
    spec = {"class_path": "merc.encoders.TextEncoder", "init_args": init}
    encoder = Maker().make(spec, torch.nn.Module)
    step = Encode("words", encoder, spec, tuned=True, classes=len(LABELS), included=False)
    export_onnx(Model(LABELS, [step], "words"), tmp_path / "out")
    program = torch.export.load(tmp_path / "out/words.pt2").module()
    lines = tuple(
        Utterance(str(n), "Ann", text) for n, text in enumerate(["no not why", "oh my", "well okay here yes"])
    )
    for count in (1, 2, 3):
        batch = encoder.collate(encoder.tokenize([Conversation("0", lines[:count])]))
        with torch.no_grad():
            vectors, logits = program(batch.input_ids, batch.attention_mask, batch.mask_position)
            torch.testing.assert_close(vectors, encoder(batch), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(logits, step.classifier(vectors), atol=1e-4, rtol=1e-4)


def test_a_network_that_goes_turn_by_turn_is_refused_in_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"LFVDFusion cannot be exported as seed-0-net.onnx \(.*turn by turn") as error:
        export_onnx(model_of("merc.fusion.LFVDFusion", dim=8), tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_numbers_that_differ_are_refused(tmp_path, monkeypatch):
    original = merc.models.onnx_export._compare
    monkeypatch.setattr(
        merc.models.onnx_export, "_compare", lambda path, a, b: original(path, a, [part + 0.01 for part in b])
    )
    with pytest.raises(ModelError, match=r"seed-0-net.onnx gives other numbers than PyTorch \(by 0.01"):
        export_onnx(model_of("merc.fusion.ConcatFusion", hidden_dim=8), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_the_packages_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    def find(name):
        return None if name == "onnxscript" else util.find_spec(name)

    monkeypatch.setattr(merc.models.onnx_export, "find_spec", find)
    assert main(["export", "lipsync", "--onnx", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "onnxscript is not installed: pip install 'merc[onnx]'" in error and not (tmp_path / "out").exists()


def test_the_command_exports_a_model_and_names_what_it_lacks(tmp_path, capsys):
    model_of("merc.fusion.ConcatFusion", hidden_dim=8).save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--onnx", str(tmp_path / "out")]) == 0
    assert "ONNX: " in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"onnx.json", "seed-0-net.onnx"}
    for args, message in (
        ([str(tmp_path / "model")], "expected --out MODEL, --onnx FOLDER, or both"),
        ([str(tmp_path / "nowhere"), "--onnx", str(tmp_path / "out")], "nowhere"),
        ([str(tmp_path / "model"), "--out", str(tmp_path / "again")], "holds no finished run"),
    ):
        assert main(["export", *args]) == 1
        assert message in capsys.readouterr().err
