"""Evidence: what a modality's vector says of each emotion, in closed form and honest on the training split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.conversation import Corpus, CorpusError, UtteranceKey
from merc.corpora.featured import FeatureTable
from merc.labels import IGNORE_INDEX
from merc.store import FeatureStore, StoreError


@dataclass(frozen=True)
class GaussianEvidence:
    r"""Calibrated log-posteriors of a Gaussian for each emotion with one shared covariance.

    Linear discriminant analysis: with class means :math:`\mu_c` and the covariance :math:`\Sigma` within classes,
    shrunk towards a multiple of the identity (Ledoit and Wolf, 2004), the evidence of a vector x is

    .. math:: e_c(x) = \log \mathrm{softmax}_c(b_c - t \, (x - \mu_c)^T \Sigma^{-1} (x - \mu_c) / 2)

    with temperature t and offsets b fitted by maximum likelihood, minus its mean over the classes.

    A classifier looks better on the vectors that it was fitted on than on new ones, and whatever is trained on its
    outputs there learns to trust it too much and its context too little. So the evidence of a training vector leaves
    that vector out of its own class mean and of the covariance, in closed form: with :math:`u = x - \mu_c`,
    :math:`k = n_c / (n_c - 1)` and :math:`w` the weight of one vector in :math:`\Sigma`,

    .. math:: x - \mu_c^{(-x)} = k u, \qquad \Sigma^{(-x)} = \Sigma - w k \, u u^T,

    the latter inverted after Sherman and Morrison (1950). Temperature and offsets are fitted on this evidence.

    Args:
        mean: ``(C, d)`` class means.
        whiten: ``(d, d)`` with ``whiten @ whiten.T`` the inverse covariance.
        count: ``(C,)`` training vectors of each class.
        weight: w.
        temperature: t.
        offset: ``(C,)`` b.
    """

    mean: Tensor
    whiten: Tensor
    count: Tensor
    weight: float
    temperature: float
    offset: Tensor

    @classmethod
    def fit(cls, features: Tensor, label: Tensor, num_classes: int, *, standardise: bool = False) -> GaussianEvidence:
        """Fit to the training split.

        Args:
            features: ``(N, d)``.
            label: ``(N,)`` ids in ``0..C-1``; -100 takes no part.
            num_classes: C.
            standardise: Measure every column by its deviation within the emotions, so that the covariance is shrunk
                towards its own diagonal: for numbers with units, such as hertz beside shares.

        Raises:
            ValueError: A class has fewer than two labelled vectors, so that none can be left out, or the vectors of
                every class are all the same.
        """
        labelled = label != IGNORE_INDEX
        x, y = features[labelled].double(), label[labelled]
        count = torch.bincount(y, minlength=num_classes)
        if int(count.min()) < 2:
            raise ValueError(
                f"Evidence needs at least 2 labelled training vectors of every emotion, found {count.tolist()}: "
                "merge rare emotions or leave the evidence out."
            )
        mean = torch.zeros(num_classes, x.shape[1], dtype=x.dtype).index_add_(0, y, x) / count[:, None]
        centred = x - mean[y]
        unit = centred.square().mean(0).sqrt() if standardise else torch.ones_like(x[0])
        unit = torch.where(unit > 0, unit, 1.0)
        covariance, share = _ledoit_wolf(centred / unit)
        whiten = torch.linalg.cholesky(torch.linalg.inv(covariance)) / unit[:, None]
        raw = cls(mean, whiten, count, (1 - share) / len(x), 1.0, torch.zeros(num_classes, dtype=x.dtype))
        temperature, offset = _calibrate(raw._score(x, y), y)
        return replace(raw, temperature=temperature, offset=offset)

    def __call__(self, features: Tensor, left_out: Tensor | None = None) -> Tensor:
        """The evidence ``(N, C)`` of vectors ``(N, d)``.

        Args:
            features: Vectors.
            left_out: ``(N,)`` for vectors that the evidence was fitted on, their label ids; -100 for others.
        """
        score = self.temperature * self._score(features.double(), left_out) + self.offset
        evidence = score.log_softmax(-1)
        return (evidence - evidence.mean(-1, keepdim=True)).float()

    def _score(self, x: Tensor, left_out: Tensor | None) -> Tensor:
        vectors, centres = x @ self.whiten, self.mean @ self.whiten
        distance = torch.cdist(vectors, centres).square()
        if left_out is not None:
            rows = (left_out != IGNORE_INDEX).nonzero().flatten()
            own = left_out[rows]
            k = (self.count[own].double() / (self.count[own] - 1))[:, None]
            u = vectors[rows] - centres[own]
            along = (u * vectors[rows]).sum(-1, keepdim=True) - u @ centres.T
            stretch = F.one_hot(own, len(centres)) * (k - 1) + 1
            weight = self.weight * k
            inflation = weight / (1 - weight * u.square().sum(-1, keepdim=True))
            distance[rows] = stretch.square() * (distance[rows] + inflation * along.square())
        return -distance / 2


def evidence_table(
    store: FeatureStore,
    corpus: Corpus,
    *,
    append: bool = False,
    standardise: bool = False,
    fitted_on: tuple[FeatureStore, Corpus] | None = None,
) -> FeatureTable:
    """The evidence (:class:`merc.encoders.GaussianEvidence`) of every utterance of a corpus that a store holds.

    It is fitted on the labels of the train split alone. A training utterance is left out of its own evidence, so
    that what is trained on it meets the same quality of evidence there as on new utterances.

    Args:
        store: Encoder features of one modality.
        corpus: The corpus, with the labels.
        append: Keep the features in front of the evidence.
        standardise: Whether the columns have units (see :meth:`GaussianEvidence.fit`).
        fitted_on: Features and corpus to fit on instead, for a corpus of new utterances without labels. No utterance
            of ``corpus`` may be among theirs.

    Returns:
        Features ``(N, C)``, or ``(N, d + C)`` with ``append``.

    Raises:
        StoreError: The store holds something else than features, or no utterance of the corpus, or features of
            another width than those that are fitted on.
        CorpusError: The corpus has no train split.
        ValueError: An emotion has fewer than two training utterances.
    """
    store.require(kind="features")
    source, labelled = fitted_on or (store, corpus)
    fitted = _fitted(source, labelled, standardise)
    keys = [key for split in corpus.values() for c in split for key in c.keys]
    there = [key for key in keys if key in store]
    if fitted_on is None:
        labels = _train_labels(corpus)
        left_out = torch.tensor([labels.get(key, IGNORE_INDEX) for key in there])
    else:
        store.require(dim=source.dim)
        left_out = torch.full((len(there),), IGNORE_INDEX)
    features, _ = store.gather(there)
    rows = fitted(features, left_out)
    if append:
        rows = torch.cat([features.float(), rows], dim=1)
    provenance = {
        "source": "Gaussian evidence" + (" behind the features" if append else ""),
        "of": {"path": str(store.path), "digest": store.digest, **store.provenance},
        "trained_on": f"{labelled.name}/train labels, each utterance left out of its own evidence",
        "classes": list(labelled.labels.names),
        "temperature": fitted.temperature,
    }
    return FeatureTable(there, rows, store.why_missing(keys), provenance)


def _train_labels(corpus: Corpus) -> dict[UtteranceKey, int]:
    """The label id of every training utterance, -100 where there is none."""
    if "train" not in corpus:
        raise CorpusError(f"Corpus {corpus.name!r} has no train split, on whose labels evidence is fitted.")
    return {k: corpus.labels.index(u.label) for c in corpus["train"] for k, u in zip(c.keys, c.utterances, strict=True)}


def _fitted(store: FeatureStore, corpus: Corpus, standardise: bool) -> GaussianEvidence:
    """Evidence fitted on the train split of a corpus."""
    labels = _train_labels(corpus)
    there = [key for split in corpus.values() for c in split for key in c.keys if key in store]
    if not there:
        raise StoreError(f"{store.path} has no utterance of corpus {corpus.name!r}: give the store of this corpus.")
    train = [key for key in there if key in labels]
    features, _ = store.gather(train)
    label = torch.tensor([labels[key] for key in train]).long()
    return GaussianEvidence.fit(features, label, len(corpus.labels), standardise=standardise)


def _ledoit_wolf(centred: Tensor) -> tuple[Tensor, float]:
    """Covariance of centred rows, shrunk towards its mean variance times the identity; and the share of the latter."""
    n, d = centred.shape
    covariance = centred.T @ centred / n
    if not covariance.trace() > 0:
        raise ValueError(
            "Evidence needs vectors that differ within an emotion, found the same vector for all training utterances "
            "of each: check the features."
        )
    target = covariance.trace() / d * torch.eye(d, dtype=centred.dtype)
    noise = centred.square().sum(1).square().mean() / n - covariance.square().sum() / n
    share = float((noise / (covariance - target).square().sum().clamp(min=1e-12)).clamp(0, 1))
    # A tiny ridge keeps constant columns invertible.
    return (1 - share) * covariance + share * target + 1e-6 * target, share


def _calibrate(score: Tensor, label: Tensor) -> tuple[float, Tensor]:
    """Temperature and offsets by maximum likelihood."""
    log_scale = score.new_zeros((), requires_grad=True)
    offset = score.new_zeros(score.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(log_scale.exp() * score + offset, label)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(log_scale.detach().exp()), offset.detach()
