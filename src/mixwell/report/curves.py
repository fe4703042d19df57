"""Training curves as SVG elements that use the colours of the page around them."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from mixwell.train.runs import Group, Run

COLOURS = 6  # number of colours that the page defines: --series-1 to --series-6
MAX_LABEL = 48  # characters of a name in the legend; the table has the whole name
STROKES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5)), (0, (1, 1)))
# Colours that the page replaces by its own, so that a chart suits light and dark pages.
INK, LINE = "#0000e0", "#0000e1"


def _values(run: Run, name: str) -> dict[int, float]:
    return {record["epoch"]: record[name] for record in run.metrics if name in record}


def _style(salt: str) -> dict[Any, Any]:
    """Return matplotlib settings: text stays text, and equal charts give equal SVG."""
    fixed = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 11}
    fixed |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    fixed |= {"axes.edgecolor": LINE, "grid.color": LINE, "grid.linewidth": 0.6, "axes.grid": True}
    fixed |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False}
    return fixed | {"xtick.major.size": 0, "ytick.major.size": 0, "legend.handlelength": 3}


def chart(found: Sequence[Group], name: str, title: str, zoom: bool = False) -> str:
    """Draw one metric over the epochs: a thin line for every run, a thick line for the mean of each group.

    Args:
        found: Groups, in the order of their colours.
        name: Name of the metric in ``metrics.jsonl``.
        title: Label of the vertical axis, with the unit.
        zoom: Start the axis at the lowest value of the second half of training.

    Returns:
        An ``<svg>`` element with a text alternative, for use inside HTML.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    file, final, late, top = io.StringIO(), [], [], []
    with matplotlib.rc_context(_style(name)):
        figure = Figure(figsize=(6.2, 3.9), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for k, group in enumerate(found):
            curves = [values for run in group.runs if (values := _values(run, name))]
            colour = f"#0000f{k % COLOURS + 1}"
            for values in curves:
                if len(curves) > 1:
                    axes.plot(list(values), list(values.values()), color=colour, linewidth=0.7, alpha=0.45)
                late += [value for epoch, value in values.items() if epoch > max(values) / 2]
                top.append(max(values.values()))
            epochs = sorted(set.intersection(*map(set, curves))) if curves else []
            mean = [statistics.mean(values[epoch] for values in curves) for epoch in epochs]
            style = {"color": colour, "linestyle": STROKES[k % len(STROKES)], "marker": "o" if len(epochs) == 1 else ""}
            label = group.name if len(group.name) <= MAX_LABEL else group.name[: MAX_LABEL - 1] + "…"
            axes.plot(epochs, mean, linewidth=2.2, label=label, **style)
            final += [f"{group.name} {mean[-1]:.4g} after epoch {epochs[-1]}"] if epochs else []
        if zoom and late:
            margin = 0.05 * (max(top) - min(late)) or 1.0
            axes.set_ylim(min(late) - margin, max(top) + margin)
        axes.legend()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _inline(file.getvalue(), f"{title} over the epochs: {'; '.join(final)}")


def _inline(svg: str, description: str) -> str:
    """Turn an SVG file into an element that the page scales and colours."""
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    svg = re.sub(r' (width|height)="[^"]*"', "", svg, count=2)
    svg = re.sub(r"#0000f(\d)", r"var(--series-\1)", svg).replace(INK, "var(--ink)").replace(LINE, "var(--line)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
