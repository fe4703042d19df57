"""The small files of a run: written as a whole, and checked when they are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mixwell.train.errors import RunError, first_line


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole, so that a reader finds the old or the new content and never a part."""
    part = path.with_name(path.name + ".part")
    write_through(part, content)
    part.replace(path)


def save(path: Path, content: bytes) -> None:
    """Write a file that the user named, as a whole; create its folder if needed.

    Raises:
        RunError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        real = Path(os.path.realpath(path))  # a link stays one
        if real.exists() and not real.is_file() and not real.is_dir():
            real.write_bytes(content)  # a device or a pipe must not be replaced by a file
        else:
            write(real, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def write_through(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def text(path: Path) -> str:
    """Read a text file of a run.

    Raises:
        RunError: It is missing, a folder, or not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise RunError(f"cannot read {path}: it is not UTF-8 text") from None


def parsed(content: str, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RunError: It is not one.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where} is not JSON: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise RunError(f"{where} must be a JSON object, but is of type {type(values).__name__}")
    return values
