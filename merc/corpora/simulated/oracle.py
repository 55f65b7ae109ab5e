"""The best that can be known and done: exact posteriors by forward-backward, and the decision of best weighted F1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def chain_posterior(
    log_likelihood: Tensor, ptr: Tensor, same_speaker: Tensor, prior: Tensor, same: Tensor, other: Tensor
) -> Tensor:
    """P(e_i | all utterances of the dialogue), by forward-backward in the log domain, over all dialogues at once.

    Args:
        log_likelihood: ``(N, C)``, log p(x_i | e) up to a constant for each utterance; 0 if nothing was observed.
        ptr: ``(B + 1,)``: dialogue b has the utterances ``ptr[b]..ptr[b + 1]``.
        same_speaker: ``(N,)``, whether utterance i has the speaker of i - 1; ignored at the start of a dialogue.
        prior: ``(C,)``, distribution of the first emotion.
        same: ``(C, C)``, P(e_i | e_{i-1}) if the speaker stays, rows summing to 1.
        other: ``(C, C)``, the same if the speaker changes.

    Returns:
        ``(N, C)`` float64, rows summing to 1.
    """
    lengths = ptr.diff()
    dialogue = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    position = torch.arange(len(dialogue)) - ptr[dialogue]
    longest = int(lengths.max())
    # After the end of a dialogue nothing is observed, so what pads it leaves the backward messages at 0.
    seen = torch.zeros(len(lengths), longest, len(prior), dtype=torch.float64)
    seen[dialogue, position] = log_likelihood.double()
    kind = torch.zeros(len(lengths), longest, dtype=torch.long)
    kind[dialogue, position] = same_speaker.long()
    step = torch.stack([other, same]).double().log()[kind]  # (B, T, from, to)

    forward = [prior.double().log() + seen[:, 0]]
    for i in range(1, longest):
        forward.append(torch.logsumexp(forward[-1][:, :, None] + step[:, i], dim=1) + seen[:, i])
    backward = [torch.zeros_like(forward[0])]
    for i in range(longest - 1, 0, -1):
        backward.append(torch.logsumexp(step[:, i] + (backward[-1] + seen[:, i])[:, None, :], dim=2))
    joint = torch.stack(forward, dim=1) + torch.stack(backward[::-1], dim=1)
    return joint.softmax(dim=-1)[dialogue, position]


def weighted_f1(hits: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    """Weighted F1, sum_c (n_c / N) 2 h_c / (n_c + m_c), from counts ``(..., C)``; a fraction.

    Args:
        hits: h, utterances of the class that are predicted as it; may be expected counts.
        predicted: m, utterances predicted as the class.
        gold: n, utterances of the class.
    """
    f1 = 2.0 * hits / (gold + predicted).clamp_min(torch.finfo(torch.float64).tiny)
    return (gold * f1).sum(-1) / gold.sum(-1)


def best_decision(posterior: Tensor, *, iterations: int = 200, tolerance: float = 1e-6) -> Tensor:
    """The predictions that maximise the expected weighted F1, given the posteriors of all utterances.

    The most probable class maximises the accuracy. Weighted F1 is a sum of ratios of counts, and its gradient with
    respect to predicting class c for utterance i is, up to a factor, a_c (q_ic - F1_c / 2) with
    a_c = n_c / (n_c + m_c). So the best rule is a reweighted posterior with an offset for each class. It is found by
    conditional gradient steps with an exact line search, on counts expected under the posterior: labels are not
    used. Utterances with equal posteriors, as those without any observation, may have to be divided among classes;
    therefore the result is a probability for each class, 0 or 1 for nearly all utterances.

    Args:
        posterior: q, ``(N, C)``, rows summing to 1.
        iterations: Most steps.
        tolerance: Stop when the gradient promises less than this gain in weighted F1.

    Returns:
        ``(N, C)`` float64, rows summing to 1.
    """
    number, classes = posterior.shape
    gold = posterior.sum(0)
    rows = torch.arange(number)
    steps = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-6, 0, 121, dtype=torch.float64)])[:, None]

    def counts(choice: Tensor) -> tuple[Tensor, Tensor]:
        hits = torch.zeros(classes, dtype=torch.float64).index_add_(0, choice, posterior[rows, choice])
        return hits, torch.bincount(choice, minlength=classes).double()

    choice = posterior.argmax(1)
    decision = torch.nn.functional.one_hot(choice, classes).double()
    hits, predicted = counts(choice)
    for _ in range(iterations):
        # A class that is certain to be nowhere has neither gold nor predicted utterances.
        total = (gold + predicted).clamp_min(torch.finfo(torch.float64).tiny)
        factor = 2.0 * gold / total / number
        offset = hits / total
        choice = (factor * (posterior - offset)).argmax(1)
        new_hits, new_predicted = counts(choice)
        if (factor * ((new_hits - hits) - offset * (new_predicted - predicted))).sum() < tolerance:
            break
        along = weighted_f1(hits + steps * (new_hits - hits), predicted + steps * (new_predicted - predicted), gold)
        step = steps[along.argmax(), 0]
        hits, predicted = hits + step * (new_hits - hits), predicted + step * (new_predicted - predicted)
        decision *= 1.0 - step
        decision[rows, choice] += step
    return decision


@dataclass(frozen=True)
class Optimum:
    """The best weighted F1 that a set of modalities allows on one split; fractions.

    Args:
        weighted_f1: Score of the best decision on the labels of the split: what a model's score is compared with.
        expected: What the best decision scores on average over labels, given the same inputs.
        most_probable: Score of predicting the most probable label instead, which is what a model does that is
            trained by cross-entropy and decides by the largest logit.
        standard_error: Of ``weighted_f1``, by bootstrap over dialogues.
        utterances: Number of utterances.
    """

    weighted_f1: float
    expected: float
    most_probable: float
    standard_error: float
    utterances: int


def score(
    posterior: Tensor, label: Tensor, ptr: Tensor, *, resamples: int = 200, generator: torch.Generator | None = None
) -> Optimum:
    """Score the best decision for some posteriors against the labels.

    Args:
        posterior: ``(N, C)``.
        label: ``(N,)``, the annotated labels.
        ptr: ``(B + 1,)``, bounds of the dialogues.
        resamples: Bootstrap resamples of dialogues.
        generator: Source of the resamples.
    """
    classes = posterior.shape[1]
    decision = best_decision(posterior)
    likely = torch.nn.functional.one_hot(posterior.argmax(1), classes).double()
    gold = torch.nn.functional.one_hot(label, classes).double()
    by_utterance = torch.stack([decision * gold, decision, gold], dim=1)
    lengths = ptr.diff()
    dialogue = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    counts = torch.zeros(len(lengths), 3, classes, dtype=torch.float64).index_add_(0, dialogue, by_utterance)
    drawn = torch.randint(len(lengths), (resamples, len(lengths)), generator=generator)
    times = torch.zeros(resamples, len(lengths), dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    resampled = weighted_f1(*torch.einsum("rb,bkc->krc", times, counts).unbind(0))
    return Optimum(
        weighted_f1=float(weighted_f1(*counts.sum(0).unbind(0))),
        expected=float(weighted_f1((decision * posterior).sum(0), decision.sum(0), posterior.sum(0))),
        most_probable=float(weighted_f1((likely * gold).sum(0), likely.sum(0), gold.sum(0))),
        standard_error=float(resampled.std()),
        utterances=len(label),
    )
