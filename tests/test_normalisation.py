"""Mean and deviation with which images were normalised: they fit the channels, or are named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixwell import AugMix, AugMixViews, MixUp
from mixwell.methods.perturbed import PerturbedMixing


def test_views() -> None:
    """Mean and deviation must fit the images' channels, and what makes views must be settings of views."""
    with pytest.raises(
        ValueError, match=r"mean must be one number, or one for each channel of images of .*\(4, 1, 8, 8\)"
    ):
        AugMixViews(mean=(0.5,) * 3, std=(0.2,) * 3)(torch.rand(4, 1, 8, 8))
    for std in (0.0, (0.2, -0.1, 0.2)):
        with pytest.raises(ValueError, match="std must be a positive number or one for each channel, but got"):
            AugMixViews(mean=0.5, std=std)
    with pytest.raises(TypeError, match=r"depth of AugMixViews must be a whole number or None, but got 1\.5"):
        AugMixViews(depth=1.5)
    with pytest.raises(TypeError, match="views of AugMix must be a AugMixViews, but got 3"):
        AugMix(nn.Flatten(), views=3)


def test_perturbed_mixing() -> None:
    """Mean and deviation fit the images or are named, and a deviation is positive."""
    model, labels = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), torch.arange(4)
    for settings, message in (
        (
            {"mean": (0.5, 0.5)},
            r"mean must be one number, or one for each channel of images of .*\(4, 3, 8, 8\).* 2 num",
        ),
        ({"std": (0.5,) * 4}, r"std must be one number, or one for each channel of images of .* but got 4 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            PerturbedMixing(model, **settings)(torch.rand(4, 3, 8, 8), labels)
    for std in (0.0, -1.0, (0.5, 0.0, 0.5), float("nan")):
        with pytest.raises(ValueError, match="std must be a positive number or one for each channel, but got"):
            PerturbedMixing(model, std=std)
    with pytest.raises(ValueError, match=r"mean must be a number or one for each channel, but got \(\)"):
        PerturbedMixing(model, mean=())
    step = PerturbedMixing(model, MixUp(), p=1.0, mean=(0.5,) * 3, std=(0.2, 0.3, 0.4))
    assert step(torch.rand(4, 3, 8, 8), labels)["loss"].isfinite()
