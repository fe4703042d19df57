"""Controls of the play page for the settings of a policy, generated from the types of the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import mixwell as mw
from mixwell.parse import KINDS, known
from mixwell.train.errors import RunError, mistakes
from mixwell.typecheck import hints_of

CHOSEN_BY_PAGE = ("alpha", "pairing")  # the ratio has a slider, and there are only two pictures


def settings(value: mw.Value) -> dict[str, Any]:
    """Return the settings that have a control, each with its value.

    Example:
        >>> settings(mw.GridMix(cells=8))
        {'scope': 'batch', 'cells': 8}
    """
    fixed = CHOSEN_BY_PAGE if isinstance(value, mw.BatchPolicy) else ()
    names = [f.name for f in dataclasses.fields(value) if f.init and f.name not in fixed]  # type: ignore[arg-type]
    return {name: getattr(value, name) for name in names}


def control(value: mw.Value, name: str) -> Any:
    """Return the Gradio control of one setting: what it returns is a number, a bool, a word, or text to parse."""
    import gradio as gr

    kind, now = _kind(value, name), getattr(value, name)
    common: dict[str, Any] = {"label": name, "key": f"{type(value).__name__}.{name}", "interactive": True}
    if kind is bool:
        return gr.Checkbox(now, **common)
    if kind in (int, float) and isinstance(now, int | float):
        return gr.Number(now, precision=0 if kind is int else None, step=1 if kind is int else 0.1, **common)
    if get_origin(kind) is Literal:
        return gr.Dropdown(list(get_args(kind)), value=now, **common)
    choices = _expressions(now)
    if choices:
        return gr.Dropdown(choices, value=repr(now), allow_custom_value=True, info="choose or type", **common)
    return gr.Textbox(repr(now), lines=1, **common)


def _kind(value: mw.Value, name: str) -> Any:
    """Return the annotation of a setting without its range."""
    kind = hints_of(type(value)).get(name)
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _expressions(now: Any) -> list[str]:
    """Return the expressions of all objects of the same kind as a setting's value that need no settings."""
    base = next((base for base in KINDS.values() if isinstance(now, base)), None)
    found = {repr(now): None}
    for name, cls in known().items() if base else ():
        if isinstance(cls, type) and issubclass(cls, base):  # type: ignore[arg-type]
            try:
                found[repr(mw.parse(name))] = None
            except ValueError:
                continue
    return list(found) if base else []


def changed(value: mw.Value, given: Mapping[str, Any]) -> str:
    """Return the expression of a policy with other settings.

    Args:
        value: The policy.
        given: What the controls hold, by name: text of an object is parsed.

    Raises:
        RunError: A setting is wrong; the sentence says which.

    Example:
        >>> changed(mw.SaliencyMix(), {"box": "inside", "saliency": "SpectralResidual()", "levels": "None"})
        "SaliencyMix(saliency=SpectralResidual(), box='inside')"
    """
    parts = []
    for name, setting in given.items():
        kind = _kind(value, name)
        plain = kind in (bool, int, float) or get_origin(kind) is Literal
        if setting is None:
            raise RunError(f"{name} is empty: enter a value")
        if kind is float and isinstance(setting, int):  # JSON has one kind of numbers
            setting = float(setting)
        parts.append(f"{name}={setting!r}" if plain else f"{name}={setting}")
    with mistakes():
        return repr(mw.parse(f"{type(value).__name__}({', '.join(parts)})"))
