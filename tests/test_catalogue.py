"""Nothing is missing from the catalogue, and everything in it has a name that reads back."""

from __future__ import annotations

from functools import partial

import catalogue
import pytest

import mixwell as mw
from mixwell.ops import pixels

LISTS = {
    "policy": catalogue.POLICIES,
    "saliency": catalogue.SALIENCIES,
    "pairing": catalogue.PAIRINGS,
    "ratio": catalogue.RATIOS,
    "label": catalogue.LABELS,
    "method": catalogue.METHODS,
}


@pytest.mark.parametrize("kind", LISTS)
def test_nothing_is_missing(kind: str) -> None:
    """Every name that the library knows stands in the catalogue, and is so under test."""
    listed = {entry.func.__name__ if isinstance(entry, partial) else type(entry).__name__ for entry in LISTS[kind]}
    assert listed == set(mw.names(kind))


@pytest.mark.parametrize("kind", set(LISTS) - {"method"})
def test_each_once(kind: str) -> None:
    """No entry stands twice, and each one's repr makes it again."""
    entries = LISTS[kind]
    assert len({repr(entry) for entry in entries}) == len(entries)
    for entry in entries:
        assert mw.parse(repr(entry)) == entry


def test_every_setting_is_varied() -> None:
    """Every setting of every policy has another value than its default somewhere in the catalogue."""
    changed = {(type(p).__name__, word.split("=")[0]) for p in catalogue.POLICIES for word in _settings(p)}
    expected = {(name, field) for name in mw.names("policy") for field in getattr(mw, name).__dataclass_fields__}
    assert expected - changed == {("ResizeMix", "pairing"), ("FMix", "pairing"), ("SaliencyMix", "pairing")}
