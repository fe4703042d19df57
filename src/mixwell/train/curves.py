"""Curves of training, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Sequence
from typing import Any

from mixwell.train.runs import Group, Run

SERIES = 6  # colours that the page defines as --series-1 to --series-6
LABEL = 48  # longest name in a legend (characters); a longer one leaves no room for the curves
STROKES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5)), (0, (1, 1)))
# What matplotlib draws in these colours, the page draws in its own.
INK, GRID = "#0000e0", "#0000e1"


def _placeholder(place: int) -> str:
    return f"#0000{0xF1 + place % SERIES:02x}"


def _values(run: Run, name: str) -> dict[int, float]:
    return {record["epoch"]: record[name] for record in run.metrics if name in record}


def _settings(salt: str) -> dict[Any, Any]:
    """Return what matplotlib must know: text stays text, and equal charts are equal files."""
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    own = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 11}
    return own | {"axes.edgecolor": GRID} | dict.fromkeys(inked, INK)


def _zoom(axes: Any, curves: Sequence[dict[int, float]]) -> None:
    """Let the axis begin at the lowest value of the second half, where the curves part."""
    if late := [value for curve in curves for epoch, value in curve.items() if epoch > max(curve) / 2]:
        top = max(value for curve in curves for value in curve.values())
        margin = 0.05 * (top - min(late)) or 1.0
        axes.set_ylim(min(late) - margin, top + margin)


def chart(found: Sequence[Group], name: str, title: str, zoom: bool = False) -> str:
    """Draw one measure over the epochs: a thin line for every run, a thick one for the mean of a group.

    Args:
        found: Groups, in the order of their colours.
        name: Which measure of ``metrics.jsonl``.
        title: What stands at the axis, with its unit.
        zoom: Show the range of the second half of training only.

    Returns:
        An ``<svg>`` element for use inside HTML.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(_settings(name)):
        figure = Figure(figsize=(6.2, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for place, group in enumerate(found):
            curves = [values for run in group.runs if (values := _values(run, name))]
            colour, stroke = _placeholder(place), STROKES[place % len(STROKES)]
            for values in curves if len(curves) > 1 else []:
                axes.plot(list(values), list(values.values()), color=colour, linewidth=0.7, alpha=0.45)
            epochs = sorted(set.intersection(*map(set, curves))) if curves else []
            mean = [statistics.mean(values[epoch] for values in curves) for epoch in epochs]
            marker = "o" if len(epochs) == 1 else None
            label = group.name if len(group.name) <= LABEL else group.name[: LABEL - 1] + "…"  # the table has it whole
            axes.plot(epochs, mean, color=colour, linestyle=stroke, linewidth=2.2, marker=marker, label=label)
        if zoom:
            _zoom(axes, [curve for group in found for run in group.runs if (curve := _values(run, name))])
        axes.set_xlabel("epoch")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
        axes.legend(frameon=False, handlelength=3)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _inline(file.getvalue(), f"{title} over the epochs")


def _inline(svg: str, description: str) -> str:
    """Cut the element out of an SVG file, and let the page colour it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    for place in range(SERIES):
        svg = svg.replace(_placeholder(place), f"var(--series-{place + 1})")
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--line)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
