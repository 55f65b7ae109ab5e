"""Networks from plain values: a class by its import path, with its arguments. Only merc's own, unless it is trusted."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import nn

from merc.models.errors import ModelError

OWN = ("merc", "torch.nn")
"""Packages whose networks any model may use."""


@dataclass(frozen=True)
class Maker:
    """Makes objects from ``{"class_path": ..., "init_args": {...}}``, as configs have them.

    Args:
        trust_remote_code: Import classes of any package, and make what they name. Without it only the networks of
            :data:`OWN` are made: other classes may do anything with their arguments.
    """

    trust_remote_code: bool = False

    def find(self, path: object, expected: type) -> Any:  # noqa: ANN401 - a class or a function
        """The class or function of an import path.

        Args:
            path: What the model names.
            expected: The class that it must be derived from.

        Raises:
            ModelError: It is not there, is of a package that is not trusted, or something else.
        """
        if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
            raise ModelError(f"The model names the class {path!r}: expected an import path.")
        if not self.trust_remote_code and not path.startswith(tuple(f"{package}." for package in OWN)):
            raise ModelError(
                f"The model uses {path}, which is not merc's: importing it runs code of {path.partition('.')[0]!r}. If "
                "you trust the model and that package, load it with trust_remote_code=True."
            )
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ModelError(
                f"The model uses {path}, which cannot be imported ({error}): install its package, or the version of "
                "merc that its config.json names."
            ) from error
        if not (isinstance(found, type) and issubclass(found, expected)):
            raise ModelError(f"The model uses {path} where a {expected.__name__} is expected.")
        return found

    def partial(self, spec: object, expected: type) -> functools.partial[Any]:
        """A class with its own options, to be called with what the data knows.

        Args:
            spec: ``{"class_path": ..., "init_args": {...}}``, or the import path alone.
            expected: The class that it must be derived from.

        Raises:
            ModelError: It cannot be made of plain values.
        """
        if isinstance(spec, str):
            spec = {"class_path": spec}
        if not isinstance(spec, Mapping) or not isinstance(spec.get("init_args", {}), Mapping):
            raise ModelError(f"The model describes a {expected.__name__} by {spec!r}: expected class_path, init_args.")
        made = self.find(spec.get("class_path"), expected)
        given = {**spec.get("init_args", {}), **spec.get("dict_kwargs", {})}
        hints = _hints(made)
        return functools.partial(made, **{name: self._value(value, hints.get(name)) for name, value in given.items()})

    def make(self, spec: object, expected: type, *args: object) -> Any:  # noqa: ANN401 - of the class that spec names
        """An object; see :meth:`partial`.

        Args:
            spec: As for :meth:`partial`.
            expected: As for :meth:`partial`.
            args: Its first arguments.
        """
        try:
            return self.partial(spec, expected)(*args)
        except ModelError:
            raise
        except (TypeError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"A {expected.__name__} of the model cannot be made of {spec!r}: {error}") from error

    def _value(self, value: object, hint: Any) -> Any:  # noqa: ANN401 - plain values, and what annotations are
        """A plain value as the argument that an annotation describes."""
        if isinstance(value, Mapping) and "class_path" in value:
            partial = self.partial(value, nn.Module)
            return partial if _takes_callable(hint) else partial()
        if isinstance(value, str) and _takes_callable(hint):
            return self.partial(value, nn.Module)
        if isinstance(value, list):
            parts = [self._value(part, None) for part in value]
            return tuple(parts) if any(get_origin(kind) is tuple for kind in _alternatives(hint)) else parts
        if isinstance(value, Mapping):
            return {name: self._value(part, None) for name, part in value.items()}
        return value


def _hints(made: type) -> dict[str, Any]:
    """The annotations of the arguments of a class, and of the classes above it to which it may hand them on."""
    found: dict[str, Any] = {}
    for above in reversed(made.__mro__):
        if "__init__" in vars(above):
            try:
                found |= get_type_hints(vars(above)["__init__"])
            except (NameError, TypeError):  # an annotation for type checkers alone
                continue
    return found


def _alternatives(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 - an annotation
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _takes_callable(hint: Any) -> bool:  # noqa: ANN401 - an annotation
    return any(get_origin(kind) is Callable or kind is Callable for kind in _alternatives(hint))
