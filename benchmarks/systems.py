"""The systems and early fusion on the simulated corpus whose optimum is known: how near, and by how much better?

Every system is trained as its shipped config says, over all modalities and over the text alone, for several seeds, and
its weighted F1 on 1,000 unseen dialogues stands beside the optimum. Each is compared with its own text-only variant and
with ConcatFusion by a paired bootstrap over dialogues:

    python benchmarks/systems.py --out runs/systems --seeds 0 1 2 3 4

Every run leaves its scores in ``OUT/seed-N/NAME/report/metrics.json`` and its predictions beside them. Interrupt it at
will: the same command goes on. ``--systems lfvd cmath`` runs these and early fusion alone, and with hierarchical and
lfvd among them also the mean of both; ``--corpus-seed`` draws another corpus. ``--exact`` puts what a modality of an
utterance says exactly, which only the corpus knows, in the place of the evidence that is estimated from the training
split: what is lacking then, the network lacks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from merc.configs.lookup import find_config
from merc.corpora.simulated import simulate
from merc.evaluation import Predictions, compare_seeds, paired_bootstrap, read_predictions
from merc.evaluation.tables import markdown_table
from merc.features.table import FeatureTable
from merc.files import write_text
from merc.pipeline.run import run_pipeline
from merc.tasks.checkpoints import read_checkpoint

MODALITIES = ("text", "audio", "visual")
EVIDENCE = {name: f"{{{name}}}" for name in MODALITIES}


def shipped(name: str, system: str | None = None) -> list[str]:
    """The configs of a system on the simulated corpus."""
    return [f"systems/{system or name}.yaml", f"simulated/{name}.yaml"]


def fit(name: str, config: list[str], stores: Mapping[str, str], optimum: str, **more: Any) -> dict[str, Any]:
    """A stage that trains and tests."""
    return {"name": name, "command": "fit", "config": config, "stores": dict(stores), "optimum": optimum, **more}


def fused(name: str, config: list[str], stores: Mapping[str, str], **text_options: Any) -> list[dict[str, Any]]:
    """A fusion of all modalities, and the same of the text alone."""
    return [
        fit(name, config, stores, "+".join(MODALITIES)),
        fit(f"{name}_text", config, {"text": stores["text"]}, "text", options=text_options),
    ]


def hierarchical() -> list[dict[str, Any]]:
    """The stages of demo/simulated.yaml after the import: teacher, students, and the fusion under its own name."""
    demo = yaml.safe_load(find_config("demo/simulated.yaml").read_text(encoding="utf-8"))["stages"]
    *networks, fusion = [stage for stage in demo if stage["command"] == "fit"]
    return [*networks, *fused("hierarchical", fusion["config"], fusion["stores"])]


def telme() -> list[dict[str, Any]]:
    """Teacher, students that learn its relations, and the fusion in which they shift it."""
    teacher = {"teacher": "{telme_teacher}/logits", "teacher_hidden": "{telme_teacher}/hidden"}
    hidden = {"text": "{telme_teacher}/hidden"} | {m: f"{{telme_{m}}}/hidden" for m in MODALITIES[1:]}
    return [
        fit(
            "telme_teacher",
            shipped("telme_teacher", "teacher"),
            {"text": "{text}"},
            "text",
            outputs=["hidden", "logits"],
        ),
        *(
            fit(f"telme_{m}", shipped(f"telme_{m}"), {m: f"{{{m}}}", **teacher}, m, outputs=["hidden"])
            for m in MODALITIES[1:]
        ),
        *fused("telme", shipped("telme"), hidden),
    ]


def mean(name: str, members: Sequence[str], optimum: str) -> dict[str, Any]:
    """A stage that averages what earlier stages say."""
    options = {"members": [f"{{{member}}}" for member in members]}
    return {"name": name, "command": "ensemble", "options": options, "optimum": optimum}


AVERAGED = ("hierarchical", "lfvd")
"""The same two as in meld/minilm_systems.yaml."""

SYSTEMS = {
    "hierarchical": hierarchical(),
    "telme": telme(),
    "lfvd": fused("lfvd", shipped("lfvd"), EVIDENCE),
    # One classifier of a modality instead of three, each with weight 1.
    "cmath": fused("cmath", shipped("cmath"), EVIDENCE, **{"model.init_args.aux_weight": 1.0}),
    "averaged": [
        mean("averaged", AVERAGED, "+".join(MODALITIES)),
        mean("averaged_text", [f"{name}_text" for name in AVERAGED], "text"),
    ],
    "concat": fused("concat", shipped("concat"), EVIDENCE),
}


def exact_evidence(folder: Path, corpus_seed: int) -> dict[str, str]:
    """Stores of what each modality of an utterance says of the emotions, exactly; by modality."""
    corpus = simulate(seed=corpus_seed)
    for name in MODALITIES:
        posterior = torch.cat([corpus.posterior(split, [name], context=False) for split in corpus.corpus])
        evidence = posterior.clamp(min=1e-6).log()
        keys = [key for split in corpus.corpus.values() for dialogue in split for key in dialogue.keys]
        row = {key: index for index, key in enumerate(keys)}
        table = corpus.features[name]
        rows = (evidence - evidence.mean(1, keepdim=True))[[row[key] for key in table.keys]]
        FeatureTable(table.keys, rows.float(), table.missing, {"source": "exact"}).save(folder / name)
    return {name: str(folder / name) for name in MODALITIES}


def pipeline(out: Path, systems: list[str], corpus_seed: int, exact: bool) -> Path:
    """The corpus, its evidence and the systems, as a config."""
    demo = yaml.safe_load(find_config("demo/simulated.yaml").read_text(encoding="utf-8"))["stages"]
    replaced = MODALITIES if exact else ()
    stages = [stage for stage in demo if stage["command"] != "fit" and stage["name"] not in replaced]
    stages[0]["options"] = {"seed": corpus_seed}
    for name in systems:
        stages += SYSTEMS[name]
    text = yaml.safe_dump({"corpus": "data", "stages": stages}, sort_keys=False)
    for name, place in (exact_evidence(out / "exact", corpus_seed) if exact else {}).items():
        text = text.replace(f"{{{name}}}", place)
    path = out / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def parameters(out: Path, name: str, seed: int) -> int:
    """Trained numbers of a stage."""
    weights = read_checkpoint(out / f"seed-{seed}" / name / "best.ckpt")["state_dict"]
    return sum(value.numel() for value in weights.values() if value.is_floating_point())


def predictions(out: Path, name: str, seeds: list[int]) -> list[Predictions]:
    """What a stage predicted of the test split, one a seed."""
    return [read_predictions(out / f"seed-{seed}" / name / "report") for seed in seeds]


def difference(less: list[Predictions], more: list[Predictions]) -> str:
    """Mean difference over seeds in points of weighted F1, its 95 % interval, and p."""
    found = paired_bootstrap(less, more)
    low, high = (100 * bound for bound in found.interval)
    return f"{100 * found.difference:+.2f} [{low:+.2f}, {high:+.2f}], p {_shown(found.p)}"


def _shown(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def table(out: Path, systems: list[str], seeds: list[int]) -> str:
    """The systems beside the optimum, their own text-only variants and early fusion, in Markdown."""
    best = json.loads((out / "data/optimum.json").read_text(encoding="utf-8"))["test"]
    stages = [name for system in systems for name in (system, f"{system}_text")]
    found = {name: predictions(out, name, seeds) for name in stages}
    scores = {name: [run.metrics() for run in runs] for name, runs in found.items()}
    optimum = {name: best["text" if name.endswith("_text") else "+".join(MODALITIES)]["context"] for name in stages}
    rows = {row.name: row for row in compare_seeds(scores, optimum).rows}
    columns = ["", "parameters", "weighted F1", "share of the optimum", "text alone", "more than text alone"]
    lines = []
    for name in systems:
        row, text = rows[name], rows[f"{name}_text"]
        stages = [stage for one in (AVERAGED if name == "averaged" else (name,)) for stage in SYSTEMS[one]]
        trained = [stage["name"] for stage in stages if not stage["name"].endswith("_text")]
        size = sum(parameters(out, stage, seeds[0]) for stage in trained)
        over_text = difference(found[text.name], found[name])
        over_concat = "" if name == "concat" else difference(found["concat"], found[name])
        cells = [name, f"{size:,}", row.cell("weighted_f1"), f"{row.share:.1f} %", text.cell("weighted_f1")]
        lines.append([*cells, over_text, over_concat])
    return markdown_table([*columns, "more than concat"], lines)


def main() -> None:
    """Run what is not finished and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/systems"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    single = [name for name in SYSTEMS if name != "averaged"]
    parser.add_argument("--systems", nargs="+", choices=single, default=single)
    parser.add_argument("--corpus-seed", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="exact evidence instead of estimated; give another --out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    systems = [name for name in args.systems if name != "concat"]
    systems += ["averaged", "concat"] if {*AVERAGED} <= {*systems} else ["concat"]
    run_pipeline(pipeline(args.out, systems, args.corpus_seed, args.exact), out=args.out, seeds=args.seeds)
    best = json.loads((args.out / "data/optimum.json").read_text(encoding="utf-8"))["test"]
    text, every = (best[names]["context"] for names in ("text", "+".join(MODALITIES)))
    found = table(args.out, systems, args.seeds)
    write_text(args.out / "systems.md", found + "\n")
    print(f"Weighted F1 in percent, seeds {args.seeds}; optimum {every:.2f}, of the text alone {text:.2f}\n\n{found}")


if __name__ == "__main__":
    main()
