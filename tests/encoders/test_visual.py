"""The visual encoder: real architectures at tiny size, each against the network run on one clip alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from merc.encoders import FaceBatch, VisualEncoder
from merc.encoders.visual import evenly, resize
from support.tiny_media import VIDEO, crops, keys, tiny_speech, tiny_video


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: tiny_video(tmp_path_factory.mktemp(name), name) for name in VIDEO}


@pytest.fixture(scope="module")
def encoders(folders):
    return {name: VisualEncoder(folder).eval() for name, folder in folders.items()}


@torch.no_grad()
def encode(encoder, clips):
    return encoder(FaceBatch.pad(keys(len(clips)), clips))


@pytest.mark.parametrize("name", sorted(VIDEO))
def test_a_vector_is_the_mean_over_the_tokens_of_the_clip_alone(name, folders, encoders):
    network = AutoModel.from_pretrained(folders[name]).eval()
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.45, 0.4, 0.5], [0.2, 0.225, 0.25]))
    clips = crops(4, 4, 4)
    with torch.no_grad():
        expected = [network((clip[None] / 255 - mean) / std).last_hidden_state[0] for clip in clips]
    vectors = encode(encoders[name], clips)
    assert vectors.shape == (3, encoders[name].dim) == (3, 16)
    torch.testing.assert_close(vectors, torch.stack([tokens.mean(0) for tokens in expected]), atol=1e-5, rtol=0)
    assert vectors.std(0).max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_a_vector_depends_neither_on_its_batch_nor_on_what_padding_holds(encoders, lengths, data):
    encoder = encoders[data.draw(st.sampled_from(sorted(VIDEO)))]
    clips = crops(*lengths, size=data.draw(st.sampled_from([24, 32, 50])))
    batch = FaceBatch.pad(keys(len(clips)), clips)
    batch.frames[~batch.mask] = 255
    with torch.no_grad():
        together = encoder(batch)
    alone = torch.cat([encode(encoder, [clip]) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@given(found=st.integers(1, 500), wanted=st.integers(1, 40))
def test_frames_are_spread_evenly(found, wanted):
    indices = evenly(found, wanted)
    assert len(indices) == wanted and indices == sorted(indices) and 0 <= indices[0] and indices[-1] < found
    counts = torch.bincount(torch.tensor(indices), minlength=found)
    if found <= wanted:  # every frame, each about equally often
        assert counts.min() >= 1 and counts.max() - counts.min() <= 1
    else:
        assert counts.max() == 1
    assert evenly(wanted, wanted) == list(range(wanted))


def test_fewer_frames_are_repeated_and_more_are_passed_over(encoders):
    encoder = encoders["timesformer"]
    (two, eight) = crops(2, 8)
    expected = encode(encoder, [two[[0, 0, 1, 1]], eight[[1, 3, 5, 7]]])
    torch.testing.assert_close(encode(encoder, [two, eight]), expected, atol=1e-5, rtol=0)


def test_crops_of_another_size_are_resized(encoders):
    (clip,) = crops(4, size=64)
    flat = torch.full((4, 3, 48, 40), 77, dtype=torch.uint8)
    torch.testing.assert_close(resize(flat, 32), torch.full((4, 3, 32, 32), 77.0))
    halves = torch.cat([torch.zeros(1, 3, 64, 32), torch.full((1, 3, 64, 32), 200.0)], -1)
    small = resize(halves.byte(), 32)
    assert small[..., :14].max() < 1 and small[..., 18:].min() > 199
    assert encode(encoders["videomae"], [clip]).isfinite().all()


def test_other_numbers_of_frames_and_sizes_where_the_model_can(folders):
    encoder = VisualEncoder(folders["timesformer"], frames=6, size=48).eval()
    assert (encoder.frames, encoder.size) == (6, 48)
    clips = crops(6, 3, size=48)
    torch.testing.assert_close(encode(encoder, clips)[1:], encode(encoder, clips[1:]), atol=1e-5, rtol=0)
    message = r"does not read 6 frames of 32 pixels .* leave frames and size out for its own 4 and 32"
    with pytest.raises(ValueError, match=message):
        VisualEncoder(folders["videomae"], frames=6)


def test_defaults_are_the_models_own(encoders, tmp_path):
    for encoder in encoders.values():
        assert (encoder.frames, encoder.size) == (4, 32)
    raw = VisualEncoder(tiny_video(tmp_path, do_normalize=False, do_rescale=False))
    assert raw.pixel_mean == [0.0] * 3 and raw.pixel_std == [1.0] * 3


@pytest.mark.parametrize("name", sorted(VIDEO))
def test_every_parameter_gets_a_gradient(folders, name):
    encoder = VisualEncoder(folders[name])
    assert all(module.training for module in encoder.modules())
    encoder(FaceBatch.pad(keys(2), crops(4, 2))).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_autocast(encoders):
    clips = crops(4, 3)
    for encoder in encoders.values():
        with torch.autocast("cpu", torch.bfloat16):
            vectors = encode(encoder, clips)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors, encode(encoder, clips), atol=0.1, rtol=0.1)


def test_provenance_tells_weights_and_pixels_apart(folders, tmp_path):
    encoder = VisualEncoder(folders["timesformer"])
    before = encoder.provenance()
    assert before == VisualEncoder(folders["timesformer"]).provenance()
    assert (before["encoder"], before["frames"], before["size"]) == (folders["timesformer"], 4, 32)
    other = VisualEncoder(tiny_video(tmp_path, image_mean=[0.5, 0.5, 0.5])).provenance()
    assert other["weights"] == before["weights"] and other["pixel_mean"] != before["pixel_mean"]
    with torch.no_grad():
        encoder.network.embeddings.cls_token += 1e-3
    assert encoder.provenance()["weights"] != before["weights"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.mask[1].fill_(False), "Utterance train/0/1 has no frame at all"),
        (lambda b: b.mask[1, 0].fill_(False), "padding before or between real frames"),
        (lambda b: setattr(b, "frames", b.frames[:, :, :1]), "uint8 RGB frames"),
        (lambda b: setattr(b, "frames", b.frames.permute(0, 1, 3, 4, 2)), "uint8 RGB frames"),
        (lambda b: setattr(b, "frames", b.frames / 255), "uint8 RGB frames .* found torch.float32"),
        (lambda b: setattr(b, "frames", b.frames[..., :0]), "must have pixels, found frames of 32 x 0"),
        (lambda b: setattr(b, "mask", b.mask[:1]), "needs a boolean mask"),
    ],
)
def test_bad_batches(encoders, change, message):
    batch = FaceBatch.pad(keys(2), crops(4, 3))
    change(batch)
    with pytest.raises(ValueError, match=message):
        encoders["timesformer"](batch)


def test_models_that_do_not_read_videos(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="does not read a number of frames"):
        VisualEncoder(tiny_speech(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"Visual encoder .* could not be loaded"):
        VisualEncoder(str(tmp_path / "empty"))
