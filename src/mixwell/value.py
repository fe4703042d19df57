"""Immutable settings whose repr is the expression that creates them."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, dataclass_transform

from mixwell.typecheck import checked, is_schedule


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Value:
    """Base of all settings: a subclass is a frozen, keyword-only dataclass.

    The repr shows only what differs from the default, and :func:`mixwell.parse` reads it back. A setting that does
    not match its annotation is refused: its type, its range (``Annotated[float, Within(0, 1)]``, see
    :class:`mixwell.typecheck.Within`) or its choices (``Literal``). A list becomes a tuple where the annotation says
    tuple. Checks of several settings together go into ``__post_init__``.

    Example:
        >>> class Blur(Value):
        ...     sigma: float = 1.0
        ...     radius: int = 3
        >>> Blur(sigma=2.0)
        Blur(sigma=2.0)
    """

    _changes = False  # whether a schedule is among the settings, or inside one of them

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = "__init__" in vars(cls)
        dataclass(frozen=True, kw_only=True, repr=False)(cls)
        if not own:
            fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # it is a dataclass now
            positional = tuple(f.name for f in fields if f.init and not f.kw_only)
            cls.__init__ = _checking(cls.__init__, positional)

    def at(self, progress: float) -> Self:
        """Return the same value with its schedules replaced by their numbers at a progress in [0, 1].

        A value without schedules returns itself.
        """
        if not self._changes:
            return self
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        now = {f.name: at(getattr(self, f.name), progress) for f in fields if f.init}
        return dataclasses.replace(self, **now)  # type: ignore[type-var]

    def __repr__(self) -> str:
        changed = (
            f"{f.name}={_text(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if f.init and f.repr and not _is_default(f, getattr(self, f.name))
        )
        return f"{type(self).__name__}({', '.join(changed)})"


def _checking(init: Callable[..., None], positional: tuple[str, ...]) -> Callable[..., None]:
    """Return an ``__init__`` that checks its arguments against the annotations and takes schedules for numbers.

    ``__post_init__`` receives numbers only: it is run with the smallest and the largest number of every schedule as a
    check, and last with the number at the start.
    """

    @functools.wraps(init)
    def checking(self: Value, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(positional):
            raise TypeError(_by_name(self, len(positional), args[len(positional)]))
        given = dict(zip(positional, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{type(self).__name__} got {', '.join(sorted(twice))} twice.")
        given = checked(self, given | kwargs, type(self))
        schedules = {name: value for name, value in given.items() if is_schedule(value)}
        for end in (0, 1) if schedules else ():
            type(self)(**{**given, **{name: schedule.range()[end] for name, schedule in schedules.items()}})
        init(self, **{**given, **{name: schedule(0.0) for name, schedule in schedules.items()}})
        for name, schedule in schedules.items():
            set_field(self, name, schedule)
        if schedules or any(map(_changing, given.values())):
            set_field(self, "_changes", True)

    return checking


def _by_name(value: Value, count: int, extra: Any) -> str:
    """Return the error for a setting that was given by position although it is keyword-only."""
    kind = type(value).__name__
    free = [f.name for f in dataclasses.fields(value) if f.init and f.kw_only]  # type: ignore[arg-type]
    if not free:
        return f"{kind} takes {f'only {count}' if count else 'no'} settings."
    return f"{kind} takes its settings by name, as in {kind}({free[0]}={_text(extra)})."


def _changing(value: Any) -> bool:
    if isinstance(value, (tuple, list)):  # until torch 2.9, the compiler does not trace isinstance of tuple | list here
        return any(map(_changing, value))
    if isinstance(value, Mapping):
        return any(map(_changing, value.values()))
    return isinstance(value, Value) and (value._changes or is_schedule(value))


def at(value: Any, progress: float) -> Any:
    """Return a value, or what a tuple or mapping holds, with the numbers of a progress in place of schedules.

    Anything else is returned unchanged.
    """
    if isinstance(value, Value):
        return value.at(progress)
    if isinstance(value, Mapping):
        return {key: at(member, progress) for key, member in value.items()}
    return tuple(at(member, progress) for member in value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    """Write a setting; numbers of NumPy, whose repr names their type and would not read back, as plain ones."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return repr(int(value) if isinstance(value, numbers.Integral) else float(value))
    if type(value) is tuple:
        return f"({', '.join(map(_text, value))}{',' * (len(value) == 1)})"
    return repr(value)


def _is_default(f: dataclasses.Field[Any], value: Any) -> bool:
    default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    return type(default) is type(value) and bool(default == value)


def set_field(value: Value, name: str, new: Any) -> None:
    """Set a field inside ``__post_init__``, for example a list as a tuple; values do not change afterwards."""
    object.__setattr__(value, name, new)
