"""t-SNE, UMAP, and the figure of a store."""

import sys

import pytest
import torch

pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn: pip install 'merc[plots]'")

import merc.evaluation
from merc.cli import main
from merc.conversation import Conversation, Corpus, Utterance
from merc.evaluation import draw_store, points_figure, tsne, umap
from merc.labels import MELD
from merc.store import FeatureStore


def clusters(count=20, groups=3):
    centres = 8 * torch.randn(groups, 10)
    return (centres[:, None] + torch.randn(groups, count, 10)).flatten(0, 1), torch.arange(groups).repeat_interleave(
        count
    )


def test_clusters_stay_apart_and_it_is_the_same_every_time():
    vectors, group = clusters()
    points = tsne(vectors, perplexity=10)
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert (group[nearest] == group).all()
    centres = torch.stack([points[group == g].mean(0) for g in range(3)])
    spread = max(float((points[group == g] - centres[g]).norm(dim=1).mean()) for g in range(3))
    assert torch.pdist(centres).min() > 3 * spread
    assert torch.equal(points, tsne(vectors, perplexity=10))
    with pytest.raises(ValueError, match="t-SNE of 5 vectors needs a perplexity of at least 1 and below 5, found 30"):
        tsne(vectors[:5])


@pytest.fixture(scope="module")
def needs_umap():
    return pytest.importorskip("umap", reason="UMAP needs umap-learn: pip install 'merc[plots]'")


@pytest.mark.slow  # numba compiles for half a minute
def test_umap_keeps_neighbours_and_is_the_same_every_time(needs_umap):
    vectors, group = clusters()
    points = umap(vectors, neighbors=10)
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert points.shape == (60, 2) and (group[nearest] == group).all()
    assert torch.equal(points, umap(vectors, neighbors=10))
    assert umap(vectors[:4], neighbors=3).isfinite().all()
    with pytest.raises(ValueError, match="UMAP of 5 vectors needs at least 2 and fewer than 5 neighbors, found 15"):
        umap(vectors[:5])


def test_without_umap_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"UMAP needs umap-learn: pip install 'merc\[plots\]'"):
        umap(torch.randn(40, 3))


@pytest.mark.parametrize(
    ("words", "name", "options"),
    [
        (["--perplexity", "4"], "tsne", {"perplexity": 4.0}),
        ([], "tsne", {}),
        (["--method", "umap"], "umap", {}),
        (["--method", "umap", "--neighbors", "7"], "umap", {"neighbors": 7}),
    ],
)
def test_the_command_takes_either_method(words, name, options, monkeypatch, tmp_path):
    talk = Conversation("0", tuple(Utterance(str(n), "A", label="joy") for n in range(12)), "test")
    Corpus("drawn", MELD, {"test": [talk]}).save(tmp_path / "corpus.json")
    FeatureStore.write(tmp_path / "hidden", talk.keys, torch.randn(12, 3), kind="hidden")
    asked = []
    monkeypatch.setattr(merc.evaluation, name, lambda vectors, **how: asked.append(how) or vectors[:, :2])
    place = [str(tmp_path / "hidden"), "--corpus", str(tmp_path / "corpus.json"), "--out", str(tmp_path / "a.png")]
    assert main(["tsne", *place, *words]) == 0
    assert asked == [options]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "umap", "--perplexity", "4"], "--perplexity is of --method tsne, found --method umap"),
        (["--neighbors", "7"], "--neighbors is of --method umap, found --method tsne"),
    ],
)
def test_an_option_of_the_other_method_is_refused(words, message, capsys, tmp_path):
    place = [str(tmp_path / "hidden"), "--corpus", str(tmp_path / "corpus.json"), "--out", str(tmp_path / "a.png")]
    assert main(["tsne", *place, *words]) == 1
    assert message in capsys.readouterr().err


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match=r"pip install 'merc\[plots\]'"):
        tsne(torch.randn(40, 3))


def test_a_store_is_drawn(tmp_path, capsys):
    vectors, group = clusters(count=5)
    turns = [Utterance(str(n), "A", label=None if n == 0 else MELD.names[g]) for n, g in enumerate(group.tolist())]
    talk = Conversation("0", tuple(turns), "test")
    corpus = Corpus("drawn", MELD, {"test": [talk]})
    corpus.save(tmp_path / "corpus.json")
    store = FeatureStore.write(tmp_path / "hidden", talk.keys[:-1], vectors[:-1], kind="hidden")
    words = [str(tmp_path / "hidden"), "--corpus", str(tmp_path / "corpus.json"), "--perplexity", "4"]
    assert main(["tsne", *words, "--out", str(tmp_path / "figures/points.png")]) == 0
    assert "14 utterances of test" in capsys.readouterr().out
    assert (tmp_path / "figures/points.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no split 'val', found test"):
        draw_store(store, corpus, tmp_path / "points.png", split="dev")


def test_every_emotion_has_its_colour_and_its_count():
    label = torch.tensor([-100, 0, 1, 1])
    figure = points_figure(torch.randn(4, 2), label, MELD, "a title")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == sorted(["unlabelled (1)", f"{MELD.names[0]} (1)", f"{MELD.names[1]} (2)"])
    drawn = figure.axes[0].collections
    assert len({tuple(points.get_facecolor()[0]) for points in drawn}) == 3
    assert [len(points.get_offsets()) for points in drawn].count(1) == 2
