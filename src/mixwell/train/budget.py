"""Choose the number of epochs so that a run ends in a given time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import accelerate.utils
import torch

from mixwell.train.config import Config
from mixwell.train.display import Display
from mixwell.train.errors import RunError
from mixwell.train.loop import Training

Clock = Callable[[], float]
RESERVE = 0.05  # share of the budget for checkpoints, pictures and slower epochs
SKIPPED = 2  # batches that are not measured: libraries and workers start in them


@dataclass
class Sample:
    """The first batches of a loader, with the times at which they were ready.

    Attributes:
        loader: Yields batches; each step of the training takes one.
        device: Where the steps run.
        limit: How long to measure (seconds).
        clock: Returns the time (seconds).
    """

    loader: Any
    device: torch.device
    limit: float
    clock: Clock
    passes: int = 0
    times: list[float] = field(default_factory=list[float])

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self.times, self.passes = [], self.passes + 1
        for batch in self.loader:
            if self.enough():
                return
            yield batch
        self.enough()

    def enough(self) -> bool:
        """Record the time; return whether it is up, in all processes alike."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(self.clock())
        late = len(self.times) > SKIPPED + 1 and self.times[-1] - self.times[SKIPPED] > self.limit
        return any(accelerate.utils.gather_object([late]))

    @property
    def seconds(self) -> float:
        """Time of all batches of the loader, in the slowest process."""
        skipped = min(SKIPPED, max(len(self.times) - 2, 0))
        measured = self.times[skipped:]
        batch = (measured[-1] - measured[0]) / max(len(measured) - 1, 1) if measured else 0.0
        return self.passes * max(accelerate.utils.gather_object([batch])) * len(self)


@dataclass(frozen=True)
class Cost:
    """What a run costs (seconds).

    Attributes:
        start: Data, network and measurement.
        epoch: Training on all images once.
        validation: Evaluation on the validation images.
        test: Evaluation on the test images, at the end.
    """

    start: float
    epoch: float
    validation: float
    test: float

    def total(self, config: Config) -> float:
        """Return the time of a run."""
        last = min(config.epochs, 10)  # these are always validated
        validations = last + (config.epochs - last) // config.val_every
        return self.start + config.epochs * self.epoch + validations * self.validation + self.test


def measure(training: Training, began: float, seconds: float = 5.0, clock: Clock = perf_counter) -> Cost:
    """Train and evaluate for a few seconds; the objects of the run are of no use afterwards.

    Args:
        training: A run that has not started.
        began: When its objects began to be built; they will be built once more.
        seconds: How long to measure the training, and the evaluation.
        clock: Returns the time (seconds).
    """
    built, device = clock() - began, training.accelerator.device
    train, val = (Sample(loader, device, seconds, clock) for loader in (training.train, training.val))
    tests = len(training.test) / max(len(val), 1)
    training.train, training.val = train, val  # type: ignore[assignment]
    training.train_epoch(1, Display(1, 1, silent=True))
    training.validate(1)
    epoch, validation = train.seconds, val.seconds
    return Cost(clock() - began + built, epoch, validation, validation / val.passes * tests)


def fitted(config: Config, cost: Cost, minutes: float) -> Config:
    """Return a config with as many epochs as the time allows, at most its own, and with the same share of warm-up.

    Points at which a policy changes are shares of the run already.

    Raises:
        RunError: Not even one epoch ends in time.

    Example:
        >>> fitted(Config(epochs=200, warmup=20), Cost(start=6, epoch=9, validation=1, test=1), minutes=2).epochs
        10
    """

    def shortened(epochs: int) -> Config:
        return replace(config, epochs=epochs, warmup=config.warmup * epochs / config.epochs)

    limit = 60 * minutes * (1 - RESERVE)
    low, high = 0, config.epochs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost.total(shortened(middle)) <= limit else (low, middle - 1)
    if low == 0:
        needed = cost.total(shortened(1)) / (1 - RESERVE) / 60
        raise RunError(f"a run of one epoch takes {needed:.1f} min, not {minutes:g}: raise --budget, or set --subset")
    return shortened(low)


def describe(config: Config, chosen: Config, cost: Cost, minutes: float) -> str:
    """Return a sentence about the choice."""
    warmup = f", {chosen.warmup:.3g} of them warm-up" if chosen.warmup else ""
    costs = f"{cost.epoch:.1f} s per epoch and {cost.validation:.1f} s per validation"
    time = f"about {cost.total(chosen) / 60:.1f} min"
    return f"budget {minutes:g} min: {costs}, so {chosen.epochs} of {config.epochs} epochs{warmup}, {time}"
