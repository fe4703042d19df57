"""Early stopping of trials by asynchronous successive halving (ASHA)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixwell.train.errors import RunError
from mixwell.train.trials import Trial


@dataclass(frozen=True)
class ASHA:
    """When trials are compared, and how many of them go on.

    Trials of one recipe are compared after ``min_epochs``, ``min_epochs * eta``, ``min_epochs * eta ** 2``, ... epochs.
    A trial goes on if it is among the best ``1 / eta`` of those that have come as far, rounded up. Nothing waits for
    slower trials, so that the first ones go on more easily. L. Li et al., "A System for Massively Parallel
    Hyperparameter Tuning", MLSys 2020, in the variant that stops trials instead of pausing them.

    Attributes:
        min_epochs: Epochs before the first comparison.
        eta: Reduction factor, above 1.
    """

    min_epochs: int
    eta: float = 3.0

    @classmethod
    def read(cls, value: Any) -> ASHA:
        """Return the settings of a sweep file.

        Raises:
            RunError: They are not valid.

        Example:
            >>> ASHA.read({"min_epochs": 5})
            ASHA(min_epochs=5, eta=3.0)
        """
        if not isinstance(value, Mapping) or not {"min_epochs"} <= value.keys() <= {"min_epochs", "eta"}:
            raise RunError(
                f"asha must have min_epochs and may have eta, as in {{min_epochs: 5, eta: 3}}, not {value!r}"
            )
        epochs, eta = value["min_epochs"], value.get("eta", cls.eta)
        if type(epochs) is not int or epochs < 1:
            raise RunError(f"min_epochs of asha must be a whole number of at least 1, but is {epochs!r}")
        if type(eta) not in (int, float) or not 1 < eta < math.inf:
            raise RunError(f"eta of asha must be a number above 1, but is {eta!r}")
        return cls(epochs, float(eta))

    def rungs(self, epochs: int) -> Iterator[int]:
        """Yield the epochs after which a trial is compared; after the last epoch there is nothing to stop.

        Example:
            >>> [*ASHA(2, eta=3).rungs(30)]
            [2, 6, 18]
        """
        power, rung = 0, self.min_epochs
        while rung < epochs:
            yield rung
            power += 1
            rung = max(rung + 1, round(self.min_epochs * self.eta**power))


class Halving:
    """The comparisons of a sweep.

    Args:
        asha: When trials are compared.
        trials: All trials. What an earlier sweep has trained is known, but not compared again.
    """

    def __init__(self, asha: ASHA, trials: Sequence[Trial]) -> None:
        self.asha, self.trials = asha, trials
        self.values: dict[tuple[str, int], dict[Trial, float]] = {}  # by recipe and epochs
        self()

    def __call__(self) -> dict[Trial, str]:
        """Compare the trials that have come further; return those to stop, each with the reason."""
        losers: dict[Trial, str] = {}
        for trial in self.trials:
            for rung in self.asha.rungs(trial.config.epochs):
                values = self.values.setdefault((trial.config.recipe, rung), {})
                if trial in values:
                    continue
                value = trial.value(rung)
                if value is None:  # it has not come as far yet, so that later comparisons are not due either
                    break
                values[trial] = value
                better = sum(other > value for other in values.values())
                if better >= math.ceil(len(values) / self.asha.eta):
                    losers[trial] = f"{better} of {len(values)} trials were better after {rung} epochs"
        return losers
