"""Paths that a user types."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from mixwell.train.errors import RunError


def expand(path: str | Path) -> Path:
    """Return a path with a leading ``~`` or ``~USER`` replaced by that home directory.

    Raises:
        RunError: The user does not exist.

    Example:
        >>> expand("~/photos") == Path.home() / "photos", expand("a/~b") == Path("a/~b")
        (True, True)
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise RunError(f"cannot find the home directory in {str(path)!r}: give the full path") from None


def file_name(text: str) -> str:
    """Return text as a name of a file; a long one is cut, with a checksum that tells it from others.

    Example:
        >>> file_name("CutMix(alpha=0.2), seed 1")
        'CutMix_alpha=0.2_seed_1'
    """
    short = re.sub(r"[^\w.=-]+", "_", text).strip("_")
    return short if len(short) <= 100 else f"{short[:90]}-{zlib.crc32(text.encode()):08x}"


def absolute(path: str) -> str:
    """Return an absolute path, for a run that may be resumed from another folder.

    ``timm/TAG`` and ``hf://datasets/NAME`` are not paths and stay as they are.
    """
    return path if not path or path.startswith(("timm/", "hf://")) else str(expand(path).absolute())
