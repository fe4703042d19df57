"""The one style of all plots: lines as SVG, with a text alternative and their data as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_suffix(".mplstyle")
MAX_LABEL = 48  # characters of a name in the legend; the table has the whole name
# Colours on white of what the style names, for files; a page has its own, and others in dark mode.
INK, LINE = "#1c1e21", "#d9dce1"
SERIES = ("#0072b2", "#d55e00", "#00805d", "#b0558a", "#8a6d00", "#444444")


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        name: For the legend and the data.
        x: Positions.
        y: Values; None where there is none.
        group: Lines of one group have one colour; all but the first are pale.
        thin: Whether it is a detail: thin, and not in the legend.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    group: int = 0
    thin: bool = False


@dataclass(frozen=True)
class Plot:
    """Lines over one axis.

    Attributes:
        title: What is shown, for the text alternative.
        x: Label of the horizontal axis, with the unit.
        y: Label of the vertical axis, with the unit.
        lines: The lines.
        limits: Ends of the vertical axis; None to fit the data.
        diagonal: Whether to draw the line from (0, 0) to (1, 1).
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    limits: tuple[float, float] | None = None
    diagonal: bool = False

    def rows(self) -> list[list[Any]]:
        """Return the data as a table with a row for every point, titles first."""
        points = [(line.name, x, y) for line in self.lines for x, y in zip(line.x, line.y, strict=True)]
        return [["line", self.x, self.y], *([name, x, "" if y is None else y] for name, x, y in points)]

    def words(self) -> str:
        """Return the text alternative: the last value of every line of the legend."""
        found = []
        for line in self.lines:
            points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
            if points and not line.thin:
                found.append(f"{line.name} {points[-1][1]:.4g} at {points[-1][0]:.4g}".strip())
        return f"{self.title}, last values: {'; '.join(found)}"

    def svg(self) -> str:
        """Return an ``<svg>`` element in the colours of the page around it."""
        svg = self._drawn()
        svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
        svg = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
        svg = re.sub(r"#0000f(\d)", r"var(--series-\1)", svg)
        svg = svg.replace("#0000e0", "var(--ink)").replace("#0000e1", "var(--line)")
        return svg.replace("<svg", f'<svg role="img" aria-label="{escape(self.words())}"', 1)

    def file(self) -> str:
        """Return a complete SVG file, on white."""
        svg = self._drawn(transparent=False)
        svg = re.sub(r"#0000f(\d)", lambda found: SERIES[int(found[1]) - 1], svg)
        return svg.replace("#0000e0", INK).replace("#0000e1", LINE)

    def _drawn(self, transparent: bool = True) -> str:
        from matplotlib import rcParams, style
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        file = io.StringIO()
        with style.context(STYLE):
            legend = [line for line in self.lines if not line.thin]
            figure = Figure(figsize=(5.4, 3.2 + 0.22 * len(legend)))
            axes = figure.add_subplot(xlabel=self.x, ylabel=self.y)
            looks = list(rcParams["axes.prop_cycle"])
            if self.diagonal:
                axes.plot([0, 1], [0, 1], "-", color="#0000e0", lw=0.8)
            if all(x == int(x) for line in self.lines for x in line.x):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            drawn = set[int]()
            for line in self.lines:
                look = looks[line.group % len(looks)]
                y = [float("nan") if value is None else value for value in line.y]
                if line.thin:
                    axes.plot(line.x, y, "-", color=look["color"], lw=0.7, alpha=0.45)
                else:
                    look["alpha"] = 0.5 if line.group in drawn else 1.0
                    axes.plot(line.x, y, label=shortened(line.name), marker="o" if len(y) < 30 else "", ms=4, **look)
                    drawn.add(line.group)
            if self.limits:
                axes.set_ylim(*self.limits)
            if len(legend) > 1 or (legend and legend[0].name):
                figure.legend(loc="outside upper left")
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(file, format="svg", transparent=transparent, metadata=metadata)
        return file.getvalue()


def shortened(name: str) -> str:
    """Shorten a name for the legend."""
    return name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…"


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as the text of a CSV file.

    Example:
        >>> csv_text([["a", "b"], ["x, y", 1]]).splitlines()
        ['a,b', '"x, y",1']
    """
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue()
