"""Predictions of a known quality, without a model."""

import random
from dataclasses import replace

import torch

from merc.conversation import UtteranceKey
from merc.evaluation import Predictions
from merc.labels import IEMOCAP4


def made_up(accuracy, seed, dialogues=40):
    """Predictions that are right with a given chance, on one gold annotation for every seed."""
    gold_draws, draws = random.Random(0), random.Random(seed)
    keys, gold, rows = [], [], []
    for d in range(dialogues):
        for u in range(gold_draws.randint(1, 9)):
            keys.append(UtteranceKey("test", str(d), str(u)))
            gold.append(gold_draws.choice([-100, 0, 0, 1, 2, 3]))
            guess = max(gold[-1], 0) if draws.random() < accuracy else draws.randrange(4)
            rows.append([0.7 if c == guess else 0.1 for c in range(4)])
    there = {"text": torch.ones(len(keys), dtype=torch.bool)}
    return Predictions(IEMOCAP4, keys, torch.tensor(gold), torch.tensor(rows), there)


def reordered(predictions, order):
    return replace(
        predictions,
        keys=[predictions.keys[i] for i in order],
        gold=predictions.gold[order],
        probabilities=predictions.probabilities[order],
        present={name: there[order] for name, there in predictions.present.items()},
    )


def honest(seed, count=4000, temperature=1.0, unlabelled=0.1):
    """Labels that are drawn from the very probabilities, which are then made too sure (below 1) or too unsure."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 4, generator=random)
    gold = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]
    gold[torch.rand(count, generator=random) < unlabelled] = -100
    keys = [UtteranceKey("test", str(i // 10), str(i % 10)) for i in range(count)]
    return Predictions(IEMOCAP4, keys, gold, (logits / temperature).softmax(1))
