"""The files of a run directory, and the statistics of runs that differ only in their seed."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.files import parsed, text
from mixwell.train.recipes import RECIPES
from mixwell.train.summary import Summary

STOPPED = "stopped.txt"  # in a run directory: why a sweep has stopped the run early


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
        path: Run directory.
        config: Settings.
        metrics: One record per epoch.
        summary: Results; None for an unfinished run.
        stopped: Why a sweep has stopped the run early; empty for any other run.
    """

    path: Path
    config: Config
    metrics: list[dict[str, Any]]
    summary: Summary | None = None
    stopped: str = ""

    @property
    def finished(self) -> bool:
        """Whether all epochs are done and the summary is written."""
        return self.summary is not None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Recipe, policy, method and measure, which the runs of a group have in common."""
        return self.config.recipe, self.config.policy, self.config.method, self.measure

    @property
    def measure(self) -> str:
        """How the classifier is measured: ``"top1"``, or ``"map"`` for several labels per image."""
        return "map" if any("val_map" in record for record in self.metrics) else "top1"

    @property
    def curve(self) -> dict[str, float]:
        """Last, best and median accuracy or mAP on the validation images; see :func:`curve`."""
        return curve(self.metrics, f"val_{self.measure}")

    @property
    def last(self) -> float:
        """Accuracy or mAP after the last epoch (percent)."""
        return self.curve["last"]

    @property
    def best(self) -> float:
        """Accuracy or mAP of the best epoch (percent); optimistic, because it is chosen on the same images."""
        return self.curve["best"]

    @property
    def median(self) -> float:
        """Median accuracy or mAP of the last ten epochs (percent)."""
        return self.curve["median_last_10"]

    @property
    def test(self) -> float:
        """Accuracy or mAP of the final classifier on the test images (percent); NaN where it was not measured."""
        return self.summary.test.get(self.measure, math.nan) if self.summary else math.nan

    @property
    def seconds(self) -> float:
        """Time of all epochs, validation included."""
        return sum(record["seconds"] for record in self.metrics)

    @property
    def speed(self) -> float:
        """Median training speed (images/s); 0 where it was not recorded."""
        return statistics.median(record.get("images_per_second", 0.0) for record in self.metrics)

    @property
    def command(self) -> str:
        """The command line of the run, as typed or else an equivalent one."""
        return (self.summary.command if self.summary else "") or command(self.config, self.path)


def curve(history: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Return the last, the best and the median of the last ten values of a metric.

    The best is optimistic, because it is chosen on the images that it is measured on.

    Example:
        >>> curve([{"epoch": 1, "val_top1": 50.0}, {"epoch": 2}, {"epoch": 3, "val_top1": 40.0}], "val_top1")
        {'last': 40.0, 'best': 50.0, 'best_epoch': 1, 'median_last_10': 45.0}
    """
    measured = [record for record in history if name in record]
    best = max(measured, key=lambda record: record[name])
    tail = [record[name] for record in measured if record["epoch"] > history[-1]["epoch"] - 10]
    return {
        "last": measured[-1][name],
        "best": best[name],
        "best_epoch": best["epoch"],
        "median_last_10": statistics.median(tail),
    }


def command(config: Config, out: Path) -> str:
    """Return a command line that repeats a run.

    Example:
        >>> from dataclasses import replace
        >>> command(replace(RECIPES["digits"](), policy="CutMix()", seed=2), Path("runs/a"))
        "mixwell train digits --policy 'CutMix()' --seed 2 --out runs/a"
    """
    base = RECIPES.get(config.recipe, Config)()
    words = ["mixwell", "train", config.recipe]
    for field in fields(Config):
        value = getattr(config, field.name)
        if field.name != "recipe" and value != getattr(base, field.name):
            words += [f"--{field.name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join([*words, "--out", str(out)])


def read_config(path: Path) -> Config:
    """Read the settings of a run.

    Raises:
        RunError: There is no run, or its ``config.json`` is damaged.
    """
    file = path / "config.json"
    if not file.exists():
        raise RunError(f"no run in {path}: expected {file}")
    try:
        return Config.read(text(file))
    except RunError as error:
        raise RunError(f"{file}: {str(error).removeprefix(f'cannot read {file}: ')}") from None


def read(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunError: A file is missing or damaged; the message names it.
    """
    if not path.is_dir():
        raise RunError(f"no run directory {path}")
    missing = [name for name in ("config.json", "metrics.jsonl") if not (path / name).exists()]
    if missing:
        raise RunError(f"{path} is not a run directory: it has no {' and no '.join(missing)}")
    config, file, summary = read_config(path), path / "metrics.jsonl", path / "summary.json"
    lines = enumerate(text(file).splitlines(), 1)
    metrics = [record(line, f"line {number} of {file}") for number, line in lines if line.strip()]
    if not any(f"val_{name}" in values for values in metrics for name in ("top1", "map")):
        raise RunError(f"{file} has no validated epoch yet: continue with mixwell train --resume {path}")
    if summary.exists():
        return Run(path, config, metrics, Summary.read(summary))
    stopped = path / STOPPED
    return Run(path, config, metrics, stopped=text(stopped).strip() if stopped.exists() else "")


def record(line: str, where: str) -> dict[str, Any]:
    """Parse one line of ``metrics.jsonl``.

    Raises:
        RunError: It is not a JSON object of numbers, or a number is missing.
    """
    values = parsed(line, where)
    missing = {"epoch", "train_loss", "seconds"} - values.keys()
    if missing:
        raise RunError(f"{where} has no {' and no '.join(sorted(missing))}")
    for name, value in values.items():
        if type(value) not in (int, float) or not math.isfinite(value) or (name == "epoch" and type(value) is not int):
            raise RunError(f"{name} in {where} must be a finite number, but is {value!r}")
    return values


def read_all(paths: Iterable[Path]) -> list[Run]:
    """Read run directories, or those in a folder that is not a run directory itself, each once.

    Raises:
        RunError: See ``read``.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inner = sorted(config.parent for config in path.glob("*/config.json"))
        for run in [path] if (path / "config.json").is_file() or not inner else inner:
            found.setdefault(run.resolve(), run)
    return [read(run) for run in found.values()]


@dataclass(frozen=True)
class Group:
    """Runs with the same recipe, policy, method and measure, which differ in their seed."""

    recipe: str
    policy: str
    method: str
    measure: str
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        """The finished runs, over which means are taken."""
        return [run for run in self.runs if run.finished]

    @property
    def name(self) -> str:
        """Policy and method, as the name of a row in a table; marked where mAP is measured and not accuracy."""
        plain = self.policy.lower() in ("none", "")
        own = plain and self.method != "Mixing"  # AutoMix and others have a policy of their own
        parts = [] if own else ["plain" if plain else self.policy]
        parts += [] if self.method == "Mixing" else [self.method]
        return " + ".join(parts) + " (mAP)" * (self.measure == "map")

    def spread(self, measure: str) -> tuple[float, float | None] | None:
        """Return mean and sample standard deviation (divided by n - 1) of a measure over the finished runs.

        Args:
            measure: ``"last"``, ``"best"``, ``"median"``, ``"test"``, ``"seconds"`` or ``"speed"``.

        Returns:
            None without a finished run; the deviation is None for one run.
        """
        values = [getattr(run, measure) for run in self.finished]
        if not values:
            return None
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def groups(runs: Sequence[Run]) -> list[Group]:
    """Group runs by recipe, policy, method and measure, in the order of their first run."""
    found: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        found.setdefault(run.key, []).append(run)
    return [Group(*key, sorted(members, key=lambda run: run.config.seed)) for key, members in found.items()]
