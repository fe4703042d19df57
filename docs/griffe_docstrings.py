"""Converts the markup of docstrings for the API reference. Read by mkdocstrings, see ``mkdocs.yml``."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`~?([\w.]+)`")


class Docstrings(griffe.Extension):
    """Turns references such as ``:class:`CutMix``` into links, and marks examples as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the docstring of an object; an attribute has only that of its type, which is dropped."""
        if obj.docstring and obj.is_attribute:
            obj.docstring = None
        elif obj.docstring:
            text = ROLE.sub(_link, obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def _link(found: re.Match[str]) -> str:
    """Return a link to a name of mixwell, which is plain code if the reference does not have it."""
    path = found[1] if found[1].startswith(("mixwell.", "torch.")) else f"mixwell.{found[1]}"
    return f'<autoref optional identifier="{path}"><code>{found[1].rsplit(".", 1)[-1]}</code></autoref>'
