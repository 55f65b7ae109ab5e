"""How fast a FeatureStore writes, opens and gathers, against a JSON dictionary of the same features.

python benchmarks/store.py [--utterances 9989] [--dim 1024] [--repeats 5]

The default size is the training split of MELD with vectors of a large encoder. Medians of wall-clock time,
with a warm file cache for both.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from merc.conversation import UtteranceKey
from merc.store import FeatureStore


def median_ms(action: Callable[[], object], repeats: int) -> float:
    """Median wall-clock time of ``action`` in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=9989)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    torch.manual_seed(0)
    keys = [UtteranceKey("train", str(i // 10), str(i % 10)) for i in range(options.utterances)]
    shuffled = random.Random(0).sample(keys, len(keys))
    batch = shuffled[:300]
    features = torch.randn(len(keys), options.dim)

    with tempfile.TemporaryDirectory() as folder:
        path, file = Path(folder) / "store", Path(folder) / "features.json"
        store_ms = {
            "write": median_ms(lambda: FeatureStore.write(path, keys, features), options.repeats),
            "open, every byte checked": median_ms(lambda: FeatureStore(path), options.repeats),
            "open, sizes checked": median_ms(lambda: FeatureStore(path, verify=False), options.repeats),
        }
        store = FeatureStore(path)
        store_ms["gather all, as stored"] = median_ms(lambda: store.gather(keys), options.repeats)
        store_ms["gather all, shuffled"] = median_ms(lambda: store.gather(shuffled), options.repeats)
        store_ms["gather 300, shuffled"] = median_ms(lambda: store.gather(batch), options.repeats)
        store_size, store_peak = sum(f.stat().st_size for f in path.iterdir()) / 1e6, peak_mb()

        def write_json() -> None:
            file.write_text(json.dumps({str(k): row for k, row in zip(keys, features.tolist(), strict=True)}))

        def read_json() -> dict[str, list[float]]:
            content: dict[str, list[float]] = json.loads(file.read_text())
            return content

        def gather_json(some: list[UtteranceKey]) -> torch.Tensor:
            return torch.tensor([dictionary[str(key)] for key in some])

        fewer = min(options.repeats, 3)  # each takes seconds
        json_ms = {"write": median_ms(write_json, 1), "open": median_ms(read_json, fewer)}
        dictionary = read_json()
        json_ms["gather all, as stored"] = median_ms(lambda: gather_json(keys), fewer)
        json_ms["gather all, shuffled"] = median_ms(lambda: gather_json(shuffled), fewer)
        json_ms["gather 300, shuffled"] = median_ms(lambda: gather_json(batch), fewer)
        json_size, json_peak = file.stat().st_size / 1e6, peak_mb()

    print(f"{options.utterances} x {options.dim} float32, medians of {options.repeats} (JSON: {fewer}, written once)\n")
    print(f"{'':26}{'store':>12}{'JSON':>14}{'ratio':>9}")
    for name, took in store_ms.items():
        other = json_ms[name.split(", every")[0].split(", sizes")[0]]
        print(f"{name:26}{took:9.1f} ms{other:11.1f} ms{other / took:8.0f}x")
    print(f"{'on disk':26}{store_size:9.1f} MB{json_size:11.1f} MB{json_size / store_size:8.1f}x")
    print(f"{'peak memory of the process':26}{store_peak:9.0f} MB{json_peak:11.0f} MB{json_peak / store_peak:8.1f}x")


if __name__ == "__main__":
    main()
