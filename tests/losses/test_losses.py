"""Every loss against a slow, obvious version of its equation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from merc.losses import (
    DistillationLoss,
    FusionLoss,
    LabelSmoothingCrossEntropy,
    LogitAdjusted,
    PolynomialCrossEntropy,
    SupervisedContrastiveLoss,
)

few = settings(max_examples=40, deadline=None)


def softmax(row):
    top = max(row)
    powers = [math.exp(x - top) for x in row]
    return [p / sum(powers) for p in powers]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def slow_polynomial(logits, label, alpha, gamma):
    losses = []
    for row, y in zip(logits.tolist(), label.tolist(), strict=True):
        if y != -100:
            p = softmax(row)[y]
            losses.append(-math.log(p) + alpha * (1 - p) ** (1 + gamma))
    return mean(losses)


def slow_smoothing(logits, label, epsilon):
    losses = []
    for row, y in zip(logits.tolist(), label.tolist(), strict=True):
        if y != -100:
            p, classes = softmax(row), len(row)
            q = [epsilon / classes + (1 - epsilon if c == y else 0) for c in range(classes)]
            losses.append(-sum(q[c] * math.log(p[c]) for c in range(classes)))
    return mean(losses)


def slow_contrastive(projections, label, temperature):
    rows = [[x / math.sqrt(sum(v * v for v in row)) for x in row] for row in projections.tolist()]
    label = label.tolist()
    known = [i for i, y in enumerate(label) if y != -100]

    def similarity(i, j):
        return sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / temperature

    anchors = []
    for i in known:
        positives = [j for j in known if j != i and label[j] == label[i]]
        if positives:
            denominator = sum(math.exp(similarity(i, j)) for j in known if j != i)
            anchors.append(mean([-math.log(math.exp(similarity(i, p)) / denominator) for p in positives]))
    return mean(anchors)


def slow_distillation(student, label, teacher, present, alpha, temperature):
    divergences = []
    for s, t, there in zip(student.tolist(), teacher.tolist(), present.tolist(), strict=True):
        if there:
            ps, pt = softmax([x / temperature for x in s]), softmax([x / temperature for x in t])
            divergences.append(sum(b * math.log(b / a) for a, b in zip(ps, pt, strict=True)))
    ce = slow_polynomial(student, label, 0.0, 0.0)
    return alpha * ce, (1 - alpha) * temperature**2 * mean(divergences)


@st.composite
def batches(draw, classes=None):
    """Logits in double precision and labels: any mixture, one class only, nothing labelled."""
    classes = classes or draw(st.integers(2, 7))
    n = draw(st.integers(1, 12))
    ids = draw(
        st.one_of(
            st.lists(st.sampled_from([-100, *range(classes)]), min_size=n, max_size=n),
            st.integers(0, classes - 1).map(lambda c: [c] * n),
            st.just([-100] * n),
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = draw(st.sampled_from([0.1, 1.0, 5.0])) * torch.randn(n, classes, generator=generator, dtype=torch.double)
    return logits, torch.tensor(ids)


def near(expected):
    return pytest.approx(expected, rel=1e-7, abs=1e-9)


@few
@given(batches(), st.floats(-1, 3), st.floats(0, 3))
def test_polynomial_cross_entropy(batch, alpha, gamma):
    assert PolynomialCrossEntropy(alpha, gamma)(*batch).item() == near(slow_polynomial(*batch, alpha, gamma))


@few
@given(batches(), st.floats(0, 1))
def test_label_smoothing(batch, epsilon):
    assert LabelSmoothingCrossEntropy(epsilon)(*batch).item() == near(slow_smoothing(*batch, epsilon))


@few
@given(batches(), st.floats(0, 2))
def test_logit_adjustment_is_the_loss_on_logits_shifted_by_the_frequencies_of_the_training_split(batch, tau):
    logits, label = batch
    counts = [label.tolist().count(c) for c in range(logits.shape[1])]
    loss = LogitAdjusted(tau, PolynomialCrossEntropy(), counts)
    value = loss(logits, label).item()
    count = [1 + n for n in counts]
    shift = torch.tensor([tau * math.log(n / sum(count)) for n in count], dtype=torch.double)
    assert value == near(slow_polynomial(logits + shift, label, 1.2, 1.2))
    told = LogitAdjusted(tau, PolynomialCrossEntropy())
    told.set_class_counts(counts)
    assert told(logits, label).item() == near(value)


def test_logit_adjustment_without_counts_says_so():
    with pytest.raises(
        ValueError, match=r"expected class_counts of 3 emotions, found None. Pass class_counts to the loss"
    ):
        LogitAdjusted()(torch.randn(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"expected class_counts of 3 emotions, found \[4, 4\]"):
        LogitAdjusted(class_counts=[4, 4])(torch.randn(2, 3), torch.tensor([0, 1]))


def test_logit_adjustment_finds_more_of_a_rare_emotion():
    torch.manual_seed(0)
    label = (torch.rand(4000) < 0.1).long()
    x = torch.randn(4000, 1) + label[:, None]
    found = {}
    for tau in (0.0, 0.5, 1.0):
        network, loss = nn.Linear(1, 2), LogitAdjusted(tau, class_counts=torch.bincount(label).tolist())
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=50, line_search_fn="strong_wolfe")

        def closure(network=network, loss=loss, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(network(x), label)
            value.backward()
            return value

        optimizer.step(closure)
        # The boundary of two Gaussians of unit variance, a unit apart, with the frequencies to the power 1 - tau.
        boundary = -(network.bias[1] - network.bias[0]) / (network.weight[1] - network.weight[0])
        assert boundary.item() == pytest.approx(0.5 + (1 - tau) * math.log(9), abs=0.3)
        found[tau] = int(network(x).argmax(1).sum())
    assert found[0.0] < found[0.5] < found[1.0]


@few
@given(batches(), st.sampled_from([0.07, 0.5, 2.0]))
def test_supervised_contrast(batch, temperature):
    assert SupervisedContrastiveLoss(temperature)(*batch).item() == near(slow_contrastive(*batch, temperature))


@few
@given(batches(), st.floats(0.01, 0.99), st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.integers(0, 2**31))
def test_distillation(batch, alpha, temperature, seed):
    logits, label = batch
    generator = torch.Generator().manual_seed(seed)
    teacher = 3 * torch.randn(logits.shape, generator=generator, dtype=torch.double)
    present = torch.rand(len(label), generator=generator) < 0.6
    terms = DistillationLoss(alpha, temperature)(logits, label, teacher, present)
    ce, kl = slow_distillation(logits, label, teacher, present, alpha, temperature)
    assert terms["ce"].item() == near(ce)
    assert terms["kl"].item() == near(kl)


@few
@given(batches(), st.floats(0.01, 0.99), st.floats(0.01, 2))
def test_fusion_is_the_weighted_sum_of_its_terms(batch, alpha, weight):
    logits, label = batch
    loss = FusionLoss(5, alpha, weight, projection_dim=3).double()
    embeddings = torch.randn(len(label), 5, dtype=torch.double)
    terms = loss(logits, label, embeddings)
    assert terms["comp"].item() == near(alpha * slow_polynomial(logits, label, 1.2, 1.2))
    assert terms["smooth"].item() == near((1 - alpha) * slow_smoothing(logits, label, 0.1))
    assert terms["cont"].item() == near(weight * slow_contrastive(loss.projection(embeddings), label, 0.07))


def single(loss):
    """Every loss as a function of (N, 4) logits and labels, so that all meet the same demands."""

    def call(logits, label):
        if isinstance(loss, DistillationLoss):
            return sum(loss(logits, label, torch.ones_like(logits), label != -100).values())
        if isinstance(loss, FusionLoss):
            return sum(loss(logits, label, logits).values())
        return loss(logits, label)

    return call


LOSSES = [
    PolynomialCrossEntropy(),
    PolynomialCrossEntropy(gamma=0),
    LabelSmoothingCrossEntropy(),
    LogitAdjusted(class_counts=[5, 0, 2, 9]),
    SupervisedContrastiveLoss(),
    SupervisedContrastiveLoss(positives="one"),
    DistillationLoss(),
    DistillationLoss(ce=LogitAdjusted(class_counts=[5, 0, 2, 9])),
    FusionLoss(4),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


@every_loss
@pytest.mark.parametrize("n", [0, 1, 5])
def test_without_labels_the_loss_is_zero_and_still_has_a_gradient(loss, n):
    logits = torch.randn(n, 4, requires_grad=True)
    value = single(loss)(logits, torch.full((n,), -100))
    value.backward()
    assert value.item() == 0
    assert value.grad_fn is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@every_loss
def test_unlabelled_utterances_change_nothing(loss):
    torch.manual_seed(0)
    loss = loss.eval()
    logits, label = torch.randn(9, 4), torch.tensor([0, -100, 1, 0, -100, 2, 1, 0, -100])
    known = label != -100
    torch.testing.assert_close(single(loss)(logits, label), single(loss)(logits[known], label[known]))
    loss.train()


@every_loss
def test_gradients_stay_finite_at_the_extremes(loss):
    sure = torch.tensor([[200.0, -200, 0, 0], [-200.0, 200, 0, 0], [0.0, 0, 0, 0.001]]).requires_grad_()
    value = single(loss)(sure, torch.tensor([0, 0, 0]))
    value.backward()
    assert value.isfinite() and sure.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [
        PolynomialCrossEntropy(),
        LabelSmoothingCrossEntropy(),
        LogitAdjusted(loss=LabelSmoothingCrossEntropy(), class_counts=[5, 0, 2, 9]),
        SupervisedContrastiveLoss(0.5),
        DistillationLoss(),
        FusionLoss(4).double(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_gradients_are_those_of_the_value(loss):
    torch.manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: single(loss)(x, torch.tensor([0, 1, -100, 0, 1])), (logits,))


def test_one_positive_is_drawn_repeatably_and_is_on_average_the_mean_over_all():
    torch.manual_seed(0)
    z, label = torch.randn(12, 6), torch.arange(12) % 3
    one, every = SupervisedContrastiveLoss(0.5, "one"), SupervisedContrastiveLoss(0.5)
    torch.manual_seed(3)
    first = one(z, label)
    torch.manual_seed(3)
    assert one(z, label) == first
    draws = torch.stack([one(z, label) for _ in range(2000)])
    assert draws.std() > 0.01
    assert draws.mean().item() == pytest.approx(every(z, label).item(), abs=0.01)
    assert one.eval()(z, label) == every(z, label)


def test_one_positive_is_never_the_anchor_nor_of_another_class():
    z = nn.functional.one_hot(torch.tensor([0, 0, 1, 1]), 2).double()
    # With identical positives every draw gives the same value, unless it is the anchor or a negative.
    expected = slow_contrastive(z, torch.tensor([0, 0, 1, 1]), 0.5)
    loss = SupervisedContrastiveLoss(0.5, "one")
    for _ in range(50):
        assert loss(z, torch.tensor([0, 0, 1, 1])).item() == near(expected)


def test_an_anchor_without_a_positive_is_left_out_of_the_mean_but_stays_a_negative():
    z, label = torch.randn(3, 4, dtype=torch.double), torch.tensor([0, 0, 1])
    rows = nn.functional.normalize(z, dim=-1)
    s = (rows @ rows.T / 0.07).tolist()
    anchors = [
        -(s[0][1] - math.log(math.exp(s[0][1]) + math.exp(s[0][2]))),
        -(s[1][0] - math.log(math.exp(s[1][0]) + math.exp(s[1][2]))),
    ]
    assert SupervisedContrastiveLoss()(z, label).item() == near(mean(anchors))


def test_an_utterance_without_a_teacher_has_cross_entropy_only():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    label, present = torch.tensor([0, 1, 2, -100]), torch.tensor([True, False, True, True])
    terms = DistillationLoss()(student, label, teacher, present)
    (gradient,) = torch.autograd.grad(terms["kl"], student, retain_graph=True)
    assert gradient[1].abs().sum() == 0
    assert gradient[3].abs().sum() > 0  # unlabelled, yet the teacher has something to say
    sum(terms.values()).backward()
    assert teacher.grad is None
    assert student.grad[1].abs().sum() > 0


def test_without_distillation_no_teacher_is_needed():
    logits, label = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])
    terms = DistillationLoss(alpha=1)(logits, label)
    assert terms.keys() == {"ce"}
    torch.testing.assert_close(terms["ce"], nn.functional.cross_entropy(logits, label))
    with pytest.raises(ValueError, match="set alpha to 1"):
        DistillationLoss()(logits, label)
    with pytest.raises(ValueError, match=r"\(4, 3\), got shape \(4, 2\)"):
        DistillationLoss()(logits, label, torch.randn(4, 2))
    assert DistillationLoss(alpha=0)(logits, label, logits).keys() == {"kl"}


def test_a_term_of_weight_zero_is_neither_computed_nor_returned():
    class Refuses(PolynomialCrossEntropy):
        def per_utterance(self, log_probabilities, label):
            raise AssertionError("computed")

    logits, label = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])
    loss = FusionLoss(3, alpha_comp=1, lambda_cont=0, comp=PolynomialCrossEntropy(alpha=0), smooth=Refuses())
    terms = loss(logits, label)
    assert terms.keys() == {"comp"}
    assert not list(loss.parameters())
    torch.testing.assert_close(terms["comp"], nn.functional.cross_entropy(logits, label))
    assert FusionLoss(3, alpha_comp=0)(logits, label, logits).keys() == {"smooth", "cont"}


def test_the_projection_learns():
    loss = FusionLoss(6)
    sum(loss(torch.randn(8, 3), torch.arange(8) % 2, torch.randn(8, 6)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PolynomialCrossEntropy(alpha=-1.5), "alpha is -1.5, expected a finite number >= -1"),
        (lambda: PolynomialCrossEntropy(gamma=float("nan")), "gamma is nan"),
        (lambda: LabelSmoothingCrossEntropy(1.5), "epsilon is 1.5, expected a finite number >= 0 and <= 1"),
        (lambda: LogitAdjusted(-1), "tau is -1, expected a finite number >= 0"),
        (
            lambda: LogitAdjusted(class_counts=[3, -1]),
            r"class_counts are \[3, -1\], expected at least two numbers >= 0",
        ),
        (lambda: SupervisedContrastiveLoss(0), "temperature is 0, expected a finite number > 0"),
        (lambda: SupervisedContrastiveLoss(positives="two"), "'two', expected 'all' or 'one'"),
        (lambda: DistillationLoss(alpha=2), "alpha is 2"),
        (lambda: DistillationLoss(temperature=float("inf")), "temperature is inf"),
        (lambda: FusionLoss(4, alpha_comp=-0.1), "alpha_comp is -0.1"),
        (lambda: FusionLoss(4, lambda_cont=-1), "lambda_cont is -1"),
        (lambda: FusionLoss(-1), "dim is -1"),
        (lambda: FusionLoss(0), "lambda_cont is 0.1.*but the head returns none. Set lambda_cont to 0"),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Flatten padded sequences"):
        PolynomialCrossEntropy()(torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"embeddings of shape \(2, 8\), got shape \(2, 7\)"):
        FusionLoss(8)(torch.randn(2, 3), torch.tensor([0, 1]), torch.randn(2, 7))
    with pytest.raises(ValueError, match="lambda_cont to 0"):
        FusionLoss(8)(torch.randn(2, 3), torch.tensor([0, 1]))
