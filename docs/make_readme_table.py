"""Write the README's tables from the docstrings. Run by ``make pages``."""

from __future__ import annotations

import re
from pathlib import Path

from docstrings import markdown, read, table

import mixwell

README = Path(__file__).resolve().parents[1] / "README.md"
MARKED = re.compile(r"(<!-- (policies|methods|labels): written by make pages -->\n).*?(?=<!-- end of)", re.DOTALL)
DOCS = README.parent / "docs"
# The kinds of objects in each table, and the page of an object.
KINDS = {
    "policies": (("policy", "shorthand"), "docs/policies/{}.md"),
    "methods": (("method",), "docs/methods/{}.md"),
    "labels": (("label", "loss"), "docs/labels.md"),
}
TITLES = {"policies": "policy", "methods": "method", "labels": "label policy or loss"}
SEE = re.compile(r"[;:] see :func:.*")


def names(what: str) -> list[str]:
    """Return the names in a table."""
    return [name for kind in KINDS[what][0] for name in mixwell.names(kind)]


def row(what: str, name: str) -> list[str]:
    """Return the row of an object: its name, its first sentence, its source."""
    doc = read(getattr(mixwell, name))
    idea = SEE.sub(".", doc.idea[0])
    return [f"[`{name}`]({KINDS[what][1].format(name)})", markdown(idea), markdown(doc.source)]


def filled(readme: str) -> str:
    """Return the README's text with current tables."""
    rows = {what: [row(what, name) for name in names(what)] for what in KINDS}
    text, places = MARKED.subn(
        lambda found: f"{found[1]}\n{table([TITLES[found[2]], 'what it does', 'source'], rows[found[2]])}\n",
        readme,
    )
    if places != len(KINDS):
        raise ValueError(f"README.md must hold the markers of {len(KINDS)} tables, but holds those of {places}.")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
