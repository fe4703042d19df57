"""Keep a record of measurements that survives a killed program, and give each section of a program a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "timm", "kornia", "accelerate", "triton", "numpy", "pytest")
Row = dict[str, Any]


class OutOfTime(BaseException):
    """The time of a section is up. Not an ``Exception``, so that no compiler or test catches it on its way."""


class Record:
    """A JSON lines file to which rows are appended one by one, and this program's rows in memory."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows, self.start = path, [], time.monotonic()

    def write(self, kind: str, **fields: Any) -> Row:
        """Append one row and flush it."""
        row = {"kind": kind, "at": round(time.monotonic() - self.start, 2), **fields}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def of(self, kind: str, **fields: Any) -> list[Row]:
        """Return the rows of a kind whose fields have these values."""
        return [row for row in self.rows if row["kind"] == kind and fields.items() <= row.items()]

    @contextmanager
    def listed(self, what: str) -> Iterator[None]:
        """Write an error as a row and carry on."""
        try:
            yield
        except Exception as error:
            self.write("failure", what=what, error=short(error))


class Sections:
    """Runs one section after the other within a total time.

    Args:
        record: Where the outcome of each section is written.
        budget: Time of all sections together (seconds).
    """

    def __init__(self, record: Record, budget: float) -> None:
        self.record, self.deadline = record, record.start + budget

    def left(self) -> float:
        """Return the seconds that are left of the total."""
        return self.deadline - time.monotonic()

    def run(self, name: str, limit: float, work: Callable[[], object]) -> None:
        """Run a section, stop it at its limit or at the end of the total, and write how it went."""
        start, seconds = time.monotonic(), min(limit, self.left())
        if seconds < 1:
            self.record.write("section", name=name, outcome="skipped: no time left", seconds=0.0)
            return
        outcome = "done"
        try:
            with alarm(seconds):
                work()
        except OutOfTime:
            outcome = f"stopped after its {seconds:.0f} s"
        except Exception as error:
            outcome = f"failed: {short(error)}"
        self.record.write("section", name=name, outcome=outcome, seconds=round(time.monotonic() - start, 1))


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` in the body after some seconds."""

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def short(error: BaseException) -> str:
    """Say in one line of at most 200 characters what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter and are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of a checkout, None where there is none."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine(device: str, known: str | None) -> dict[str, object]:
    """Return what a reader needs to know beside the numbers."""
    return {
        "device": device,
        "versions": versions(),
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": known or commit(),
        "command": " ".join(sys.argv),
    }


def table(rows: list[list[str]]) -> str:
    """Align rows of text in columns, the first to the left and the others to the right."""
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [cell.ljust(widths[0]) if k == 0 else cell.rjust(widths[k]) for k, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def clipped(text: str, limit: int) -> str:
    """Keep a text below a number of characters, by leaving out lines before its last third."""
    if len(text) <= limit:
        return text
    note = "\n[... lines left out; the JSON lines file has all ...]\n"
    head = text[: 2 * limit // 3 - len(note)].rpartition("\n")[0]
    return head + note + text[-(limit // 3) :].partition("\n")[2]
