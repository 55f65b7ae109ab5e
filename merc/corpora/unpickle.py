"""An unpickler that admits numpy arrays and plain containers and can run nothing else."""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Literal

import numpy as np

from merc.conversation import CorpusError
from merc.corpora.pickle_limits import PickleLimitError, check_pickle


class UnsafePickleError(CorpusError):
    """A pickle asks for something that is neither a numpy array nor a plain container."""


def load_pickle(path: str | Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a pickle of numpy arrays and plain containers, without running what it may ask to run.

    Admitted are None, booleans, numbers, strings, bytes, list, tuple, dict, set, frozenset, OrderedDict,
    defaultdict of these, and numpy arrays, scalars and dtypes as numpy 1 and 2 write them, under Python 2
    or 3. Everything that numpy would otherwise do on behalf of the file is checked first: a file that
    chooses its own dtype states can corrupt memory. A file that asks for much more memory or time than its size needs
    is refused before it is read (see :func:`~merc.corpora.pickle_limits.check_pickle`).

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafePickleError: The pickle asks for anything else.
        CorpusError: The file is no pickle, truncated, or asks for much more than it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}: expected a pickle of features.")
    with path.open("rb") as file:
        try:
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                check_pickle(data)
            return _Unpickler(file, encoding="latin1").load()
        except UnsafePickleError as error:
            raise UnsafePickleError(
                f"{path} {error}. Only numpy arrays and plain containers are read, and nothing of the file was run. "
                "Take the file from its authors, or save it again as numpy arrays."
            ) from None
        except PickleLimitError as error:
            raise CorpusError(f"{path} {error}: it is damaged, or made to harm. Take it from its authors.") from None
        except MemoryError as error:
            raise CorpusError(
                f"{path} asks for more memory than there is: it is damaged or was made to harm."
            ) from error
        except Exception as error:  # a damaged pickle can make the unpickler raise anything
            raise CorpusError(
                f"{path} is no whole pickle ({type(error).__name__}: {error}). Download it again."
            ) from error


class _Unpickler(pickle.Unpickler):
    """Resolves the few names on its list to checked stand-ins, bound to this one load."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in pickle
        """The stand-in for a global of the file."""
        # Bound methods and immutable types, because a pickle may set attributes on whatever it gets.
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        module = re.sub(r"^numpy\._core\b", "numpy.core", module)
        allowed: dict[str, Any] = {
            "builtins.list": list,
            "builtins.dict": dict,
            "builtins.int": int,
            "builtins.float": float,
            "builtins.set": set,
            "builtins.frozenset": frozenset,
            "builtins.bytes": self._bytes,
            "collections.OrderedDict": OrderedDict,
            "collections.defaultdict": defaultdict,
            "_codecs.encode": self._encode,
            "numpy.ndarray": _NDARRAY,
            "numpy.dtype": self._dtype,
            "numpy.core.multiarray._reconstruct": self._reconstruct,
            "numpy.core.multiarray.scalar": self._scalar,
            "numpy.core.numeric._frombuffer": self._frombuffer,
        }
        if f"{module}.{name}" not in allowed:
            raise UnsafePickleError(f"asks for {module}.{name}")
        return allowed[f"{module}.{name}"]

    def _bytes(self) -> bytes:
        """``bytes()``, which is how Python 3 writes empty bytes for Python 2; with a number it could fill memory."""
        return b""

    def _encode(self, text: str, encoding: str) -> bytes:
        """How Python 3 writes bytes for Python 2."""
        if encoding != "latin1":
            raise UnsafePickleError(f"asks for the codec {encoding!r}")
        return text.encode("latin1")

    def _dtype(self, code: str, align: bool = False, copy: bool = False) -> _Dtype:
        return _Dtype(code)

    def _reconstruct(self, kind: object, shape: object, code: object) -> _Array:
        if kind is not _NDARRAY:
            raise UnsafePickleError("asks numpy to make something that is no array")
        return _Array((0,), "b")

    def _scalar(self, dtype: _Dtype, data: str | bytes = b"") -> Any:  # noqa: ANN401 - any numpy scalar
        kind = _checked(dtype)
        if kind.hasobject:
            raise UnsafePickleError("asks numpy for an object scalar")
        return np.frombuffer(_raw(data), kind, count=1)[0]

    def _frombuffer(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray[Any, Any]:
        """How protocol 5 writes arrays."""
        kind = _checked(dtype)
        if kind.hasobject:
            raise UnsafePickleError("asks numpy for objects from raw bytes")
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        _check_shape(shape, kind.itemsize, len(data))
        # numpy makes no array of an empty buffer.
        flat = np.frombuffer(data, kind) if len(data) else np.empty(0, kind)
        return flat.reshape(shape, order="F" if order == "F" else "C")


_NDARRAY = object()


class _Dtype:
    """A dtype of the file: a plain kind and its byte order, and nothing that numpy would believe unchecked."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[?biufcSUaO]\d{0,4}|[bBhHiIlLqQefdgFDGO?]", code):
            raise UnsafePickleError(f"asks for the dtype {code!r}")
        self.code = "O" if code.startswith("O") else code.replace("a", "S")
        self.order: Literal["<", ">", "|", "="] = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order and refuse fields, subarrays and metadata."""
        _, order, *structure = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in structure[:3]):
            raise UnsafePickleError("asks for a structured dtype")
        self.order = order


def _checked(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype):
        raise UnsafePickleError("gives numpy something that is no dtype")
    return np.dtype(dtype.code).newbyteorder(dtype.order)


def _check_shape(shape: Sequence[int], itemsize: int, length: int) -> None:
    """Refuse a shape for which there is another amount of data, or that is endless though it needs none."""
    if min(shape, default=0) < 0 or not itemsize or math.prod(shape) * itemsize != length:
        raise UnsafePickleError(f"gives numpy {length} bytes or objects for the shape {tuple(shape)}")
    if not length and math.prod(side for side in shape if side) > _LARGEST_EMPTY:
        raise UnsafePickleError(f"gives numpy the empty shape {tuple(shape)}")


_LARGEST_EMPTY = 2**20
"""Sides of an array without entries, multiplied: whoever goes through its rows would never end."""


def _raw(data: str | bytes) -> bytes:
    """Python 2's byte strings arrive as text, because they were decoded as latin1."""
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array whose state is checked before numpy takes it."""

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - given by the file
        """Fill the array: version, shape, dtype, whether in Fortran order, and the data."""
        _, shape, dtype, fortran, data = state
        kind = _checked(dtype)
        if kind.hasobject != isinstance(data, list):
            raise UnsafePickleError("gives numpy raw bytes as objects")
        content = data if isinstance(data, list) else _raw(data)
        itemsize = 1 if isinstance(data, list) else kind.itemsize
        _check_shape(shape, itemsize, len(content))
        super().__setstate__((1, tuple(shape), kind, bool(fortran), content))  # type: ignore[arg-type]
