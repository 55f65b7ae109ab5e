"""t-SNE against its definition, and the figure of a store."""

import math

import pytest
import torch
from scipy.optimize import brentq

from merc.cli import main
from merc.conversation import Conversation, Corpus, Utterance
from merc.evaluation import draw_store, points_figure, tsne
from merc.evaluation.tsne import affinities, gradient
from merc.labels import MELD
from merc.store import FeatureStore


def clusters(count=20, groups=3):
    centres = 8 * torch.randn(groups, 10)
    return (centres[:, None] + torch.randn(groups, count, 10)).flatten(0, 1), torch.arange(groups).repeat_interleave(
        count
    )


def divergence(p, points):
    """The sum of p log(p / q), pair by pair."""
    pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
    q = torch.stack([1 / (1 + (points[i] - points[j]).square().sum()) for i, j in pairs])
    p = torch.stack([p[i, j] for i, j in pairs])
    return (p * (p / (q / q.sum())).log()).sum()


def test_affinities_have_the_perplexity_asked_for():
    """Each row by itself: the width of its Gaussian is a root of entropy minus the one asked for."""
    x = torch.randn(12, 3, dtype=torch.double)
    rows = torch.zeros(12, 12, dtype=torch.double)
    for i in range(12):
        others = [j for j in range(12) if j != i]
        squared = (x[others] - x[i]).square().sum(1)

        def near(precision, squared=squared):
            return (-precision * squared).softmax(0)

        def missing(precision):
            return float(-(near(precision) * near(precision).log()).sum() - math.log(4.0))

        rows[i, others] = near(brentq(missing, 1e-3, 20.0, xtol=1e-12))
    found = affinities(torch.cdist(x, x).square(), 4.0)
    torch.testing.assert_close(found, (rows + rows.T) / 24)
    assert found.sum() == pytest.approx(1)


def test_the_gradient_is_that_of_the_divergence():
    x, points = torch.randn(7, 4, dtype=torch.double), torch.randn(7, 2, dtype=torch.double, requires_grad=True)
    p = affinities(torch.cdist(x, x).square(), 3.0)
    (expected,) = torch.autograd.grad(divergence(p, points), points)
    torch.testing.assert_close(gradient(p, points.detach()), expected)


def test_clusters_stay_apart_and_it_is_the_same_every_time():
    vectors, group = clusters()
    points = tsne(vectors, perplexity=10, iterations=500)
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert (group[nearest] == group).all()
    centres = torch.stack([points[group == g].mean(0) for g in range(3)])
    spread = max(float((points[group == g] - centres[g]).norm(dim=1).mean()) for g in range(3))
    assert torch.pdist(centres).min() > 3 * spread
    assert torch.equal(points, tsne(vectors, perplexity=10, iterations=500))
    with pytest.raises(ValueError, match="t-SNE of 5 vectors needs a perplexity of at least 1 and below 5, found 30"):
        tsne(vectors[:5])


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
