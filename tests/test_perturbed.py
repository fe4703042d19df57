"""PerturbedMixing: one gradient for noise and saliency, wherever the policy stands, and images of other channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixwell import (
    IMAGENET,
    Activation,
    AttentiveMix,
    BatchPolicy,
    BinaryCrossEntropy,
    CutMix,
    InputGradient,
    Linear,
    MixUp,
    Normalization,
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


class Shown(nn.Module):
    """A linear classifier that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 5)
        self.shown: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(x.detach())
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("norm", [None, IMAGENET, Normalization(0.5, 0.25)], ids=repr)
def test_noise_in_levels_of_255(norm: Normalization | None) -> None:
    """However images are normalized, noise is at most epsilon levels, pixels stay in [0, 1], unchosen images stay."""
    raw, labels, model = torch.rand(64, 3, 8, 8), torch.arange(64) % 5, Shown()
    images = raw if norm is None else norm.normalize(raw)
    PerturbedMixing(model, p=0.5, epsilon=8.0, normalization=norm)(images, labels)
    seen = model.shown[1]
    kept = (seen == images).flatten(1).all(1)
    assert 16 < int(kept.sum()) < 48
    pixels = seen if norm is None else norm.pixels(seen)
    change = (pixels - raw)[~kept].abs() * 255
    assert 2 < change.max() <= 8.001 and pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6


def test_normalized_and_raw_steps_agree() -> None:
    """A model that undoes the normalization gives the loss and the noise of the raw images."""
    raw, labels, inner, losses = torch.rand(8, 3, 8, 8), torch.arange(8) % 5, Shown(), []
    for norm in (None, IMAGENET):
        model = inner if norm is None else nn.Sequential(Undo(norm), inner)
        torch.manual_seed(0)
        images = raw if norm is None else norm.normalize(raw)
        losses.append(PerturbedMixing(model, MixUp(), p=1.0, normalization=norm)(images, labels)["loss"])
    assert inner.shown[1].allclose(inner.shown[3], atol=1e-5)
    assert losses[0].allclose(losses[1], atol=1e-5)
    with pytest.raises(ValueError, match="PerturbedMixing computes in pixel values"):
        PerturbedMixing(inner)(IMAGENET.normalize(raw), labels)


class Undo(nn.Module):
    """Undoes a normalization."""

    def __init__(self, norm: Normalization) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm.pixels(x)


def test_multi_label() -> None:
    """The noise follows the loss that is trained on."""
    labels = (torch.rand(8, 5) > 0.5).float()
    method = PerturbedMixing(Shown(), MixUp(), p=1.0, loss=BinaryCrossEntropy(), clean_lam=0.5)
    out = method(torch.rand(8, 3, 8, 8), labels)
    out["loss"].backward()
    assert out["clean_loss"] > 0 and method.model.fc.weight.grad.isfinite().all()
