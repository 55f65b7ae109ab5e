"""Packages whose names are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package that imports its names on first use.

    The package imports the same names under ``if TYPE_CHECKING``, for type checkers and editors.

    Args:
        package: The ``__name__`` of the package.
        homes: By module, the names that come from it; ``"run_pipeline as run"`` gives one another name.
    """
    found: dict[str, tuple[str, str]] = {}
    for module, names in homes.items():
        for name in names:
            attribute, _, other = name.partition(" as ")
            found[other or name] = (module, attribute)

    def get(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
        if name not in found:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = found[name]
        value = getattr(import_module(module), attribute)
        setattr(sys.modules[package], name, value)  # so that the next access does not come here
        return value

    return get, lambda: sorted(sys.modules[package].__all__)
