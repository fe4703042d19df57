"""Paths that a user types."""

from __future__ import annotations

import contextlib
import re
import zlib
from pathlib import Path

from mixwell.train.errors import RunError


def expand(path: str | Path) -> Path:
    """Return a path with a leading ``~`` or ``~USER`` replaced by that home directory.

    Raises:
        RunError: The user does not exist, or the path is empty or too long, or has a character that no path may have.

    Example:
        >>> expand("~/photos") == Path.home() / "photos", expand("a/~b") == Path("a/~b")
        (True, True)
    """
    text = str(path)
    if not text:
        raise RunError("a path is empty: expected the name of a file or folder")
    try:
        found = Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            found.lstat()
    except RuntimeError:
        raise RunError(f"cannot find the home directory in {text!r}: give the full path") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{text[:80]!r} cannot be a path: {getattr(error, 'strerror', None) or error}") from None
    return found


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
