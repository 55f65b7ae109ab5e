"""t-SNE and UMAP: vectors of any width as points in a plane, so that neighbours stay neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from merc.conversation import Corpus, split_name
from merc.evaluation.plots import points_figure
from merc.store import FeatureStore

_FEW = 10
"""Of so few vectors UMAP cannot compute its usual start, by eigenvectors."""


def tsne(vectors: Tensor, perplexity: float = 30.0, seed: int = 0) -> Tensor:
    """Points in a plane whose neighbours are those of the vectors (van der Maaten and Hinton 2008), by scikit-learn.

    Distances between far clusters, and their sizes, mean nothing.

    Args:
        vectors: ``(N, d)``.
        perplexity: About how many neighbours of a vector count, at least 1 and below N.
        seed: Of what is drawn; the start is at the two main axes of the vectors.

    Returns:
        ``(N, 2)`` points, on the CPU.

    Raises:
        ValueError: There are too few vectors for the perplexity.
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn: pip install 'merc[plots]'.") from error
    count = len(vectors)
    if not 1 <= perplexity < count:
        raise ValueError(
            f"t-SNE of {count} vectors needs a perplexity of at least 1 and below {count}, found {perplexity}: give "
            "more vectors, or a lower perplexity."
        )
    fitted = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors.detach().cpu().numpy())
    return torch.from_numpy(fitted).float()


def umap(vectors: Tensor, neighbors: int = 15, seed: int = 0) -> Tensor:
    """Points in a plane whose neighbours are those of the vectors (McInnes et al. 2018), by umap-learn.

    Faster than t-SNE on many vectors, and keeps more of how clusters lie to each other.

    Args:
        vectors: ``(N, d)``.
        neighbors: How many neighbours of a vector count, at least 2 and below N.
        seed: Of what is drawn.

    Returns:
        ``(N, 2)`` points, on the CPU.

    Raises:
        ValueError: There are too few vectors for the neighbours.
        ImportError: umap-learn is missing.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("UMAP needs umap-learn: pip install 'merc[plots]'.") from error
    count = len(vectors)
    if not 2 <= neighbors < count:
        raise ValueError(
            f"UMAP of {count} vectors needs at least 2 and fewer than {count} neighbors, found {neighbors}: give more "
            "vectors, or fewer neighbors."
        )
    # In one thread: in several the seed would not decide the result.
    start = "spectral" if count > _FEW else "random"
    made = UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1, init=start)
    return torch.from_numpy(made.fit_transform(vectors.detach().cpu().numpy())).float()


def draw_store(
    store: FeatureStore,
    corpus: Corpus,
    out: str | Path,
    *,
    split: str = "test",
    project: Callable[[Tensor], Tensor] = tsne,
) -> int:
    """Draw the vectors of a store as points in a plane, coloured by emotion (Figure 3 of CMATH, arXiv 2411.10060).

    Args:
        store: A store with one vector per utterance.
        corpus: The corpus of these utterances.
        out: The figure; its format is that of its name.
        split: Split whose utterances are drawn.
        project: Makes ``(N, 2)`` points of ``(N, d)`` vectors: :func:`tsne`, :func:`umap`, or one of your own.

    Returns:
        How many utterances were drawn.

    Raises:
        ValueError: The corpus has no such split, or the store too few of its utterances.
        StoreError: The store holds sequences.
        ImportError: What the projection needs is missing.
    """
    name = split_name(split)
    if name not in corpus:
        raise ValueError(f"Corpus {corpus.name!r} has no split {name!r}, found {', '.join(corpus)}.")
    keys = [key for talk in corpus[name] for key in talk.keys]
    label = torch.tensor([corpus.labels.index(u.label) for talk in corpus[name] for u in talk.utterances])
    vectors, present = store.gather(keys)
    points = project(vectors[present])
    figure = points_figure(points, label[present], corpus.labels, f"{corpus.name}/{name}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return len(points)
