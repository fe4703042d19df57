"""Checks of settings against their annotations, with one sentence for a wrong type."""

from __future__ import annotations

import functools
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, Literal, get_args, get_origin

import torch

SCALARS = {float: (numbers.Real, "a number"), int: (numbers.Integral, "a whole number")}


def typechecked(
    init: Callable[..., None], positional: tuple[str, ...], hints: Callable[[], Mapping[str, Any]]
) -> Callable[..., None]:
    """Return an ``__init__`` that first checks its arguments against the annotations.

    Args:
        init: The ``__init__``.
        positional: Names of the arguments that may be given by position.
        hints: Returns the annotations, see :func:`hints_of`; evaluated at the first call, when all names are defined.
    """

    @functools.wraps(init)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
                if name in hints() and not _fits(value, hints()[name]):
                    kind = " or ".join(_described(hints()[name]))
                    raise TypeError(f"{name} of {type(self).__name__} must be {kind}, but got {shortened(value)}.")
        init(self, *args, **kwargs)

    return checked


def shortened(value: Any, length: int = 200) -> str:
    """Return the repr of a value for an error, cut off where it is long.

    Example:
        >>> shortened("a" * 500, length=9)
        "'aaaaa..."
    """
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


@functools.cache
def hints_of(of: Any) -> dict[str, Any]:
    """Return the resolved annotations of a class or function, or none where only a type checker can resolve them."""
    try:
        return typing.get_type_hints(of)
    except Exception:  # an annotation may hold anything
        return {}


def is_schedule(value: Any) -> bool:
    """Return whether a value is a schedule, which every float setting takes; see :class:`mixwell.schedule.Schedule`."""
    return callable(value) and callable(getattr(value, "range", None)) and callable(getattr(value, "at", None))


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if kind is float and is_schedule(value) and not isinstance(value, type):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in get_args(kind))
    if kind in SCALARS:
        return isinstance(value, SCALARS[kind][0]) and not isinstance(value, bool) and _fits_float(value)
    if (origin or kind) in (tuple, list):
        return _members_fit(value, get_args(kind) if origin is tuple else ())
    if origin is Literal:
        return isinstance(value, str)  # which one is checked by the class
    if kind is bool:
        return type(value).__name__ in ("bool", "bool_")  # Python's, and NumPy's by either of its names
    if Callable in (kind, origin):
        return callable(value)
    try:
        return isinstance(value, origin or kind) if isinstance(origin or kind, type) else True
    except TypeError:  # for example a protocol
        return True


def _fits_float(value: Any) -> bool:
    try:
        float(value)
    except OverflowError:  # an int of more than 308 digits
        return False
    return True


def _members_fit(value: Any, kinds: tuple[Any, ...]) -> bool:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return False
    if not isinstance(value, Sized) or not kinds:  # checking the members of an iterator would consume them
        return True
    value = value.tolist() if isinstance(value, torch.Tensor) else list(value)
    if kinds[-1] is Ellipsis:
        return all(_fits(member, kinds[0]) and not is_schedule(member) for member in value)
    return len(value) == len(kinds) and all(map(_fits, value, kinds)) and not any(map(is_schedule, value))


def _described(kind: Any) -> list[str]:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return [text for member in get_args(kind) for text in _described(member)]
    if kind in SCALARS:
        return [SCALARS[kind][1]]
    if origin is tuple and get_args(kind):
        members = ("..." if member is Ellipsis else " or ".join(_described(member)) for member in get_args(kind))
        return [f"a tuple ({', '.join(members)})"]
    if origin is Literal:
        return ["a str"]
    if Callable in (kind, origin):
        return ["a callable"]
    return [
        "None"
        if kind is types.NoneType
        else {str: "a str", bool: "True or False"}.get(kind, _with_article(_name(kind)))
    ]


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _name(kind: Any) -> str:
    return getattr(get_origin(kind) or kind, "__name__", str(kind))
