"""What an estimate of the label noise brings to the evidence, on simulated corpora whose labels are known to be noisy.

For every draw and modality: the share of wrong labels that is estimated, the cross-entropy of the labels of 1,000 new
dialogues with and without the estimate, that of the training labels when each utterance is left out of its own
evidence, and when whole fifths of the dialogues are. Then the weighted F1 of the product of the modalities'
probabilities, with no network and no context:

    python benchmarks/evidence.py --seeds 1 2 3

The draw 0 is that of the other benchmarks; the estimate was made on others.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.corpora.simulated import SimulatedCorpus, simulate
from merc.evaluation import confusion_matrix, weighted_f1
from merc.features import GaussianEvidence

FOLDS = 5


def crossed(x: Tensor, y: Tensor, dialogue: Tensor, classes: int, noisy_labels: bool) -> float:
    """Cross-entropy of the labels of every fifth of the dialogues, by evidence that has not seen them."""
    found = torch.zeros(len(y), classes)
    for fold in range(FOLDS):
        aside = dialogue % FOLDS == fold
        found[aside] = GaussianEvidence.fit(x[~aside], y[~aside], classes, noisy_labels=noisy_labels)(x[aside])
    return F.cross_entropy(found, y).item()


def measure(corpus: SimulatedCorpus, noisy_labels: bool) -> tuple[list[str], float]:
    """A row for each modality, and the weighted F1 of the product of all."""
    train, new = corpus.drawn["train"], corpus.drawn["val"]
    dialogue = torch.repeat_interleave(torch.arange(len(train.ptr) - 1), train.ptr.diff())
    classes = len(corpus.corpus.labels)
    total = torch.zeros(len(new), classes)
    rows = []
    for name in corpus.config.modalities:
        here, there = train.present[name], new.present[name]
        x, y = train.features[name][here], train.label[here]
        fitted = GaussianEvidence.fit(x, y, classes, noisy_labels=noisy_labels)
        evidence = fitted(new.features[name][there])
        total[there] += evidence.log_softmax(-1) - fitted.frequency.log().float()
        entropies = (
            F.cross_entropy(evidence, new.label[there]).item(),
            F.cross_entropy(fitted(x, fitted.membership), y).item(),
            crossed(x, y, dialogue[here], classes, noisy_labels),
        )
        cells = [name, "yes" if noisy_labels else "no", f"{fitted.noise:.3f}", *(f"{value:.4f}" for value in entropies)]
        rows.append(" | ".join(cells))
    frequency = train.label.bincount(minlength=classes) / len(train.label)
    guess = (total + frequency.log()).argmax(-1)
    return rows, 100 * float(weighted_f1(confusion_matrix(guess, new.label, classes).double()))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="draws of the corpus")
    parser.add_argument("--dialogues", type=int, default=1000, help="of the training split, and new ones")
    given = parser.parse_args()
    f1: dict[bool, list[float]] = {False: [], True: []}
    print(
        "| draw | modality | noise | estimate | new labels | left out | fifths left out |\n"
        "|---|---|---|---:|---:|---:|---:|"
    )
    for seed in given.seeds:
        corpus = simulate(seed=seed, dialogues={"train": given.dialogues, "val": given.dialogues})
        for noisy_labels, values in f1.items():
            rows, value = measure(corpus, noisy_labels)
            values.append(value)
            for row in rows:
                print(f"| {seed} | {row} |", flush=True)
    gains = [after - before for before, after in zip(f1[False], f1[True], strict=True)]
    for name, values in (("without", f1[False]), ("with", f1[True]), ("difference", gains)):
        each = ", ".join(f"{value:.2f}" for value in values)
        print(f"Weighted F1 of the product, {name}: {each}; mean {statistics.fmean(values):.2f}")


if __name__ == "__main__":
    main()
