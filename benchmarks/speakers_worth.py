"""What it is worth to the emotions to know who speaks: MELD's test lines with true, linked, wrong and unknown speakers.

    python benchmarks/speakers_worth.py MELD [--model text-meld] [--draws 3]

MELD is a folder with test_sent_emo.csv. The model was trained with true speakers; here it reads the same words with
others. ``linked`` has as many wrong lines as benchmarks/persons.py measures for films: each wrong line gets another
person of its dialogue. The difference to true speakers has a 95 % interval of a paired bootstrap over the dialogues.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch

import merc
from merc.conversation import Conversation
from merc.corpora import read_meld
from merc.evaluation import Predictions, paired_bootstrap


def linked(conversation: Conversation, wrong: float, draw: random.Random) -> Conversation:
    """The conversation with so many lines given to another person."""
    people = sorted({utterance.speaker for utterance in conversation.utterances})
    lines = []
    for utterance in conversation.utterances:
        others = [name for name in people if name != utterance.speaker] or ["person"]
        lines.append(replace(utterance, speaker=draw.choice(others)) if draw.random() < wrong else utterance)
    return replace(conversation, utterances=tuple(lines))


def renamed(conversation: Conversation, name: str) -> Conversation:
    """The conversation with one speaker, or one for each line where ``{}`` stands for its number."""
    lines = [replace(u, speaker=name.format(number)) for number, u in enumerate(conversation.utterances)]
    return replace(conversation, utterances=tuple(lines))


def main() -> None:
    """Predict and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meld", type=Path)
    parser.add_argument("--model", default="text-meld")
    parser.add_argument("--draws", type=int, default=3, help="of linked speakers")
    options = parser.parse_args()

    corpus = read_meld(options.meld)
    true, labels = corpus["test"], corpus.labels
    model = merc.load(options.model)
    gold = [u.label for c in true for u in c.utterances]
    ids = [-100 if label is None else labels.names.index(label) for label in gold]

    def predicted(conversations: list[Conversation]) -> Predictions:
        found = model.predict(replace(corpus, splits={"test": conversations}))
        order = [list(model.labels.names).index(name) for name in labels.names]
        return Predictions(labels, list(found.keys), torch.tensor(ids), found.probabilities[:, order])

    full = predicted(list(true))
    print(f"{len(ids)} lines of {len(true)} dialogues, {options.model}")
    print(f"{'true speakers':<28} {100 * full.metrics()['weighted_f1']:.2f}")
    variants = {
        "linked, 7 % wrong": [[linked(c, 0.07, random.Random(seed)) for c in true] for seed in range(options.draws)],
        "linked, 15 % wrong": [[linked(c, 0.15, random.Random(seed)) for c in true] for seed in range(options.draws)],
        "one unknown": [[renamed(c, "unknown") for c in true]],
        "another one in each line": [[renamed(c, "person {}") for c in true]],
    }
    for name, draws in variants.items():
        runs = [predicted(conversations) for conversations in draws]
        score = sum(run.metrics()["weighted_f1"] for run in runs) / len(runs)
        against = paired_bootstrap([full] * len(runs), runs)
        low, high = (100 * end for end in against.interval)
        print(f"{name:<28} {100 * score:.2f}   {100 * against.difference:+.2f} ({low:+.2f} to {high:+.2f})", flush=True)


if __name__ == "__main__":
    main()
