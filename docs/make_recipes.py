"""Write the tables of docs/recipes.md from the recipes, so that the two cannot disagree. Run by ``make docs``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mixwell.train.recipes import BASES, COMBINED, TRAININGS
from mixwell.train.recipes.small import SMALL

PAGE = Path(__file__).resolve().parent / "recipes.md"
MARKED = re.compile(r"(?<=<!-- recipes: written by make pages -->\n).*(?=<!-- end of recipes -->)", re.DOTALL)
LEARNED = ("automix", "samix")  # how names of trainings end whose settings depend on the base


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = [*titles]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def bases() -> str:
    """Return the table of data sets and networks."""
    rows = [
        (
            f"`{name}`", f"`{base.dataset}`", re.sub(r"^timm/|\(.*", "", base.model), str(base.image_size),
            f"{base.epochs} x {base.batch_size}", f"{base.optimizer}, {base.lr:g}",
        )
        for name, base in BASES.items()
    ]  # fmt: skip
    return table(("name", "data set", "network", "pixels", "epochs x batch", "optimiser, rate"), rows)


def trainings() -> str:
    """Return the table of policies and methods."""
    rows = [
        (f"`{name}`", f"`{changes.get('policy', 'none')}`", f"`{changes.get('method', 'Mixing')}`")
        for name, changes in TRAININGS.items()
        if not name.endswith(LEARNED)
    ]
    return table(("name", "policy", "method"), rows)


def published() -> str:
    """Return a table of published accuracies for every data set; a dash stands for a recipe without one."""
    text = ""
    for data in dict.fromkeys(_data(name) for name in BASES):
        networks = [name for name in BASES if _data(name) == data]
        rows = [
            (f"`{training}`", *cells)
            for training in TRAININGS
            if any(cells := [_cell(f"{base}_{training}") for base in networks])
        ]
        titles = ("training", *(name.removeprefix(f"{data}_") for name in networks))
        text += f"\n### {data}\n\n{table(titles, rows)}"
    return text


def _data(base: str) -> str:
    return next(name for name in ("tiny_imagenet", base.partition("_")[0]) if base.startswith(name))


def _cell(name: str) -> str:
    if name not in COMBINED:
        return ""
    epochs = COMBINED[name]().epochs
    found = dict.fromkeys(f"{each.top1:.2f}" for each in COMBINED[name].results if each.epochs == epochs)
    return " / ".join(found) or "-"


def tables() -> str:
    """Return all tables."""
    small = table(
        ("recipe", "policy", "method"),
        ((f"`{config.recipe}`", f"`{config.policy}`", f"`{config.method}`") for config in (each() for each in SMALL)),
    )
    return (
        f"\n## Recipes to start with\n\n{small}\n## Data sets and networks\n\n{bases()}\n## Trainings\n\n{trainings()}"
        "\nAll trainings whose names end in `automix` or `samix` depend on data set and network: `mixwell recipes NAME`"
        " prints them.\n"
        f"\n## Published accuracies\n{published()}"
    )


def filled(page: str) -> str:
    """Return the page's text with the tables in their place."""
    text, places = MARKED.subn(lambda _: f"{tables()}\n", page)
    if places != 1:
        raise ValueError(f"recipes.md must hold the two markers of the tables once, but holds them {places} times.")
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
