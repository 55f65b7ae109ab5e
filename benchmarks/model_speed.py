"""How soon a model answers after Python has started, and how many utterances it judges in a second.

python benchmarks/model_speed.py MODEL [--corpus CORPUS.json] [--utterances 1000] [--threads 2] [--repeats 3]

MODEL is a folder of `merc export`, such as one of `merc run text.yaml`. The cold start is that of a new process: it
imports, loads, and answers one conversation of three lines. Conversations for the second number come from a corpus, or
are made up, of ten utterances of 2 to 19 words. Seconds are those of the wall clock, and beside them those of the
processor (threads added up), which other processes on the machine change less. Of the repeats the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import torch

import merc
from merc.conversation import Conversation, Corpus, Utterance

COLD = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
import merc
model = merc.load(sys.argv[1])
lines = ["I can't believe you did this to me!", "I am so sorry.", "That's wonderful, thank you!"]
found = model.predict([("Ann", text) for text in lines])
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, list(zip(lines, found.label))]))
"""
WORDS = "well I really do not know what you want from me but we could still go home now and talk".split()


def made_up(utterances: int) -> list[Conversation]:
    """Conversations of ten utterances of 2 to 19 words."""
    texts = [" ".join(WORDS[number % 7 :][: 2 + number * 5 % 18]) for number in range(utterances)]
    return [
        Conversation(
            str(start), tuple(Utterance(str(i), "AB"[i % 2], t) for i, t in enumerate(texts[start : start + 10]))
        )
        for start in range(0, utterances, 10)
    ]


def cold_start(model: str, threads: int) -> tuple[float, float, list[list[str]]]:
    """Seconds of wall clock and processor until the first answer of a new process, and the answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(
        [sys.executable, "-c", COLD, model], capture_output=True, text=True, env=environment, check=True
    )
    wall, cpu, answer = json.loads(run.stdout)
    return wall, cpu, answer


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--corpus", help="take its conversations, the test split first")
    parser.add_argument("--utterances", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    starts = [cold_start(options.model, options.threads) for _ in range(options.repeats)]
    wall, cpu, answer = min(starts)
    print(f"cold start to the first answer   {wall:6.1f} s   processor {cpu:6.1f} s")
    for text, emotion in answer:
        print(f"    {text:40} {emotion}")

    torch.set_num_threads(options.threads)
    conversations = made_up(options.utterances)
    if options.corpus:
        corpus = Corpus.load(options.corpus)
        conversations = [c for split in ("test", "val", "train") for c in corpus.get(split, [])]
    chosen, count = [], 0
    for conversation in conversations:
        if count < options.utterances:
            chosen.append(conversation)
            count += len(conversation)
    model = merc.load(options.model)
    best = []
    for _ in range(options.repeats):
        start, cpu = time.perf_counter(), time.process_time()
        model.predict(chosen)
        best.append((time.perf_counter() - start, time.process_time() - cpu))
    wall, cpu = min(best)
    print(f"{count} utterances                 {wall:6.1f} s   processor {cpu:6.1f} s")
    print(f"utterances a second, {options.threads} threads     {count / wall:6.0f}     a core {count / cpu:8.0f}")


if __name__ == "__main__":
    main()
