"""Seconds and memory that the encoders take for an utterance of 3 s, full size, with random weights: no download.

python benchmarks/encoders_speed.py [--seconds 3] [--batch 4] [--repeats 3] [--threads 1] [--device cpu] [--only NAME]

The pretrained encoders are built from the settings of their checkpoints (wav2vec2-large, data2vec-audio-base,
TimeSformer-base of 8 x 224 x 224, VideoMAE-base of 16 x 224 x 224); what they compute does not depend on their weights.
Every encoder is measured in a process of its own, so that the peak of memory is its own. On the CPU seconds are those
of the processor (threads added up), which other processes on the machine hardly change; on a GPU they are wall-clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    PreTrainedConfig,
    TimesformerConfig,
    VideoMAEConfig,
    Wav2Vec2Config,
)

from merc.conversation import UtteranceKey
from merc.encoders import (
    AudioEncoder,
    FaceBatch,
    FaceStatisticsEncoder,
    ProsodyEncoder,
    SoundBatch,
    VisualEncoder,
)

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SOUND = {"do_normalize": True, "sampling_rate": 16_000}
PIXELS = {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "rescale_factor": 1 / 255}


def pretrained(encoder: type[nn.Module], config: PreTrainedConfig, settings: dict) -> nn.Module:
    """An encoder that has been read from a folder, as a user's would be."""
    with tempfile.TemporaryDirectory() as folder:
        AutoModel.from_config(config).save_pretrained(folder)
        Path(folder, "preprocessor_config.json").write_text(json.dumps(settings))
        return encoder(folder)


ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "wav2vec2-large, layer norm": lambda: pretrained(
        AudioEncoder,
        Wav2Vec2Config(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, **LARGE),
        SOUND,
    ),
    "wav2vec2-large, group norm": lambda: pretrained(AudioEncoder, Wav2Vec2Config(**LARGE), SOUND),
    "data2vec-audio-base": lambda: pretrained(AudioEncoder, Data2VecAudioConfig(), SOUND),
    "TimeSformer-base": lambda: pretrained(VisualEncoder, TimesformerConfig(), PIXELS),
    "VideoMAE-base": lambda: pretrained(VisualEncoder, VideoMAEConfig(), PIXELS),
    "prosody": ProsodyEncoder,
    "face statistics": FaceStatisticsEncoder,
}


def batch_of(encoder: nn.Module, count: int, seconds: float) -> SoundBatch | FaceBatch:
    """Utterances that differ in length by up to a tenth, or clips."""
    keys = [UtteranceKey("test", "0", str(number)) for number in range(count)]
    if hasattr(encoder, "frames"):
        shape = (encoder.frames, 3, encoder.size, encoder.size)
        return FaceBatch.pad(keys, [torch.randint(256, shape, dtype=torch.uint8) for _ in keys])
    lengths = [round(seconds * 16_000 * (1 - 0.1 * number / count)) for number in range(count)]
    return SoundBatch.pad(keys, [0.1 * torch.randn(length) for length in lengths])


def measure(name: str, seconds: float, batch: int, threads: int, device: str, repeats: int) -> None:
    """Print a row of the table."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    encoder = ENCODERS[name]().eval().to(device)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.process_time if device == "cpu" else time.perf_counter
    row = [name, str(encoder.dim), f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.0f} M"]
    for count in (1, batch):
        inputs = batch_of(encoder, count, seconds).to(device)
        times = []
        for _ in range(1 + repeats):
            start = clock()
            with torch.inference_mode():
                encoder(inputs).cpu()  # waits for the device
            times.append(clock() - start)
        row.append(f"{min(times[1:]) / count:.3f}")
    if device == "cpu":
        row += [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}", f"{loaded / 2**20:.1f}"]
    else:
        row += [f"{torch.cuda.max_memory_allocated() / 2**30:.1f}", "-"]
    print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Measure all encoders, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts, after one to warm up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=ENCODERS)
    options = parser.parse_args()
    if options.only:
        measure(options.only, options.seconds, options.batch, options.threads, options.device, options.repeats)
        return
    print(f"torch {torch.__version__}, {options.threads} threads, {options.device}, {options.seconds} s of sound")
    print(f"| encoder | width | weights | s alone | s in a batch of {options.batch} | peak GiB | GiB once loaded |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in ENCODERS:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
