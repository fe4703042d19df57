"""Nothing is missing from the catalogue, and everything in it has a name that reads back."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import partial

import pytest

import catalogue
import mixwell as mw

LISTS = {
    "policy": catalogue.POLICIES,
    "saliency": catalogue.SALIENCIES,
    "pairing": catalogue.PAIRINGS,
    "ratio": catalogue.RATIOS,
    "label": catalogue.LABELS,
    "method": catalogue.METHODS,
}
# The contract and the statistics go through all values of these; a network has no text: see test_supermix.py.
MULTIPLIED = {"alpha", "pairing", "scope", "teacher"}


@pytest.mark.parametrize("kind", LISTS)
def test_nothing_is_missing(kind: str) -> None:
    """Every name that the library knows stands in the catalogue, and is so under test."""
    listed = {entry.func.__name__ if isinstance(entry, partial) else type(entry).__name__ for entry in LISTS[kind]}
    assert listed == set(mw.names(kind)) - catalogue.LEARNED - catalogue.NEED_ATTENTION


@pytest.mark.parametrize("kind", [kind for kind in LISTS if kind != "method"])
def test_each_once(kind: str) -> None:
    """No entry stands twice, and each one's repr makes it again."""
    entries = LISTS[kind]
    assert len({repr(entry) for entry in entries}) == len(entries)
    for entry in entries:
        assert mw.parse(repr(entry)) == entry


@pytest.mark.parametrize("name", sorted(set(mw.names("policy")) - catalogue.LEARNED))
def test_every_setting_is_varied(name: str) -> None:
    """Every setting of every policy has another value than its default somewhere in the catalogue."""
    entries = [policy for policy in catalogue.POLICIES if type(policy).__name__ == name]
    for field in fields(getattr(mw, name)):
        default = field.default if field.default is not MISSING else None
        assert field.name in MULTIPLIED or any(getattr(entry, field.name) != default for entry in entries), field.name
