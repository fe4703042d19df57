"""The second call on a GPU: train ResNet-18 on CIFAR-100 as published, as many runs as fit into the time.

Learning rate, weight decay, batch size and number of epochs are those of the publications: see ``Recipe``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gpu_data
import numpy as np
import torch
from gpu_images import Images, accuracy
from gpu_measure import Host
from gpu_record import OutOfTime, Record, alarm, machine, short, table
from gpu_steps import METHODS, MODES, Mode, Step

from mixwell import models

RESERVE = 6.0  # for classifying the test images and for ending (seconds)
WARM, TIMED = 60, 200  # steps before the speed is measured, and steps in which it is
LAST = 10  # epochs after which the test images are classified; publications report the median


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


RUNS = {recipe.method: recipe for recipe in (
    Recipe("plain"), Recipe("CutMix"), Recipe("CutMix + SUMix"), Recipe("AutoMix", lr_min=0.05),
)}  # fmt: skip


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
        fit = max(0, int((left - RESERVE) * speed / 1.02 / per_epoch))
        raise DoesNotFitError(
            f"needs {needed:.0f} s at {speed:.0f} images/s, and {left:.0f} s are left: --epochs {fit} would fit"
        )


@dataclass(frozen=True)
class Plan:
    """All runs, in order, and the folder with their data; None for random images."""

    recipes: tuple[Recipe, ...]
    folder: Path | None
    mode: Mode


def plan(args: argparse.Namespace) -> Plan:
    """Return what the command line asks for."""
    names, mode = args.runs or list(RUNS), MODES[args.mode]
    recipes = [
        replace(RUNS[name], seed=seed, epochs=args.epochs, mode=args.mode) for seed in args.seeds for name in names
    ]
    if not args.tiny:
        return Plan(tuple(recipes), args.data, mode)
    recipes = [replace(recipe, model="mini_resnet", epochs=1, batch_size=4, crop=2) for recipe in recipes]
    there = any((args.data / name).exists() for name in gpu_data.NAMES)
    return Plan(tuple(recipes), args.data if there else None, replace(mode, backend="eager"))


def data(folder: Path | None) -> tuple[gpu_data.Splits, list[str]]:
    """Return the data set and the names of its files; random images for a trial run.

    Raises:
        SystemExit: The folder has none of the files.
    """
    if folder is None:
        draw = np.random.default_rng(0)
        splits = {
            name: gpu_data.Split(draw.integers(0, 256, (n, 3, 32, 32), np.uint8), np.arange(n) % 10, np.arange(n))
            for name, n in (("train", 40), ("test", 20))
        }
        return splits, []
    try:
        return gpu_data.join(folder)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None


def run(on: Host, record: Record, plan: Plan, *, budget: float) -> str:
    """Train, write each summary as its run ends, and return the table.

    Args:
        on: The device.
        record: Where to write.
        plan: What to train.
        budget: Time of everything together (seconds).
    """
    deadline = record.start + budget
    splits, files = data(plan.folder)
    images = {name: Images.of(split, on) for name, split in splits.items()}
    torch.backends.cudnn.benchmark = True
    record.write(
        "machine", **machine(on.name()), files=files, **{f"{name}_images": len(split) for name, split in images.items()}
    )
    for recipe in plan.recipes:
        try:
            train(recipe, images, on, record, plan.mode, deadline)
        except (DoesNotFitError, DivergedError, OutOfTime) as reason:
            outcome = "not_run" if isinstance(reason, DoesNotFitError) else "stopped"
            record.write(outcome, method=recipe.method, seed=recipe.seed, config=asdict(recipe), reason=short(reason))
        torch.compiler.reset()
        on.free()
    return report(record, budget)


def train(recipe: Recipe, images: dict[str, Images], on: Host, record: Record, mode: Mode, deadline: float) -> None:
    """Train with one recipe and write the summary; where compiled code fails, train once more without.

    Raises:
        DoesNotFitError: The run would not end in time; it was not started where earlier runs tell.
        DivergedError: The loss became NaN or Inf.
        OutOfTime: The deadline came during the run.
    """
    every = record.of("speed")
    speeds = (
        [row["images_per_second"] for row in record.of("speed", method=recipe.method)]
        or [max(row["images_per_second"] for row in every)]
        if every
        else []
    )
    for speed in speeds:
        check_time(recipe, speed, recipe.epochs * len(images["train"]), deadline)
    for attempt in dict.fromkeys((mode, MODES["eager"])):
        start = time.monotonic()
        try:
            with alarm(max(1.0, deadline - start)):
                on.reset_peak()
                run = Run(recipe, images["train"], images["test"], on, attempt)
                run.fit(record, deadline)
        except (DoesNotFitError, DivergedError):
            raise
        except Exception as error:
            record.write("failure", what=f"{recipe.method}, seed {recipe.seed}, {attempt.name}", error=short(error))
        else:
            record.write("run", **run.summary(time.monotonic() - start), mode=attempt.name)
            return


def report(record: Record, budget: float) -> str:
    """Return the table, and what else could have been done in the time."""
    (where,) = record.of("machine")
    files = " and ".join(where["files"]) or "random images"
    lines = [f"{where['device']}, Python {where['python']}, CUDA {where['cuda']}, commit {where['commit']}"]
    lines += [", ".join(f"{name} {version}" for name, version in where["versions"].items())]
    lines += [f"{where['train_images']} training and {where['test_images']} test images from {files}"]
    if len(where["files"]) == 1:
        lines += ["The other data file was missing: half of CIFAR-100, not comparable with published accuracies."]
    lines += [f"not run: {row['method']}, seed {row['seed']}: {row['reason']}" for row in record.of("not_run")]
    lines += [f"stopped: {row['method']}, seed {row['seed']}: {row['reason']}" for row in record.of("stopped")]
    lines += [f"failure: {row['what']}: {row['error']}" for row in record.of("failure")]
    rows = [["run", "seed", "epochs", "top-1 %", f"median of last {LAST}", "loss", "s", "images/s", "GB", "compiled"]]
    for row in record.of("run"):
        memory = f"{row['peak_bytes'] / 1e9:.1f}" if row["peak_bytes"] else "-"
        rows.append(
            [row["method"], str(row["seed"]), str(row["config"]["epochs"]), f"{row['top1']:.2f}",
             f"{row['top1_median']:.2f}", f"{row['train_loss']:.3f}", f"{row['seconds']:.0f}",
             f"{row['images_per_second']:.0f}", memory, row["mode"]]
        )  # fmt: skip
    speeds = {row["method"]: row["images_per_second"] for row in record.of("speed")}
    if speeds and record.of("not_run"):
        per_epoch = sum(where["train_images"] / speed for speed in speeds.values())
        lines += [f"One run each of {', '.join(speeds)} fits with --epochs {int(0.85 * budget / per_epoch)}, say."]
    return "\n".join([*lines, "", table(rows)])
