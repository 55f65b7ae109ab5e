"""``merc export``: a finished run as one folder that predicts anywhere, or as ONNX; ``merc predict --model``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from merc.pipeline.problems import ShortParser


def export_command(args: list[str]) -> int:
    """Parse the arguments of ``merc export`` and write the model; returns the exit status."""
    parser = ShortParser(
        prog="merc export",
        description="Make one folder of a finished run that predicts anywhere: networks, fitted evidence, graph "
        "options and a card, without training data. An ensemble is one model, and so are all seeds of the run. With "
        "--onnx its networks are written for ONNX Runtime too.",
    )
    parser.add_argument(
        "run",
        type=Path,
        help="folder of a finished `merc run`; for --onnx alone also a model, or weights of LipSyncNet",
    )
    parser.add_argument("--out", type=Path | None, default=None, help="folder of the model")
    parser.add_argument("--onnx", type=Path | None, default=None, help="folder for the networks as ONNX files")
    parser.add_argument("--seed", type=int | None, default=None, help="one seed of the run; default: all together")
    parser.add_argument("--stage", type=str | None, default=None, help="the stage that tells emotions; default: last")
    parser.add_argument(
        "--with_encoders", type=bool, default=False, help="include pretrained text encoders; else they are named"
    )
    parser.add_argument("--name", type=str | None, default=None, help="name of the model; default: that of the folder")
    parser.add_argument("--licence", type=str | None, default=None, help="under which licence it may be used")
    parser.add_argument("--data", type=str | None, default=None, help="what it was trained on, in words, for its card")
    given = parser.parse_args(args)
    if given.out is None and given.onnx is None:
        raise ValueError("Nothing would be kept: expected --out MODEL, --onnx FOLDER, or both.")
    from merc.models import export_onnx, export_run  # PyTorch takes seconds to import: --help needs none of it

    if given.out is None and not (given.run / "pipeline.json").is_file():
        return _tell_onnx(export_onnx(given.run, given.onnx))
    model = export_run(
        given.run,
        given.out,
        seed=given.seed,
        stage=given.stage,
        with_encoders=given.with_encoders,
        name=given.name,
        licence=given.licence,
        data=given.data,
    )
    if given.out is not None:
        size = sum(file.stat().st_size for file in given.out.rglob("*") if file.is_file()) / 1e6
        reads = f"reads {', '.join(model.modalities)}; {', '.join([*model.labels.names, *model.dimensions])}"
        print(f"Model: {given.out} ({size:.1f} MB; {reads})")
    if model.given:
        print(f"Features that it does not compute itself: {', '.join(model.given)}")
    if packages := model.about["packages"]:
        print(f"It uses classes of {', '.join(packages)}: to load it, others need them and trust_remote_code=True.")
    return 0 if given.onnx is None else _tell_onnx(export_onnx(model, given.onnx))


def _tell_onnx(files: list[Path]) -> int:
    print(f"ONNX: {', '.join(map(str, files))}")
    return 0


def asks_a_model(args: list[str]) -> bool:
    """Whether ``merc predict`` is given a model: of Lightning's options it has neither a config nor data."""
    names = {arg.partition("=")[0] for arg in args if arg.startswith("-")}
    return "--model" in names and not any(name == "-c" or name.startswith(("--config", "--data")) for name in names)


def predict_command(args: list[str]) -> int:
    """Parse the arguments of ``merc predict --model`` and write the emotions; returns the exit status."""
    parser = ShortParser(
        prog="merc predict --model MODEL",
        description="The emotion of every row of a CSV file with a column of texts, and perhaps of speakers and "
        "dialogues. For one stage of a training, see `merc predict --config`.",
    )
    parser.add_argument("file", type=Path, help="CSV file with the columns text, speaker, dialogue")
    parser.add_argument(
        "--model", type=str, required=True, help="folder of `merc export`, text-meld, or a name on the hub"
    )
    parser.add_argument("--out", type=Path, required=True, help="file for the predictions, such as predictions.csv")
    parser.add_argument(
        "--features", type=dict[str, Path], default={}, help="stores of what the model does not compute itself, by name"
    )
    parser.add_argument(
        "--trust_remote_code", type=bool, default=False, help="whether the model may use classes of other packages"
    )
    given = parser.parse_args(args)
    from merc.files import write_text
    from merc.models import load

    model = load(given.model, trust_remote_code=given.trust_remote_code)
    emotions = model.predict(given.file, features=given.features)
    write_text(given.out, emotions.to_csv())
    counts = Counter(emotions.label).most_common() if len(model.labels) else []
    means = zip(emotions.dimensions, emotions.values.mean(0).tolist(), strict=True) if model.dimensions else ()
    told = ", ".join([*(f"{name} {count}" for name, count in counts), *(f"mean {n} {mean:.2f}" for n, mean in means)])
    print(f"{len(emotions)} utterances: {told}\nPredictions: {given.out}")
    return 0
