"""Numbers that change during training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field
from typing import TypeVar

from mixwell.value import Value, set_field

T = TypeVar("T")


class Schedule(Value, ABC):
    """A number as a function of the progress of a training.

    Any float setting of a policy, label policy, loss or method takes a schedule in place of a number.
    ``value.at(progress)``
    returns the same value with the numbers of this progress; methods do this in every step.
    """

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the number at a progress in [0, 1], the share of the training that is completed."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Return the smallest and the largest number that the schedule takes."""

    def at(self, progress: float) -> float:  # type: ignore[override]  # a schedule turns into a number
        """Return the number at a progress."""
        return self(progress)


class Linear(Schedule):
    """A straight line from one number to another, constant before and after it.

    Args:
        start: Number until ``since``.
        end: Number from ``until`` on.
        since: Progress at which the line starts, in [0, 1).
        until: Progress at which it ends, in (since, 1].

    Raises:
        ValueError: ``since`` and ``until`` are out of range or out of order.

    Example:
        >>> p = Linear(0.0, 1.0, until=0.5)
        >>> p(0.0), p(0.25), p(0.9)
        (0.0, 0.5, 1.0)
    """

    start: float = field(default=0.0, kw_only=False)
    end: float = field(default=1.0, kw_only=False)
    since: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.since < self.until <= 1:
            raise ValueError(f"A schedule needs 0 <= since < until <= 1, but got {self.since} and {self.until}.")

    def __call__(self, progress: float) -> float:
        done = min(max((progress - self.since) / (self.until - self.since), 0.0), 1.0)
        return self._between(done)

    def _between(self, done: float) -> float:
        return (1 - done) * self.start + done * self.end

    def range(self) -> tuple[float, float]:
        """See :meth:`Schedule.range`."""
        return min(self.start, self.end), max(self.start, self.end)


class Cosine(Linear):
    """Half a cosine from one number to another, constant before and after it.

    Args:
        start: Number until ``since``.
        end: Number from ``until`` on.
        since: Progress at which the cosine starts, in [0, 1).
        until: Progress at which it ends, in (since, 1].

    Raises:
        ValueError: ``since`` and ``until`` are out of range or out of order.

    Source: Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017 (arXiv:1608.03983).

    Example:
        >>> weight = Cosine(0.1, 0.0)
        >>> weight(0.0), round(weight(0.5), 3), weight(1.0)
        (0.1, 0.05, 0.0)
    """

    def _between(self, done: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


class Step(Schedule):
    """A number that changes at given times.

    Args:
        numbers: Maps the progress from which a number holds to the number; the first progress is 0.

    Raises:
        ValueError: The dict is empty, the first progress is not 0, or a progress is outside [0, 1).

    Example:
        >>> p = Step({0.0: 1.0, 0.9: 0.0})
        >>> p(0.5), p(0.9)
        (1.0, 0.0)
        >>> p
        Step({0.0: 1.0, 0.9: 0.0})
    """

    numbers: Mapping[float, float] = field(default_factory=dict, kw_only=False)

    def __post_init__(self) -> None:
        set_field(self, "numbers", checked_stages("Step", self.numbers))
        if not all(isinstance(number, int | float) for number in self.numbers.values()):
            raise ValueError(f"Step needs numbers, but got {list(self.numbers.values())}.")

    def __call__(self, progress: float) -> float:
        return stage_at(self.numbers, progress)

    def __hash__(self) -> int:
        return hash(tuple(self.numbers.items()))

    def __repr__(self) -> str:
        return f"Step({dict(self.numbers)})"

    def range(self) -> tuple[float, float]:
        """See :meth:`Schedule.range`."""
        return min(self.numbers.values()), max(self.numbers.values())


def checked_stages(name: str, stages: Mapping[float, T]) -> dict[float, T]:
    """Return stages sorted by the progress at which they start, or raise if they do not start at 0."""
    numbers = isinstance(stages, Mapping) and all(isinstance(start, int | float) for start in stages)
    starts = sorted(stages) if numbers else []
    if not starts or starts[0] != 0 or not all(0 <= start < 1 for start in starts):
        raise ValueError(
            f"{name} needs a dict from a progress in [0, 1) to what is used from there on, starting at 0.0, but got "
            f"{stages!r}."
        )
    return {start: stages[start] for start in starts}


def stage_at(stages: Mapping[float, T], progress: float) -> T:
    """Return the stage of a progress.

    Example:
        >>> stage_at({0.0: "a", 0.5: "b"}, 0.5)
        'b'
    """
    return [stage for start, stage in stages.items() if progress >= start][-1]
