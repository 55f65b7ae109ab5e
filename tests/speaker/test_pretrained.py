"""Weights of LipSyncNet in a folder: they come back, and a folder that is damaged or strange says so in one line."""

import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from merc.speaker import LipSyncNet, PooledLipSyncNet, load_lipsync, save_lipsync, shipped_lipsync

NETWORKS = [LipSyncNet(size=16, channels=4, width=2, hidden=8, dropout=0.1), PooledLipSyncNet(size=16, dim=8, width=2)]


@pytest.fixture
def folder(tmp_path):
    save_lipsync(tmp_path / "lips", NETWORKS[0], torch.tensor([0.4, 0.1]), trained_on="GRID", card="# Lips\n")
    return tmp_path / "lips"


def change(folder, **given):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **given}))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_weights_come_back_as_they_were(network, tmp_path):
    calibration = torch.tensor([0.4, -math.inf])  # a scorer without a threshold
    save_lipsync(tmp_path, network, calibration, trained_on="GRID/train, lips/train")
    state = torch.random.get_rng_state()
    found = load_lipsync(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)  # loading draws no numbers
    assert type(found.network) is type(network) and not found.network.training
    assert torch.equal(found.calibration, calibration) and found.trained_on == "GRID/train, lips/train"
    own = network.state_dict()
    assert found.network.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in found.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in found.network.parameters())
    crops, sound = torch.randint(0, 256, (2, 8, 16, 16)), torch.randn(2, 32, 80)
    torch.testing.assert_close(found.network.embed_video(crops)[0], network.eval().embed_video(crops)[0])
    torch.testing.assert_close(found.network.embed_audio(sound), network.embed_audio(sound))


def test_half_precision_is_saved_as_it_is_and_loaded_in_full(tmp_path):
    save_lipsync(tmp_path, LipSyncNet(size=16, width=2, hidden=8).bfloat16(), torch.tensor([0.3, 0.1]), trained_on="x")
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert {weight.dtype for weight in load_lipsync(tmp_path).network.parameters()} == {torch.float32}


def test_a_folder_holds_three_files_without_pickles_and_paths(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(folder.parent).encode() not in content and not content.startswith(b"PK")
        with pytest.raises(Exception, match=r"."):
            pickle.loads(content)
    assert json.loads((folder / "config.json").read_text())["network"] == {
        "class": "LipSyncNet",
        "options": {"size": 16, "channels": 4, "width": 2, "hidden": 8, "dropout": 0.1},
    }


def test_a_network_that_is_not_mercs_is_not_saved(tmp_path):
    class Own(LipSyncNet):
        pass

    with pytest.raises(TypeError, match="Own cannot be saved: expected one of LipSyncNet, PooledLipSyncNet"):
        save_lipsync(tmp_path / "out", Own(size=16, width=2, hidden=8), torch.zeros(2), trained_on="x")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nothing", "../lips", "lipsync/../..", "", "a/b"])
def test_names_that_are_no_weights(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"There are no weights .*expected .*, or a folder with config.json and"
    ):
        load_lipsync(name)


def test_what_is_shipped_is_listed_and_can_be_loaded():
    for name in shipped_lipsync():
        found = load_lipsync(name)
        assert found.folder.name == name and found.calibration.isfinite().all()
        assert (found.folder / "README.md").read_text(encoding="utf-8").startswith("# ")


BIG = {"class": "LipSyncNet", "options": {"size": 4000, "channels": 8, "width": 512, "hidden": 4096, "dropout": 0}}
CONFIGS = {
    "another format": ({"format": "merc.lipsync/9"}, "config.json is not of format 'merc.lipsync/1'"),
    "another class": (
        {"network": {"class": "os.system", "options": {"command": "ls"}}},
        r"names the network 'os.system', expected LipSyncNet \(size, .*\) or PooledLipSyncNet \(size, ",
    ),
    "other options": ({"network": {"class": "LipSyncNet", "options": {"size": 16}}}, "names the network 'LipSyncNet'"),
    "no network": ({"network": ["LipSyncNet"]}, "names the network None"),
    "no name": ({"network": {"class": ["LipSyncNet"], "options": {}}}, "unhashable"),
    "an option of another type": (
        {"network": {"class": "LipSyncNet", "options": {**BIG["options"], "width": "4"}}},
        r".",
    ),
    "a size that nets cannot have": (
        {"network": {"class": "LipSyncNet", "options": {**BIG["options"], "size": 17}}},
        "size is 17, expected a multiple of 8",
    ),
    "another network": (
        {"network": {"class": "PooledLipSyncNet", "options": {"size": 16, "dim": 8, "width": 2, "dropout": 0}}},
        r"does not fit config.json: \d+ tensors differ, .*, expected",
    ),
    "a size that memory cannot hold": ({"network": BIG}, r"does not fit config.json: \d+ tensors differ"),
    "a calibration of words": ({"calibration": ["high"]}, r"."),
    "no calibration": ({"calibration": None}, r"."),
}


@pytest.mark.parametrize(("given", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_was_tampered_with_is_refused(given, words, folder):
    change(folder, **given)
    assert_refused(folder, words)


@pytest.mark.parametrize("key", ["format", "network", "calibration", "trained_on"])
def test_a_config_that_lacks_something_is_refused(key, folder):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(folder, "is not of format" if key == "format" else f"config.json lacks {key}")


@pytest.mark.parametrize(
    "text", ["", "[1]", "null", '"x"', "{", "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000]
)
def test_a_config_that_is_none_is_refused(text, folder):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(folder, r".")


def test_weights_that_are_none_are_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    broken = {
        "a pickle": pickle.dumps(tensors),
        "the first half": whole[: len(whole) // 2],
        "nothing": b"",
        "a header that lies": (2**60).to_bytes(8, "little") + whole[8:],
    }
    for content in broken.values():
        (folder / "model.safetensors").write_bytes(content)
        assert_refused(folder, r".")
    save_file({key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors")
    assert_refused(folder, f"1 tensors differ, {name} is None, expected \\(")
    save_file({**tensors, "more": torch.zeros(1)}, folder / "model.safetensors")
    assert_refused(folder, r"1 tensors differ, more is \(1,\), expected None")


def assert_refused(folder, words):
    with pytest.raises(ValueError, match=words) as refused:
        load_lipsync(folder)
    message = str(refused.value)
    assert message.startswith(f"{folder} holds no weights of LipSyncNet that can be read (")
    assert message.endswith("). Copy it again.") and "\n" not in message and len(message) < 600
