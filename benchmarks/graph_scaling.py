"""Time and memory of one conversation of 100, 1,000 and 10,000 utterances: building its graph, training on it.

python benchmarks/graph_scaling.py [--lengths 100 1000 10000] [--dim 1024]

A training step is forward and backward of the text teacher (GAT, 4 layers of 256) and of the audio student (GCN, 3).
Every figure comes from a process of its own, whose peak memory is given beyond what it had before the action. The
encoders grow linearly; finding the most similar utterances takes a quadratic number of multiplications, in blocks
of constant memory, so that the graph is also built without them. Where wall-clock time grows faster than computing
time, the system hands out memory anew: on Linux, for every tensor above 32 MB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable

import torch

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder, GraphEncoder
from merc.labels import MELD


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def one_conversation(length: int, dim: int) -> ConversationBatch:
    """A conversation of three speakers with normal features, without a graph."""
    utterances = tuple(Utterance(str(i), f"speaker {i % 3}", label=MELD.names[0]) for i in range(length))
    batch = ConversationBatch.from_conversations([Conversation("0", utterances)], MELD)
    batch.features["x"], batch.present["x"] = torch.randn(length, dim), torch.ones(length, dtype=torch.bool)
    return batch


def building(similar: int, length: int, dim: int) -> Callable[[], object]:
    """Build the graph."""
    batch, build = one_conversation(length, dim), GraphBuilder(similar=similar)
    return lambda: build(batch, "x")


def training(network: type[GraphEncoder], layers: int, length: int, dim: int) -> Callable[[], object]:
    """Forward and backward of an encoder."""
    batch = one_conversation(length, dim)
    edges = GraphBuilder()(batch, "x")
    encoder = network(dim, len(MELD), num_layers=layers)
    return lambda: encoder(batch.features["x"], batch.present["x"], edges).logits.sum().backward()


ACTIONS: dict[str, tuple[Callable[..., Callable[[], object]], tuple[object, ...]]] = {
    "graph": (building, (3,)),
    "graph without similar": (building, (0,)),
    "GAT, forward + backward": (training, (GATEncoder, 4)),
    "GCN, forward + backward": (training, (GCNEncoder, 3)),
}


def measure(name: str, length: int, dim: int) -> tuple[float, float, float]:
    """Milliseconds by the wall and of computing, the best of three, and the peak in MB beyond what lay there before."""
    prepare, options = ACTIONS[name]
    action = prepare(*options, length, dim)
    before, wall, computing = peak_mb(), [], []
    for _ in range(3):
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
        action()
        wall.append(time.perf_counter() - start)
        computing.append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - used)
    return min(wall) * 1e3, min(computing) * 1e3, peak_mb() - before


def main() -> None:
    """Print one row for every action, with the growth from each length to the next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--dim", type=int, default=1024)
    options = parser.parse_args()

    print(f"{torch.get_num_threads()} threads; growth is of computing time, over the length before\n")
    print(f"{'':26}{'utterances':>11}{'wall ms':>10}{'computing ms':>14}{'growth':>8}{'MB':>7}")
    for name in ACTIONS:
        last = None
        for length in options.lengths:
            # A fresh process: the peak of one action would hide that of the next.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                wall, computing, peak = pool.apply(measure, (name, length, options.dim))
            growth = f"x{computing / last:.1f}" if last else ""
            print(f"{name:26}{length:11}{wall:10.1f}{computing:14.1f}{growth:>8}{peak:7.0f}")
            last = computing


if __name__ == "__main__":
    main()
