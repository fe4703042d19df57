"""The output of a run: a progress bar in a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class Display:
    """Shows the progress of a run; a context manager.

    Args:
        epochs: Epochs of the whole run.
        images: Images per epoch.
        done: Epochs trained before.
        silent: Show nothing, for all processes but the first.
    """

    def __init__(self, epochs: int, images: int, done: int = 0, silent: bool = False) -> None:
        self.epochs, self.silent, self.images = epochs, silent, images
        self.seconds: list[float] = []
        self.bar: Progress | None = None
        if not silent and sys.stdout.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), _Speed(), TimeRemainingColumn(compact=True))
            self.bar = Progress(*columns, speed_estimate_period=60)
            self.task = self.bar.add_task(f"epoch {done + 1}/{epochs}", total=epochs * images, completed=done * images)

    def __enter__(self) -> Display:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, images: int) -> None:
        """Advance the bar by the images of an optimizer step."""
        if self.bar:
            self.bar.advance(self.task, images)

    def epoch(self, record: dict[str, Any]) -> None:
        """Show the line of metrics of a finished epoch."""
        if self.silent:
            return
        line = describe(record, self.epochs)
        if self.bar:
            upcoming = min(record["epoch"] + 1, self.epochs)
            done = record["epoch"] * self.images
            self.bar.update(self.task, description=f"epoch {upcoming}/{self.epochs}", completed=done)
            self.bar.print(line, highlight=False)
        else:
            self.seconds.append(record["seconds"])
            left = statistics.median(self.seconds[-5:]) * (self.epochs - record["epoch"])
            print(f"{line}  {int(left) // 60}:{int(left) % 60:02d} left", flush=True)


def warn(sentence: str) -> None:
    """Print a warning on stderr."""
    print(f"mixwell: warning: {sentence}", file=sys.stderr, flush=True)


def describe(record: dict[str, Any], epochs: int) -> str:
    """Return the line of an epoch.

    Example:
        >>> describe({"epoch": 3, "train_loss": 0.5, "val_top1": 93.1, "lr": 0.05, "images_per_second": 1234.5}, 30)
        'epoch  3/30  train_loss 0.5000  val_top1 93.10  lr 0.0500  1,234 images/s'
    """
    width = len(str(epochs))
    parts = [f"epoch {record['epoch']:>{width}}/{epochs}"]
    for name in ("train_loss", "val_loss", "val_top1", "val_map", "ema_top1", "ema_map", "lr"):
        digits = 2 if name.endswith(("top1", "map")) else 4
        parts += [f"{name} {record[name]:.{digits}f}"] if name in record else []
    parts += [f"skipped {record['train_skipped']} steps"] if record.get("train_skipped") else []
    return "  ".join([*parts, f"{record['images_per_second']:,.0f} images/s"])
