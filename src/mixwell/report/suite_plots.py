"""Plots of ``mixwell eval --suite`` as SVG files."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

Figures = dict[str, dict[str, Any]]


def plots(found: dict[str, Figures]) -> dict[str, str]:
    """Draw the parts of ``eval.json`` that have a curve.

    Args:
        found: Figures by part, as in ``eval.json``.

    Returns:
        SVG files by name.
    """
    kinds: dict[str, tuple[str, str, Callable[[Any, Figures], None]]] = {
        "reliability": ("calibration", "reliability", _reliability),
        "risk_coverage": ("selective", "risk_coverage", _risk),
        "occlusion": ("occlusion", "occlusion_mean", _occlusion),
        "corruptions": ("corruptions", "errors_by_severity", _severity),
        "corrupted": ("corrupted", "errors_by_severity", _severity),
    }
    return {
        name: _drawn(draw, found[part]) for name, (part, needed, draw) in kinds.items() if needed in found.get(part, {})
    }


def _drawn(draw: Callable[[Any, Figures], None], figures: Figures) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context({"svg.hashsalt": "mixwell", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.4}):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        draw(figure.add_subplot(), figures)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return file.getvalue()


def _numbers(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _reliability(axes: Any, figures: Figures) -> None:
    points = figures["reliability"]["value"]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfect calibration")
    axes.plot(_numbers(points["confidence"]), _numbers(points["accuracy"]), marker="o", label="measured")
    total = sum(_numbers(points["count"])) or 1
    bins = len(points["count"])
    places = [(k + 0.5) / bins for k in range(bins)]
    axes.bar(places, [count / total for count in _numbers(points["count"])], 0.9 / bins, alpha=0.3, label="images")
    axes.set(xlabel="confidence", ylabel="accuracy, share of images", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def _risk(axes: Any, figures: Figures) -> None:
    curve = figures["risk_coverage"]["value"]
    axes.plot(_numbers(curve["coverage"]), _numbers(curve["risk"]))
    axes.set(xlabel="coverage", ylabel="error among covered images (%)", xlim=(0, 1))
    axes.set_ylim(bottom=0)


def _occlusion(axes: Any, figures: Figures) -> None:
    for fill in ("mean", "black"):
        curve = figures[f"occlusion_{fill}"]["value"]
        axes.plot(_numbers(curve["share"]), _numbers(curve["accuracy"]), marker="o", label=f"{fill} colour")
    axes.set(xlabel="hidden patches (%)", ylabel="top-1 accuracy (%)", ylim=(0, 100))
    axes.legend()


def _severity(axes: Any, figures: Figures) -> None:
    errors = figures["errors_by_severity"]["value"]
    mean = [sum(values) / len(values) for values in zip(*errors.values(), strict=True)]
    for name, values in errors.items():
        axes.plot(range(1, 6), values, linewidth=0.8, alpha=0.6)
        axes.annotate(name, (5.05, values[-1]), fontsize=5)
    axes.plot(range(1, 6), mean, color="black", linewidth=2.5, label="mean")
    axes.set(xlabel="severity", ylabel="top-1 error (%)", xticks=range(1, 6), xlim=(0.8, 6.2))
    axes.legend()
