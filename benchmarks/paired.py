"""Runs of methods grouped by seed, and the paired t-test between two groups."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixwell.report.paired import Comparison

PLAIN, CUTMIX = "NoMix()", "CutMix(alpha=1.0)"
Record = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """All runs of one method with one number of epochs, by seed."""

    method: str
    epochs: int
    runs: dict[int, Record]

    def has(self, measure: str) -> bool:
        """Say whether every run has a measure."""
        return all(measure in run for run in self.runs.values())

    def values(self, measure: str) -> list[float]:
        """Return a measure of every run, in order of seeds."""
        return [self.runs[seed][measure] for seed in sorted(self.runs)]

    def mean(self, measure: str) -> float:
        """Return the mean of a measure."""
        return statistics.mean(self.values(measure))

    def text(self, measure: str, digits: int = 2) -> str:
        """Return mean ± standard deviation over the seeds."""
        values = self.values(measure)
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    def against(self, other: Group | None, measure: str = "test_top1") -> Comparison | None:
        """Compare with another group over the seeds that both have."""
        if other is None or other is self:
            return None
        seeds = sorted(self.runs.keys() & other.runs.keys())
        return Comparison.of([self.runs[seed][measure] - other.runs[seed][measure] for seed in seeds])


@dataclass(frozen=True)
class Table:
    """The groups of one setting of the protocol, plain training and CutMix first among equals."""

    groups: list[Group]
    epochs: int

    def group(self, method: str, epochs: int | None = None) -> Group | None:
        """Return the runs of a method, by default with the protocol's number of epochs."""
        wanted = (method, self.epochs if epochs is None else epochs)
        return next((group for group in self.groups if (group.method, group.epochs) == wanted), None)

    def reference(self, method: str, group: Group) -> Group | None:
        """Return the runs of a method to compare a group with: of as many epochs if there are any."""
        return self.group(method, group.epochs) or self.group(method)

    def name(self, group: Group) -> str:
        """Return how a row is called."""
        name = "plain" if group.method == PLAIN else f"`{group.method}`".replace("|", "over")
        return name if group.epochs == self.epochs else f"{name}, {group.epochs} epochs"


def load(path: Path) -> list[Record]:
    """Read a results file, and add to its runs what ``protocol_robustness.py`` has measured of them."""

    def lines(file: Path) -> list[Record]:
        return [json.loads(line) for line in file.read_text().splitlines() if line.strip()] if file.exists() else []

    def key(record: Record) -> str:
        return json.dumps([record["method"], record["seed"], record["tune"], record["settings"]], sort_keys=True)

    more = {key(record): record for record in lines(path.with_name(f"{path.stem}_robustness.jsonl"))}
    return [more.get(key(record), {}) | record for record in lines(path)]


def table_of(records: Iterable[Record]) -> Table:
    """Group compared runs by method; the protocol's number of epochs is that of most plain runs, the least of equals.

    Raises:
        ValueError: Runs differ in settings other than the number of epochs.
    """
    runs = [record for record in records if not record["tune"]]
    settings = {json.dumps({**run["settings"], "epochs": 0}, sort_keys=True) for run in runs}
    if len(settings) > 1:
        raise ValueError(
            f"All compared runs must share their settings except epochs, but there are {sorted(settings)}."
        )
    found: dict[tuple[str, int], dict[int, Record]] = {}
    for run in runs:
        found.setdefault((run["method"], run["settings"]["epochs"]), {})[run["seed"]] = run
    groups = [Group(method, epochs, seeds) for (method, epochs), seeds in found.items()]
    plain = [group for group in groups if group.method == PLAIN]
    if not plain:
        raise ValueError(f"There is no run of {PLAIN} to compare with.")
    return Table(groups, max(plain, key=lambda group: (len(group.runs), -group.epochs)).epochs)


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's method, in the given order."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted
