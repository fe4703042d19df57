"""Reads the pickles of CIFAR without an unpickler.

A pickle is a program, and an unpickler runs it: even if ``numpy.ndarray`` is all that it may call, a crafted file can
pass strides that lie outside the data. So this module interprets the opcodes itself. It builds dictionaries, lists,
tuples, strings, bytes, whole numbers and uint8 arrays. It calls nothing that the file names, and it makes an array only
if its shape fits the bytes that the file holds. Memory stays proportional to the size of the file.

``torchvision.datasets`` with its checksums would be safe as well, but rejects every CIFAR that was written again, such
as one with images removed.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 2**30  # bytes; the largest file of CIFAR has 155 million
ARGUMENT = {  # opcodes whose argument is the value
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
TEXT = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2, whose strings are bytes
CONSTANT: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple,
}  # fmt: skip
NAMES = {  # what a file may name, wherever the version of NumPy that wrote it kept it
    ("numpy", "_reconstruct"), ("numpy", "_frombuffer"), ("numpy", "ndarray"), ("numpy", "dtype"),
    ("_codecs", "encode"),
}  # fmt: skip


class Name:
    """A function or class that the file names. It is never called."""

    def __init__(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):  # never print a value: it may be nested deeply
            raise ValueError("it names something whose name is not a text")
        package = module.partition(".")[0]
        if (package, name) not in NAMES:
            raise ValueError(f"it names {ascii(f'{module}.{name}')[1:-1][:80]}, which is not part of a CIFAR file")
        self.name = name


class Bytes8:
    """The data type uint8."""


class Array:
    """An array whose content comes later in the file."""

    content: np.ndarray | None = None

    def fill(self, shape: Any, dtype: Any, order: Any, content: Any) -> Array:
        """Take the content, if its size fits the shape."""
        if not isinstance(dtype, Bytes8) or not isinstance(content, bytes | bytearray):
            raise ValueError("an array is not of type uint8")
        if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size <= LARGEST for size in shape):
            raise ValueError("an array has an invalid shape")
        if len(shape) > 4 or math.prod(shape) != len(content):
            raise ValueError(f"an array of {len(content)} bytes cannot have the shape {shape[:4]}")
        self.content = np.frombuffer(bytes(content), np.uint8).reshape(shape, order="F" if order else "C")
        return self


def reduced(name: Any, args: Any) -> Any:
    """Return what a call of a named function stands for.

    Raises:
        ValueError: It is not part of how arrays and bytes are stored.
    """
    match (getattr(name, "name", None), args):
        case ("dtype", ("u1" | b"u1" | "uint8" | b"uint8", *_)):
            return Bytes8()
        case ("dtype", (str(kind), *_)):
            raise ValueError(f"an array is of type {kind[:20]!a}, expected uint8")
        case ("_reconstruct", (Name(name="ndarray"), (0,), _)):
            return Array()
        case ("_frombuffer", (content, dtype, shape, "C" | "F" as order)):
            return Array().fill(shape, dtype, order == "F", content)
        case ("encode", (str(text), "latin1" | "latin-1")):
            return text.encode("latin-1")
    raise ValueError("it calls a function in a way that is not part of a CIFAR file")


class Machine:
    """The stack and memory of a pickle. One method per kind of opcode."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def marked(self) -> list[Any]:
        """Remove and return everything above the last mark."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode.

        Raises:
            ValueError: It has no place in a CIFAR file.
        """
        if opcode in ARGUMENT:
            self.stack.append(argument)
        elif opcode in TEXT:
            self.stack.append(argument.encode("latin-1"))
        elif opcode in CONSTANT:
            self.stack.append(CONSTANT[opcode]())
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        else:
            action = getattr(self, f"do_{opcode.lower()}", None)
            if action is None:
                raise ValueError(f"the opcode {opcode} is not part of a CIFAR file")
            action(*([] if argument is None else [argument]))

    def do_proto(self, version: int) -> None: ...

    def do_frame(self, size: int) -> None: ...

    def do_mark(self) -> None:
        self.marks.append(len(self.stack))

    def do_list(self) -> None:
        self.stack.append(self.marked())

    def do_tuple(self) -> None:
        self.stack.append(tuple(self.marked()))

    def do_tuple1(self) -> None:
        self._tuple(1)

    def do_tuple2(self) -> None:
        self._tuple(2)

    def do_tuple3(self) -> None:
        self._tuple(3)

    def _tuple(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def do_dict(self) -> None:
        values = self.marked()
        self.stack.append({})
        self._store(self.stack[-1], values)

    def do_append(self) -> None:
        self._extend([self.stack.pop()])

    def do_appends(self) -> None:
        self._extend(self.marked())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("it appends to something that is not a list")
        target.extend(values)

    def do_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._store(self.stack[-1], [key, value])

    def do_setitems(self) -> None:
        values = self.marked()
        self._store(self.stack[-1], values)

    def _store(self, target: Any, values: list[Any]) -> None:
        keys = values[::2]
        if not isinstance(target, dict) or len(values) % 2 or not all(isinstance(key, bytes | str) for key in keys):
            raise ValueError("a dictionary must have texts as keys")
        target.update(zip(keys, values[1::2], strict=True))

    def do_global(self, text: str) -> None:
        self.stack.append(Name(*text.split(" ", 1)))

    def do_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(module, name))

    def do_reduce(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        self.stack.append(reduced(name, args))

    def do_build(self) -> None:
        match (self.stack[-2], self.stack.pop()):
            case (Bytes8(), tuple()):  # byte order and the like, which one byte does not have
                pass
            case (Array() as array, (int(), shape, dtype, order, content)):
                array.fill(shape, dtype, order, content)
            case _:
                raise ValueError("it changes something that is not an array")


def parse(content: bytes) -> dict[bytes, Any]:
    """Return the dictionary in a pickle, as Python 2 or 3 wrote it, with bytes as keys.

    Raises:
        ValueError: It is damaged, or holds anything but a dictionary of plain values and uint8 arrays.

    Example:
        >>> import pickle
        >>> parse(pickle.dumps({b"labels": [3, 4], b"data": np.zeros((2, 3), np.uint8)}))
        {b'labels': [3, 4], b'data': array([[0, 0, 0],
               [0, 0, 0]], dtype=uint8)}
    """
    machine = Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name != "STOP":
                machine.step(opcode.name, argument)
        [result] = machine.stack
    except (IndexError, KeyError, TypeError, OverflowError):
        raise ValueError("its opcodes do not fit together") from None
    if not isinstance(result, dict):
        raise ValueError("it does not hold a dictionary")
    return {
        key.encode() if isinstance(key, str) else key: value.content if isinstance(value, Array) else value
        for key, value in result.items()
    }


def read(path: Path) -> dict[bytes, Any]:
    """Read a pickle of CIFAR from a file; see :func:`parse`.

    Raises:
        ValueError: See :func:`parse`, or the file is larger than any of CIFAR.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"it has {size} bytes, expected at most {LARGEST}")
    return parse(path.read_bytes())
