"""Write the README's tables from the docstrings, so that the two cannot disagree. Run by ``make docs``."""

from __future__ import annotations

import re
from pathlib import Path

from docstrings import cell, markdown, read

import mixwell

README = Path(__file__).resolve().parents[1] / "README.md"
MARKED = re.compile(r"(<!-- (policies|methods): written by make docs -->\n).*?(?=<!-- end of)", re.DOTALL)
PAGES = README.parent / "docs" / "policies"


def row(name: str) -> str:
    """Return the line of a policy or method: its name, its first sentence, its source."""
    said = read(getattr(mixwell, name))
    shown = f"[`{name}`](docs/policies/{name}.md)" if (PAGES / f"{name}.md").exists() else f"`{name}`"
    cells = [shown, markdown(said.idea[0]), markdown(said.source)]
    return f"| {' | '.join(map(cell, cells))} |\n"


KINDS = {
    "policies": ("policy", "shorthand"),
    "methods": ("method",),
}  # with policies, functions that make one in a word


def table(what: str) -> str:
    """Return the table of all policies or methods that a user can name."""
    rows = [row(name) for kind in KINDS[what] for name in mixwell.names(kind)]
    return f"\n| {KINDS[what][0]} | what it does | source |\n|---|---|---|\n" + "".join(rows) + "\n"


def filled(readme: str) -> str:
    """Return the README's text with the tables in their places."""
    text, places = MARKED.subn(lambda found: found[1] + table(found[2]), readme)
    if places != len(KINDS):
        raise ValueError(f"README.md must hold the markers of {len(KINDS)} tables, but holds those of {places}.")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
