"""Training curves as SVG elements that use the colours of the page around them."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mixwell.train.runs import Group

STYLE = Path(__file__).with_suffix(".mplstyle")
MAX_LABEL = 48  # characters of a name in the legend; the table has the whole name


def chart(found: Sequence[Group], name: str, title: str, zoom: bool = False) -> str:
    """Draw one metric over the epochs: a thick line for the mean of each group, a thin line for every run.

    Args:
        found: Groups, in the order of their colours.
        name: Name of the metric in ``metrics.jsonl``.
        title: Label of the vertical axis, with the unit.
        zoom: Start the axis at the lowest value of the second half of training.

    Returns:
        An ``<svg>`` element with a text alternative, for use inside HTML.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    file, final, late, top = io.StringIO(), [], [], []
    with style.context(STYLE):
        figure = Figure(figsize=(5.4, 3.2 + 0.22 * len(found)))
        axes = figure.add_subplot(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for group in found:
            curves = [{record["epoch"]: record[name] for record in run.metrics if name in record} for run in group.runs]
            curves = [curve for curve in curves if curve]
            epochs = sorted(set.intersection(*map(set, curves))) if curves else []
            mean = [statistics.mean(curve[epoch] for curve in curves) for epoch in epochs]
            label = group.name if len(group.name) <= MAX_LABEL else group.name[: MAX_LABEL - 1] + "…"
            (line,) = axes.plot(epochs, mean, label=label, marker="o" if len(epochs) == 1 else "")
            final += [f"{group.name} {mean[-1]:.4g} after epoch {epochs[-1]}"] if epochs else []
            for curve in curves:
                if len(curves) > 1:
                    axes.plot(list(curve), list(curve.values()), "-", color=line.get_color(), lw=0.7, alpha=0.45)
                late += [value for epoch, value in curve.items() if epoch > max(curve) / 2]
                top.append(max(curve.values()))
        if zoom and late:
            margin = 0.05 * (max(top) - min(late)) or 1.0
            axes.set_ylim(min(late) - margin, max(top) + margin)
        figure.legend(loc="outside upper left")
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _inline(file.getvalue(), f"{title} over the epochs: {'; '.join(final)}")


def _inline(svg: str, description: str) -> str:
    """Turn an SVG file into an element that the page scales and colours."""
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    svg = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
    svg = re.sub(r"#0000f(\d)", r"var(--series-\1)", svg)
    svg = svg.replace("#0000e0", "var(--ink)").replace("#0000e1", "var(--line)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
