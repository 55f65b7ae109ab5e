"""Readers of real clips."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("av", reason="decoding needs merc[media]")
pytest.importorskip("torchaudio", reason="log-mel needs merc[media]")
pytest.importorskip("scipy", reason="tracking needs merc[media]")
pytest.importorskip("facenet_pytorch", reason="MTCNN needs facenet-pytorch")

from merc.conversation import Utterance, UtteranceKey
from merc.datamodules import TrackReader
from merc.media import (
    FRAME_RATE,
    MEL_BANDS,
    MEL_RATE,
    FaceTracker,
    MTCNNDetector,
    probe,
    rows_to_crops,
    rows_to_tracks,
    tracks_to_rows,
)

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"


@pytest.mark.parametrize("seconds", [1.2, pytest.param(60.0, marks=pytest.mark.slow)])
def test_every_real_clip_gives_its_faces_their_mouths_and_its_sound(seconds):
    files = sorted(CLIPS.iterdir()) if CLIPS.is_dir() else []
    if not files:
        pytest.skip(f"no clips under {CLIPS}")
    reader = TrackReader(FaceTracker(MTCNNDetector()), max_seconds=seconds)
    for file in files:
        key = UtteranceKey("train", file.name, "0")
        found = reader.read(key, Utterance("0", "?", media=str(file)))
        assert all(isinstance(rows, torch.Tensor) for rows in found.values()), (file.name, found)
        tracks = rows_to_tracks(found["faces"])
        assert len(tracks) == (2 if file.name == "two_faces_obama.mp4" else 1), file.name
        assert torch.equal(tracks_to_rows(tracks), found["faces"])
        length = min(probe(file).duration, seconds)
        for track, crops in zip(tracks, rows_to_crops(found["crops"], tracks), strict=True):
            assert len(track) > 0.95 * length * FRAME_RATE, f"the face of {file.name} is lost"
            assert crops.shape == (len(track), 32, 32) and crops.float().std() > 5
        assert found["sound"].shape[1] == MEL_BANDS
        assert abs(len(found["sound"]) - MEL_RATE * length) < 0.2 * MEL_RATE
