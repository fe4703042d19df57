"""Training curves: the mean of each group as a thick line, every run as a thin one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mixwell.report.plots import Line, Plot
from mixwell.train.runs import Group


def training(found: Sequence[Group], name: str, title: str, zoom: bool = False) -> Plot:
    """Return the plot of one metric over the epochs.

    Args:
        found: Groups, in the order of their colours.
        name: Name of the metric in ``metrics.jsonl``.
        title: Label of the vertical axis, with the unit.
        zoom: Start the axis at the lowest value of the second half of training.
    """
    lines: list[Line] = []
    late: list[float] = []
    top: list[float] = []
    for k, group in enumerate(found):
        curves = [{record["epoch"]: record[name] for record in run.metrics if name in record} for run in group.runs]
        named = [(f"{group.name}, seed {run.config.seed}", c) for run, c in zip(group.runs, curves, strict=True) if c]
        shared = sorted(set.intersection(*(set(curve) for _, curve in named))) if named else []
        lines.append(Line(group.name, shared, [statistics.mean(curve[e] for _, curve in named) for e in shared], k))
        lines += [Line(own, list(curve), list(curve.values()), k, thin=True) for own, curve in named if len(named) > 1]
        late += [value for _, curve in named for epoch, value in curve.items() if epoch > max(curve) / 2]
        top += [max(curve.values()) for _, curve in named]
    margin = 0.05 * (max(top) - min(late)) or 1.0 if late else 0.0
    limits = (min(late) - margin, max(top) + margin) if zoom and late else None
    return Plot(f"{title} over the epochs", "epoch", title, lines, limits)
