"""Settings of another type than their annotation says are refused in one sentence, where they are written."""

from __future__ import annotations

import functools
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_origin

import torch

SCALARS = {float: (numbers.Real, "a number"), int: (numbers.Integral, "a whole number")}


def typechecked(
    init: Callable[..., None], positional: tuple[str, ...], hints: Callable[[], Mapping[str, Any]]
) -> Callable[..., None]:
    """Return an ``__init__`` that first compares what it is given with the annotations.

    Args:
        init: The ``__init__``.
        positional: Names of what may be given by position.
        hints: Returns the annotations; asked at the first call, when all names are defined.
    """
    known = functools.cache(hints)

    @functools.wraps(init)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
                if name in known() and not _fits(value, known()[name]):
                    kind = " or ".join(_described(known()[name]))
                    raise TypeError(f"{name} of {type(self).__name__} must be {kind}, but got {value!r}.")
        init(self, *args, **kwargs)

    return checked


def hints_of(of: Any) -> dict[str, Any]:
    """Return the resolved annotations of a class or function, or none where they name what only a checker knows."""
    try:
        return typing.get_type_hints(of)
    except NameError:
        return {}


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in get_args(kind))
    if kind in SCALARS:
        return isinstance(value, SCALARS[kind][0]) and not isinstance(value, bool)
    if origin is tuple:
        return _members_fit(value, get_args(kind))
    if Callable in (kind, origin):
        return callable(value) and not isinstance(value, type)
    return isinstance(value, origin or kind) if isinstance(origin or kind, type) else True


def _members_fit(value: Any, kinds: tuple[Any, ...]) -> bool:
    if not isinstance(value, tuple | list):  # a range or an array is turned into a tuple later
        return isinstance(value, Iterable) and not isinstance(value, str)
    if kinds[-1] is Ellipsis:
        return all(_fits(member, kinds[0]) for member in value)
    return len(value) == len(kinds) and all(map(_fits, value, kinds))


def _described(kind: Any) -> list[str]:
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return [text for member in get_args(kind) for text in _described(member)]
    if kind in SCALARS:
        return [SCALARS[kind][1]]
    if origin is tuple:
        members = ("..." if member is Ellipsis else " or ".join(_described(member)) for member in get_args(kind))
        return [f"a tuple ({', '.join(members)})"]
    if Callable in (kind, origin):
        return ["something to call"]
    return ["None" if kind is types.NoneType else {str: "text", bool: "True or False"}.get(kind, f"a {_name(kind)}")]


def _name(kind: Any) -> str:
    return getattr(get_origin(kind) or kind, "__name__", str(kind))
