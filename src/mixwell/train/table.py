"""The table of results, and what a reader must know before trusting it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence

from mixwell.train.config import Config
from mixwell.train.runs import Group

ENOUGH = 3  # seeds below which a mean is no claim
HELD_OUT = "held-out images"


def shown(spread: tuple[float, float | None] | None, digits: int = 2) -> str:
    """Write a mean and its standard deviation.

    Example:
        >>> shown((93.456, 0.4)), shown((93.456, None)), shown(None)
        ('93.46 ± 0.40', '93.46', '–')
    """
    if spread is None:
        return "–"
    mean, deviation = spread
    return f"{mean:,.{digits}f}" + (f" ± {deviation:,.{digits}f}" if deviation is not None else "")


def columns(found: Sequence[Group]) -> list[tuple[str, Callable[[Group], str]]]:
    """Return the title of every column, and what stands in it for a group."""
    held_out = any(run.summary and run.summary.validated_on == HELD_OUT for group in found for run in group.finished)
    return [
        ("recipe", lambda group: group.recipe),
        ("training", lambda group: group.name),
        ("seeds", lambda group: str(len(group.finished))),
        ("last (%)", lambda group: shown(group.spread("last"))),
        ("median of last 10 (%)", lambda group: shown(group.spread("median"))),
        ("best (%)", lambda group: shown(group.spread("best"))),
        *([("test (%)", lambda group: shown(group.spread("test")))] if held_out else []),
        ("time (s)", lambda group: shown(group.spread("seconds"), 1)),
        ("images/s", lambda group: shown(group.spread("speed"), 0)),
    ]


def cells(found: Sequence[Group]) -> list[list[str]]:
    """Return the table as text, titles first; the first two columns are words, the others numbers."""
    titles = columns(found)
    return [[title for title, _ in titles], *([cell(group) for _, cell in titles] for group in found)]


def remarks(found: Sequence[Group]) -> list[str]:
    """Say what a reader of the table must know before trusting it."""
    runs = [run for group in found for run in group.runs]
    said = [
        f"{run.path} is unfinished ({len(run.metrics)} of {run.config.epochs} epochs) and counts in no mean: "
        f"mixwell train --resume {shlex.quote(str(run.path))}"
        for run in runs
        if not run.finished
    ]
    few = [group for group in found if len({run.config.seed for run in group.finished}) < ENOUGH]
    if few:
        rows = ", ".join(f"{group.name} ({len({run.config.seed for run in group.finished})})" for group in few)
        said.append(f"Fewer than {ENOUGH} seeds, so the mean is no claim: {rows}.")
    said += [
        f"The runs of {group.name} on {group.recipe} differ in more than the seed: {text}."
        for group in found
        if (text := _differences(group))
    ]
    if any(run.summary and run.summary.validated_on == "test images" for run in runs):
        said.append(
            "Accuracy is measured on the test images after every epoch, so the best epoch is chosen by them: compare "
            "last or median."
        )
    return said


def _differences(group: Group) -> str:
    """Name what the runs of a group do not have in common, though only their seeds should differ."""
    free = Config.MAY_CHANGE | {"seed"}
    changed = {text.split()[0] for run in group.runs[1:] for text in group.runs[0].config.differences(run.config)}
    return ", ".join(sorted(changed - free))


def markdown(found: Sequence[Group]) -> str:
    """Return the results as a Markdown table that reads well as it is."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in cells(found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [cell.rjust(w) if k > 1 else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = ["-" * (w - 1) + (":" if k > 1 else "-") for k, w in enumerate(widths)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))


def show(found: Sequence[Group]) -> None:
    """Print the results: framed on a terminal, as Markdown where the output goes to a file."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        titles, *rows = cells(found)
        table = Table()
        for place, title in enumerate(titles):
            table.add_column(
                title.replace(" of last", "\nof last"), justify="right" if place > 1 else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
    else:
        print(markdown(found), end="")
    for remark in remarks(found):
        print(f"* {remark}")
