"""The optimum of the simulated corpus, for every subset of modalities, as mean and spread over seeds.

Run ``python benchmarks/simulated_optimum.py``; its output is the table of ``docs/simulated.md``.
"""

import argparse
from dataclasses import replace
from itertools import combinations
from statistics import mean, stdev

from merc.corpora.simulated import FIRST_FACE, MODALITIES, SimulatedCorpus, SimulationConfig, simulate


def main() -> None:
    """Draw a corpus for every seed and print one row for every subset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--dialogues", type=int, default=1000, help="test dialogues a seed")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2, to measure a spread")
    config = SimulationConfig(dialogues={"test": options.dialogues})
    seeds = range(options.seeds)
    noisy = [simulate(config, seed=seed) for seed in seeds]
    clean = [simulate(config, seed=seed, label_noise=0.0) for seed in seeds]
    sure = replace(config, separations=dict.fromkeys(MODALITIES, 1000.0), reliability_levels=(1.0, 1.0, 1.0))
    perfect = [simulate(sure, seed=seed).optimum_of("test", MODALITIES) for seed in seeds]

    print(f"{options.seeds} seeds, {options.dialogues} test dialogues each, weighted F1 in percent\n")
    print("| modalities | with context | utterance alone | most probable class, with context | without label noise |")
    print("|---|---|---|---|---|")
    for size in range(1, len(MODALITIES) + 1):
        for subset in combinations(MODALITIES, size):
            full = [c.optimum_of("test", subset) for c in noisy]
            columns = (
                [o.weighted_f1 for o in full],
                [c.optimum("test", subset, context=False) for c in noisy],
                [o.most_probable for o in full],
                [c.optimum("test", subset) for c in clean],
            )
            cells = " | ".join(f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}" for values in columns)
            print(f"| {' + '.join(subset)} | {cells} |")
    utterances = mean(o.utterances for o in full)
    error = mean(o.standard_error for o in full)
    print(f"\nEmotion known, label noisy: {100 * mean(o.weighted_f1 for o in perfect):.1f}")
    print(f"Utterances a test split: {utterances:.0f}; standard error of all three, by bootstrap: {100 * error:.2f}")
    faces = mean(of_a_listener(corpus) for corpus in noisy)
    print(f"First faces in the picture that are not the speaker's: {100 * faces:.0f} %")


def of_a_listener(corpus: SimulatedCorpus) -> float:
    """Share of the utterances of test with a face whose first face in the picture is not the speaker's."""
    data = corpus.drawn["test"]
    differs = corpus.features[FIRST_FACE].features != data.features["visual"][data.present["visual"]]
    return differs.any(1).double().mean().item()


if __name__ == "__main__":
    main()
