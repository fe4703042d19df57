"""Reads the pickles of CIFAR without running anything that they name.

A pickle is a program that calls functions by name. Even if ``numpy.ndarray`` is all that it may call, a crafted file
can pass strides that lie outside the data. So here every name stands for a function of this module, which checks its
arguments, and opcodes that call or change anything else are refused. The unpickler is Python's own, the one written in
Python: its memory stays proportional to the size of the file.

``torchvision.datasets`` with its checksums would be safe as well, but rejects every CIFAR that was written again, such
as one with images removed.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

LARGEST = 2**30  # bytes; the largest file of CIFAR has 155 million
_BASE: Any = pickle._Unpickler
OPCODES = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 NONE NEWTRUE NEWFALSE UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    STRING BINSTRING SHORT_BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_LIST LIST APPEND APPENDS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    GLOBAL STACK_GLOBAL REDUCE PROTO FRAME MARK STOP
""".split()  # noqa: SIM905


class RefusedError(ValueError):
    """The file holds something that has no place in a CIFAR file."""


class Texts(dict[Any, Any]):
    """A dictionary with texts as keys: a nested tuple may take forever to hash."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, bytes | str):
            raise RefusedError("a dictionary must have texts as keys")
        super().__setitem__(key, value)


class Array:
    """An array whose content comes later in the file."""

    content: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, order, content = state
        self.content = _array(content, dtype, shape, "F" if order else "C").content


class Bytes8:
    """The data type uint8."""

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and the like, which one byte does not have."""


def _dtype(name: Any, *_: Any) -> Bytes8:
    if name not in ("u1", b"u1", "uint8", b"uint8"):
        raise RefusedError("an array is not of type uint8")
    return Bytes8()


def _ndarray(*_: Any) -> None:
    raise RefusedError("it calls numpy.ndarray, which is not part of a CIFAR file")


def _reconstruct(kind: Any, *_: Any) -> Array:
    if kind is not _ndarray:
        raise RefusedError("it holds an array of an unknown type")
    return Array()


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Return an array, if the size of its content fits the shape."""
    if not isinstance(dtype, Bytes8) or not isinstance(content, bytes) or order not in ("C", "F"):
        raise RefusedError("an array is not of type uint8")
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size <= LARGEST for size in shape):
        raise RefusedError("an array has an invalid shape")
    if len(shape) > 4 or math.prod(shape) != len(content):
        raise RefusedError(f"an array of {len(content)} bytes cannot have the shape {shape[:4]}")
    found = Array()
    found.content = np.frombuffer(content, np.uint8).reshape(shape, order=order)
    return found


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("it encodes something other than text as Latin-1")
    return text.encode("latin-1")


NAMES = {  # what a file may name, wherever the version of NumPy that wrote it kept it
    ("numpy", "_reconstruct"): _reconstruct,
    ("numpy", "_frombuffer"): _array,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class Unpickler(_BASE):
    """Python's unpickler, without the opcodes that have no place in a CIFAR file."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the function of this module that stands for a name.

        Raises:
            RefusedError: The name has no place in a CIFAR file.
        """
        found = NAMES.get((module.partition(".")[0], name))
        if found is None:
            raise RefusedError(f"it names {ascii(f'{module}.{name}')[1:-1][:80]}, which is not part of a CIFAR file")
        return found

    def _empty_dict(self) -> None:
        self.append(Texts())

    def _dict(self) -> None:
        if self.pop_mark():  # every version of Python has stored the items afterwards
            raise RefusedError("it holds a dictionary in a form that is not part of a CIFAR file")
        self.append(Texts())

    def _build(self) -> None:
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: _BASE.dispatch[code] for code in (getattr(pickle, name)[0] for name in OPCODES)},
        pickle.EMPTY_DICT[0]: _empty_dict,
        pickle.DICT[0]: _dict,
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _BASE.dispatch[pickle.BINBYTES8[0]],  # the original trusts the length
    }


def parse(content: bytes) -> dict[bytes, Any]:
    """Return the dictionary in a pickle, as Python 2 or 3 wrote it, with bytes as keys.

    Raises:
        RefusedError: It is damaged, or holds anything but a dictionary of plain values and uint8 arrays.

    Example:
        >>> parse(pickle.dumps({b"labels": [3, 4], b"data": np.zeros((2, 3), np.uint8)}))
        {b'labels': [3, 4], b'data': array([[0, 0, 0],
               [0, 0, 0]], dtype=uint8)}
    """
    try:
        result = Unpickler(io.BytesIO(content), encoding="bytes").load()
    except RefusedError:
        raise
    except Exception:  # there is no limit to what a damaged file makes of the stack
        raise RefusedError("it is damaged") from None
    if not isinstance(result, Texts):
        raise RefusedError("it does not hold a dictionary")
    return {
        key.encode() if isinstance(key, str) else key: value.content if isinstance(value, Array) else value
        for key, value in result.items()
    }


def read(path: Path) -> dict[bytes, Any]:
    """Read a pickle of CIFAR from a file; see :func:`parse`.

    Raises:
        RefusedError: See :func:`parse`, or the file is larger than any of CIFAR.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise RefusedError(f"it has {size} bytes, expected at most {LARGEST}")
    return parse(path.read_bytes())
