"""Published accuracies to compare with, from ``published.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

from mixwell.train.runs import Group

TABLE = Path(__file__).with_suffix(".csv")


def published(group: Group) -> list[tuple[int, float, str]]:
    """Return the published results of a group's network, data set, policy and method.

    AutoMix and its successors are found under any policy, because they decide by themselves where pixels go.

    Returns:
        Epochs, top-1 accuracy (percent) and source of each, with no standard deviations: none are published.
    """
    method, policy = group.method.partition("(")[0], group.policy.partition("(")[0]
    setting = group.recipe.removesuffix(f"_{method.lower()}")
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["setting"], row["method"]) == (setting, method)]
    return [(int(row["epochs"]), float(row["top1"]), row["source"]) for row in rows if row["policy"] in ("", policy)]
