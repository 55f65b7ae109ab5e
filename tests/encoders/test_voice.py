"""The voice encoder against Resemblyzer's recipe in NumPy, x-vectors of random weights, and real voices."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchaudio", reason="mel bands need torchaudio: pip install 'merc[media]'")

from merc.conversation import Clip, UtteranceKey
from merc.encoders import SoundBatch, VoiceEncoder, XVectorEncoder

FACES = Path(__file__).parents[3] / "shared/data/faces"
KEYS = [UtteranceKey("test", "film", str(number)) for number in range(9)]


def random_weights(file):
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(40, 256, 3), torch.nn.Linear(256, 256)
    state = {f"lstm.{name}": value for name, value in lstm.state_dict().items()}
    state |= {f"linear.{name}": value for name, value in linear.state_dict().items()}
    # As in the published file, which has two numbers of the training loss, too.
    torch.save({"step": 1, "model_state": {**state, "similarity_weight": torch.ones(1)}}, file)
    return file


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return VoiceEncoder(random_weights(tmp_path_factory.mktemp("voice") / "pretrained.pt"))


def sound(seconds, seed=0, loud=0.1):
    generator = torch.Generator().manual_seed(seed)
    tone = torch.sin(torch.arange(round(16000 * seconds)) * (0.05 + 0.01 * seed))
    return loud * (tone + 0.3 * torch.randn(len(tone), generator=generator))


def mel_weights():
    """Slaney's triangles of 40 bands from 0 to 8 kHz, of equal area, as librosa makes them."""

    def to_hz(mel):
        return np.where(mel >= 15, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)), mel * 200 / 3)

    top = 15 + np.log(8) / (np.log(6.4) / 27)
    edges = to_hz(np.linspace(0, top, 42))
    bins = np.linspace(0, 8000, 201)
    rows = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        triangle = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clip(0)
        rows.append(triangle * 2 / (high - low))
    return np.stack(rows)


def recipe(encoder, samples):
    """embed_utterance of Resemblyzer, without removal of silence, in NumPy but for the LSTM."""
    samples = samples.double().numpy()
    change = -30 - 20 * np.log10(np.sqrt(np.mean(samples**2)))
    samples = samples * 10 ** (max(change, 0) / 20)
    frames, step, half = int(np.ceil((len(samples) + 1) / 160)), 77, 200
    starts = list(range(0, max(1, frames - 160 + step + 1), step))
    last = starts[-1]
    if (len(samples) - last * 160) / (160 * 160) < 0.75 and len(starts) > 1:
        starts = starts[:-1]
    samples = np.pad(samples, (0, max(0, (starts[-1] + 160) * 160 - len(samples))))
    padded = np.pad(samples, (half, half))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    count = 1 + len(samples) // 160
    power = [np.abs(np.fft.rfft(padded[at * 160 : at * 160 + 400] * window)) ** 2 for at in range(count)]
    mel = np.stack(power) @ mel_weights().T
    parts = []
    for start in starts:
        given = torch.tensor(mel[start : start + 160][None], dtype=torch.float32)
        _, (hidden, _) = encoder.lstm(given)
        raw = np.maximum(0, encoder.linear.weight.numpy() @ hidden[-1, 0].numpy() + encoder.linear.bias.numpy())
        parts.append(raw / np.linalg.norm(raw))
    mean = np.mean(parts, axis=0)
    return torch.tensor(mean / np.linalg.norm(mean), dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("seconds", [0.5, 1.6, 2.0, 2.9, 4.3])
@pytest.mark.parametrize("loud", [0.001, 0.3])
def test_it_follows_the_recipe(encoder, seconds, loud):
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    given = sound(seconds, loud=loud)
    [found] = encoder(SoundBatch.pad(KEYS[:1], [given]))
    torch.testing.assert_close(found, recipe(encoder, given), atol=1e-4, rtol=0)
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-5)


def test_a_voice_does_not_depend_on_the_batch(encoder):
    sounds = [sound(seconds, seed) for seed, seconds in enumerate((0.4, 3.0, 1.7))]
    together = encoder(SoundBatch.pad(KEYS[:3], sounds))
    alone = torch.cat([encoder(SoundBatch.pad([key], [one])) for key, one in zip(KEYS[:3], sounds, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.shape == (3, encoder.dim) and not torch.allclose(together[0], together[1], atol=1e-3)


def test_other_weights_are_refused_and_missing_ones_named(tmp_path, monkeypatch):
    torch.save({"model_state": {"linear.bias": torch.zeros(256)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected weights of Resemblyzer"):
        VoiceEncoder(tmp_path / "other.pt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps resemblyzer"):
        VoiceEncoder()


def test_the_weights_decide_the_provenance(encoder, tmp_path):
    other = VoiceEncoder(random_weights(tmp_path / "same.pt"))
    assert other.provenance() == encoder.provenance()
    with torch.no_grad():
        other.linear.bias += 1
    assert other.provenance() != encoder.provenance()


@pytest.mark.skipif(not FACES.is_dir(), reason="needs the real clips in ../shared/data/faces")
def test_real_voices_are_more_alike_within_a_person():
    pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
    from merc.media import read_sound

    try:
        encoder = VoiceEncoder()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    people = json.loads((FACES / "people.json").read_text())
    people.pop("grid/s1_aa00.mpg", None)  # a clip of a newscast, not of GRID
    files = [file for who in ("grid-s1", "grid-s2", "grid-s29") for file in people if people[file] == who]
    files = [file for number, file in enumerate(files) if sum(people[f] == people[file] for f in files[:number]) < 3]
    voices = encoder(SoundBatch.pad(KEYS, [read_sound(Clip(str(FACES / file))) for file in files]))
    alike = voices @ voices.T
    same = torch.tensor([[people[a] == people[b] for b in files] for a in files])
    assert alike[same].min() > alike[~same].mean() + 0.05
    assert "resemblyzer" not in sys.modules


@pytest.fixture(scope="module")
def xvectors(tmp_path_factory):
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    folder = tmp_path_factory.mktemp("xvector")
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        tdnn_dim=(8, 8, 8),
        tdnn_kernel=(5, 3, 1),
        tdnn_dilation=(1, 2, 1),
        xvector_output_dim=12,
    )
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def test_x_vectors_are_those_of_transformers(xvectors):
    from transformers import AutoFeatureExtractor, WavLMForXVector

    encoder = XVectorEncoder(xvectors)
    sounds = [sound(1.0), sound(2.0, 1)]
    found = encoder(SoundBatch.pad(KEYS[:2], sounds))
    prepare, network = AutoFeatureExtractor.from_pretrained(xvectors), WavLMForXVector.from_pretrained(xvectors)
    for row, one in zip(found, sounds, strict=True):
        given = prepare(one.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        expected = network.eval()(input_values=given).embeddings[0]
        torch.testing.assert_close(row, expected / expected.norm(), atol=1e-5, rtol=1e-4)
    assert found.shape == (2, encoder.dim) == (2, 12)


def test_x_vectors_of_short_sounds_and_missing_models(xvectors, tmp_path):
    encoder = XVectorEncoder(xvectors)
    [short] = encoder(SoundBatch.pad(KEYS[:1], [sound(0.002)]))
    assert short.isfinite().all() and encoder.provenance()["encoder"] == xvectors
    with pytest.raises(FileNotFoundError, match="could not be loaded"):
        XVectorEncoder(str(tmp_path))
