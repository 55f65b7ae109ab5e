"""The audio encoder: real architectures at tiny size, each against the network run on one sound alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from merc.encoders import AudioEncoder, SoundBatch
from support.tiny_media import SPEECH, keys, noises, tiny_speech, tiny_video

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # WavLM's own

LENGTHS = (3000, 5000, 1234, 5000, 700, 41)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: tiny_speech(tmp_path_factory.mktemp(name), name) for name in SPEECH}


@pytest.fixture(scope="module")
def encoders(folders):
    return {name: AudioEncoder(folder).eval() for name, folder in folders.items()}


@torch.no_grad()
def encode(encoder, sounds):
    return encoder(SoundBatch.pad(keys(len(sounds)), sounds))


@pytest.mark.parametrize("name", [name for name in SPEECH if name != "sew"])  # SEW makes no frame of 41 samples
def test_a_vector_is_what_transformers_gives_for_the_sound_alone(name, folders, encoders):
    network = AutoModel.from_pretrained(folders[name]).eval()
    prepare = Wav2Vec2FeatureExtractor.from_pretrained(folders[name])
    sounds = noises(*LENGTHS)
    expected = []
    for sound in sounds:
        samples = prepare(sound.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        with torch.no_grad():
            expected.append(network(samples).last_hidden_state[0].mean(0))
    torch.testing.assert_close(encode(encoders[name], sounds), torch.stack(expected), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=5), data=st.data())
def test_a_vector_depends_neither_on_its_batch_nor_on_what_padding_holds(encoders, lengths, data):
    encoder = encoders[data.draw(st.sampled_from(sorted(SPEECH)))]
    sounds = noises(*lengths, seed=data.draw(st.integers(0, 9)))
    batch = SoundBatch.pad(keys(len(sounds)), sounds)
    batch.sound[~batch.mask] = data.draw(st.sampled_from([7.0, -1e30, float("nan")]))
    with torch.no_grad():
        together = encoder(batch)
    alone = torch.cat([encode(encoder, [sound]) for sound in sounds])
    assert together.shape == (len(sounds), encoder.dim)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_padding_would_change_the_vectors_without_care(encoders):
    """The two places that the encoder minds are real: the networks alone, with a mask, are off."""
    for name in ("wav2vec2-group", "data2vec-audio"):
        encoder = copy.deepcopy(encoders[name])
        encoder._padding.real = lambda layers=None: None
        sounds = noises(3000, 700)
        assert (encode(encoder, sounds) - encode(encoders[name], sounds)).abs().max() > 1e-4, name


def test_which_families_run_padded(encoders):
    alone = {name for name, encoder in encoders.items() if not encoder._padding.supported}
    assert alone == {"hubert-batch-norm", "wav2vec2-adapter", "sew"}


def test_a_copy_is_independent(encoders):
    encoder = copy.deepcopy(encoders["data2vec-audio"])
    sounds = noises(3000, 700)
    assert torch.equal(encode(encoder, sounds), encode(encoders["data2vec-audio"], sounds))


def test_loudness_and_offset_do_not_matter_where_the_model_normalises(encoders, tmp_path):
    (sound,) = noises(3000)
    torch.testing.assert_close(
        encode(encoders["wav2vec2-layer"], [sound]),
        encode(encoders["wav2vec2-layer"], [0.3 * sound + 0.1]),
        atol=1e-4,
        rtol=0,
    )
    plain = AudioEncoder(tiny_speech(tmp_path, "wav2vec2-layer", do_normalize=False)).eval()
    assert plain.settings()["normalize"] is False
    with torch.no_grad():
        expected = plain.network(input_values=sound[None]).last_hidden_state.mean(1)
    torch.testing.assert_close(encode(plain, [sound]), expected, atol=1e-5, rtol=0)
    assert plain.provenance() != {**encoders["wav2vec2-layer"].provenance(), "encoder": str(tmp_path)}


def test_long_sounds_are_read_in_equal_pieces(folders):
    encoder = AudioEncoder(folders["wav2vec2-group"], max_seconds=0.1).eval()
    short, long = noises(1600, 4000)
    even = (long - long.mean()) / (long.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        pieces = [encoder.network(input_values=piece[None]).last_hidden_state[0] for piece in even.tensor_split(3)]
    together = encode(encoder, [short, long])
    torch.testing.assert_close(together[1], torch.cat(pieces).mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(together[:1], encode(encoder, [short]), atol=1e-5, rtol=0)


def test_sounds_below_the_receptive_field_are_filled_with_zeros(encoders):
    encoder = encoders["wav2vec2-layer"]
    assert encoder.receptive_field == 40  # kernels 10, 3, 2 with strides 5, 4, 4
    assert encoders["sew"].receptive_field == 120
    (sound,) = noises(17)
    even = (sound - sound.mean()) / (sound.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        expected = encoder.network(input_values=torch.cat([even, torch.zeros(23)])[None]).last_hidden_state.mean(1)
    torch.testing.assert_close(encode(encoder, [sound]), expected, atol=1e-6, rtol=0)
    assert encode(encoder, [torch.zeros(1), torch.zeros(16_000)]).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(SPEECH) - {"hubert-batch-norm"}))  # its training needs more than a frame
def test_every_parameter_gets_a_gradient_and_training_takes_short_sounds(folders, name):
    encoder = AudioEncoder(folders[name])
    assert all(module.training for module in encoder.modules())
    encoder(SoundBatch.pad(keys(3), noises(1500, 1000, 30))).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_autocast(encoders):
    for encoder in encoders.values():
        sounds = noises(3000, 1000)
        with torch.autocast("cpu", torch.bfloat16):
            vectors = encode(encoder, sounds)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors, encode(encoder, sounds), atol=0.1, rtol=0.1)


def test_provenance_tells_weights_apart(folders):
    encoder = AudioEncoder(folders["hubert"])
    before = encoder.provenance()
    assert before == AudioEncoder(folders["hubert"]).provenance()
    assert before["encoder"] == folders["hubert"] and before["max_seconds"] == 30.0
    with torch.no_grad():
        encoder.network.feature_projection.projection.bias[0] += 1e-3
    assert encoder.provenance()["weights"] != before["weights"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.mask[1].fill_(False), "Utterance train/0/1 has no sample at all"),
        (lambda b: b.mask[1, 0].fill_(False), "train/0/1 has padding before or between real samples"),
        (lambda b: b.sound[1, 5].fill_(float("nan")), "sound of train/0/1 contains NaN or infinite"),
        (lambda b: b.sound[1, 5].fill_(float("inf")), "sound of train/0/1 contains NaN or infinite"),
        (lambda b: setattr(b, "sound", b.sound[:, None]), "Average the channels"),
        (lambda b: setattr(b, "sound", b.sound.short()), "divide integer samples"),
        (lambda b: setattr(b, "mask", b.mask[:, :5]), "needs a boolean mask"),
        (lambda b: setattr(b, "mask", b.mask.float()), "needs a boolean mask"),
        (lambda b: setattr(b, "keys", b.keys[:1]), "A batch of 1 keys"),
    ],
)
def test_bad_batches(encoders, change, message):
    batch = SoundBatch.pad(keys(2), noises(500, 400))
    change(batch)
    with pytest.raises(ValueError, match=message):
        encoders["wav2vec2-layer"](batch)


def test_models_that_do_not_read_sound(tmp_path):
    with pytest.raises(ValueError, match="does not read raw samples"):
        AudioEncoder(tiny_video(tmp_path))


def test_options_that_do_not_fit(folders, tmp_path):
    with pytest.raises(ValueError, match=r"one frame of .* covers 0\.0025 s: expected at least twice that"):
        AudioEncoder(folders["hubert"], max_seconds=0.001)
    with pytest.raises(ValueError, match="reads 8000 samples per second, expected 16000"):
        AudioEncoder(tiny_speech(tmp_path, sampling_rate=8000))


def test_models_that_are_not_whole(tmp_path, folders):
    with pytest.raises(FileNotFoundError, match=r"Audio encoder .* could not be loaded: expected a folder with"):
        AudioEncoder(str(tmp_path))
    AutoModel.from_pretrained(folders["hubert"]).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected a folder with config\.json, preprocessor_config.json"):
        AudioEncoder(str(tmp_path))


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    folder = tiny_speech(tmp_path)
    network = AutoModel.from_pretrained(folder)
    weights = {name: w for name, w in network.state_dict().items() if "feature_projection" not in name}
    network.save_pretrained(folder, state_dict=weights)
    with pytest.raises(
        ValueError, match=r"has no weights for feature_projection\..*\(4 in all\), which would stay random"
    ):
        AudioEncoder(folder)
