"""PerturbedMixing: one gradient for noise and saliency, wherever the policy stands, and images of other channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixwell import (
    Activation,
    AttentiveMix,
    BatchPolicy,
    CutMix,
    InputGradient,
    Linear,
    MixUp,
    OneOf,
    PuzzleMix,
    SaliencyMix,
    Sometimes,
)
from mixwell.methods.perturbed import PerturbedMixing

PUZZLE = PuzzleMix(blocks=2)


@pytest.mark.parametrize(
    ("policy", "passes"),
    [
        (PUZZLE, 2),
        (Sometimes(PUZZLE, p=1.0), 2),
        (OneOf([PUZZLE, CutMix()], weights=(1, 0)), 2),
        (Sometimes(PuzzleMix(blocks=2, eta=Linear(0.1, 0.2)), p=1.0), 2),
        (OneOf([PUZZLE, AttentiveMix(cells=2, top=1)], weights=(1, 0)), 3),  # the gradient is not what both want
        (SaliencyMix(saliency=InputGradient()), 2),
        (MixUp(), 2),
    ],
    ids=repr,
)
def test_one_gradient_serves_twice(policy: BatchPolicy, passes: int) -> None:
    """Saliency costs no pass of its own where the gradient of the noise is what every policy asks for."""
    runs = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model.register_forward_hook(lambda *args: runs.append(1))
    PerturbedMixing(model, policy)(torch.rand(4, 3, 8, 8), torch.arange(4))
    assert len(runs) == passes


def test_wrapped_policies_mix_alike() -> None:
    """The maps that a wrapped policy gets are those it would have made."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    images, labels, losses = torch.rand(4, 3, 8, 8), torch.arange(4), []
    for policy in (OneOf([PUZZLE]), OneOf([PuzzleMix(blocks=2, saliency=own_gradient)])):
        torch.manual_seed(0)
        losses.append(PerturbedMixing(model, policy, p=0.0)(images, labels)["loss"])
    assert losses[0].allclose(losses[1])
    torch.manual_seed(0)
    other = PerturbedMixing(model, PuzzleMix(blocks=2, saliency=Activation(layer="1")), p=0.0)
    with pytest.raises(ValueError, match="no map"):  # it is asked, and not given the gradient
        other(images, labels)


def own_gradient(model, images, labels):
    """A source that is no InputGradient, and the same."""
    return InputGradient()(model, images, labels)
