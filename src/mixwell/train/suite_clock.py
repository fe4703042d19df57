"""Progress of ``mixwell eval --suite``, with the time left."""

from __future__ import annotations

import sys
import time


class Clock:
    """Prints the progress of a suite with the time left, on stderr.

    Args:
        total: Forward passes of one image, in all parts.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began, self.shown, self.name = max(total, 1), 0, time.monotonic(), 0.0, ""

    def step(self, count: int) -> None:
        """Count images that passed through the model."""
        self.done = min(self.done + count, self.total)
        now, every = time.monotonic(), 0.2 if sys.stderr.isatty() else 15.0
        if now - self.shown > every:
            self.shown = now
            self.show()

    def close(self) -> None:
        """End the line in a terminal."""
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def show(self) -> None:
        """Print one line."""
        passed = time.monotonic() - self.began
        left = int(passed * (self.total - self.done) / max(self.done, 1))
        line = f"{self.name:<14} {100 * self.done / self.total:3.0f} %  {left // 60}:{left % 60:02d} left"
        print(f"\r{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
