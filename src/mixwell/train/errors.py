"""The one exception that a person can act on, and a parser that speaks like it."""

from __future__ import annotations

import argparse
import difflib
import errno
from collections.abc import Iterable
from typing import NoReturn


class RunError(Exception):
    """A mistake or mishap the user can mend: one sentence, printed without a traceback."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ``RunError`` sentences, without the usage text in front."""

    def error(self, message: str) -> NoReturn:
        raise RunError(f"{message} (see {self.prog} --help)")


def nearest(word: str, names: Iterable[str]) -> str:
    """Return ``"did you mean X?"``, or the list of names when none comes close.

    Example:
        >>> nearest("epoch", ["epochs", "lr"])
        "did you mean 'epochs'?"
        >>> nearest("zzz", ["epochs", "lr"])
        'there are epochs, lr'
    """
    names = list(names)
    close = difflib.get_close_matches(word, names, 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


def full_disk(error: OSError) -> bool:
    """Tell whether the system refused to store more bytes: disk full, quota used up, or file-size limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
