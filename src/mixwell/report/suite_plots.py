"""Plots of ``eval.json``, which ``mixwell eval --suite`` writes: of one run, or of several groups of runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mixwell.report.plots import Line, Plot

Figures = dict[str, dict[str, Any]]


def plots(found: dict[str, Figures]) -> dict[str, str]:
    """Draw the parts of ``eval.json`` that have a curve.

    Args:
        found: Figures by part, as in ``eval.json``.

    Returns:
        SVG files by name.
    """
    return {name: plot.file() for name, plot in curves(found).items()}


def curves(found: Mapping[str, Figures]) -> dict[str, Plot]:
    """Return the plots of the parts of ``eval.json`` that have a curve, by name."""
    kinds: dict[str, tuple[str, str, Callable[[Figures], Plot]]] = {
        "reliability": ("calibration", "reliability", _reliability),
        "risk_coverage": ("selective", "risk_coverage", _risk),
        "occlusion": ("occlusion", "occlusion_mean", _occlusion),
        "corruptions": ("corruptions", "errors_by_severity", _severity),
        "corrupted": ("corrupted", "errors_by_severity", _severity),
    }
    return {name: make(found[part]) for name, (part, needed, make) in kinds.items() if needed in found.get(part, {})}


def compared(groups: Mapping[str, Sequence[Mapping[str, Figures]]]) -> dict[str, Plot]:
    """Return the same plots with the mean over the runs of each group.

    Args:
        groups: By name, the figures of each of its runs.
    """
    merged: dict[str, Plot] = {}
    for k, (name, runs) in enumerate(groups.items()):
        each = [curves(figures) for figures in runs]
        for kind in dict.fromkeys(kind for one in each for kind in one):
            same = [one[kind] for one in each if kind in one]
            thick = [[line for line in plot.lines if not line.thin] for plot in same]
            lines = [_mean(f"{name} {several[0].name}".strip(), several, k) for several in zip(*thick, strict=False)]
            merged[kind] = replace(same[0], lines=[*(merged[kind].lines if kind in merged else []), *lines])
    return merged


def _mean(name: str, lines: Sequence[Line], group: int) -> Line:
    columns = ([y for y in column if y is not None] for column in zip(*(line.y for line in lines), strict=False))
    return Line(name, lines[0].x, [statistics.mean(column) if column else None for column in columns], group)


def _reliability(figures: Figures) -> Plot:
    points = figures["reliability"]["value"]
    bins = len(points["count"])
    accuracy = [value if count else None for value, count in zip(points["accuracy"], points["count"], strict=True)]
    line = Line("", [(k + 0.5) / bins for k in range(bins)], accuracy)
    return Plot("accuracy by confidence", "confidence", "accuracy", [line], (0, 1), diagonal=True)


def _risk(figures: Figures) -> Plot:
    curve = figures["risk_coverage"]["value"]
    line = Line("", curve["coverage"], curve["risk"])
    return Plot("error by coverage", "coverage", "error among covered images (%)", [line])


def _occlusion(figures: Figures) -> Plot:
    fills = [fill for fill in ("mean", "black") if f"occlusion_{fill}" in figures]
    found = [figures[f"occlusion_{fill}"]["value"] for fill in fills]
    lines = [Line(f"{fills[k]} colour", curve["share"], curve["accuracy"], k) for k, curve in enumerate(found)]
    return Plot("accuracy by share of hidden patches", "hidden patches (%)", "top-1 accuracy (%)", lines, (0, 100))


def _severity(figures: Figures) -> Plot:
    errors, severities = figures["errors_by_severity"]["value"], [*range(1, 6)]
    lines = [Line(name, severities, values, thin=True) for name, values in errors.items()]
    mean = Line("mean", severities, [statistics.mean(values) for values in zip(*errors.values(), strict=True)])
    return Plot("error by severity of the corruption", "severity", "top-1 error (%)", [*lines, mean])
