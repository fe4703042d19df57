"""Settings: frozen, by name, compared and hashed by content, written as they are read."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from abc import ABC, abstractmethod
from dataclasses import field

import numpy as np
import pytest

import mixwell
from mixwell import Beta, CutMix, FMix, MixUp, OneOf, Roll, Sometimes, Uniform, Value
from mixwell.value import set_field


class Blur(Value):
    sigma: float = 1.0
    radius: int = 3
    sides: tuple[float, ...] = (1.0,)
    inner: Value | None = None


class Switch(Value):
    """Turned on or off."""

    on: bool = False


class Sharpen(Blur):
    amount: float = field(default=2.0, kw_only=False)
    names: tuple[str, ...] = field(default_factory=lambda: ("a",))


def test_frozen() -> None:
    """Nothing can be changed, added or removed."""
    blur = Blur(sigma=2.0)
    for change in (
        lambda: setattr(blur, "sigma", 3.0),
        lambda: setattr(blur, "new", 3.0),
        lambda: delattr(blur, "sigma"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert dataclasses.replace(blur, radius=5) == Blur(sigma=2.0, radius=5)
    assert dataclasses.replace(CutMix(alpha=0.2), box="inside") == CutMix(alpha=0.2, box="inside")


def test_settings_are_given_by_name() -> None:
    """Unless a field says otherwise."""
    with pytest.raises(TypeError):
        Blur(2.0)
    assert Sharpen(3.0).amount == 3.0
    with pytest.raises(TypeError):
        Sharpen(3.0, 1.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sigmas'"):
        Blur(sigmas=1.0)


def test_equal_settings_are_equal() -> None:
    """And another class, also a subclass, is another thing."""
    assert Blur(sigma=2.0) == Blur(sigma=2.0) != Blur(sigma=3.0)
    assert len({Blur(sigma=2.0), Blur(sigma=2.0), Blur(), Sharpen()}) == 3
    assert Blur() != Sharpen() and MixUp() != CutMix()
    assert hash(OneOf([MixUp(), CutMix(alpha=Beta(0.2))])) == hash(OneOf((MixUp(), CutMix(alpha=Beta(0.2)))))


@pytest.mark.parametrize("value", [Sharpen(amount=1.0), CutMix(alpha=0.2), Sometimes(OneOf([MixUp(), FMix(soft=0.1)]))])
def test_copies_and_pickles(value: Value) -> None:
    """Processes exchange settings, and what they derive from them goes along."""
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):  # noqa: S301 (our own bytes)
        assert other == value and repr(other) == repr(value) and vars(other).keys() == vars(value).keys()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Blur(), "Blur()"),
        (Blur(sigma=1.0, radius=3), "Blur()"),
        (Blur(sigma=1), "Blur(sigma=1)"),
        (Switch(on=True), "Switch(on=True)"),
        (Blur(radius=-4, sigma=-0.5), "Blur(sigma=-0.5, radius=-4)"),
        (Blur(sides=()), "Blur(sides=())"),
        (Blur(sides=(2.0,)), "Blur(sides=(2.0,))"),
        (Blur(inner=Blur(inner=Sharpen(names=("b", 'c"')))), "Blur(inner=Blur(inner=Sharpen(names=('b', 'c\"'))))"),
        (Sharpen(3.0), "Sharpen(amount=3.0)"),
        (Blur(sigma=np.float64(0.2), radius=np.int64(2)), "Blur(sigma=0.2, radius=2)"),
        (Blur(sides=(np.float32(0.5), 1)), "Blur(sides=(0.5, 1))"),
        (CutMix(alpha=0.2), "CutMix(alpha=0.2)"),
        (
            MixUp(alpha=Uniform(0.1, 0.9), pairing=Roll(2)),
            "MixUp(alpha=Uniform(low=0.1, high=0.9), pairing=Roll(shift=2))",
        ),
    ],
)
def test_repr_shows_what_is_not_the_default(value: Value, text: str) -> None:
    """In the order of the fields, and so that it reads back."""
    assert repr(value) == text
    assert mixwell.parse(text, {"Blur": Blur, "Sharpen": Sharpen, "Switch": Switch}) == value


def test_hidden_and_derived_fields_are_not_in_the_repr() -> None:
    """Only what a constructor takes can read back."""

    class Derived(Value):
        shown: int = 1
        secret: int = field(default=2, repr=False)
        derived: int = field(default=0, init=False)

        def __post_init__(self) -> None:
            set_field(self, "derived", self.shown * 2)

    assert repr(Derived(shown=4, secret=5)) == "Derived(shown=4)" and Derived(shown=4).derived == 8


def test_checks_run_when_a_setting_is_written() -> None:
    """Also in a subclass that adds some, and in ``dataclasses.replace``."""

    class Checked(Blur):
        def __post_init__(self) -> None:
            if self.sigma <= 0:
                raise ValueError("sigma must be positive.")

    class More(Checked):
        extra: int = 0

    for make in (lambda: Checked(sigma=0.0), lambda: More(sigma=-1.0), lambda: dataclasses.replace(More(), sigma=0.0)):
        with pytest.raises(ValueError, match="sigma must be positive"):
            make()


def test_an_abstract_value_cannot_be_made() -> None:
    """A subclass that fills the gap can."""

    class Shape(Value, ABC):
        size: int = 1

        @abstractmethod
        def area(self) -> int: ...

    class Square(Shape):
        def area(self) -> int:
            return self.size**2

    with pytest.raises(TypeError, match="abstract"):
        Shape()
    assert Square(size=3).area() == 9 and repr(Square(size=3)) == "Square(size=3)"
