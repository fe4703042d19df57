"""Settings of another type than their annotation are refused in one clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mixwell as mw
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
        (lambda: mw.CutMix(box=["clip"]), ["box of CutMix", "text", "['clip']"]),
        (lambda: mw.CutMix(minmax=0.3), ["minmax of CutMix", "a tuple (a number, a number) or None", "0.3"]),
        (lambda: mw.CutMix(aspect=(1, 2, 3)), ["aspect of CutMix", "a tuple (a number, a number)", "(1, 2, 3)"]),
        (lambda: mw.OneOf([mw.MixUp(), "CutMix"]), ["policies of OneOf", "a BatchPolicy", "CutMix"]),
        (lambda: mw.OneOf(mw.CutMix()), ["policies of OneOf", "a tuple", "CutMix()"]),
        (lambda: mw.Sometimes("CutMix"), ["policy of Sometimes", "a BatchPolicy", "'CutMix'"]),
        (lambda: mw.Roll("x"), ["shift of Roll", "a whole number", "'x'"]),
        (lambda: mw.Roll(shift=1.5), ["shift of Roll", "a whole number", "1.5"]),
        (lambda: mw.SaliencyMix(saliency=5), ["saliency of SaliencyMix", "something to call", "5"]),
        (lambda: mw.SaliencyMix(saliency=mw.FineGrained), ["saliency of SaliencyMix", "FineGrained"]),
        (lambda: mw.PuzzleMix(labels=None), ["labels of PuzzleMix", "a whole number", "None"]),
        (lambda: mw.SUMix(torch.nn.Linear(2, 2), mw.CutMix(), num_classes=2, warmup="x"), ["warmup of SUMix", "'x'"]),
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
