"""Reading the config of a pipeline: short forms spelled out, and one pipeline built on another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from merc.configs.lookup import CONFIGS, beside, find_config, shipped_configs
from merc.files import parse_yaml
from merc.pipeline.kinds import ImportStage
from merc.pipeline.plan import Pipeline
from merc.pipeline.stage import PipelineError, Stage, references

_KEYS = ("base", "compare", "corpus", "stages", "without")


def read_pipeline(name: str | Path) -> Pipeline:
    """Read and check the config of a pipeline.

    Beside ``stages`` a pipeline may have:

    - ``corpus: NAME``: the stage that brings the corpus which the others read. A stage may read that of another one,
      ``corpus: OTHER``, or none, ``corpus: false``.
    - ``base: OTHER.yaml``: the pipeline that this one changes. Stages of the same name are merged, options one by one;
      new stages come before the first one that refers to them, or at the end. A stage with ``replace: true`` takes
      nothing from that of the base.
    - ``without: [NAME, ...]``: stages of the base that are left out.
    - ``compare: [NAME, ...]``: tested stages that are compared head to head when all is finished.

    In a stage, ``stores: {text: "{teacher}/hidden"}`` is short for the option ``data.stores``. Configs, files and
    folders with relative paths are those beside the pipeline, if they are there; a folder is known by a ``/`` in its
    path, such as ``./clips``, a file by that or its ending. What is not there may be the short name of a shipped
    config, or a path from the working directory.

    Args:
        name: A file, or the short name of a shipped pipeline.

    Raises:
        FileNotFoundError: There is no such config.
        PipelineError: The file has a key or a value that a pipeline does not have.
    """
    path = find_config(str(name))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Pipeline, "pipeline")
    try:
        merged = _merged(path, ())
        stages, compare = _spelled_out(merged), merged.get("compare", [])
        parser.parse_object({"pipeline": {"stages": deepcopy(stages), "compare": compare}})
        # Not made by the parser, which would make an object of every class that an option names, for example a scorer.
        pipeline = Pipeline([Stage(**stage) for stage in stages], list(compare))
    except PipelineError:
        raise
    except Exception as error:  # jsonargparse wraps what it finds in classes of its own
        raise PipelineError(f"{path} is not a pipeline: {_last_cause(error)}") from error
    return pipeline


def read_stack(names: Sequence[str | Path]) -> Pipeline:
    """Read a pipeline, or make one of the configs of a single stage: that of the stage ``fusion``.

    Args:
        names: The config of a pipeline; or those of a stage, of which later ones override earlier ones.

    Raises:
        FileNotFoundError: There is no such config.
        PipelineError: The file is not a pipeline, or a config follows it.
    """
    paths = [str(find_config(str(name))) for name in names]
    content = parse_yaml(Path(paths[0]).read_text(encoding="utf-8"), names[0])
    if isinstance(content, dict) and "stages" not in content and "base" not in content and "model" in content:
        return Pipeline([Stage("fusion", "fit", paths)])
    if len(paths) > 1:
        others = ", ".join(map(str, names[1:]))
        raise PipelineError(f"{names[0]} is a pipeline: expected no config behind it, found {others}.")
    return read_pipeline(paths[0])


def _last_cause(error: BaseException) -> str:
    """The innermost message, without the usage of every class that a parser tried."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("- ") if lines else type(error).__name__


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A pipeline together with the one that it is based on."""
    if path in seen:
        raise PipelineError(f"{path} is based on itself: {' -> '.join(map(str, [*seen, path]))}.")
    raw = parse_yaml(path.read_text(encoding="utf-8"), path)
    if isinstance(raw, dict) and {"model", "data", "trainer"} & raw.keys():
        raise PipelineError(_not_a_pipeline(path))
    if not isinstance(raw, dict) or not isinstance(raw.get("stages", []), list):
        raise PipelineError(f"{path} is not a pipeline: expected the key `stages` with a list of stages.")
    if unknown := sorted(raw.keys() - set(_KEYS)):
        raise PipelineError(f"{path} is not a pipeline: unknown {', '.join(unknown)}; expected {', '.join(_KEYS)}.")
    own = [_located(stage, path.parent) for stage in raw.get("stages", [])]
    if "base" not in raw:
        return {**raw, "stages": own}
    beside = path.parent / raw["base"]
    base = _merged(beside if beside.is_file() else find_config(raw["base"]), (*seen, path))
    stages = {stage["name"]: stage for stage in base["stages"]}
    for name in raw.get("without", []):
        if stages.pop(name, None) is None:
            raise PipelineError(f"{path} leaves out {name!r}, which its base {raw['base']} does not have.")
    for stage in own:
        known = stages.get(stage["name"], {})
        merged = {**known, **stage}
        if merged.pop("replace", False):
            stages.pop(stage["name"], None)  # it stands where this pipeline puts it
            stages[stage["name"]] = {key: value for key, value in stage.items() if key != "replace"}
            continue
        for key in ("options", "stores"):
            if known.get(key) and stage.get(key):
                merged[key] = {**known[key], **stage[key]}
        stages[stage["name"]] = merged
    corpus = raw.get("corpus", base.get("corpus"))
    first = [stages.pop(corpus)] if corpus in stages else []
    compare = [name for name in base.get("compare", []) if name in stages or name == corpus]
    return {
        "corpus": corpus,
        "compare": raw.get("compare", compare),
        "stages": _in_order([*first, *stages.values()]),
    }


def _not_a_pipeline(path: Path) -> str:
    """What to do with the config of one network or corpus."""
    name = path.relative_to(CONFIGS).as_posix() if path.is_relative_to(CONFIGS) else str(path)
    using = [p for p in shipped_configs() if re.search(rf"\b{re.escape(name)}\b", (CONFIGS / p).read_text("utf-8"))]
    pipelines = [p for p in using if re.search("^(stages|base):", (CONFIGS / p).read_text("utf-8"), re.MULTILINE)]
    trained = f" Pipelines that train it: {', '.join(pipelines)}." if pipelines else ""
    return (
        f"{name} is the config of a network or its data, not a pipeline: expected a list of stages. Train it with "
        f"`merc fit --config {name}` and a corpus, such as --config corpora/meld_sdt.yaml, once for every "
        f"--seed_everything.{trained}"
    )


def with_import_options(pipeline: Pipeline, options: Mapping[str, Any]) -> Pipeline:
    """A pipeline whose import of the corpus has further options: those that a command is given by name.

    Args:
        pipeline: The pipeline.
        options: Options of the first stage that imports conversations, for example ``file`` and ``layout``.

    Raises:
        PipelineError: No stage imports a corpus, or an option is not one of its own.
    """
    if not options:
        return pipeline
    given = ", ".join(f"--{name}" for name in options)
    takers = [i for i, s in enumerate(pipeline.stages) if isinstance(s.kind, ImportStage) and s.kind.brings_corpus(s)]
    if not takers:
        raise PipelineError(f"Unknown option {given}: no stage of this pipeline imports a corpus that could take it.")
    if "seed" in options:
        raise PipelineError(
            "Unknown option --seed: expected --seeds N, which trains N seeds, and --first_seed, from which they count."
        )
    stages = list(pipeline.stages)
    stages[takers[0]] = replace(stages[takers[0]], options={**stages[takers[0]].options, **options})
    return Pipeline(stages, pipeline.compare)


def _located(stage: Any, folder: Path) -> dict[str, Any]:  # noqa: ANN401 - whatever the file holds
    """A stage whose configs and files that lie beside the pipeline are named by absolute paths."""
    if not isinstance(stage, dict) or not isinstance(stage.get("name"), str):
        raise PipelineError(f"A stage is {stage!r}: expected a mapping with name and command.")
    if folder.is_relative_to(CONFIGS):
        return dict(stage)
    located = absolute({key: stage[key] for key in ("config", "options", "stores") if key in stage}, folder)
    return {**stage, **located}


def absolute(value: Any, folder: Path) -> Any:  # noqa: ANN401 - nested JSON values
    """A nested value whose strings that name files or folders below ``folder`` are absolute paths."""
    if isinstance(value, str):
        return value if references(value) else beside(value, folder) or value
    if isinstance(value, Mapping):
        return {key: absolute(part, folder) for key, part in value.items()}
    return [absolute(part, folder) for part in value] if isinstance(value, list) else value


def _in_order(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages with each one behind those that it refers to, otherwise in the given order."""
    names = {stage["name"] for stage in stages}
    placed: dict[str, dict[str, Any]] = {}

    def place(stage: dict[str, Any], behind: tuple[str, ...]) -> None:
        if stage["name"] in placed or stage["name"] in behind:  # a circle is refused when the pipeline is made
            return
        needed = references([stage.get("options", {}), stage.get("stores", {})]) & names
        for other in stages:
            if other["name"] in needed:
                place(other, (*behind, stage["name"]))
        placed[stage["name"]] = stage

    for stage in stages:
        place(stage, ())
    return list(placed.values())


def _spelled_out(pipeline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages with their stores and the pipeline's corpus among the options."""
    stages = []
    for raw in pipeline["stages"]:
        stage = dict(raw)
        options = dict(stage.pop("options", None) or {})
        if stores := stage.pop("stores", None):
            options["data.stores"] = stores
        reads = stage.pop("corpus", True)
        bringer = reads if isinstance(reads, str) else pipeline.get("corpus")
        if bringer and reads and stage["name"] != bringer:
            named = Stage(stage["name"], stage.get("command", ""), stage.get("config", ""))
            option = named.kind.corpus_option(named)
            if option is not None and option not in options:
                options = {option: f"{{{bringer}}}/corpus.json", **options}
        stages.append({**stage, "options": options})
    return stages
