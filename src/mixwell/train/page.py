"""The frame of a report: a page that holds everything it shows, in light and dark, without scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

STYLE = resources.files("mixwell.train").joinpath("page.css").read_text(encoding="utf-8").strip()


def page(title: str, sections: Iterable[str]) -> str:
    """Put sections of HTML on a page."""
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n{STYLE}\n</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a section with a heading; the parts are HTML."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def table(rows: Sequence[Sequence[str]], words: int) -> str:
    """Return a table of plain text, titles first; the first ``words`` columns are words, the others numbers.

    Example:
        >>> print(table([["a", "b"], ["<", "1"]], words=1))
        <div class="wide"><table>
        <tr><th class="word">a</th><th>b</th></tr>
        <tr><td class="word">&lt;</td><td>1</td></tr>
        </table></div>
    """
    lines = []
    for tag, row in zip(["th"] + ["td"] * (len(rows) - 1), rows, strict=True):
        kinds = [' class="word"' if place < words else "" for place in range(len(row))]
        lines.append("".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True)))
    return '<div class="wide"><table>\n' + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table></div>"


def image(png: bytes, words: str, style: str = "") -> str:
    """Return a picture that is part of the page, with words for who cannot see it."""
    own = f' style="{style}"' if style else ""
    return f'<img alt="{escape(words)}"{own} src="data:image/png;base64,{base64.b64encode(png).decode()}">'
