"""What dropout costs a training step of a graph encoder: torch.nn.Dropout against merc.kernels.Dropout.

python benchmarks/dropout.py [--threads 2] [--repeats 30]

The text teacher (GAT, 4 layers of 256) and the audio student (GCN, 3) on 16 conversations of 10 utterances, 1024
wide: forward and backward without dropout, with PyTorch's and with ours, in turn, so that other jobs disturb all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder, GraphEncoder
from merc.kernels import Dropout
from merc.labels import MELD


def sixteen_conversations() -> ConversationBatch:
    """16 conversations of 10 utterances by three speakers, with normal features and their graph."""
    utterances = tuple(Utterance(str(i), f"speaker {i % 3}", label=MELD.names[0]) for i in range(10))
    batch = ConversationBatch.from_conversations([Conversation(str(i), utterances) for i in range(16)], MELD)
    batch.features["x"], batch.present["x"] = torch.randn(160, 1024), torch.ones(160, dtype=torch.bool)
    batch.edges["x"] = GraphBuilder()(batch, "x")
    return batch


def step_ms(encoder: GraphEncoder, batch: ConversationBatch, dropout: nn.Module) -> float:
    """Milliseconds of one forward and backward pass with this dropout in place of the encoder's."""
    encoder.dropout = encoder.input_dropout = dropout
    start = time.perf_counter()
    encoder(batch.features["x"], batch.present["x"], batch.edges["x"]).logits.sum().backward()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Measure both encoders and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    batch = sixteen_conversations()
    kinds = {"none": nn.Identity(), "torch.nn": nn.Dropout(0.35), "merc": Dropout(0.35)}
    print(f"{options.threads} threads, medians of {options.repeats}; in brackets the share that is dropout\n")
    for name, encoder in {"GAT": GATEncoder(1024, len(MELD)), "GCN": GCNEncoder(1024, len(MELD))}.items():
        rounds = [
            {kind: step_ms(encoder, batch, dropout) for kind, dropout in kinds.items()} for _ in range(options.repeats)
        ]
        took = {kind: statistics.median(times[kind] for times in rounds) for kind in kinds}
        cells = [f"{kind} {ms:.1f} ms ({1 - took['none'] / ms:.0%})" for kind, ms in took.items()]
        print(f"{name}: " + ", ".join(cells))


if __name__ == "__main__":
    main()
