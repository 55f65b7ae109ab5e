"""Evidence against its own definition, point by point, and the honesty that it is there for."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from merc.conversation import Conversation, Corpus, Utterance, UtteranceKey
from merc.encoders import GaussianEvidence, evidence_table
from merc.labels import LabelSet
from merc.store import FeatureStore, StoreError

LABELS = LabelSet("two", ("calm", "angry"))


def drawn(n: int, d: int, classes: int, gap: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = gap * torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    label = torch.randint(classes, (n,), generator=generator)
    return means[label] + torch.randn(n, d, generator=generator), label


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
    evidence = fitted(x, y)
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


def test_training_evidence_is_as_good_as_new_evidence_and_no_better():
    scale = 10 ** (-2 * torch.arange(200) / 200)  # with such a covariance little is shrunk, and every vector counts
    honest, new, naive = [], [], []
    for seed in range(3):
        x, y = drawn(1000, 200, 4, 0.12, seed=seed)
        new_x, new_y = drawn(4000, 200, 4, 0.12, seed=100 + seed)
        fitted = GaussianEvidence.fit(x * scale, y, 4)
        honest.append(F.cross_entropy(fitted(x * scale, y), y).item())
        new.append(F.cross_entropy(fitted(new_x * scale), new_y).item())
        naive.append(F.cross_entropy(replace(fitted, weight=0.0)(x * scale, y), y).item())
    assert sum(honest) / 3 == pytest.approx(sum(new) / 3, abs=0.03)
    assert sum(naive) / 3 < sum(new) / 3 - 0.06  # what it looks like if only the class mean is left without the vector


def test_standardised_evidence_does_not_depend_on_the_units_of_the_columns():
    x, y = drawn(60, 30, 3, 0.4)
    units = 10.0 ** torch.arange(-2, 3).repeat(6)
    plain = GaussianEvidence.fit(x, y, 3, standardise=True)
    scaled = GaussianEvidence.fit(x * units, y, 3, standardise=True)
    torch.testing.assert_close(scaled(x * units, y), plain(x, y), atol=1e-3, rtol=1e-3)
    careless = GaussianEvidence.fit(x * units, y, 3)(x * units, y)
    assert (careless - plain(x, y)).abs().max() > 0.1


def test_constant_columns_and_unlabelled_rows_do_no_harm():
    x, y = drawn(100, 3, 2, 1.0)
    x = torch.cat([x, torch.ones(100, 1)], 1)
    y[:10] = -100
    for standardise in (False, True):
        assert torch.isfinite(GaussianEvidence.fit(x, y, 2, standardise=standardise)(x, y)).all()


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


def test_evidence_of_another_corpus_is_refused(tmp_path):
    store = FeatureStore.write(tmp_path / "f", [UtteranceKey("train", "x", "y")], torch.randn(1, 3))
    with pytest.raises(StoreError, match="no utterance of corpus 'tiny'"):
        evidence_table(store, corpus())
