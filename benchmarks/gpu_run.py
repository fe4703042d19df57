"""Train one classifier on images that stay on the device, and measure early whether it ends in time."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gpu_images import Images, accuracy
from gpu_measure import Host
from gpu_record import Record
from gpu_steps import METHODS, Mode, Step

from mixwell import models

RESERVE = 10.0  # for classifying the test images and for ending (seconds)
WARM, TIMED = 60, 200  # steps before the speed is measured, and steps in which it is
LAST = 10  # epochs at the end after each of which the test images are classified; publications report the median


@dataclass(frozen=True)
class Recipe:
    """One run.

    Args:
        method: Name in ``gpu_steps.METHODS``.
        lr_min: Learning rate at the end of the cosine.
        seed: Of everything random.
        model: Classifier.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate at the start.
        weight_decay: Of all parameters.
        crop: Largest shift (pixels).
        mode: Name of what is compiled, in ``gpu_steps.MODES``.
    """

    method: str
    lr_min: float = 0.0
    seed: int = 0
    model: str = "resnet18"
    epochs: int = 200
    batch_size: int = 100
    lr: float = 0.1
    weight_decay: float = 1e-4
    crop: int = 4
    mode: str = "networks"

    def rate(self, done: float) -> float:
        """Return the learning rate after a share of the training, in [0, 1]."""
        return self.lr_min + (self.lr - self.lr_min) / 2 * (1 + math.cos(math.pi * done))


class DoesNotFitError(Exception):
    """A run would not end in time."""


class DivergedError(Exception):
    """The loss is NaN or Inf."""


class Run:
    """Trains one classifier.

    Args:
        recipe: What to do.
        train: Training images.
        test: Test images.
        on: The device.
        mode: What is compiled.
    """

    def __init__(self, recipe: Recipe, train: Images, test: Images, on: Host, mode: Mode) -> None:
        torch.manual_seed(recipe.seed)
        classes = int(train.labels.max()) + 1
        model = models.build(recipe.model, classes)
        self.step = Step(METHODS[recipe.method](model, classes), on, mode, recipe.lr, recipe.weight_decay)
        self.recipe, self.train, self.test, self.on = recipe, train, test, on
        self.steps_per_epoch = len(train) // recipe.batch_size
        self.total = self.steps_per_epoch * recipe.epochs
        self.done, self.started, self.images_per_second, self.loss = 0, 0.0, float("nan"), float("nan")
        self.tops: list[float] = []

    def fit(self, record: Record, deadline: float) -> None:
        """Train to the end; the record gets the speed, and loss and accuracy about twenty times.

        Raises:
            DoesNotFitError: The speed of the first steps says that the run would not end before the deadline.
            DivergedError: The mean loss of an epoch is NaN or Inf.
        """
        recipe, often = self.recipe, max(1, self.recipe.epochs // 20)
        for epoch in range(1, recipe.epochs + 1):
            total = torch.zeros((), device=self.on.device)
            for images, labels in self.train.batches(recipe.batch_size, recipe.crop):
                for group in self.step.optimizer.param_groups:
                    group["lr"] = recipe.rate(self.done / self.total)
                total += self.step(images, labels, (self.done + 1) / self.total)
                self.done += 1
                self.measure_speed(record, deadline)
            self.loss = float(total) / self.steps_per_epoch
            if not math.isfinite(self.loss):
                raise DivergedError(f"the mean loss of epoch {epoch} is {self.loss}")
            if epoch > recipe.epochs - LAST or epoch % often == 0:
                top1 = accuracy(self.step.method.model, self.test)
                self.tops.append(top1)
                record.write("epoch", method=recipe.method, seed=recipe.seed, epoch=epoch, loss=self.loss, top1=top1)

    def measure_speed(self, record: Record, deadline: float) -> None:
        """Measure images per second over some of the first steps, and decide whether the run ends in time."""
        first, last = min(WARM, self.total // 3), min(WARM + TIMED, self.total - 1)
        if self.done == first:
            self.on.wait()
            self.started = time.monotonic()
        elif self.done == last:
            self.on.wait()
            now = time.monotonic()
            self.images_per_second = (last - first) * self.recipe.batch_size / (now - self.started)
            record.write(
                "speed", method=self.recipe.method, seed=self.recipe.seed, images_per_second=self.images_per_second
            )
            check_time(self.recipe, self.images_per_second, (self.total - last) * self.recipe.batch_size, deadline)

    def summary(self, seconds: float) -> dict[str, Any]:
        """Return the results; the median is over the last epochs, at most ten."""
        return {
            "config": asdict(self.recipe),
            "method": self.recipe.method,
            "policy": repr(getattr(self.step.method, "policy", None)),
            "seed": self.recipe.seed,
            "top1": self.tops[-1],
            "top1_median": statistics.median(self.tops[-LAST:]),
            "train_loss": self.loss,
            "seconds": seconds,
            "images_per_second": self.images_per_second,
            "peak_bytes": self.on.peak_bytes(),
            "train_images": len(self.train),
            "test_images": len(self.test),
        }


def check_time(recipe: Recipe, speed: float, images: int, deadline: float) -> None:
    """Raise :class:`DoesNotFitError` unless training on so many images, and the evaluation, end in time."""
    needed, left = 1.02 * images / speed + RESERVE, deadline - time.monotonic()
    if needed > left:
        per_epoch = images / recipe.epochs
        fit = int((left - RESERVE) * speed / 1.02 / per_epoch)
        hint = f": --epochs {fit} would fit" if fit > 0 else ""
        raise DoesNotFitError(f"needs {needed:.0f} s at {speed:.0f} images/s, and {left:.0f} s are left{hint}")
