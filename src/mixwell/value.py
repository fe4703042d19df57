"""Immutable settings whose repr is their name and reads back."""

from __future__ import annotations

import dataclasses
import numbers
from dataclasses import dataclass, field
from typing import Any, dataclass_transform

from mixwell.typecheck import hints_of, typechecked


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Value:
    """Base of everything that is a setting: subclassing makes a frozen, keyword-only dataclass.

    The repr shows only what differs from the default, and :func:`mixwell.parse` reads it back. A setting of
    another type than its annotation is refused; further checks go into ``__post_init__``, so that a wrong setting fails
    where it is written and not in the first training step.

    Example:
        >>> class Blur(Value):
        ...     sigma: float = 1.0
        ...     radius: int = 3
        >>> Blur(sigma=2.0)
        Blur(sigma=2.0)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = "__init__" in vars(cls)
        dataclass(frozen=True, kw_only=True, repr=False)(cls)
        if not own:
            fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # it is a dataclass now
            positional = tuple(f.name for f in fields if f.init and not f.kw_only)
            cls.__init__ = typechecked(cls.__init__, positional, lambda: hints_of(cls))

    def __repr__(self) -> str:
        changed = (
            f"{f.name}={_text(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if f.init and f.repr and not _is_default(f, getattr(self, f.name))
        )
        return f"{type(self).__name__}({', '.join(changed)})"


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
    """Normalise a field (a list given for a tuple, say) inside ``__post_init__``, where alone one may change."""
    object.__setattr__(value, name, new)
