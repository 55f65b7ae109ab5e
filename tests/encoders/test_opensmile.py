"""openSMILE behind the encoders' interface; its package is not part of the extras, for its licence."""

import sys

import pytest
import torch

from merc.encoders import OpenSmileEncoder, SoundBatch
from support.tiny_media import keys, noises


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(ImportError, match="non-commercial use only: pip install opensmile, or use ProsodyEncoder"):
        OpenSmileEncoder()


def test_vectors_names_and_provenance():
    opensmile = pytest.importorskip("opensmile", reason="opensmile is not installed (free for non-commercial use only)")
    encoder = OpenSmileEncoder()
    sounds = noises(16_000, 9_000, 300)
    batch = SoundBatch.pad(keys(3), sounds)
    batch.sound[~batch.mask] = float("nan")
    vectors = encoder(batch)
    assert vectors.shape == (3, encoder.dim) == (3, 88) and vectors.isfinite().all()
    alone = torch.cat([encoder(SoundBatch.pad(keys(1), [sound])) for sound in sounds])
    torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=0)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    frame = smile.process_signal(sounds[0].numpy(), 16_000)
    assert list(frame.columns) == list(encoder.names)
    torch.testing.assert_close(vectors[0], torch.tensor(frame.to_numpy()[0]), atol=1e-5, rtol=0)
    assert encoder.provenance()["opensmile"] == opensmile.__version__
    assert OpenSmileEncoder("IS10").dim == 1582
    with pytest.raises(ValueError, match="no feature set 'IS99': expected one of ComParE_2016"):
        OpenSmileEncoder("IS99")
