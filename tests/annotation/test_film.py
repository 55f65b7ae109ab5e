"""The panel of an annotated film, for a run that predicts numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from merc.annotation.film import AnnotatedFilm
from merc.annotation.lines import describe
from merc.corpora import read_transcript
from merc.labels import MELD
from merc.media.planes import Planes
from merc.pipeline.apply import AppliedRun
from merc.store import FeatureStore


def panel(folder, value, monkeypatch):
    """The panel of one line with a valence, and its title."""
    (folder / "talk.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nAnn: Hello there\n")
    corpus = read_transcript(folder / "talk.srt", folder / "talk.mp4", labels=MELD)
    corpus = replace(corpus, dimensions={"valence": (1.0, 5.0)})
    [key] = corpus["test"][0].keys
    provenance = {"classes": ["valence"], "values": ["valence"]}
    row = torch.tensor([[value]])
    logits = FeatureStore.write(folder / f"{value}", [key], row, kind="logits", provenance=provenance)
    applied = AppliedRun(corpus, {"text": {}}, logits, {}, {})
    assert not len(applied.labels)  # though the corpus has emotions: the run tells none
    from merc.annotation import film

    titles = []
    drawn = film.bar_panel
    monkeypatch.setattr(film, "bar_panel", lambda *given: titles.append(given[4]) or drawn(*given))
    made = AnnotatedFilm(describe(applied), applied)
    image = made._panel(0, Planes.of_rgb(np.zeros((3, 400, 640), dtype=np.uint8)))
    monkeypatch.undo()
    return image.rgb().int(), made.colours["valence"], titles[0]


def test_the_panel_has_a_bar_over_the_scale_of_a_number(tmp_path, monkeypatch):
    areas = []
    for value in (1.0, 3.0, 5.5):
        image, colour, title = panel(tmp_path, value, monkeypatch)
        areas.append(int(((image - torch.tensor(colour)[:, None, None]).abs().amax(0) < 16).sum()))
        assert title == f"Ann: valence {value:.2f} (text)"
    empty, half, full = areas  # the last is beyond the scale
    assert empty < 50 < 1000 < half and half / full == pytest.approx(0.5, abs=0.05)
