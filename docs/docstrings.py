"""Docstrings of the library, taken apart for its pages."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

import mixwell

SECTION = re.compile(r"^(Args|Raises|Returns|Note|Source|Example):[ \t]*", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+): ", re.MULTILINE)
ROLE = re.compile(r":\w+:`~?([\w.]+)`")
ELSEWHERE = re.compile(r"See :class:`(\w+)`(?:\.|[;,] ?)\s*")
IMPORT = re.compile(r"(import|from) ")
OURS = re.compile(r"import torch\n|from torch import nn\n|from mixwell import ")


@dataclass(frozen=True)
class Docstring:
    """What a class says of itself, each part in the docstring's own markup; parts that it has not are empty.

    Attributes:
        idea: Paragraphs; the first is one sentence.
        settings: What each setting means.
        source: Where it was published.
        note: What the authors' code does differently, and what else there is to know.
        example: Source lines as a user would type them at a prompt, with what they print.
    """

    idea: tuple[str, ...]
    settings: dict[str, str]
    source: str
    note: str
    example: str


def read(thing: type | Callable[..., object]) -> Docstring:
    """Take the docstring of a class or function apart."""
    words = inspect.cleandoc(thing.__doc__ or "")
    idea, *rest = SECTION.split(words)
    parts = dict(zip(rest[::2], rest[1::2], strict=True))
    _, *entries = ENTRY.split("\n" + parts.get("Args", ""))
    settings = {name: _resolved(name, _flat(text)) for name, text in zip(entries[::2], entries[1::2], strict=True)}
    return Docstring(
        tuple(_flat(paragraph) for paragraph in idea.split("\n\n") if paragraph.strip()),
        settings,
        _flat(parts.get("Source", "")),
        _sentence(_flat(parts.get("Note", ""))),
        inspect.cleandoc("\n" + parts.get("Example", "")),
    )


def _flat(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _resolved(name: str, meaning: str) -> str:
    """Put in what another class says of a setting, where the docstring points there."""
    found = ELSEWHERE.match(meaning)
    if not found:
        return meaning
    return f"{read(getattr(mixwell, found[1])).settings[name]} {_sentence(meaning[found.end() :])}".strip()


def markdown(text: str, link: Callable[[str], str] = lambda name: f"`{name}`") -> str:
    """Write a docstring's markup as Markdown.

    Args:
        text: Of one paragraph.
        link: Turns the name of a class or function into what the page shows for it.
    """
    return ROLE.sub(lambda found: link(found[1]), text).replace("``", "`")


def cell(text: str) -> str:
    """Keep a text within its cell of a table."""
    return text.replace("|", "\\|")


def complete(example: str) -> str:
    """Add the imports that an example needs to run by itself."""
    steps = doctest.DocTestParser().get_examples(example)
    rest = [step for step in steps if not IMPORT.match(step.source)]
    used = {node.id for step in rest for node in ast.walk(ast.parse(step.source)) if isinstance(node, ast.Name)}
    lines = [step.source for step in steps if IMPORT.match(step.source) and not OURS.match(step.source)]
    lines += ["import torch\n"] * ("torch" in used) + ["from torch import nn\n"] * ("nn" in used)
    lines += [f"from mixwell import {', '.join(sorted(used & set(mixwell.__all__)))}\n"]
    typed = [source.replace("\n", "\n... ").removesuffix("... ") for source in (*lines, *(s.source for s in rest))]
    wanted = [*[""] * len(lines), *(step.want for step in rest)]
    return "".join(f">>> {source}{want}" for source, want in zip(typed, wanted, strict=True))
