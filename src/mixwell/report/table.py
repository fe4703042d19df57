"""The table of results, and remarks on how far its numbers can be trusted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from mixwell.report.paired import Comparison
from mixwell.report.published import published
from mixwell.train.config import Config
from mixwell.train.runs import Group, Run

MIN_SEEDS = 3
NAMES = {"top1": "Top-1 accuracy", "map": "mAP"}
HELD_OUT = "held-out images"
# Title of a column, the measure of a group, and its digits; accuracy on test images is "last" if nothing is held out.
MEASURES = {
    "last (%)": ("last", 2), "median of last 10 (%)": ("median", 2), "best (%)": ("best", 2), "test (%)": ("test", 2),
    "time (s)": ("seconds", 1), "images/s": ("speed", 0),
}  # fmt: skip


def spread(values: tuple[float, float | None] | None, digits: int = 2) -> str:
    """Format a mean and its standard deviation.

    Example:
        >>> spread((93.456, 0.4)), spread((93.456, None)), spread(None)
        ('93.46 ± 0.40', '93.46', '–')
    """
    if values is None:
        return "–"
    mean, deviation = values
    return f"{mean:,.{digits}f}" + (f" ± {deviation:,.{digits}f}" if deviation is not None else "")


def measured_on(runs: Sequence[Run]) -> str:
    """Return which images the accuracies of some runs were measured on, as written in their summaries."""
    found = dict.fromkeys(run.summary.validated_on or "validation images" for run in runs if run.summary)
    return " or ".join(found or ["validation images"])


def measured(found: Sequence[Group]) -> str:
    """Return the names of the measures of some groups."""
    return " or ".join(dict.fromkeys(NAMES[group.measure] for group in found))


def cells(found: Sequence[Group]) -> list[list[str]]:
    """Return the table as text, titles first. The first two columns are words, the others are numbers."""
    held_out = HELD_OUT in measured_on([run for group in found for run in group.runs])
    columns = {title: how for title, how in MEASURES.items() if held_out or how[0] != "test"}
    rows = [
        [group.recipe, group.name, _seeds(group), *(spread(group.spread(m), d) for m, d in columns.values())]
        for group in found
    ]
    return [["recipe", "training", "seeds", *columns], *rows]


def _seeds(group: Group) -> str:
    """Return the number of finished runs, and of those that were stopped early."""
    stopped = sum(bool(run.stopped) for run in group.runs)
    return f"{len(group.finished)}{f' ({stopped} stopped)' if stopped else ''}"


def remarks(found: Sequence[Group]) -> list[str]:
    """Return what a reader must know before trusting the table."""
    runs = [run for group in found for run in group.runs]
    lines = [
        f"{run.path} {f'was stopped early ({run.stopped})' if run.stopped else 'is unfinished'} ({len(run.metrics)} of "
        f"{run.config.epochs} epochs) and is left out of the means: mixwell train --resume {shlex.quote(str(run.path))}"
        for run in runs
        if not run.finished
    ]
    seeds = [(group.name, len({run.config.seed for run in group.finished})) for group in found]
    if few := ", ".join(f"{name} ({count})" for name, count in seeds if count < MIN_SEEDS):
        lines.append(f"Fewer than {MIN_SEEDS} seeds, too few for a comparison: {few}.")
    lines += [
        f"The runs of {group.name} on {group.recipe} differ in more than the seed: {text}."
        for group in found
        if (text := _differences(group))
    ]
    if "test images" in measured_on(runs):
        lines.append("The best epoch is chosen by its accuracy on the test images: compare last or median instead.")
    return lines


def _differences(group: Group) -> str:
    """Return the settings other than the seed that are not the same in all runs of a group."""
    ignored = Config.MAY_CHANGE | {"seed"}
    changed = {text.split()[0] for run in group.runs[1:] for text in group.runs[0].config.differences(run.config)}
    return ", ".join(sorted(changed - ignored))


def differences(found: Sequence[Group]) -> list[list[str]]:
    """Return the paired differences of groups of one recipe that share seeds, titles first; empty without any.

    The reference is plain training, or else the first group of the recipe.
    """
    rows = []
    for recipe in dict.fromkeys(group.recipe for group in found):
        members = [group for group in found if group.recipe == recipe]
        reference = next((group for group in members if group.name == "plain"), members[0])
        theirs = {run.config.seed: run.last for run in reference.finished}
        for group in members:
            pairs = [run.last - theirs[run.config.seed] for run in group.finished if run.config.seed in theirs]
            test = Comparison.of(pairs) if group is not reference else None
            if test:
                p = "< 0.0001" if test.p < 1e-4 else f"{test.p:.4f}"
                rows.append([recipe, group.name, reference.name, str(test.count), f"{test} %", p])
    titles = ["recipe", "training", "minus", "seeds", "difference [95 % CI]", "p"]
    return [titles, *rows] if rows else []


def published_cells(found: Sequence[Group]) -> list[list[str]]:
    """Return published accuracies beside those of the groups, titles first; empty where none are known."""
    rows = [
        [group.recipe, group.name, spread(group.spread("median")), f"{top1:.2f}", str(epochs), source]
        for group in found
        for epochs, top1, source in published(group)
    ]
    return [["recipe", "training", "median here (%)", "published (%)", "epochs", "source"], *rows] if rows else []


def markdown(found: Sequence[Group]) -> str:
    """Return the results as a Markdown table with aligned columns."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in cells(found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * (width - (k > 1)) + ":" * (k > 1) for k, width in enumerate(widths)])
    lines = [
        [cell.rjust(w) if k > 1 else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(found: Sequence[Group]) -> None:
    """Print the results: as a framed table on a terminal, else as Markdown."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        titles, *rows = cells(found)
        table = Table()
        for k, title in enumerate(titles):
            table.add_column(title.replace(" of", "\nof"), justify="right" if k > 1 else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
    else:
        print(markdown(found), end="")
    for remark in remarks(found):
        print(f"* {remark}")
