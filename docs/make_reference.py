"""Write the pages of the API reference, which name every public object. Run by ``make pages``."""

from __future__ import annotations

from pathlib import Path

import mixwell

FOLDER = Path(__file__).with_name("reference")
# Title and kinds of objects (see mixwell.names) of each page; the rest of the public names are in OTHERS.
PAGES = {
    "policies": ("Policies", ("policy", "shorthand")),
    "methods": ("Methods", ("method",)),
    "labels": ("Label policies", ("label",)),
    "losses": ("Losses", ("loss",)),
    "draws": ("Ratios, pairings, saliency", ("ratio", "pairing", "saliency")),
}
PACKAGE = Path(mixwell.__file__).parent


def modules(package: str) -> tuple[str, ...]:
    """Return the public modules of a package of the library."""
    found = sorted((PACKAGE / package).iterdir())
    return tuple(f"mixwell.{package}.{path.stem}" for path in found if path.suffix != ".pyc" and path.stem[0] != "_")


# Objects of other packages: title and names.
MODULES = {
    "integrations": ("Integrations", modules("integrations")),
    "evaluation": ("Evaluation", modules("evaluation")),
    "training": ("Training program", ("mixwell.train.run", "mixwell.train.Config", "mixwell.train.Summary")),
}
OTHERS = "core"
CONSTANTS = ("CIFAR10", "CIFAR100", "IMAGENET")
INDEX = """\
# API reference

Every public name of `mixwell`, from the docstrings; `help(mixwell.CutMix)` prints the same. The normalizations
`mixwell.IMAGENET`, `mixwell.CIFAR10` and `mixwell.CIFAR100` are objects of the class
[`Normalization`](core.md#mixwell.Normalization). `make pages` writes these pages.

"""


def page(title: str, names: list[str] | tuple[str, ...]) -> str:
    """Return a page that shows the docstrings of some objects."""
    return f"# {title}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def texts() -> dict[str, str]:
    """Return the text of every page by its name."""
    groups = {key: [name for kind in kinds for name in mixwell.names(kind)] for key, (_, kinds) in PAGES.items()}
    known = {name for names in groups.values() for name in names} | {*CONSTANTS}
    titles = {key: title for key, (title, _) in PAGES.items()} | {OTHERS: "Batches, plans, schedules and metrics"}
    groups[OTHERS] = sorted(set(mixwell.__all__) - known)
    found = {key: page(titles[key], [f"mixwell.{name}" for name in names]) for key, names in groups.items()}
    found |= {key: page(title, modules) for key, (title, modules) in MODULES.items()}
    titles |= {key: title for key, (title, _) in MODULES.items()}
    return {**found, "README": INDEX + "".join(f"- [{titles[key]}]({key}.md)\n" for key in found)}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        path.unlink()
    for name, text in texts().items():
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
