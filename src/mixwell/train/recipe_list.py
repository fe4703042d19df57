"""``mixwell recipes``: list the recipes with their published accuracies, or print the settings of one."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from mixwell.train.errors import Parser, RunError, closest
from mixwell.train.recipes import COMBINED, RECIPES

TITLES = ("recipe", "data set", "epochs", "published top-1 in % (epochs)", "source")


def main(argv: Sequence[str]) -> None:
    """List the recipes, or print one.

    Raises:
        RunError: The recipe does not exist.
    """
    parser = Parser("mixwell recipes", description="List the recipes, or print the settings of one as JSON.")
    parser.add_argument(
        "recipe", nargs="?", default="*", metavar="RECIPE", help="a recipe, or a pattern such as 'cub200_*' [*]"
    )
    name = parser.parse_args(argv).recipe
    if name in RECIPES:
        print(RECIPES[name]().json(), end="")
    elif names := fnmatch.filter(RECIPES, name):
        print(table(names))
    else:
        raise RunError(f"unknown recipe {name!r}{closest(name, RECIPES)} ('mixwell recipes' shows all)")


def table(names: Iterable[str]) -> str:
    """Return one line for each recipe, in columns."""
    rows = [TITLES, *(line for name in names for line in lines(name))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def lines(name: str) -> list[tuple[str, str, str, str, str]]:
    """Return the cells of a recipe, on one line for each source of published accuracies."""
    config, results = RECIPES[name](), COMBINED[name].results if name in COMBINED else ()
    data = config.dataset
    if data == "folder" != name:
        data = f"{name.partition('_')[0]}, as folder"
    sources = dict.fromkeys(result.source for result in results) or [""]
    cells = [
        ", ".join(f"{result.top1:.2f} ({result.epochs})" for result in results if result.source == source)
        for source in sources
    ]
    return [(name, data, str(config.epochs), cell, source) for cell, source in zip(cells, sources, strict=True)]
