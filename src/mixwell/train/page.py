"""The frame of a report: a page that holds everything it shows, in light and dark, without scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1e21; --faint: #5c6370; --line: #d9dce1; --panel: #f5f6f8;
  --source-1: #0072b2; --source-2: #e69f00; --source-3: #009e73; --source-4: #cc79a7; --source-5: #d55e00;
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #00805d; --series-4: #b0558a; --series-5: #8a6d00; --series-6: #444444; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e8eb; --faint: #9aa2ae; --line: #363b44; --panel: #20242a;
  --source-1: #4aa8e0; --source-2: #f0b429; --source-3: #2fc79b; --source-4: #e09ac0; --source-5: #f08040;
  --series-1: #56b4e9; --series-2: #f28e4b; --series-3: #35c79c; --series-4: #e09ac0; --series-5: #e6c84c; --series-6: #c0c0c0; } }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.8rem; margin: 0; } h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; } h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p, ul { max-width: 52rem; } .faint, figcaption.faint { color: var(--faint); }
code, pre { font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
h3 code { font-size: 1rem; }
pre { margin: .25rem 0 1rem; padding: .6rem .8rem; background: var(--panel); border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .9rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; border-bottom-width: 2px; } th:first-child, td:first-child { padding-left: 0; }
th.word, td.word { text-align: left; }
.remarks { background: var(--panel); border-left: 4px solid var(--source-2); border-radius: 0 6px 6px 0; padding: .7rem 1rem .7rem 2rem; }
.remarks li + li { margin-top: .35rem; } .remarks li { overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; } .charts svg { flex: 1 1 26rem; max-width: 37rem; min-width: 0; height: auto; }
svg text { font-family: inherit !important; }
.strip { display: flex; flex-wrap: wrap; gap: 1.1rem; } .sample { margin: 0; width: 112px; font-size: .9rem; }
.sample img { display: block; width: 100%; height: auto; } .pixels img { image-rendering: pixelated; }
.clean { display: flex; gap: 4px; margin-bottom: 4px; } .clean img { flex: 1 1 0; min-width: 0; border-bottom: 4px solid; }
.bar { display: flex; height: 8px; margin: 6px 0 4px; background: var(--line); }
.label { display: flex; justify-content: space-between; gap: .5rem; } .label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.label span::before { content: ""; display: inline-block; width: .6em; height: .6em; margin-right: .35em; background: var(--own); }
""".strip()


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
