"""What ``mixwell eval --suite`` measured, from ``eval.json`` in the runs, as a table and as plots."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mixwell.report.plots import Plot
from mixwell.report.suite_plots import Figures, compared
from mixwell.report.table import spread
from mixwell.train.errors import RunError
from mixwell.train.files import parsed, text
from mixwell.train.runs import Group, Run


def figures(run: Run) -> dict[str, Figures]:
    """Return the figures of a run by part; empty if it was not evaluated.

    Raises:
        RunError: ``eval.json`` is damaged.
    """
    file = run.path / "eval.json"
    if not file.is_file():
        return {}
    found = parsed(text(file), str(file)).get("figures")
    if not isinstance(found, dict):
        raise RunError(f"{file} has no figures: run mixwell eval {run.path} --suite full again")
    return found


def _evaluated(found: Sequence[Group]) -> dict[str, list[dict[str, Figures]]]:
    """Return the figures of the evaluated runs of each group, by the name of the group."""
    several = len({group.recipe for group in found}) > 1
    named = {f"{group.recipe}: {group.name}" if several else group.name: group for group in found}
    return {
        name: runs for name, group in named.items() if (runs := [one for run in group.runs if (one := figures(run))])
    }


def cells(found: Sequence[Group]) -> list[list[str]]:
    """Return all single numbers as text: a row for each, a column for each group, titles first; empty without any."""
    evaluated = _evaluated(found)
    units: dict[tuple[str, str], str] = {}
    values: dict[tuple[str, str, str], list[float]] = {}
    for group, runs in evaluated.items():
        for part, named in (pair for one in runs for pair in one.items()):
            for name, figure in named.items():
                if isinstance(figure["value"], int | float):
                    units[part, name] = figure["unit"]
                    values.setdefault((group, part, name), []).append(figure["value"])
    rows = [
        [part, f"{name} ({unit})" if unit else name]
        + [_spread(values.get((group, part, name), []), 2 if unit == "%" else 4) for group in evaluated]
        for (part, name), unit in units.items()
    ]
    return [["part", "figure", *evaluated], *rows] if rows else []


def _spread(values: Sequence[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return spread((statistics.mean(values), deviation) if values else None, digits)


def plots(found: Sequence[Group]) -> list[Plot]:
    """Return the curves of all groups: reliability, coverage, occlusion and corruptions."""
    return list(compared(_evaluated(found)).values())
