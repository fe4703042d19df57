"""Settings of another type than their annotation are refused in one clear sentence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, Protocol

import numpy as np
import pytest
import torch

import mixwell as mw
from mixwell.typecheck import hints_of
from test_errors import refused


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mw.MixUp(alpha=None), ["alpha of MixUp", "a number or a Ratio", "None"]),
        (lambda: mw.CutMix(alpha="0.2"), ["alpha of CutMix", "'0.2'"]),
        (lambda: mw.CutMix(alpha=True), ["alpha of CutMix", "True"]),
        (lambda: mw.CutMix(alpha=mw.Beta), ["alpha of CutMix", "a Ratio", "Beta"]),
        (lambda: mw.CutMix(pairing=mw.Reverse), ["pairing of CutMix", "a Pairing", "Reverse"]),
        (lambda: mw.CutMix(correct_lam="no"), ["correct_lam of CutMix", "True or False", "'no'"]),
        (lambda: mw.CutMix(box=["clip"]), ["box of CutMix", "a str", "['clip']"]),
        (lambda: mw.CutMix(minmax=0.3), ["minmax of CutMix", "a tuple (a number, a number) or None", "0.3"]),
        (lambda: mw.CutMix(aspect=(1, 2, 3)), ["aspect of CutMix", "a tuple (a number, a number)", "(1, 2, 3)"]),
        (lambda: mw.OneOf([mw.MixUp(), "CutMix"]), ["policies of OneOf", "a BatchPolicy", "CutMix"]),
        (lambda: mw.OneOf(mw.CutMix()), ["policies of OneOf", "a tuple", "CutMix()"]),
        (lambda: mw.Sometimes("CutMix"), ["policy of Sometimes", "a BatchPolicy", "'CutMix'"]),
        (lambda: mw.Roll("x"), ["shift of Roll", "a whole number", "'x'"]),
        (lambda: mw.Roll(shift=1.5), ["shift of Roll", "a whole number", "1.5"]),
        (lambda: mw.SaliencyMix(saliency=5), ["saliency of SaliencyMix", "a callable", "5"]),
        (lambda: mw.PuzzleMix(labels=None), ["labels of PuzzleMix", "a whole number", "None"]),
        (lambda: mw.SUMix(torch.nn.Linear(2, 2), mw.CutMix(), num_classes=2, gamma="x"), ["gamma of SUMix", "'x'"]),
    ],
)
def test_setting_of_another_type(make: Callable[[], Any], words: list[str]) -> None:
    """The annotation says what is expected."""
    refused(make, TypeError, *words)


def test_settings_that_are_nearly_of_the_type() -> None:
    """Numbers of NumPy, lists for tuples and whole numbers for numbers are what people write."""
    assert mw.CutMix(alpha=np.float64(0.2), minmax=[0, 1]) == mw.CutMix(alpha=0.2, minmax=(0, 1))
    assert mw.Given(np.array([1, 0])) == mw.Given([1, 0]) == mw.Given(range(1, -1, -1))
    assert mw.Roll(np.int64(2)) == mw.Roll(2)


def test_what_annotations_may_hold() -> None:
    """Those that cannot be looked into do not stand in anybody's way, and an own ``__init__`` is left alone."""

    class Shape(Protocol):
        side: int

    class Odd(mw.Policy):
        make: Callable[[], torch.nn.Module] = torch.nn.ReLU
        shape: Shape | None = None
        sides: list[int] = field(default_factory=list)
        nothing: tuple[()] = ()
        unknown: torch.nn.NotThere | None = None  # type: ignore[name-defined]
        on: bool = False

        def plan(self, pairs: mw.Pairs) -> mw.Plan:
            return mw.BlendPlan(pairs)

    Odd.__annotations__["shape"] = Shape | None  # what is local to a function cannot be resolved from text
    odd = Odd(make=torch.nn.GELU, shape=object(), sides=(1, 2), nothing=[], on=np.bool_(True))
    assert odd.make is torch.nn.GELU

    class Square(mw.Pairing):
        side: tuple[int, int] = (1, 1)

        def __init__(self, side: int) -> None:
            object.__setattr__(self, "side", (side, side))

        def __call__(self, batch: object) -> torch.Tensor:
            return torch.arange(self.side[0])

    assert Square(side=3).side == Square(3).side == (3, 3)


def test_members_are_looked_at() -> None:
    """Also those of ranges, sets and arrays, and those that only come one by one."""
    refused(lambda: mw.CutMix(aspect=range(1, 4)), TypeError, "aspect of CutMix", "range(1, 4)")
    refused(lambda: mw.CutMix(aspect=np.array([0.5])), TypeError, "aspect of CutMix")
    refused(lambda: mw.OneOf(iter([1, 2])), TypeError, "policies of OneOf", "a BatchPolicy")
    refused(lambda: mw.SaliencyMix(saliency=mw.FineGrained), TypeError, "saliency", "FineGrained()")
    refused(lambda: mw.SaliencyMix(saliency=mw.CutMix()), TypeError, "saliency", "CutMix()")


@pytest.mark.parametrize(
    "policy",
    [
        mw.Sometimes(mw.CutMix(scope="sample"), p=0.5, scope="sample"),
        mw.MixUp(scope="sample", alpha=mw.Linear(0.2, 1.0)),
    ],
    ids=repr,
)
def test_compiled_code_is_not_checked(policy: mw.BatchPolicy, compiler: str) -> None:
    """A policy that another makes does not break the graph, nor does a schedule that makes one in every step."""
    if isinstance(policy, mw.MixUp) and torch.__version__ < "2.8":
        pytest.skip("torch 2.7 breaks the graph where a dataclass is made by an __init__ with a wrapper")
    mixed = torch.compile(lambda x, y: policy(x, y).images, fullgraph=True, backend="eager")
    assert mixed(torch.rand(4, 3, 8, 8), torch.arange(4)).shape == (4, 3, 8, 8)


def subclasses(kind: type) -> set[type]:
    """Return all classes below one."""
    return {sub for direct in kind.__subclasses__() for sub in {direct, *subclasses(direct)}}


def test_every_annotation_can_be_resolved() -> None:
    """Otherwise its setting would not be checked."""
    own = [kind for kind in subclasses(mw.Value) if kind.__module__.startswith("mixwell.")]
    assert len(own) > 60 and all({f.name for f in fields(kind)} <= hints_of(kind).keys() for kind in own)
    methods = [kind for kind in subclasses(mw.Method) if kind.__module__.startswith("mixwell.")]
    assert all("policy" in hints_of(inspect.unwrap(kind.__init__)) for kind in methods)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: mw.Sometimes(mw.MixUp(), p=mw.Linear(0.0, 1.5)), "p must lie in [0, 1], but got Linear(end=1.5)."),
        (lambda: mw.FMix(decay=float("inf")), "decay must be a finite number of at least 0.0, but got inf."),
        (lambda: mw.GridMix(cells=0), "cells must be at least 1, but got 0."),
        (lambda: mw.PuzzleMix(blocks=[4, 0]), "every entry of blocks must be at least 1, but got 0."),
        (lambda: mw.SmoothMix(plateau=1.0), "plateau must lie in [0, 1), but got 1.0."),
        (lambda: mw.GuidedMix(sigma=0.0), "sigma must be positive and finite, but got 0.0."),
        (lambda: mw.CutMix(odd="even"), "odd must be one of floor, exact, but got 'even'."),
        (
            lambda: mw.RegMixup(torch.nn.Linear(2, 2), eta=mw.Linear(1.0, -1.0)),
            "eta must be a finite number of at least 0.0",
        ),
    ],
)
def test_ranges_and_choices(make: Callable[[], Any], sentence: str) -> None:
    """Of numbers, of every number of a schedule and of every entry of a tuple, in values and in methods."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make()
