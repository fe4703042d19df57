"""What a user reads is plain technical English: no riddles, no inversions, no personification."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from test_architecture import refuse, texts

# Phrases that design and language rules replace by plain technical English; see "Language" in CONTRIBUTING.md.
RIDDLES = {
    r"\b(?:is|are) [n]o (?:number|probability|module|tensor|class|positive|policy|text|such|method)\b": "is not a ...",
    r"\b[n]o number\b": "NaN or Inf",
    r"\b[r]uns? away\b": "saturate, diverge",
    r"\b[t]old apart\b|\bcannot be [t]old\b": "cannot be distinguished, could not infer",
    r"\bis [t]old\b": "receives, is conditioned on",
    r"\b[w]orked out\b": "computed",
    r"\b[s]omething to call\b": "a callable",
    r"\bmust be [t]ext\b": "must be a str",
    r"\b[g]ives? (?:the|it) \w+ away\b": "reveals",
    r"\bhow to say it\b|\b[w]hat .{3,30} is called\b": "name, computed",
    r"\b[l]aws? of\b": "distribution of",
    r"\b[w]ill do\b|\b[d]o as well\b": "is accepted",
    r"\b[a]s it stands\b|\b[a]s they stand\b": "unchanged",
    r"\b[n]obody\b|\b[w]hoever\b": "name the object",
    r"\b[p]ays? for\b|\bis [p]aid\b": "penalty, reward",
    r"\b[m]ade alike\b|\b[m]ade anew\b": "share a signature, created again",
    r"\b[m]inds? most\b|\b[i]n earnest\b|\b[a]fter all\b": "plain statement",
    r"\b[l]eft alone\b|\b[l]eaves? .{0,20}\balone\b": "unchanged, not mixed",
}


def riddles(path: Path, source: str) -> Iterator[str]:
    """Complain about phrases that a reader has to guess at."""
    for number, line in zip(count(1), source.splitlines(), strict=False):
        for pattern, instead in RIDDLES.items():
            if found := re.search(pattern, line, re.IGNORECASE):
                yield f"line {number} says {found.group()!r}: write {instead}"


def prose() -> dict[Path, str]:
    """Return what a user reads: sources, README and docs, without the lab book."""
    paths = ("src/", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/")
    return {path: text for path, text in texts().items() if str(path).startswith(paths) and path.name != "lab-book.md"}


def test_plain_english() -> None:
    """Docstrings, messages and pages say what they mean, in the field's terms."""
    refuse(riddles, prose())


@pytest.mark.parametrize(
    ("line", "complaints"),
    [
        ("# a step that is " + "no number", 2),
        ("# labels run" + " away to 0 and 1", 1),
        ("# a step whose loss is NaN", 0),
    ],
)
def test_the_check_finds_phrases(line: str, complaints: int) -> None:
    """Each pattern finds its phrase, and plain sentences pass."""
    assert len(list(riddles(Path("x.py"), line))) == complaints
