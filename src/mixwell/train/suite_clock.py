"""Progress of ``mixwell eval --suite``, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping


class Clock:
    """Prints the progress of a suite with the time left, on stderr.

    Args:
        costs: Work of each part, in forward passes of single images.

    Attributes:
        seconds: Time that each finished part took.
    """

    def __init__(self, costs: Mapping[str, float]) -> None:
        self.costs, self.total = costs, max(sum(costs.values()), 1)
        self.began, self.shown, self.done, self.limit, self.name = time.monotonic(), 0.0, 0.0, 0.0, ""
        self.seconds: dict[str, float] = {}

    def parts(self) -> Iterator[str]:
        """Yield the parts in order and take the time of each."""
        for name, cost in self.costs.items():
            began, self.name, self.limit = time.monotonic(), name, self.limit + cost
            self.show()
            yield name
            self.seconds[name], self.done = time.monotonic() - began, self.limit
        if sys.stderr.isatty():
            self.show()
            print(file=sys.stderr)

    def step(self, count: float) -> None:
        """Count forward passes of single images."""
        self.done = min(self.done + count, self.limit)
        now, every = time.monotonic(), 0.2 if sys.stderr.isatty() else 15.0
        if now - self.shown > every:
            self.shown = now
            self.show()

    def show(self) -> None:
        """Print one line."""
        passed = time.monotonic() - self.began
        left = int(passed * (self.total - self.done) / max(self.done, 1))
        line = f"{self.name:<14} {100 * self.done / self.total:3.0f} %  {left // 60}:{left % 60:02d} left"
        print(f"\r{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
