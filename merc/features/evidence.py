"""Evidence: calibrated scores of each emotion from the vectors of a modality, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.conversation import Corpus, CorpusError, UtteranceKey
from merc.features.table import FeatureTable
from merc.labels import IGNORE_INDEX
from merc.store import FeatureStore, StoreError

_ROUNDS = 20
_TOLERANCE = 1e-3
"""Maximal rounds of expectation-maximisation, and the change of the memberships below which it stops."""

_PRIOR = 1e-3
_LARGEST_LOG = 15.0
"""Precision of the prior on log-temperature, offsets and log-odds of the noise, and the largest log-temperature."""

_FIRST_NOISE = 0.1
_FOLDS = 3
"""Initial share of wrong labels, and the folds of the cross-validation of the noise estimate."""


@dataclass(frozen=True, eq=False)
class GaussianEvidence:
    r"""Calibrated log-posteriors of one Gaussian per emotion, with a shared covariance.

    Linear discriminant analysis: with class means :math:`\mu_c` and the covariance :math:`\Sigma` within classes,
    shrunk towards a multiple of the identity (Ledoit and Wolf, 2004), the evidence of a vector x is

    .. math:: p_c(x) = \mathrm{softmax}_c(b_c - t \, (x - \mu_c)^T \Sigma^{-1} (x - \mu_c) / 2), \qquad
        e_c(x) = \log((1 - \epsilon) \, p_c(x) + \epsilon \, \pi_c)

    minus its mean over the classes. Temperature t and offsets b are fitted by maximum likelihood, with a weak prior
    that keeps them finite on small corpora. Without label noise, :math:`\epsilon` is 0.

    With label noise, an annotation is the true emotion with probability :math:`1 - \epsilon`, and otherwise drawn from
    the frequencies :math:`\pi` of the annotations. Expectation-maximisation (Lawrence and Schölkopf, 2001) alternates
    between the probability :math:`\gamma_c` that a vector belongs to class c, given its annotation, and the parameters:
    means, covariance, t, b and :math:`\epsilon`. Without label noise, :math:`\gamma` is 1 for the annotated class.
    Classes that are not Gaussian, and weak modalities, look like label noise where there is none; :meth:`fit` therefore
    validates the estimate.

    A classifier scores better on the vectors that it was fitted on than on new ones. A network trained on its outputs
    would learn to trust it too much and the context too little. The evidence of a training vector therefore leaves
    this vector out of the class means and of the covariance, in closed form: with :math:`n_c` the sum of
    :math:`\gamma_c` over the vectors, :math:`k_c = n_c / (n_c - \gamma_c)`, :math:`u_c = x - \mu_c` and :math:`w` the
    weight of one vector in :math:`\Sigma`,

    .. math:: x - \mu_c^{(-x)} = k_c u_c, \qquad \Sigma^{(-x)} = \Sigma - w \sum_c \gamma_c k_c \, u_c u_c^T,

    where the latter is inverted with the identity of Woodbury (1950). Temperature, offsets, :math:`\epsilon` and
    :math:`\gamma` are fitted on this evidence. With label noise, the memberships of the other vectors still depend
    on x.

    Args:
        mean: ``(C, d)`` class means.
        whiten: ``(d, d)`` with ``whiten @ whiten.T`` the inverse covariance.
        membership: ``(N, C)`` :math:`\gamma` of the vectors of the fit, 0 for those without a label.
        weight: w.
        temperature: t.
        offset: ``(C,)`` b.
        noise: :math:`\epsilon`, from 0 to 1.
        frequency: ``(C,)`` :math:`\pi`.
    """

    mean: Tensor
    whiten: Tensor
    membership: Tensor
    weight: float
    temperature: float
    offset: Tensor
    noise: float
    frequency: Tensor

    @classmethod
    def fit(
        cls,
        features: Tensor,
        label: Tensor,
        num_classes: int,
        *,
        standardize: bool = False,
        noisy_labels: bool = False,
    ) -> GaussianEvidence:
        """Fit to the training split.

        Args:
            features: ``(N, d)``.
            label: ``(N,)`` ids in ``0..C-1``; -100 is ignored.
            num_classes: C.
            standardize: Scale every column by its deviation within the emotions, so that the covariance is shrunk
                towards its own diagonal. Use it for numbers with units, such as hertz beside shares.
            noisy_labels: Estimate how many annotations are wrong, and the probability of each. The estimate is kept
                only if it makes held-out annotations more probable, in a cross-validation over three consecutive
                folds. If there are too few vectors for this, the noise is 0.

        Raises:
            ValueError: A class has fewer than two labelled vectors, so that none can be left out, or all vectors of
                every class are equal.
        """
        labelled = label != IGNORE_INDEX
        x, y = features[labelled].double(), label[labelled]
        count = torch.bincount(y, minlength=num_classes)
        if int(count.min()) < 2:
            raise ValueError(
                f"Evidence needs at least 2 labelled training vectors per emotion, found {count.tolist()}. "
                "Merge rare emotions or leave the evidence out."
            )
        fitted = cls._fit_without_noise(x, y, num_classes, standardize)
        if noisy_labels and cls._noise_helps(x, y, num_classes, standardize):
            fitted = fitted._fit_with_noise(x, y, standardize)
        rows = x.new_zeros(len(label), num_classes)
        rows[labelled] = fitted.membership
        return replace(fitted, membership=rows)

    @classmethod
    def _noise_helps(cls, x: Tensor, y: Tensor, num_classes: int, standardize: bool) -> bool:
        """Whether the noise estimate makes held-out labels more probable."""
        gain, fold = 0.0, torch.arange(len(y)) * _FOLDS // len(y)
        for held_out in (fold == number for number in range(_FOLDS)):
            seen, labels = x[~held_out], y[~held_out]
            if int(torch.bincount(labels, minlength=num_classes).min()) < 2:
                return False
            plain = cls._fit_without_noise(seen, labels, num_classes, standardize)
            gain += plain._fit_with_noise(seen, labels, standardize)._log_likelihood(x[held_out], y[held_out])
            gain -= plain._log_likelihood(x[held_out], y[held_out])
        return gain > 0

    @classmethod
    def _fit_without_noise(cls, x: Tensor, y: Tensor, num_classes: int, standardize: bool) -> GaussianEvidence:
        """Fit without label noise."""
        return cls._fit_memberships(x, y, F.one_hot(y, num_classes).double(), standardize, noisy_labels=False)

    def _fit_with_noise(self, x: Tensor, y: Tensor, standardize: bool) -> GaussianEvidence:
        """Fit with label noise by expectation-maximisation, starting from this fit."""
        fitted = self._fit_memberships(x, y, self.membership, standardize, noisy_labels=True)
        for _ in range(_ROUNDS):
            membership = fitted._memberships(x, y)
            converged = float((membership - fitted.membership).abs().max()) < _TOLERANCE
            if float(membership.sum(0).min()) < 2:  # an empty class has no mean to leave a vector out of
                break
            fitted = self._fit_memberships(x, y, membership, standardize, noisy_labels=True)
            if converged:
                break
        return fitted

    def _log_likelihood(self, x: Tensor, y: Tensor) -> float:
        """The log-likelihood of the labels of new vectors."""
        return float(self._label_log_probability(x, None).gather(1, y[:, None]).sum())

    @classmethod
    def _fit_memberships(
        cls, x: Tensor, y: Tensor, membership: Tensor, standardize: bool, noisy_labels: bool
    ) -> GaussianEvidence:
        """Maximum-likelihood fit to vectors ``(N, d)`` with labels ``(N,)`` and memberships ``(N, C)``."""
        count = membership.sum(0)
        mean = membership.T @ x / count[:, None]
        centred = x - membership @ mean
        # The variance of the class means within a vector: 0 if it belongs to one class.
        between = mean.T @ (count.diag() - membership.T @ membership) @ mean / len(x)
        unit = (centred.square().mean(0) + between.diag()).sqrt() if standardize else torch.ones_like(x[0])
        unit = torch.where(unit > 0, unit, 1.0)
        covariance, share = _ledoit_wolf(centred / unit, between / unit / unit[:, None])
        whiten = torch.linalg.cholesky(torch.linalg.inv(covariance)) / unit[:, None]
        frequency = torch.bincount(y, minlength=len(count)).double() / len(y)
        weight = (1 - share) / len(x)
        raw = cls(mean, whiten, membership, weight, 1.0, torch.zeros_like(count), 0.0, frequency)
        temperature, offset, noise = _calibrate(raw._score(x, membership), y, frequency if noisy_labels else None)
        return replace(raw, temperature=temperature, offset=offset, noise=noise)

    def __call__(self, features: Tensor, left_out: Tensor | None = None) -> Tensor:
        """The evidence ``(N, C)`` of vectors ``(N, d)``.

        Args:
            features: Vectors.
            left_out: ``(N, C)``: the rows of ``membership`` for vectors of the fit; 0 for others.
        """
        evidence = self._label_log_probability(features.double(), left_out)
        return (evidence - evidence.mean(-1, keepdim=True)).float()

    def _label_log_probability(self, x: Tensor, left_out: Tensor | None) -> Tensor:
        """The log-probability of every label ``(N, C)``."""
        correct = self._posterior(x, left_out) + math.log1p(-self.noise)
        return torch.logaddexp(correct, (self.noise * self.frequency).log())

    def _posterior(self, x: Tensor, left_out: Tensor | None) -> Tensor:
        """Log p ``(N, C)``."""
        return (self.temperature * self._score(x, left_out) + self.offset).log_softmax(-1)

    def _memberships(self, x: Tensor, y: Tensor) -> Tensor:
        """The probability of every class ``(N, C)``, given vector and label."""
        annotated = self.noise * self.frequency[y, None] + (1 - self.noise) * F.one_hot(y, len(self.frequency))
        return (self._posterior(x, self.membership) + annotated.log()).softmax(-1)

    def _score(self, x: Tensor, left_out: Tensor | None) -> Tensor:
        vectors, centres = x @ self.whiten, self.mean @ self.whiten
        if left_out is None:
            return -torch.cdist(vectors, centres).square() / 2
        count = self.membership.sum(0)
        stretch = count / (count - left_out)
        # Inner products (N, C, C) of the whitened x - mu_c, which determine the inverse of a covariance without x.
        across = vectors @ centres.T
        inner = vectors.square().sum(-1)[:, None, None] - across[:, :, None] - across[:, None] + centres @ centres.T
        scale = (self.weight * left_out * stretch).sqrt()
        onto = scale[:, :, None] * inner
        left = torch.eye(len(count), dtype=x.dtype) - onto * scale[:, None]
        distance: Tensor = inner.diagonal(dim1=1, dim2=2) + (onto * torch.linalg.solve(left, onto)).sum(1)
        return -stretch.square() * distance / 2


def evidence_table(
    store: FeatureStore,
    corpus: Corpus,
    *,
    append: bool = False,
    standardize: bool = False,
    noisy_labels: bool = False,
    fitted_on: tuple[FeatureStore, Corpus] | None = None,
) -> FeatureTable:
    """The evidence (:class:`merc.features.GaussianEvidence`) for every utterance of a corpus in a store.

    It is fitted on the labels of the train split only. Each training utterance is left out of its own evidence, so that
    the evidence is as good on the training split as on new utterances.

    Args:
        store: Encoder features of one modality.
        corpus: The corpus, with the labels.
        append: Keep the features in front of the evidence.
        standardize: Whether the columns have units (see :meth:`GaussianEvidence.fit`).
        noisy_labels: Whether to estimate which annotations are wrong, if this helps (see :meth:`GaussianEvidence.fit`).
        fitted_on: Features and corpus to fit on instead, for a corpus of new utterances without labels. It must not
            contain any utterance of ``corpus``.

    Returns:
        Features ``(N, C)``, or ``(N, d + C)`` with ``append``.

    Raises:
        StoreError: The store does not contain features, or no utterance of the corpus, or features of another width
            than those of the fit.
        CorpusError: The corpus has no train split.
        ValueError: An emotion has fewer than two training utterances.
    """
    store.require(kind="features")
    store.require_corpus(corpus)
    source, labelled = fitted_on or (store, corpus)
    train, fitted = fit_evidence(source, labelled, standardize=standardize, noisy_labels=noisy_labels)
    keys = [key for split in corpus.values() for c in split for key in c.keys]
    there = [key for key in keys if key in store]
    left_out = None
    if fitted_on is None:
        row = {key: index for index, key in enumerate(train)}
        new = fitted.membership.new_zeros(1, len(corpus.labels))
        left_out = torch.cat([fitted.membership, new])[[row.get(key, -1) for key in there]]
    else:
        store.require(dim=source.dim)
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
        "label_noise": fitted.noise,
    }
    return FeatureTable(there, rows, store.why_missing(keys), provenance)


def _train_labels(corpus: Corpus) -> dict[UtteranceKey, int]:
    """The label id of every training utterance, -100 for unlabelled."""
    if "train" not in corpus:
        raise CorpusError(f"Corpus {corpus.name!r} has no train split. Evidence needs its labels.")
    return {k: corpus.labels.index(u.label) for c in corpus["train"] for k, u in zip(c.keys, c.utterances, strict=True)}


def fit_evidence(
    store: FeatureStore, corpus: Corpus, *, standardize: bool = False, noisy_labels: bool = False
) -> tuple[list[UtteranceKey], GaussianEvidence]:
    """Fit the evidence to the features and labels of the train split of a corpus.

    Args:
        store: Encoder features of one modality.
        corpus: The corpus, with the labels.
        standardize: As for :func:`evidence_table`.
        noisy_labels: As for :func:`evidence_table`.

    Returns:
        The utterances that it was fitted on, in the order of the rows of ``membership``, and the evidence.

    Raises:
        StoreError: The store has no utterance of the corpus.
        CorpusError: The corpus has no train split.
        ValueError: An emotion has fewer than two training utterances.
    """
    labels = _train_labels(corpus)
    there = [key for split in corpus.values() for c in split for key in c.keys if key in store]
    if not there:
        raise StoreError(f"{store.path} has no utterance of corpus {corpus.name!r}. Give the store of this corpus.")
    train = [key for key in there if key in labels]
    features, _ = store.gather(train)
    label = torch.tensor([labels[key] for key in train]).long()
    count = len(corpus.labels)
    return train, GaussianEvidence.fit(features, label, count, standardize=standardize, noisy_labels=noisy_labels)


def _ledoit_wolf(centred: Tensor, between: Tensor) -> tuple[Tensor, float]:
    """Covariance of centred rows plus ``between``, shrunk towards a multiple of the identity; and the share of it."""
    n, d = centred.shape
    covariance = centred.T @ centred / n + between
    if not torch.isfinite(covariance).all():
        raise ValueError(
            "Evidence needs finite vectors whose squares are finite, found a covariance that is not. Check the "
            "features, or scale them."
        )
    if not covariance.trace() > 0:
        raise ValueError(
            "Evidence needs vectors that differ within an emotion, found the same vector for all training utterances "
            "of each. Check the features."
        )
    target = covariance.trace() / d * torch.eye(d, dtype=centred.dtype)
    noise = centred.square().sum(1).square().mean() / n - covariance.square().sum() / n
    share = float((noise / (covariance - target).square().sum().clamp(min=1e-12)).clamp(0, 1))
    # A tiny ridge keeps constant columns invertible.
    return (1 - share) * covariance + share * target + 1e-6 * target, share


def _calibrate(score: Tensor, label: Tensor, frequency: Tensor | None) -> tuple[float, Tensor, float]:
    """Fit temperature, offsets and, if the label frequencies are given, the label noise by maximum likelihood.

    A weak Gaussian prior on log-temperature, offsets and log-odds of the noise keeps them finite where the scores of
    few vectors separate the classes: the likelihood then has no maximum.
    """
    log_scale = score.new_zeros((), requires_grad=True)
    offset = score.new_zeros(score.shape[1], requires_grad=True)
    noise = score.new_full((), _FIRST_NOISE).logit().requires_grad_()
    optimizer = torch.optim.LBFGS([log_scale, offset, noise], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scale = log_scale.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()  # a long step must not overflow
        log_likelihood = (scale * score + offset).log_softmax(-1).gather(1, label[:, None])[:, 0]
        if frequency is not None:
            log_likelihood = torch.logaddexp(
                F.logsigmoid(noise) + frequency[label].log(), F.logsigmoid(-noise) + log_likelihood
            )
        prior = log_scale.square() + offset.square().sum() + noise.square()
        loss = -log_likelihood.mean() + _PRIOR / 2 * prior / len(label)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = 0.0 if frequency is None else min(float(noise.detach().sigmoid()), 1 - 1e-6)
    return float(log_scale.detach().clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()), offset.detach(), found
