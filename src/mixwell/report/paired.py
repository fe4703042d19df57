"""The paired t-test of two methods that were trained with the same seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """A paired t-test of one method against another: differences of runs with the same seed.

    Attributes:
        count: Number of pairs.
        mean: Mean difference.
        low: Lower end of the 95 % confidence interval of the mean.
        high: Upper end.
        p: Two-sided p-value.
    """

    count: int
    mean: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Comparison | None:
        """Return the test of some differences; None below two of them.

        Example:
            >>> print(Comparison.of([1.0, 2.0, 3.0]))
            +2.00 [-0.48, +4.48]
        """
        from scipy.stats import t as student

        count = len(differences)
        if count < 2:
            return None
        mean, error = statistics.mean(differences), statistics.stdev(differences) / count**0.5
        if not error:
            return cls(count, mean, mean, mean, 0.0 if mean else 1.0)
        reach = float(student.ppf(0.975, count - 1)) * error
        return cls(count, mean, mean - reach, mean + reach, 2 * float(student.sf(abs(mean) / error, count - 1)))

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"
