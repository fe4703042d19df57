"""The one exception that a person can act on, and a parser that speaks like it."""

from __future__ import annotations

import argparse
import errno
from typing import NoReturn


class RunError(Exception):
    """A mistake or mishap the user can mend: one sentence, printed without a traceback."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ``RunError`` sentences, without the usage text in front."""

    def error(self, message: str) -> NoReturn:
        raise RunError(f"{message} (see {self.prog} --help)")


def full_disk(error: OSError) -> bool:
    """Tell whether the system refused to store more bytes: disk full, quota used up, or file-size limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def first_line(error: Exception) -> str:
    """Return the first line of what an error of others says, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
