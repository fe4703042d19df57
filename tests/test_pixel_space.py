"""Methods that compute in pixel values: a step on normalized images is that on the raw ones; noise in levels of 255."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixwell import IMAGENET, AugMix, BinaryCrossEntropy, MixUp, Normalization, PerturbedMixing
from mixwell.methods.augmix import dirichlet


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


def test_a_step_on_normalized_images() -> None:
    """The model sees the views of the raw images, normalized; the loss is that of a step on raw images."""
    raw, labels, norm = torch.rand(5, 3, 8, 8), torch.arange(5), Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    shown = []
    for images, normalization in ((raw, None), (norm.normalize(raw), norm)):
        model = Shown()
        torch.manual_seed(3)
        AugMix(model, MixUp(), normalization=normalization)(images, labels)
        shown.append(model.shown[0])
    assert norm.pixels(shown[1]).allclose(shown[0], atol=1e-5)
    assert (shown[0][5:10] - shown[0][:5]).abs().mean() > 0.01


@pytest.mark.parametrize("alpha", [0.0001, 0.01, 0.3, 1.0, 5.0])
def test_dirichlet(alpha: float) -> None:
    """First and second moments of the distribution, down to an alpha whose gammas underflow."""
    drawn = dirichlet(20000, 3, alpha)
    assert drawn.isfinite().all() and drawn.sum(1).allclose(torch.ones(20000), atol=1e-5)
    variance = (1 / 3) * (2 / 3) / (3 * alpha + 1)
    assert drawn.mean(0).allclose(torch.full((3,), 1 / 3), atol=0.015)
    assert drawn.var(0).allclose(torch.full((3,), variance), rtol=0.06, atol=1e-3)
