"""README and docs pages are current; test_docs_code.py runs their code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import mixwell as mw

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_table_of_policies_is_current() -> None:
    """The README has the tables that ``make pages`` writes."""
    script = runpy.run_path(str(ROOT / "docs" / "make_readme_table.py"))
    assert script["filled"](README) == README, "README.md is not current: run 'make pages'"


def test_installation_comes_before_the_tables() -> None:
    """With a command that works from a clone."""
    assert README.index("\npip install . ") < README.index("\npip install '.[train]'") < README.index("\n|")


def test_numbers_of_policies_and_methods() -> None:
    """The README counts what the library has: its table of policies lists ``NoMix`` too."""
    policies = [getattr(mw, name) for name in mw.names("policy")]
    mixing = [policy for policy in policies if issubclass(policy, mw.Policy | mw.CoMixup)]
    combining = set(policies) - {*mixing, mw.NoMix} | set(mw.names("shorthand"))
    text = " ".join(README.split())
    assert f"{len(mixing)} policies, {len(combining)} ways to combine them and" in text
    assert f"them and {len(mw.names('method'))} methods" in text


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    """Every file that the README refers to exists."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_of_pages_lead_somewhere(page: str) -> None:
    """Every file that a page refers to exists."""
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert all((ROOT / "docs" / link).exists() for link in links)
