"""Community pickles of every layout, written as their makers write them, of any widths."""

import pickle

import numpy as np

from merc.corpora.layouts import LAYOUTS

WIDTHS = {"text": 6, "audio": 3, "visual": 4, "roberta1": 8, "roberta2": 8, "roberta3": 8, "roberta4": 8}
MELD_SPLITS = {"train": [0, 2, 10], "val": [1039, 1041], "test": [1153, 1432]}
IEMOCAP_SPLITS = {
    "train": ["Ses01F_impro02", "Ses04F_impro01"],
    "val": ["Ses01M_impro01", "Ses03F_impro01"],
    "test": ["Ses05F_impro01"],
}
MOSEI_SPLITS = {
    "train": ["--aBcDeFgH", "0-3hIjKlM", "7"],
    "val": ["_nOpQrStUv"],
    "test": ["wXyZaBcD", "9KeFgHiJ"],
}
SPLITS = {"meld": MELD_SPLITS, "iemocap": IEMOCAP_SPLITS, "mosei": MOSEI_SPLITS}


def lengths(corpus):
    names = [name for names in SPLITS[corpus].values() for name in names]
    return {name: 2 + index % 3 for index, name in enumerate(reversed(names))}


def element(role, layout, splits_as, widths):
    """One element of a layout, with values that say where they belong."""
    corpus, size = LAYOUTS[layout].corpus, lengths(LAYOUTS[layout].corpus)
    role = {"labels again": "labels"}.get(role, role.rstrip("?"))
    if role in ("train", "val", "test"):
        names = list(SPLITS[corpus][role])
        if role == "train" and "val" not in LAYOUTS[layout].elements:
            names += SPLITS[corpus]["val"]
        return splits_as(reversed(names))
    if role == "unused":  # MMGCN's text, in M3NET's file
        return {name: [np.full(5, 0.5)] * n for name, n in size.items()}
    if role == "unverified":
        return {name: [0] * n for name, n in size.items()}
    rng = np.random.default_rng(len(role))
    make = {
        "ids": lambda name, n: [2 * i if corpus == "meld" else f"{name}_{'FM'[i % 2]}{i:03d}" for i in range(n)],
        "speakers": lambda name, n: (
            [list(np.eye(9)[i % 2]) for i in range(n)] if corpus == "meld" else ["FM"[i % 2] for i in range(n)]
        ),
        "labels": lambda name, n: [(i + len(str(name))) % (2 if corpus == "mosei" else 6) for i in range(n)],
        "scores": lambda name, n: [
            np.array([(i - 1.2 * (len(str(name)) % 2), 0.5)[: 1 + i % 2]]).ravel() for i in range(n)
        ],
        "audio frames": lambda name, n: [np.full((i + 1, widths["audio"]), i + 0.5) for i in range(n)],
        "words": lambda name, n: [["Caf\xe9", str(i)] for i in range(n)],
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
    extra = {}
    for name, roles in chosen.files.items():
        several = [roles] if isinstance(roles, str) else roles
        extra[name] = {role: element(role, layout, splits_as, widths) for role in several}
        named |= {role: value for role, value in extra[name].items() if role != "unused"}
    if change:
        change(named)
    for name, values in extra.items():
        roles = chosen.files[name]
        whole = values[roles] if isinstance(roles, str) else [values[role] for role in roles]
        (folder / name).write_bytes(pickle.dumps(whole, protocol))
    path = folder / (chosen.main or "features.pkl")
    path.write_bytes(pickle.dumps(parts, protocol))
    return folder if chosen.files else path, named
