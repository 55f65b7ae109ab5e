"""The systems on real MELD without video: are they above the text teacher, and what does the prosody add?

    merc run meld/minilm_systems.yaml --root PATH_TO_MELD --out runs/minilm --seeds 3
    python benchmarks/meld_systems.py runs/minilm

reads the predictions that the run has left and prints, for every system, its parameters, its weighted F1 on the test
split, and its difference from the text teacher by a paired bootstrap over dialogues and seeds; the same for averages
of their probabilities, seed by seed; then the differences that say what brings how much.

    python benchmarks/meld_systems.py runs/minilm --folds 5

also prints what prosody and writing add to the text before any network: closed-form evidence of them together, on
dialogues of train that it was not fitted on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from merc.conversation import Corpus
from merc.evaluation import Predictions, ensemble, paired_bootstrap, read_predictions
from merc.features import GaussianEvidence
from merc.store import FeatureStore

SYSTEMS = ("concat", "hierarchical", "telme", "lfvd", "cmath")
WITHOUT_PROSODY = {name: f"{name}_text" for name in ("hierarchical", "lfvd", "concat")}


def line(name: str, found: Sequence[Predictions], against: Sequence[Predictions] | None, parameters: str = "") -> str:
    """A row of the table in Markdown."""
    scores = [100 * one.metrics()["weighted_f1"] for one in found]
    spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    cells = [name, parameters, f"{statistics.fmean(scores):.2f}{spread}", *difference(found, against)]
    return f"| {' | '.join(cells)} |"


def difference(found: Sequence[Predictions], against: Sequence[Predictions] | None) -> list[str]:
    """Difference in points, 95 % interval, p."""
    if against is None:
        return ["", "", ""]
    result = paired_bootstrap(against, found)
    low, high = result.interval
    return [f"{100 * result.difference:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}", f"{result.p:.4f}"]


def parameters(stage: Path) -> str:
    """How many numbers the network of a stage learns, in thousands."""
    checkpoint = next(stage.glob("checkpoints/best*.ckpt"))
    weights = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    network = [v for k, v in weights.items() if k.startswith(("head.", "network."))]
    return f"{sum(v.numel() for v in network if v.is_floating_point()) / 1000:,.0f} k"


def folds_of_train(run: Path, folds: int, tau: float = 0.4) -> None:
    """Print what linear discriminants reach on dialogues of train that they have not seen, by what they read."""
    corpus = Corpus.load(run / "data" / "corpus.json")
    keys = [key for conversation in corpus["train"] for key in conversation.keys]
    label = torch.tensor([corpus.labels.index(u.label) for c in corpus["train"] for u in c.utterances])
    fold = torch.tensor([index % folds for index, c in enumerate(corpus["train"]) for _ in c.utterances])
    read = {"text": run / "minilm" / "features", "prosody": run / "prosody", "writing": run / "marks"}
    columns = {name: FeatureStore(path).gather(keys)[0].float() for name, path in read.items()}
    frequency = label.bincount(minlength=len(corpus.labels)) / len(label)
    found: dict[str, Predictions] = {}
    for names in (("text",), ("text", "prosody"), ("text", "writing"), ("text", "prosody", "writing")):
        x = torch.cat([columns[name] for name in names], dim=1)
        evidence = torch.zeros(len(label), len(frequency))
        for held in range(folds):
            out = fold == held
            fitted = GaussianEvidence.fit(x[~out], label[~out], len(frequency), standardize=True)
            evidence[out] = fitted(x[out])
        probabilities = (evidence - tau * frequency.log()).softmax(-1)  # adjusted as the networks are
        found[" + ".join(names)] = Predictions(corpus.labels, keys, label, probabilities, {})
    print(
        f"\n| evidence, {folds} folds of train | | weighted F1 | against text | 95 % | p |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    for name, ours in found.items():
        print(line(name, [ours], None if name == "text" else [found["text"]]))
    print(line("prosody beside text and writing", [found["text + prosody + writing"]], [found["text + writing"]]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of `merc run meld/minilm_systems.yaml`")
    parser.add_argument(
        "--folds", type=int, default=0, help="folds of train for the closed-form evidence; 0 leaves it out"
    )
    given = parser.parse_args()
    run = given.run
    seeds = sorted(run.glob("seed-*"))
    stages = ("teacher", "written_teacher", "audio_student", "telme_student", *SYSTEMS, *WITHOUT_PROSODY.values())
    averaged = ("averaged", "averaged_text")
    found = {name: [read_predictions(seed / name / "report") for seed in seeds] for name in (*stages, *averaged)}

    def average(names: Sequence[str]) -> list[Predictions]:
        return [ensemble([found[name][index] for name in names]) for index in range(len(seeds))]

    ours, alone = found["averaged"], found["averaged_text"]
    print(f"{len(seeds)} seeds, test split, weighted F1 in percent\n")
    print("| system | parameters | weighted F1 | against the text teacher | 95 % | p |\n|---|---:|---:|---:|---:|---:|")
    for name in stages:
        against = None if name == "teacher" else found["teacher"]
        print(line(name, found[name], against, parameters(seeds[0] / name)))
    print(line("averaged: hierarchical and lfvd", ours, found["teacher"]))
    print(line("the same without prosody", alone, found["teacher"]))
    print(line("both teachers", average(["teacher", "written_teacher"]), found["teacher"]))
    print(line("all five systems", average(SYSTEMS), found["teacher"]))

    print("\n| | | weighted F1 | difference | 95 % | p |\n|---|---|---:|---:|---:|---:|")
    for name in SYSTEMS:
        print(line(f"{name} against the written teacher", found[name], found["written_teacher"]))
    print(line("hierarchical and lfvd against the written teacher", ours, found["written_teacher"]))
    print(line("hierarchical and lfvd against both teachers", ours, average(["teacher", "written_teacher"])))
    for name, other in WITHOUT_PROSODY.items():
        print(line(f"{name}: what the prosody adds", found[name], found[other]))
    print(line("hierarchical and lfvd: what the prosody adds", ours, alone))
    if given.folds:
        folds_of_train(run, given.folds)


if __name__ == "__main__":
    main()
