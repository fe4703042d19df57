"""Checks of settings against their annotations: type, range and choice, with one sentence for a wrong value."""

from __future__ import annotations

import functools
import math
import numbers
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Any, Literal, get_args, get_origin

import torch

SCALARS = {float: (numbers.Real, "a number"), int: (numbers.Integral, "a whole number")}
_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True)
class Within:
    """The range of a number, or of all numbers of a schedule, in an annotation.

    Args:
        low: Smallest number.
        high: Largest number; all must be finite.
        above: ``low``, which is 0 then, is excluded.
        below: ``high`` itself is excluded.

    Example:
        >>> Within(0, 1).check("p", 2.0)
        Traceback (most recent call last):
        ValueError: p must lie in [0, 1], but got 2.0.
    """

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    below: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise a ValueError unless the value lies in the range."""
        least, most = value.range() if is_schedule(value) else (value, value)
        inside = self.low <= least and most <= self.high and math.isfinite(least) and math.isfinite(most)
        if not inside or (self.above and least == self.low) or (self.below and most == self.high):
            raise ValueError(f"{name} must {self}, but got {value}.")

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"lie in {'(' if self.above else '['}{self.low}, {self.high}{')' if self.below else ']'}"
        if self.above or self.low == -math.inf:
            return f"be {'positive and ' * self.above}finite"
        return f"be {'' if isinstance(self.low, int) else 'a finite number of '}at least {self.low}"


Fraction = Annotated[float, Within(0, 1)]
Finite = Annotated[float, Within(-math.inf)]
BelowOne = Annotated[float, Within(0, 1, below=True)]
UpToHalf = Annotated[float, Within(0, 0.5)]
NonNegativeFloat = Annotated[float, Within()]
PositiveFloat = Annotated[float, Within(0, above=True)]
PositiveInt = Annotated[int, Within(1)]


def checked(owner: object, settings: Mapping[str, Any], annotated: Any) -> dict[str, Any]:
    """Return the settings of an object, with lists as tuples where its annotations say tuple.

    Nothing is checked while ``torch.compile`` traces.

    Args:
        owner: The object, which the error names.
        settings: Values by name.
        annotated: The class or function that has the annotations. :class:`Within` limits numbers, ``Literal`` lists
            the choices.

    Raises:
        TypeError: The type of a value is not that of its annotation.
        ValueError: A number is out of range, or a value is not one of the choices.

    Example:
        >>> class Blur:
        ...     sigma: PositiveFloat
        ...     size: tuple[int, int]
        >>> checked(Blur(), {"sigma": 1.0, "size": [3, 3]}, Blur)
        {'sigma': 1.0, 'size': (3, 3)}
    """
    if not settings or torch.compiler.is_compiling():
        return dict(settings)
    hints, found = hints_of(annotated), dict(settings)
    for name, kind in ((name, hints[name]) for name in settings if name in hints):
        value = found[name] = _tuple_of(settings[name], kind)
        if not _fits(value, kind):
            expected, got = " or ".join(_described(kind)), shortened(settings[name])
            raise TypeError(f"{name} of {type(owner).__name__} must be {expected}, but got {got}.")
        _check_limits(name, value, kind)
    return found


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
        return typing.get_type_hints(of, include_extras=True)
    except Exception:  # an annotation may hold anything
        return {}


def is_schedule(value: Any) -> bool:
    """Return whether a value is a schedule, which every float setting takes; see :class:`mixwell.schedule.Schedule`."""
    return callable(value) and callable(getattr(value, "range", None)) and callable(getattr(value, "at", None))


def _tuple_of(value: Any, kind: Any) -> Any:
    """Return the members of anything but a str as a tuple, where the annotation says tuple."""
    kinds = get_args(kind) if get_origin(kind) in _UNIONS else (kind,)
    wanted = any(get_origin(one) is tuple for one in kinds)
    if not wanted or not isinstance(value, Iterable) or isinstance(value, str):
        return value
    return tuple(value.tolist() if isinstance(value, torch.Tensor) else value)


def _fits(value: Any, kind: Any) -> bool:
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, members[0])
    if origin is Literal:
        return isinstance(value, type(members[0]))
    if origin in _UNIONS:
        return any(_fits(value, member) for member in members)
    if kind is float and is_schedule(value) and not isinstance(value, type):
        return True
    if kind in SCALARS:
        too_large = isinstance(value, int) and abs(value) > sys.float_info.max  # more than 308 digits
        return isinstance(value, SCALARS[kind][0]) and not isinstance(value, bool) and not too_large
    if origin is tuple:
        return isinstance(value, tuple) and _members_fit(value, members)
    if kind is bool:
        return type(value).__name__ in ("bool", "bool_")  # Python's, and NumPy's by either of its names
    if Callable in (kind, origin):
        return callable(value)
    try:
        return isinstance(value, origin or kind) if isinstance(origin or kind, type) else True
    except TypeError:  # for example a protocol
        return True


def _members_fit(values: tuple[Any, ...], kinds: tuple[Any, ...]) -> bool:
    if any(map(is_schedule, values)) or not (kinds[-1:] == (Ellipsis,) or len(values) == len(kinds)):
        return False
    return all(map(_fits, values, _each(kinds)))


def _each(kinds: tuple[Any, ...]) -> Iterable[Any]:
    """Return the annotation of each member of a tuple."""
    return repeat(kinds[0]) if kinds[-1:] == (Ellipsis,) else kinds


def _check_limits(name: str, value: Any, kind: Any) -> None:
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        members[1].check(name, value)
    elif origin is Literal and value not in members:
        raise ValueError(f"{name} must be one of {', '.join(map(str, members))}, but got {value!r}.")
    elif origin in _UNIONS:
        for member in (member for member in members if _fits(value, member)):
            _check_limits(name, value, member)
    elif origin is tuple:
        for member, of in zip(value, _each(members), strict=False):
            _check_limits(f"every entry of {name}", member, of)


def _described(kind: Any) -> list[str]:
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _described(members[0])
    if origin is Literal:
        return _described(type(members[0]))
    if origin in _UNIONS:
        return [text for member in members for text in _described(member)]
    if kind in SCALARS:
        return [SCALARS[kind][1]]
    if origin is tuple and members:
        texts = ("..." if member is Ellipsis else " or ".join(_described(member)) for member in members)
        return [f"a tuple ({', '.join(texts)})"]
    if Callable in (kind, origin):
        return ["a callable"]
    name = getattr(origin or kind, "__name__", str(kind))
    known = {types.NoneType: "None", str: "a str", bool: "True or False"}
    return [known.get(kind, f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}")]
