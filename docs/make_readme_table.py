"""Write the README's table of policies from the docstrings, so that the two cannot disagree. Run by ``make docs``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import mixwell

README = Path(__file__).resolve().parents[1] / "README.md"
MARKED = re.compile(r"(?<=<!-- policies: written by make docs -->\n).*(?=<!-- end of policies -->)", re.DOTALL)


def row(policy: type) -> str:
    """Return a policy's line of the table: its name, its first sentence, its source."""
    doc = inspect.cleandoc(policy.__doc__ or "")
    source = re.search(r"^Source:\s+(.+?)(?:\n\n|\Z)", doc, re.DOTALL | re.MULTILINE)
    cells = [f"`{policy.__name__}`", doc.split("\n\n")[0], source[1] if source else ""]
    plain = [re.sub(r":\w+:(?=`)", "", " ".join(cell.split())).replace("``", "`").replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(plain)} |\n"


def table() -> str:
    """Return the table of all policies that a user can name."""
    rows = [row(getattr(mixwell, name)) for name in mixwell.names("policy")]
    return "\n| policy | what it does | source |\n|---|---|---|\n" + "".join(rows) + "\n"


def filled(readme: str) -> str:
    """Return the README's text with the table in its place."""
    text, places = MARKED.subn(lambda _: table(), readme)
    if places != 1:
        raise ValueError(f"README.md must hold the two markers of the table once, but holds them {places} times.")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
