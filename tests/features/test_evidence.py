"""Evidence against its own definition, point by point, and the honesty that it is there for."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from merc.conversation import Conversation, Corpus, Utterance, UtteranceKey
from merc.features import GaussianEvidence, evidence_table
from merc.features.evidence import _calibrate
from merc.labels import LabelSet
from merc.store import FeatureStore, StoreError

LABELS = LabelSet("two", ("calm", "angry"))


def drawn(n: int, d: int, classes: int, gap: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = gap * torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    label = torch.randint(classes, (n,), generator=generator)
    return means[label] + torch.randn(n, d, generator=generator), label


def noisy(n: int, d: int, classes: int, gap: float, share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A share of the labels drawn anew."""
    x, y = drawn(n, d, classes, gap, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return x, torch.where(
        torch.rand(n, generator=generator) < share, torch.randint(classes, (n,), generator=generator), y
    )


def test_evidence_is_the_gaussian_log_posterior():
    x, y = drawn(300, 5, 3, 1.0)
    fitted = GaussianEvidence.fit(x, y, 3)
    covariance = torch.linalg.inv(fitted.whiten @ fitted.whiten.T)
    for vector in x[:10].double():
        score = torch.stack(
            [
                -0.5 * fitted.temperature * (vector - mean) @ torch.linalg.inv(covariance) @ (vector - mean)
                for mean in (x[y == c].double().mean(0) for c in range(3))
            ]
        )
        expected = (score + fitted.offset).log_softmax(0)
        torch.testing.assert_close(fitted(vector[None])[0], (expected - expected.mean()).float(), atol=1e-4, rtol=1e-4)


def test_a_left_out_vector_takes_no_part_in_mean_and_covariance():
    x, y = drawn(40, 4, 2, 1.0)
    fitted = GaussianEvidence.fit(x, y, 2)
    evidence = fitted(x, fitted.membership)
    deviations = torch.stack([v.double() - x[y == c].double().mean(0) for v, c in zip(x, y, strict=True)])
    shrinkage = torch.linalg.inv(fitted.whiten @ fitted.whiten.T) - fitted.weight * deviations.T @ deviations
    for row in range(len(x)):
        others = torch.arange(len(x)) != row
        mean = torch.stack([x[others & (y == c)].double().mean(0) for c in range(2)])
        centred = x[others].double() - mean[y[others]]
        covariance = shrinkage + fitted.weight * centred.T @ centred
        whiten = torch.linalg.cholesky(torch.linalg.inv(covariance))
        alone = replace(fitted, mean=mean, whiten=whiten)
        torch.testing.assert_close(evidence[row], alone(x[row : row + 1])[0], atol=1e-4, rtol=1e-4)


def test_a_vector_of_several_classes_takes_no_part_in_mean_and_covariance_either():
    x, y = noisy(60, 4, 3, 1.5, 0.3)
    fitted = GaussianEvidence.fit(x, y, 3)._fit_with_noise(x.double(), y, standardize=False)
    gamma = fitted.membership
    assert ((gamma > 0.05) & (gamma < 0.95)).any()

    def scatter(rows):
        total = gamma[rows].sum(0)
        mean = torch.stack([(gamma[rows, c, None] * x[rows]).sum(0) / total[c] for c in range(3)])
        apart = x[rows, None].double() - mean
        return mean, torch.einsum("nc,nci,ncj->ij", gamma[rows], apart, apart)

    whole = scatter(torch.ones(60, dtype=torch.bool))[1]
    shrinkage = torch.linalg.inv(fitted.whiten @ fitted.whiten.T) - fitted.weight * whole
    evidence = fitted(x, gamma)
    for row in range(60):
        mean, without = scatter(torch.arange(60) != row)
        whiten = torch.linalg.cholesky(torch.linalg.inv(shrinkage + fitted.weight * without))
        alone = replace(fitted, mean=mean, whiten=whiten)
        torch.testing.assert_close(evidence[row], alone(x[row : row + 1])[0], atol=1e-4, rtol=1e-4)


def test_noisy_labels_is_estimated_and_predicts_new_labels_better():
    x, y = noisy(3000, 20, 4, 0.8, 0.3)
    new_x, new_y = noisy(3000, 20, 4, 0.8, 0.3, seed=5)
    plain, fitted = (GaussianEvidence.fit(x, y, 4, noisy_labels=noise) for noise in (False, True))
    truth = drawn(3000, 20, 4, 0.8)[1]
    assert plain.noise == 0.0 and fitted.noise == pytest.approx(0.3, abs=0.05)
    assert (fitted.membership.argmax(1) == truth).float().mean() > (y == truth).float().mean() + 0.1
    assert F.cross_entropy(fitted(new_x), new_y) < F.cross_entropy(plain(new_x), new_y) - 0.01
    new = (fitted(new_x).double().softmax(-1) - fitted.noise * fitted.frequency) / (1 - fitted.noise)
    torch.testing.assert_close(new, fitted._posterior(new_x.double(), None).exp(), atol=1e-6, rtol=1e-5)


def test_a_class_that_nobody_believes_in_does_not_die_out():
    x, y = drawn(3000, 2, 2, 1.0)
    y = torch.where(torch.arange(3000) % 1000 == 0, 2, y)  # three vectors of the others, annotated as a third class
    fitted = GaussianEvidence.fit(x, y, 3)._fit_with_noise(x.double(), y, standardize=False)
    assert torch.isfinite(fitted(x, fitted.membership)).all() and fitted.membership.sum(0).min() >= 2


@pytest.mark.parametrize(("sign", "believed"), [(1, True), (-1, False)])
def test_noisy_labels_that_does_not_foretell_new_labels_is_not_believed(sign, believed, monkeypatch):
    x, y = noisy(900, 10, 3, 0.8, 0.3)
    denoised = GaussianEvidence._fit_with_noise

    def tampered(self, x, y, standardize):
        found = denoised(self, x, y, standardize)
        return replace(found, temperature=found.temperature * sign)

    monkeypatch.setattr(GaussianEvidence, "_fit_with_noise", tampered)
    fitted = GaussianEvidence.fit(x, y, 3, noisy_labels=True)
    assert (fitted.noise > 0) == believed
    assert torch.equal(fitted(x), GaussianEvidence.fit(x, y, 3)(x)) != believed


def test_training_evidence_is_as_good_as_new_evidence_and_no_better():
    scale = 10 ** (-2 * torch.arange(200) / 200)  # with such a covariance little is shrunk, and every vector counts
    honest, new, naive = [], [], []
    for seed in range(3):
        x, y = drawn(1000, 200, 4, 0.12, seed=seed)
        new_x, new_y = drawn(4000, 200, 4, 0.12, seed=100 + seed)
        fitted = GaussianEvidence.fit(x * scale, y, 4)
        honest.append(F.cross_entropy(fitted(x * scale, fitted.membership), y).item())
        new.append(F.cross_entropy(fitted(new_x * scale), new_y).item())
        naive.append(F.cross_entropy(replace(fitted, weight=0.0)(x * scale, fitted.membership), y).item())
    assert sum(honest) / 3 == pytest.approx(sum(new) / 3, abs=0.03)
    assert sum(naive) / 3 < sum(new) / 3 - 0.06  # what it looks like if only the class mean is left without the vector


def test_standardized_evidence_does_not_depend_on_the_units_of_the_columns():
    x, y = drawn(60, 30, 3, 0.4)
    units = 10.0 ** torch.arange(-2, 3).repeat(6)
    plain = GaussianEvidence.fit(x, y, 3, standardize=True)
    scaled = GaussianEvidence.fit(x * units, y, 3, standardize=True)
    ours, theirs = scaled(x * units, scaled.membership), plain(x, plain.membership)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    careless = GaussianEvidence.fit(x * units, y, 3)
    assert (careless(x * units, careless.membership) - theirs).abs().max() > 0.1


def test_constant_columns_and_unlabelled_rows_do_no_harm():
    x, y = drawn(100, 3, 2, 1.0)
    x = torch.cat([x, torch.ones(100, 1)], 1)
    y[:10] = -100
    for standardize in (False, True):
        fitted = GaussianEvidence.fit(x, y, 2, standardize=standardize)
        assert torch.isfinite(fitted(x, fitted.membership)).all()
        assert not fitted.membership[:10].any()


def test_an_emotion_with_one_vector_is_refused():
    with pytest.raises(ValueError, match="at least 2 labelled training vectors"):
        GaussianEvidence.fit(torch.randn(5, 2), torch.tensor([0, 0, 0, 0, 1]), 2)


def test_vectors_that_do_not_differ_are_refused():
    with pytest.raises(ValueError, match="differ within an emotion"):
        GaussianEvidence.fit(torch.ones(6, 2), torch.tensor([0, 0, 0, 1, 1, 1]), 2)


def corpus() -> Corpus:
    def talk(split: str, count: int) -> list[Conversation]:
        return [
            Conversation(
                str(d),
                tuple(Utterance(str(u), "ab"[u % 2], label=LABELS.names[(d + u) % 2]) for u in range(4)),
                split,
            )
            for d in range(count)
        ]

    return Corpus("tiny", LABELS, {"train": talk("train", 10), "test": talk("test", 5)})


def test_a_store_becomes_evidence_without_reading_test_labels(tmp_path):
    data = corpus()
    keys = [key for split in data.values() for c in split for key in c.keys]
    features = torch.randn(len(keys), 6)
    store = FeatureStore.write(tmp_path / "f", keys[:-1], features[:-1], missing={keys[-1]: "no sound"})
    table = evidence_table(store, data)
    appended = evidence_table(store, data, append=True)
    assert table.features.shape == (len(keys) - 1, 2)
    assert torch.equal(appended.features, torch.cat([features[:-1], table.features], 1))
    assert table.missing == {keys[-1]: "no sound"}

    swapped = {"calm": "angry", "angry": "calm"}
    test = [
        Conversation(c.id, tuple(Utterance(u.id, u.speaker, label=swapped[u.label]) for u in c.utterances), "test")
        for c in data["test"]
    ]
    other = evidence_table(store, Corpus("tiny", LABELS, {"train": data["train"], "test": test}))
    assert torch.equal(table.features, other.features)


def test_evidence_of_a_corpus_is_that_of_its_vectors_and_of_new_ones_without_leaving_any_out(tmp_path):
    data = corpus()
    keys = [key for split in data.values() for c in split for key in c.keys]
    features = torch.randn(len(keys), 6, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(2)).tolist()
    store = FeatureStore.write(tmp_path / "f", [keys[i] for i in order], features[order])
    table = evidence_table(store, data, noisy_labels=True)
    train = [i for i, key in enumerate(keys) if key.partition == "train"]
    label = torch.tensor([data.labels.index(u.label) for c in data["train"] for u in c.utterances])
    fitted = GaussianEvidence.fit(features[train], label, 2, noisy_labels=True)
    rows = dict(zip(table.keys, table.features, strict=True))
    expected = torch.cat([fitted(features[train], fitted.membership), fitted(features[len(train) :])])
    torch.testing.assert_close(torch.stack([rows[key] for key in keys]), expected)
    assert table.provenance["label_noise"] == fitted.noise


def test_evidence_of_another_corpus_is_refused(tmp_path):
    store = FeatureStore.write(tmp_path / "f", [UtteranceKey("train", "x", "y")], torch.randn(1, 3))
    with pytest.raises(StoreError, match="no utterance of corpus 'tiny'"):
        evidence_table(store, corpus())


@pytest.mark.parametrize("size", [0.1, 10.0, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_calibration_stays_finite_where_few_vectors_separate_the_classes(size, seed):
    generator = torch.Generator().manual_seed(seed)
    score = -size * torch.rand(30, 4, generator=generator).double()
    label = score.argmax(1)
    label[:4] = torch.arange(4)
    frequency = torch.bincount(label, minlength=4).double() / 30
    temperature, offset, noise = _calibrate(score, label, frequency)
    assert 0 < temperature < 1e6 and offset.abs().max() < 100 and 0 <= noise < 1


@pytest.mark.parametrize("gap", [0.0, 3.0, 30.0])
def test_small_corpora_have_finite_evidence_with_noisy_labels(gap):
    x, y = drawn(30, 8, 2, gap)
    fitted = GaussianEvidence.fit(x, y, 2)._fit_with_noise(x.double(), y, standardize=False)
    assert torch.isfinite(fitted(x, fitted.membership)).all() and fitted.temperature < 1e6


def test_vectors_whose_squares_overflow_are_not_called_equal():
    x, y = drawn(30, 3, 2, 1.0)
    with pytest.raises(ValueError, match="squares are finite"):
        GaussianEvidence.fit(x.double() * 1e200, y, 2)
