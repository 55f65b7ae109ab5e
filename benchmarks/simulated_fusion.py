"""How near the models come to the best possible score, on simulated corpora whose optimum is known.

Trains the shipped chain (teacher, distilled students, hierarchical fusion), the same students without a teacher, and
early fusion (concatenation, one hidden layer, a BiGRU over the dialogue) for several seeds, and prints
weighted F1 on 1,000 unseen dialogues beside the optimum:

    python benchmarks/simulated_fusion.py --out runs/simulated-benchmark --seeds 0 1 2 3 4

Interrupt it at will: the same command goes on. ``--corpus-seed`` draws another corpus.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import yaml
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from merc.batch import ConversationBatch
from merc.configs.lookup import find_config
from merc.fusion import FusionHead, FusionOutput
from merc.pipeline.run import run_pipeline

EARLY_FUSION = """\
trainer:
  max_steps: 750
  val_check_interval: 75
  check_val_every_n_epoch: null
  gradient_clip_val: 1.0
  callbacks:
    - class_path: merc.callbacks.WeightEMA
      init_args: {horizon: 0.15}
model:
  class_path: merc.tasks.FusionTask
  init_args:
    head: {class_path: simulated_fusion.EarlyFusion}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3, weight_decay: 0.01}}
    lr_scheduler: {class_path: merc.tasks.schedules.WarmupCosineLR}
data:
  class_path: merc.datamodules.ConversationDataModule
  init_args: {corpus: none, stores: {}}
"""


class EarlyFusion(FusionHead):
    """Concatenate the raw features, one hidden layer, a BiGRU over the dialogue, classify."""

    def __init__(self, dims: dict[str, int], num_classes: int, dim: int = 256, dropout: float = 0.3) -> None:
        super().__init__(dims, num_classes)
        width = sum(dims.values()) + len(dims)
        self.hidden = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, dim), nn.ReLU(), nn.Dropout(dropout))
        self.context = nn.GRU(dim, dim // 2, batch_first=True, bidirectional=True)
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, num_classes))

    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities of every utterance in its dialogue."""
        flags = [batch.present[name][:, None].float() for name in self.dims]
        dense, _ = batch.to_dense(self.hidden(torch.cat([*(batch.features[name] for name in self.dims), *flags], 1)))
        packed = pack_padded_sequence(dense, batch.lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.context(packed)[0], batch_first=True)
        fused = batch.to_flat(states)
        return FusionOutput(logits=self.classify(fused), embeddings=fused)


def pipeline(out: Path, corpus_seed: int) -> Path:
    """The shipped pipeline with undistilled students and early fusion added, as a config."""
    config = yaml.safe_load(find_config("demo/simulated.yaml").read_text(encoding="utf-8"))
    stages = {stage["name"]: stage for stage in config["stages"]}
    stages["data"]["options"] = {"seed": corpus_seed}
    for modality in ("audio", "visual"):
        student = stages[f"{modality}_student"]
        options = {**student.get("options", {}), "model.init_args.loss.init_args.alpha": 1.0}
        config["stages"].append({**student, "name": f"{modality}_undistilled", "options": options, "outputs": []})
    early = out / "early_fusion.yaml"
    early.write_text(EARLY_FUSION, encoding="utf-8")
    features = {name: f"{{data}}/features/{name}" for name in ("text", "audio", "visual")}
    config["stages"].append(
        {
            "name": "early_fusion",
            "command": "fit",
            "config": str(early),
            "stores": features,
            "optimum": "text+audio+visual",
        }
    )
    path = out / "pipeline.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def main() -> None:
    """Run the stages for every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/simulated-benchmark"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--corpus-seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(run_pipeline(pipeline(args.out, args.corpus_seed), out=args.out, seeds=args.seeds).read_text())


if __name__ == "__main__":
    main()
