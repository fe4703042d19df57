"""Write the tables of docs/recipes.md from the recipes, so that the two cannot disagree. Run by ``make pages``."""

from __future__ import annotations

import re
from pathlib import Path

from mixwell.train.config import Config
from mixwell.train.recipes import FAMILIES

PAGE = Path(__file__).resolve().parent / "recipes.md"
MARKED = re.compile(r"(?<=<!-- recipes: written by make pages -->\n).*(?=<!-- end of recipes -->)", re.DOTALL)
TITLES = ("recipe", "network", "pixels", "epochs x batch", "optimiser, rate", "policy", "method")


def row(config: Config) -> str:
    """Return a recipe's line of the table."""
    network = re.sub(r"^timm/|\(.*", "", config.model)
    rate = f"{config.optimizer}, {config.lr:g} to {config.lr_min:g}"
    size = f"{config.epochs} x {config.batch_size}"
    codes = [f"`{text}`" for text in (config.policy, config.method)]
    return f"| {' | '.join((f'`{config.recipe}`', network, str(config.image_size), size, rate, *codes))} |\n"


def tables() -> str:
    """Return a table for every family."""
    head = f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}\n"
    return "".join(
        f"\n## {family[0].upper()}{family[1:]}\n\n{head}{''.join(row(recipe()) for recipe in recipes)}"
        for family, recipes in FAMILIES.items()
    )


def filled(page: str) -> str:
    """Return the page's text with the tables in their place."""
    text, places = MARKED.subn(lambda _: f"{tables()}\n", page)
    if places != 1:
        raise ValueError(f"recipes.md must hold the two markers of the tables once, but holds them {places} times.")
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
