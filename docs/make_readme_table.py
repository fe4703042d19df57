"""Write the README's table of policies from the docstrings, so that the two cannot disagree. Run by ``make docs``."""

from __future__ import annotations

import re
from pathlib import Path

from docstrings import cell, markdown, read

import mixwell

README = Path(__file__).resolve().parents[1] / "README.md"
MARKED = re.compile(r"(?<=<!-- policies: written by make docs -->\n).*(?=<!-- end of policies -->)", re.DOTALL)


def row(name: str) -> str:
    """Return a policy's line of the table: its name, its first sentence, its source."""
    said = read(getattr(mixwell, name))
    cells = [f"[`{name}`](docs/policies/{name}.md)", markdown(said.idea[0]), markdown(said.source)]
    return f"| {' | '.join(map(cell, cells))} |\n"


def table() -> str:
    """Return the table of all policies that a user can name, and of the functions that make one in a word."""
    rows = [row(name) for kind in ("policy", "shorthand") for name in mixwell.names(kind)]
    return "\n| policy | what it does | source |\n|---|---|---|\n" + "".join(rows) + "\n"


def filled(readme: str) -> str:
    """Return the README's text with the table in its place."""
    text, places = MARKED.subn(lambda _: table(), readme)
    if places != 1:
        raise ValueError(f"README.md must hold the two markers of the table once, but holds them {places} times.")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
