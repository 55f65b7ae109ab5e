"""ActiveSpeakerNet: it reads the files of Light-ASD, and computes what their layers say."""

import copy

import pytest
import torch
from torch.nn import functional as F

import merc.speaker.active
from merc.speaker import LIGHT_ASD_NAMES, ActiveSpeakerNet
from support.light_asd import light_asd_weights


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "finetuning_TalkSet.model"
    torch.save(light_asd_weights(), path)
    return path


@pytest.fixture(scope="module")
def net(file):
    return ActiveSpeakerNet.from_light_asd(file).requires_grad_(False)


def some(count, frames):
    return torch.randint(0, 256, (count, frames, 112, 112), dtype=torch.uint8), 5 * torch.randn(count, 4 * frames, 13)


def slow(weights, faces, sound):
    """The layers one by one, by their names in the file, for one face."""

    def norm(name, x):
        stats = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *stats, eps=0.001).relu()

    def block(name, x, place, stride=1):
        conv = F.conv3d if x.ndim == 5 else F.conv2d
        total = 0
        for k in (3, 5):
            h = k // 2
            strides, pad, later = ((1, stride, stride), (0, h, h), (h, 0, 0)) if x.ndim == 5 else (1, (h, 0), (0, h))
            y = conv(x, weights[f"{name}.{place}_{k}.weight"], stride=strides, padding=pad)
            y = conv(norm(f"{name}.bn_{place}_{k}", y), weights[f"{name}.t_{k}.weight"], padding=later)
            total = total + norm(f"{name}.bn_t_{k}", y)
        return norm(f"{name}.bn_last", conv(total, weights[f"{name}.last.weight"]))

    def gru(name, x):
        state, states = torch.zeros(128), []
        for row in x:
            into = weights[f"{name}.weight_ih_l0"] @ row + weights[f"{name}.bias_ih_l0"]
            back = weights[f"{name}.weight_hh_l0"] @ state + weights[f"{name}.bias_hh_l0"]
            (r, z, n), (hr, hz, hn) = into.split(128), back.split(128)
            update = (z + hz).sigmoid()
            state = update * state + (1 - update) * (n + (r + hr).sigmoid() * hn).tanh()
            states.append(state)
        return torch.stack(states)

    face = ((faces.float() / 255 - 0.4161) / 0.1688)[None, None]
    for number in (1, 2, 3):
        face = block(f"model.visualEncoder.block{number}", face, "s", 2 if number == 1 else 1)
        if number < 3:
            face = F.max_pool3d(face, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    face = face[0].amax((2, 3)).T
    heard = sound.T[None, None]
    for number in (1, 2, 3):
        heard = block(f"model.audioEncoder.block{number}", heard, "m")
        if number < 3:
            heard = F.max_pool2d(heard, (1, 3), (1, 2), (0, 1))
    both = F.gelu(gru("model.GRU.gru_forward", face + heard[0].mean(1).T))
    both = F.gelu(gru("model.GRU.gru_backward", both.flip(0)).flip(0))
    silent, speaks = (both @ weights["lossAV.FC.weight"].T + weights["lossAV.FC.bias"]).T
    return speaks - silent


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
def test_it_equals_the_slow_version(net, frames):
    faces, sound = some(1, frames)
    found = net(faces, sound)
    assert found.shape == (1, frames) and found.dtype == torch.float32
    torch.testing.assert_close(found[0], slow(light_asd_weights(), faces[0], sound[0]), atol=1e-4, rtol=1e-4)


def test_the_map_of_names_covers_a_file_but_for_the_classifier_that_only_trains():
    known = tuple(f"{name}." for name in LIGHT_ASD_NAMES.values())
    left = {name for name in light_asd_weights() if not name.startswith(known)}
    assert left == {"lossV.FC.weight", "lossV.FC.bias"}


def test_a_loaded_network_is_ready(net):
    assert not net.training
    assert sum(p.numel() for p in net.parameters()) == 1_021_378


def test_a_long_track_is_encoded_in_slices_as_in_one_piece(net, monkeypatch):
    faces, _ = some(1, 19)
    whole = net.embed_faces(faces)
    monkeypatch.setattr(merc.speaker.active, "_SLICE", 4)
    torch.testing.assert_close(net.embed_faces(faces), whole, atol=1e-5, rtol=0)
    monkeypatch.setattr(merc.speaker.active, "_REACH", 5)  # a frame less is too few
    assert (net.embed_faces(faces) - whole).abs().max() > 1e-3


def test_a_track_does_not_depend_on_its_batch(net):
    faces, sound = some(3, 8)
    together = net(faces, sound)
    for index in (2, 0):
        torch.testing.assert_close(net(faces[index][None], sound[index][None])[0], together[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(net, dtype):
    faces, sound = some(1, 3)
    exact = net(faces, sound)
    with torch.autocast("cpu", dtype):
        mixed = net(faces, sound)
    true = copy.deepcopy(net).to(dtype)(faces, sound)
    for found in (mixed, true):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, atol=0.05, rtol=0.05)


def test_gradients_reach_every_parameter():
    net = ActiveSpeakerNet()
    net(*some(2, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_shapes_that_do_not_fit_are_refused(net):
    faces, sound = some(1, 4)
    for bad in ((faces, sound[:, :15]), (faces[..., :64, :64], sound), (faces[:, :0], sound[:, :0])):
        with pytest.raises(ValueError, match=r"expected faces \(B, T, 112, 112\) and sound \(B, 4 T, 13\)"):
            net(*bad)


def changed(tmp_path, change):
    weights = light_asd_weights()
    change(weights)
    torch.save(weights, tmp_path / "other.model")
    return tmp_path / "other.model"


def test_a_file_with_other_weights_is_refused_with_what_differs(tmp_path):
    missing = changed(tmp_path, lambda weights: weights.pop("model.audioEncoder.block2.t_5.weight"))
    with pytest.raises(ValueError, match=r"\(model.audioEncoder.block2.t_5.weight is missing\): expected pretrain_AVA"):
        ActiveSpeakerNet.from_light_asd(missing)
    unknown = changed(tmp_path, lambda weights: weights.update({"model.extra": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"\(model.extra is unknown\)"):
        ActiveSpeakerNet.from_light_asd(unknown)
    shaped = changed(tmp_path, lambda weights: weights.update({"lossAV.FC.bias": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"lossAV.FC.bias has the shape \(3,\), expected \(2,\)"):
        ActiveSpeakerNet.from_light_asd(shaped)
    several = changed(tmp_path, lambda weights: [weights.pop(name) for name in list(weights)[:10]])
    with pytest.raises(ValueError, match=r"is missing; .* and 7 more\)"):
        ActiveSpeakerNet.from_light_asd(several)


class Harm:
    def __reduce__(self):
        return print, ("it ran",)


def test_files_that_are_no_weights_are_refused_and_not_run(tmp_path, capsys, file):
    path = tmp_path / "other.model"
    with pytest.raises(FileNotFoundError, match="expected weights of Light-ASD"):
        ActiveSpeakerNet.from_light_asd(path)
    torch.save({"a": Harm()}, path)
    with pytest.raises(ValueError, match="holds no weights, or is damaged"):
        ActiveSpeakerNet.from_light_asd(path)
    assert "it ran" not in capsys.readouterr().out
    path.write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(ValueError, match="holds no weights, or is damaged"):
        ActiveSpeakerNet.from_light_asd(path)
    for other in ([torch.zeros(2)], {"epoch": 3}):
        torch.save(other, path)
        with pytest.raises(ValueError, match="expected weights by name"):
            ActiveSpeakerNet.from_light_asd(path)
