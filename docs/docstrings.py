"""Docstrings of the library, split into parts for its pages."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

import mixwell

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Note|Source|Example):[ \t]*", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+): ", re.MULTILINE)
ROLE = re.compile(r":\w+:`~?([\w.]+)`")
ELSEWHERE = re.compile(r"See :class:`(\w+)`(?:\.|[;,] ?)\s*")
IMPORT = re.compile(r"(import|from) ")
OURS = re.compile(r"import torch\n|from torch import nn\n|from mixwell import ")


@dataclass(frozen=True)
class Docstring:
    """The parts of a docstring, each in its own markup; missing parts are empty.

    Attributes:
        idea: Paragraphs; the first is one sentence.
        settings: What each setting means.
        source: The publication.
        note: Differences from the authors' code, and other notes.
        example: Source lines as typed at a prompt, with their output.
    """

    idea: tuple[str, ...]
    settings: dict[str, str]
    source: str
    note: str
    example: str

    @property
    def complete_example(self) -> str:
        """Return the example with the imports that it needs."""
        return complete(self.example)


def read(thing: type | Callable[..., object]) -> Docstring:
    """Split the docstring of a class or function into its parts.

    A class without a list of settings has those of its base class.
    """
    text = inspect.cleandoc(thing.__doc__ or "")
    idea, *rest = SECTION.split(text)
    parts = dict(zip(rest[::2], rest[1::2], strict=True))
    _, *entries = ENTRY.split("\n" + parts.get("Args", ""))
    settings = {name: _resolved(name, _flat(text)) for name, text in zip(entries[::2], entries[1::2], strict=True)}
    if not settings and isinstance(thing, type) and inspect.signature(thing).parameters:
        settings = read(thing.__base__ or object).settings
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
    """Insert the description from another class where the docstring refers to it."""
    found = ELSEWHERE.match(meaning)
    if not found:
        return meaning
    return f"{read(getattr(mixwell, found[1])).settings[name]} {_sentence(meaning[found.end() :])}".strip()


def markdown(text: str, link: Callable[[str], str] = lambda name: f"`{name}`") -> str:
    """Convert a docstring's markup to Markdown.

    Args:
        text: One paragraph.
        link: Maps the name of a class or function to its Markdown.
    """
    return ROLE.sub(lambda found: link(found[1]), text).replace("``", "`")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)


def complete(example: str) -> str:
    """Return an example with the imports that it needs."""
    steps = doctest.DocTestParser().get_examples(example)
    rest = [step for step in steps if not IMPORT.match(step.source)]
    used = {node.id for step in rest for node in ast.walk(ast.parse(step.source)) if isinstance(node, ast.Name)}
    lines = [step.source for step in steps if IMPORT.match(step.source) and not OURS.match(step.source)]
    lines += ["import torch\n"] * ("torch" in used) + ["from torch import nn\n"] * ("nn" in used)
    lines += [f"from mixwell import {', '.join(sorted(used & set(mixwell.__all__)))}\n"]
    typed = [source.replace("\n", "\n... ").removesuffix("... ") for source in (*lines, *(s.source for s in rest))]
    wanted = [*[""] * len(lines), *(step.want for step in rest)]
    return "".join(f">>> {source}{want}" for source, want in zip(typed, wanted, strict=True))
