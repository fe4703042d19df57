"""The second call on a GPU: train ResNet-18 on CIFAR-100 as published, as many runs as fit into the time.

Learning rate, weight decay, batch size and number of epochs are those of the publications: see ``RUNS``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import gpu_data
import numpy as np
import torch
from gpu_images import Images
from gpu_measure import Host
from gpu_record import OutOfTime, Record, alarm, machine, short, table
from gpu_run import LAST, DivergedError, DoesNotFitError, Recipe, Run, check_time
from gpu_steps import MODES, Mode

RUNS = {recipe.method: recipe for recipe in (
    Recipe("plain"), Recipe("CutMix"), Recipe("CutMix + SUMix"), Recipe("AutoMix", lr_min=0.05),
)}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Args:
        recipes: All runs, in order.
        folder: Of the data files; None for random images.
        mode: What is compiled.
        most: Number of training images, and of test images, at most.
        commit: Of the sources, where git cannot tell.
    """

    recipes: tuple[Recipe, ...]
    folder: Path | None
    mode: Mode
    most: int | None = None
    commit: str | None = None


def plan(args: argparse.Namespace) -> Plan:
    """Return what the command line asks for."""
    names, mode = args.runs or list(RUNS), MODES[args.mode]
    recipes = [
        replace(RUNS[name], seed=seed, epochs=args.epochs, mode=args.mode) for seed in args.seeds for name in names
    ]
    if not args.tiny:
        return Plan(tuple(recipes), args.data, mode, commit=args.commit)
    recipes = [replace(recipe, model="mini_resnet", epochs=1, batch_size=4, crop=2) for recipe in recipes]
    there = any((args.data / name).exists() for name in gpu_data.NAMES)
    return Plan(tuple(recipes), args.data if there else None, replace(mode, backend="eager"), 40, args.commit)


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
    images = {name: Images.of(split[np.arange(len(split.labels))[: plan.most]], on) for name, split in splits.items()}
    torch.backends.cudnn.benchmark = True
    record.write(
        "machine",
        **machine(on.name(), plan.commit),
        files=files,
        **{f"{name}_images": len(split) for name, split in images.items()},
    )
    for recipe in plan.recipes:
        try:
            train(recipe, images, on, record, plan.mode, deadline)
        except (DoesNotFitError, DivergedError, OutOfTime) as reason:
            outcome = "not_run" if isinstance(reason, DoesNotFitError) else "stopped"
            why = str(reason) or "the time was up"
            record.write(outcome, method=recipe.method, seed=recipe.seed, config=asdict(recipe), reason=why)
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
    known = record.of("speed", method=recipe.method)[-1:] or record.of("speed")
    if known:  # no method is faster than the fastest so far, by the same settings
        speed = max(row["images_per_second"] for row in known)
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
            (where,) = record.of("machine")
            facts = {name: where[name] for name in ("device", "versions", "commit", "files")}
            record.write("run", **run.summary(time.monotonic() - start), mode=attempt.name, **facts)
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
        epochs = max(1, int(0.85 * budget / per_epoch))  # the rest of the time goes to compiling and evaluating
        lines += [f"For one run each of {', '.join(speeds)} take --epochs {epochs}."]
    return "\n".join([*lines, "", table(rows)])
