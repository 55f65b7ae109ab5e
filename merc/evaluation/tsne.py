"""t-SNE: vectors of any width as points in a plane, so that neighbours stay neighbours."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from merc.conversation import Corpus, split_name
from merc.evaluation.plots import points_figure
from merc.store import FeatureStore

_STOP_EXAGGERATING = 250
"""Iterations during which neighbours attract each other twelve times as much, so that clusters find their places."""


def tsne(vectors: Tensor, perplexity: float = 30.0, iterations: int = 750) -> Tensor:
    r"""Points in a plane whose neighbours are those of the vectors (van der Maaten and Hinton 2008).

    .. math::
        p_{ij} &= \frac{p_{j|i} + p_{i|j}}{2N}, \quad
        p_{j|i} \propto \exp(-\|x_i - x_j\|^2 / 2\sigma_i^2), \quad
        q_{ij} \propto (1 + \|y_i - y_j\|^2)^{-1}

    The sum of :math:`p_{ij} \log(p_{ij} / q_{ij})` is minimised by gradient descent with momentum, from the two main
    axes of the vectors. It is exact: time and memory grow with N², and 2,610 vectors, as many as MELD has for testing,
    take half a minute of one core. There is nothing random in it. Distances between far clusters, and their sizes, mean
    nothing.

    Args:
        vectors: ``(N, d)``.
        perplexity: About how many neighbours of a vector count, at least 1 and below N.
        iterations: Steps of the descent.

    Returns:
        ``(N, 2)`` points, on the CPU.

    Raises:
        ValueError: There are too few vectors for the perplexity.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> tsne(torch.randn(40, 8), perplexity=5).shape
        torch.Size([40, 2])
    """
    count = len(vectors)
    if not 1 <= perplexity < count:
        raise ValueError(
            f"t-SNE of {count} vectors needs a perplexity of at least 1 and below {count}, found {perplexity}: give "
            "more vectors, or a lower perplexity."
        )
    x = vectors.detach().cpu().double()
    x = (x - x.mean(0)) / (x.std() + 1e-12)
    p = affinities(torch.cdist(x, x).square(), perplexity)
    axes = torch.linalg.svd(x, full_matrices=False)[0][:, :2]
    points = 1e-4 * axes / axes.std(0).clamp(min=1e-12)
    step, gains = torch.zeros_like(points), torch.ones_like(points)
    rate = max(count / 48, 50.0)
    for number in range(iterations):
        early = number < _STOP_EXAGGERATING
        slope = gradient(12 * p if early else p, points)
        # As in the authors' code: a coordinate that keeps its direction moves faster.
        gains = torch.where(slope.sign() == step.sign(), gains * 0.8, gains + 0.2).clamp(min=0.01)
        step = (0.5 if early else 0.8) * step - rate * gains * slope
        points = points + step
    centred: Tensor = points - points.mean(0)
    return centred.float()


def affinities(squared: Tensor, perplexity: float) -> Tensor:
    """The symmetric probabilities p from squared distances ``(N, N)``; every row has the perplexity asked for.

    Args:
        squared: ``(N, N)`` squared distances.
        perplexity: 2 to the power of the entropy, in bits, of the neighbours of each vector.

    Returns:
        ``(N, N)``, with the sum 1 and a diagonal of 0.
    """
    count = len(squared)
    wanted = torch.log(torch.tensor(perplexity, dtype=squared.dtype))
    itself = torch.eye(count, dtype=torch.bool)
    distance = squared - squared.masked_fill(itself, torch.inf).amin(1, keepdim=True)  # exp does not vanish
    low, high = torch.full((count, 1), -30.0, dtype=squared.dtype), torch.full((count, 1), 30.0, dtype=squared.dtype)
    for _ in range(50):  # bisection over the logarithm of 1 / (2 sigma²): entropy falls with it
        middle = (low + high) / 2
        near = (-distance * middle.exp()).masked_fill(itself, -torch.inf).softmax(1)
        wide = -(near * near.clamp(min=1e-300).log()).sum(1, keepdim=True) > wanted
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return (near + near.T) / (2 * count)


def gradient(p: Tensor, points: Tensor) -> Tensor:
    r"""The gradient :math:`4 \sum_j (p_{ij} - q_{ij}) (y_i - y_j) (1 + \|y_i - y_j\|^2)^{-1}` of the divergence.

    Args:
        p: ``(N, N)`` affinities.
        points: ``(N, 2)``.
    """
    close = 1 / (1 + torch.cdist(points, points).square())
    close.fill_diagonal_(0.0)
    pull = (p - close / close.sum()) * close
    return 4 * (pull.sum(1, keepdim=True) * points - pull @ points)


def draw_store(
    store: FeatureStore, corpus: Corpus, out: str | Path, *, split: str = "test", perplexity: float = 30.0
) -> int:
    """Draw the vectors of a store as points in a plane, coloured by emotion (Figure 3 of CMATH, arXiv 2411.10060).

    Args:
        store: A store with one vector per utterance.
        corpus: The corpus of these utterances.
        out: The figure; its format is that of its name.
        split: Split whose utterances are drawn.
        perplexity: As for :func:`tsne`.

    Returns:
        How many utterances were drawn.

    Raises:
        ValueError: The corpus has no such split, or the store too few of its utterances.
        StoreError: The store holds sequences.
    """
    name = split_name(split)
    if name not in corpus:
        raise ValueError(f"Corpus {corpus.name!r} has no split {name!r}, found {', '.join(corpus)}.")
    keys = [key for talk in corpus[name] for key in talk.keys]
    label = torch.tensor([corpus.labels.index(u.label) for talk in corpus[name] for u in talk.utterances])
    vectors, present = store.gather(keys)
    points = tsne(vectors[present], perplexity)
    figure = points_figure(points, label[present], corpus.labels, f"{corpus.name}/{name}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return len(points)
