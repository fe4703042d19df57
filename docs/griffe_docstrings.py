"""Converts the markup of docstrings for the API reference. Read by mkdocstrings, see ``mkdocs.yml``."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`~?([\w.]+)`")


class Docstrings(griffe.Extension):
    """Replaces references such as ``:class:`CutMix``` by code, and marks examples as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the docstring of an object."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
