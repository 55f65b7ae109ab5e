"""What features are: by which encoder, with which weights, of which columns. Not of which utterances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = ("source", "encoder", "weights", "columns", "context", "prompt", "pooling", "speaker_tokens")


def identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What of the provenance of a store tells whether other features mean the same.

    Args:
        provenance: The provenance.

    Returns:
        Its entries about the source, the encoder with the digest of its weights and how it reads text, and the
        columns; under ``of``, those of the features that it was computed from. Empty if it tells none of these.

    Example:
        >>> identity({"encoder": "/models/bert", "weights": "a1b2", "trained_on": "meld/train"})
        {'encoder': '/models/bert', 'weights': 'a1b2'}
    """
    found = {name: provenance[name] for name in _NAMES if name in provenance}
    of = provenance.get("of")
    return found | ({"of": identity(of)} if isinstance(of, Mapping) else {})


def difference(expected: Mapping[str, Any], provenance: Mapping[str, Any]) -> str | None:
    """In what the provenance of a store is not of an identity; ``None`` if it is.

    Weights say which encoder it is, wherever it lies: with the same ones its name may differ.

    Args:
        expected: What :func:`identity` has told of other features. What it does not tell may be anything.
        provenance: The provenance.

    Example:
        >>> difference({"encoder": "/models/bert", "weights": "a1b2"}, {"encoder": "/other/bert", "weights": "a1b2"})
        >>> difference({"encoder": "bert"}, {"encoder": "roberta"})
        "encoder: expected 'bert', found 'roberta'"
    """
    found = identity(provenance)
    if "weights" in expected and expected["weights"] == found.get("weights"):
        expected = {name: value for name, value in expected.items() if name != "encoder"}
    for name, value in expected.items():
        other = found.get(name)
        if isinstance(value, Mapping):
            inner = difference(value, other if isinstance(other, Mapping) else {})
            if inner is not None:
                return f"{name}.{inner}"
        elif value != other:
            return f"{name}: expected {_short(value)}, found {_short(other)}"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
