"""A small simulated corpus with two numbers for every utterance."""

from dataclasses import replace

from merc.corpora.simulated import simulate

WIDTHS = {"text": 16, "audio": 12, "visual": 10}
VALUES = {
    "sentiment": {"joy": 2.5, "surprise": 0.5, "sadness": -2.0, "anger": -2.5, "fear": -1.5, "disgust": -2.0},
    "arousal": {"joy": 4.0, "surprise": 5.0, "sadness": 1.0, "anger": 5.0, "fear": 4.5, "disgust": 3.0, "neutral": 2.0},
}


def simulated_values():
    """The corpus, with its features."""
    return simulate(
        dialogues={"train": 60, "val": 10, "test": 12},
        widths=WIDTHS,
        latent_dims=dict.fromkeys(WIDTHS, 6),
        values=VALUES,
    )


def changed_splits(made, change):
    """The splits of the corpus, each utterance as ``change`` makes it of its place in the dialogue and itself."""
    return {
        split: [replace(c, utterances=tuple(change(*item) for item in enumerate(c.utterances))) for c in talks]
        for split, talks in made.corpus.items()
    }
