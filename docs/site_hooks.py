"""Hooks of the documentation site: folders in the navigation. Read by MkDocs, see ``mkdocs.yml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Replace every ``folder/*`` in the navigation by the pages of the folder, the index first."""
    config.nav = [_expanded(entry, Path(config.docs_dir)) for entry in config.nav]
    return config


def _expanded(entry: Any, docs: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if isinstance(value, list):
        return {title: [_expanded(each, docs) for each in value]}
    if not value.endswith("/*"):
        return entry
    folder = value.removesuffix("/*")
    names = sorted(path.name for path in (docs / folder).glob("*.md") if path.stem != "README")
    return {title: [f"{folder}/{name}" for name in ("README.md", *names)]}
