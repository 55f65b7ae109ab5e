"""Community pickles of every layout, written as their makers write them, of any widths."""

import pickle

import numpy as np

from merc.corpora.pickles import LAYOUTS

WIDTHS = {"text": 6, "audio": 3, "visual": 4, "roberta1": 8, "roberta2": 8, "roberta3": 8, "roberta4": 8}
MELD_SPLITS = {"train": [0, 2, 10], "val": [1039, 1041], "test": [1153, 1432]}
IEMOCAP_SPLITS = {
    "train": ["Ses01F_impro02", "Ses04F_impro01"],
    "val": ["Ses01M_impro01", "Ses03F_impro01"],
    "test": ["Ses05F_impro01"],
}
SPLITS = {"meld": MELD_SPLITS, "iemocap": IEMOCAP_SPLITS}


def lengths(corpus):
    names = [name for names in SPLITS[corpus].values() for name in names]
    return {name: 2 + index % 3 for index, name in enumerate(reversed(names))}


def element(role, layout, splits_as, widths):
    """One element of a layout, with values that say where they belong."""
    corpus, size = LAYOUTS[layout].corpus, lengths(LAYOUTS[layout].corpus)
    role = role.rstrip("?")
    if role in ("train", "val", "test"):
        names = list(SPLITS[corpus][role])
        if role == "train" and "val" not in LAYOUTS[layout].elements:
            names += SPLITS[corpus]["val"]
        return splits_as(reversed(names))
    if role == "unverified":
        return {name: [0] * n for name, n in size.items()}
    rng = np.random.default_rng(len(role))
    make = {
        "ids": lambda name, n: [f"{name}_{'FM'[i % 2]}{i:03d}" if corpus == "iemocap" else 2 * i for i in range(n)],
        "speakers": lambda name, n: (
            ["FM"[i % 2] for i in range(n)] if corpus == "iemocap" else [list(np.eye(9)[i % 2]) for i in range(n)]
        ),
        "labels": lambda name, n: [(i + len(str(name))) % 6 for i in range(n)],
        "sentiment": lambda name, n: [0] * n,
        "sentences": lambda name, n: [f"Caf\xe9 {i}" for i in range(n)],
    }
    if role in widths:
        return {name: list(rng.normal(size=(n, widths[role])).astype(np.float32)) for name, n in size.items()}
    return {name: make[role](name, n) for name, n in size.items()}


def write(folder, layout, *, splits_as=list, protocol=2, change=None, widths=WIDTHS):
    """Write a pickle of a layout and give its path and the elements by role."""
    chosen = LAYOUTS[layout]
    parts = [element(role, layout, splits_as, widths) for role in chosen.elements]
    named = dict(zip(chosen.elements, parts, strict=True))
    extra = {role: element(role, layout, splits_as, widths) for role in chosen.files}
    if change:
        change({**named, **extra})
    for role, value in extra.items():
        (folder / chosen.files[role]).write_bytes(pickle.dumps(value, protocol))
    path = folder / (chosen.main or "features.pkl")
    path.write_bytes(pickle.dumps(parts, protocol))
    return folder if chosen.files else path, {**named, **extra}
