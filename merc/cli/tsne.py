"""``merc tsne``: the vectors of a feature store as points in a plane."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from jsonargparse.typing import PositiveFloat, PositiveInt

from merc.pipeline.problems import ShortParser


def tsne_command(args: list[str]) -> int:
    """Parse the arguments of ``merc tsne`` and draw; returns the exit status."""
    parser = ShortParser(
        prog="merc tsne",
        description="Draw the vectors of a feature store as points in a plane, by t-SNE or UMAP, coloured by emotion: "
        "the `hidden` or `features` of `merc predict` or `merc run`.",
    )
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus.json, whose labels give the colours")
    parser.add_argument("--out", type=Path, required=True, help="the figure: .png, .svg or .pdf")
    parser.add_argument("--split", type=str, default="test", help="split whose utterances are drawn")
    parser.add_argument("--method", type=Literal["tsne", "umap"], default="tsne", help="how points are made of vectors")
    parser.add_argument(
        "--perplexity",
        type=PositiveFloat | None,
        default=None,
        help="t-SNE: about how many neighbours count; default: 30",
    )
    parser.add_argument(
        "--neighbors", type=PositiveInt | None, default=None, help="UMAP: how many neighbours count; default: 15"
    )
    given = parser.parse_args(args)

    own = {"tsne": "perplexity", "umap": "neighbors"}
    name = own.pop(given.method)
    for method, other in own.items():
        if given[other] is not None:
            raise ValueError(f"--{other} is of --method {method}, found --method {given.method}: give --{name}.")

    from merc.conversation import Corpus
    from merc.evaluation import draw_store, tsne, umap
    from merc.store import FeatureStore

    options = {} if given[name] is None else {name: given[name]}
    project = partial(tsne if given.method == "tsne" else umap, **options)
    store, corpus = FeatureStore(given.store), Corpus.load(given.corpus)
    count = draw_store(store, corpus, given.out, split=given.split, project=project)
    print(f"{given.out}: {count} utterances of {given.split}")
    return 0
