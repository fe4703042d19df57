"""Mistakes that a user can correct, as one sentence each, and the errors that become one."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import torch

import mixwell

Kind = TypeVar("Kind")
PACKAGE = Path(mixwell.__file__).parent


class RunError(Exception):
    """A mistake or a fault that the user can correct: one sentence, printed without a traceback."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ``RunError`` with one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise RunError(f"{message} (see {self.prog} --help)")


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a type of command-line arguments: whole numbers between two limits.

    Example:
        >>> whole(1, 1000)("15")
        15
    """

    def number(text: str) -> int:
        if not text.isdecimal() or len(text) > 30 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number between {low} and {high}, but got {text[:80]!r}")
        return int(text)

    return number


@contextlib.contextmanager
def mistakes(prefix: str = "") -> Iterator[None]:
    """Turn a TypeError or ValueError that mixwell itself raises into a ``RunError``.

    An error raised inside a model, or anywhere else outside this package, keeps its traceback.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if PACKAGE not in Path(frame.f_code.co_filename).parents:
            raise
        raise RunError(f"{prefix}{error}") from error


def expression(text: str, kind: type[Kind], expected: str = "") -> Kind:
    """Return the object that an expression describes.

    Raises:
        RunError: It is not valid, or it describes another kind of object than ``expected``.

    Example:
        >>> expression("CutMix(alpha=0.2)", mixwell.BatchPolicy)
        CutMix(alpha=0.2)
    """
    with mistakes():
        found = mixwell.parse(text)
    if not isinstance(found, kind):
        raise RunError(f"expected {expected or f'a {kind.__name__}'}, but got {text[:80]}")
    return found


@contextlib.contextmanager
def enough_memory(advice: str = "lower --batch_size or --image_size, or add --accumulate 2") -> Iterator[None]:
    """Turn a lack of memory on the device or the host into a sentence with this advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        sizes = f" ({error})" if isinstance(error, MemoryError) and str(error) else ""
        raise RunError(f"out of memory: {advice}{sizes}") from error


def check_memory(images: int, side: int) -> None:
    """Refuse images that cannot fit into memory: the system would end the process without a message.

    Args:
        images: Number of images that are in memory together, as uint8 and as float32.
        side: Height and width (pixels).

    Raises:
        MemoryError: They are larger than the memory of the machine or container.
    """
    needed, there = 15 * images * side**2, memory()
    if needed > there:
        raise MemoryError(
            f"{images} images of {side} x {side} pixels alone take {needed >> 30} GiB of {there >> 30} GiB"
        )


def memory() -> int:
    """Return the memory of this machine or container (bytes); a number beyond every machine where it is unknown."""
    found = 2**60
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def closest(name: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean X?`` with the closest of some names; nothing where none is close.

    Example:
        >>> closest("epoch", ["epochs", "lr"]), closest("x", ["epochs", "lr"])
        ('; did you mean epochs?', '')
    """
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), lower, 1, 0.6)
    return f"; did you mean {lower[close[0]]}?" if close else ""


def one_line(text: object) -> str:
    r"""Return text with control characters escaped, such as a line break in the name of a file.

    Example:
        >>> print(one_line("a\nb"))
        a\nb
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def full_disk(error: OSError) -> bool:
    """Return whether there is no room for more bytes: the disk is full, or a quota or file-size limit is reached."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
