"""What run directories hold, and what several runs of the same kind say together."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.recipes import RECIPES


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
        path: Its directory.
        config: Its settings.
        metrics: One record per epoch.
        summary: What it wrote at its end; empty where it has not come there.
    """

    path: Path
    config: Config
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Tell whether all epochs are done and the summary is written."""
        return bool(self.summary)

    @property
    def key(self) -> tuple[str, str, str]:
        """Recipe, policy and method: what the seeds of a group have in common."""
        return self.config.recipe, self.config.policy, self.config.method

    def top1(self) -> list[tuple[int, float]]:
        """Return epoch and validation accuracy (percent) where it was measured."""
        return [(record["epoch"], record["val_top1"]) for record in self.metrics if "val_top1" in record]

    @property
    def last(self) -> float:
        """Accuracy after the last epoch (percent)."""
        return self.top1()[-1][1]

    @property
    def best(self) -> float:
        """Accuracy of the best epoch (percent); it is chosen by the images it is measured on."""
        return max(value for _, value in self.top1())

    @property
    def median(self) -> float:
        """Median accuracy of the last ten epochs (percent)."""
        return statistics.median(value for epoch, value in self.top1() if epoch > self.metrics[-1]["epoch"] - 10)

    @property
    def test(self) -> float:
        """Accuracy of what is shipped on the test images (percent)."""
        return self.summary["test"]["top1"]

    @property
    def seconds(self) -> float:
        """Time of all epochs, validation included."""
        return sum(record["seconds"] for record in self.metrics)

    @property
    def speed(self) -> float:
        """Median training speed (images/s); 0 where it was not written down."""
        return statistics.median(record.get("images_per_second", 0.0) for record in self.metrics)

    @property
    def command(self) -> str:
        """The command of the run: as it was typed, or else one that does the same."""
        return self.summary.get("command") or command(self.config, self.path)


def curve(history: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Return the last, the best and the median of the last ten values of a metric.

    The best is chosen by the images that it is measured on, so it flatters; the other two do not.

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
    """Return the command line that makes a run.

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


def read(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunError: something is missing or damaged; the sentence names it.
    """
    if not path.is_dir():
        raise RunError(f"no run directory {path}")
    missing = [name for name in ("config.json", "metrics.jsonl") if not (path / name).is_file()]
    if missing:
        raise RunError(f"{path} is no run directory: it has no {' and no '.join(missing)}")
    try:
        config = Config.read((path / "config.json").read_text())
    except RunError as error:
        raise RunError(f"{path / 'config.json'}: {error}") from None
    metrics = [_record(path, number, line) for number, line in enumerate(_lines(path / "metrics.jsonl"), 1)]
    if not any("val_top1" in record for record in metrics):
        raise RunError(
            f"{path / 'metrics.jsonl'} holds no validated epoch yet: train on with mixwell train --resume {path}"
        )
    summary = path / "summary.json"
    try:
        return Run(path, config, metrics, json.loads(summary.read_text()) if summary.is_file() else {})
    except json.JSONDecodeError as error:
        raise RunError(f"{summary} is not JSON: {error}") from None


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()]


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        missing = {"epoch", "train_loss", "seconds"} - record.keys()
    except (json.JSONDecodeError, AttributeError):
        raise RunError(f"line {number} of {path / 'metrics.jsonl'} is no JSON object") from None
    if missing:
        raise RunError(f"line {number} of {path / 'metrics.jsonl'} has no {' and no '.join(sorted(missing))}")
    return record


def read_all(paths: Iterable[Path]) -> list[Run]:
    """Read run directories, and those inside a folder that is none itself, each once.

    Raises:
        RunError: see ``read``.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inner = sorted(config.parent for config in path.glob("*/config.json"))
        for run in [path] if (path / "config.json").is_file() or not inner else inner:
            found.setdefault(run.resolve(), run)
    return [read(run) for run in found.values()]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed, as far as their names say."""

    recipe: str
    policy: str
    method: str
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        """The runs that count."""
        return [run for run in self.runs if run.finished]

    @property
    def name(self) -> str:
        """Name of the row: policy and method, where there is something to say."""
        plain = self.policy.lower() in ("none", "")
        if plain and self.method != "Mixing":  # AutoMix and the like bring their own
            return self.method
        policy = "plain" if plain else self.policy
        return policy if self.method == "Mixing" else f"{policy} + {self.method}"

    def spread(self, measure: str) -> tuple[float, float | None] | None:
        """Return mean and standard deviation (of a sample: divided by n - 1) of a measure over the finished runs.

        Args:
            measure: ``"last"``, ``"best"``, ``"median"``, ``"test"``, ``"seconds"`` or ``"speed"``.

        Returns:
            None without a finished run; no deviation where there is but one.
        """
        values = [getattr(run, measure) for run in self.finished]
        if not values:
            return None
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def groups(runs: Sequence[Run]) -> list[Group]:
    """Put runs of the same recipe, policy and method together, in the order in which they come."""
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        found.setdefault(run.key, []).append(run)
    return [Group(*key, sorted(members, key=lambda run: run.config.seed)) for key, members in found.items()]
