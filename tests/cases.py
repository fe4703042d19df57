"""Batches of every kind to mix, a small classifier, and how the tests mix."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from catalogue import CLASSES
from mixwell import AnyShape, BatchPolicy, CoMixup, Greedy, MixedBatch, Normalization, Policy

LAYOUTS = ("contiguous", "channels_last", "strided")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)
SHAPES = ((4, 3, 8, 8), (5, 1, 9, 14), (6, 4, 17, 6), (1, 3, 8, 8), (3, 3, 160, 160), (2, 1, 150, 300))


class Case(NamedTuple):
    """What a batch looks like."""

    shape: tuple[int, ...]  # (B, C, H, W), or of signals (B, C, T) or volumes (B, C, D, H, W)
    dtype: torch.dtype
    layout: str

    def images(self, device: torch.device | str = "cpu", seed: int = 0) -> Tensor:
        """Make images, the same ones for the same seed."""
        noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))
        pixels = (noise * 40 + 128).clamp(0, 255).round() if self.dtype == torch.uint8 else noise
        pixels = pixels.to(device, self.dtype)
        if self.layout == "channels_last":
            last = torch.channels_last if len(self.shape) == 4 else torch.channels_last_3d
            return pixels.contiguous(memory_format=last)
        if self.layout == "strided":  # every other column of a wider picture
            wide = pixels.new_zeros(*self.shape[:-1], 2 * self.shape[-1])
            wide[..., ::2] = pixels
            return wide[..., ::2]
        return pixels

    def labels(self, device: torch.device | str = "cpu") -> Tensor:
        """Make class indices."""
        return torch.arange(self.shape[0], device=device) % CLASSES


EVERY_CASE = [Case(shape, dtype, layout) for shape in SHAPES for dtype in DTYPES for layout in LAYOUTS]
SOME_CASES = [
    Case(SHAPES[0], torch.float32, "contiguous"),
    Case(SHAPES[1], torch.float64, "channels_last"),
    Case(SHAPES[2], torch.bfloat16, "channels_last"),
    Case(SHAPES[1], torch.uint8, "contiguous"),
    Case(SHAPES[2], torch.float16, "strided"),
    Case(SHAPES[3], torch.float32, "contiguous"),
    Case(SHAPES[4], torch.float32, "contiguous"),
    Case(SHAPES[4], torch.uint8, "channels_last"),
]
FLOAT = SOME_CASES[0]
NOISE = Normalization(0.5, 0.25)  # what makes noise of images in [0, 1], nearly

each_case = pytest.mark.parametrize(
    "cases", [SOME_CASES, pytest.param(EVERY_CASE, marks=pytest.mark.slow)], ids=["some", "every"]
)


class Classifier(nn.Module):
    """A small model for images of any channel count, size and floating dtype, with everything that may be disturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)
        self.conv = nn.Conv2d(1, 5, 3, padding=1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        features = self.conv(self.norm(images.float().mean(1, keepdim=True))).relu()
        return self.head(self.drop(features.mean((2, 3))))


def fixed_classifier(device: torch.device | str = "cpu") -> Classifier:
    """Return the same classifier every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Classifier().to(device)


def mix(
    policy: BatchPolicy | AnyShape, images: Tensor, labels: Tensor | None = None, seed: int = 0, **more: Any
) -> MixedBatch:
    """Mix with a generator of its own, and with what an input gradient needs."""
    labels = torch.arange(len(images), device=images.device) % CLASSES if labels is None else labels
    if isinstance(policy, AnyShape):
        return policy(images, labels, generator=torch.Generator().manual_seed(seed), **more)
    if images.dtype == torch.uint8:  # no gradient can be taken there: saliency is known beforehand
        more.setdefault("saliency", images.float().mean(1))
    more.setdefault("model", fixed_classifier(images.device))
    more.setdefault("normalization", NOISE)
    return policy(images, labels, generator=torch.Generator().manual_seed(seed), **more)


def with_settings(policy: BatchPolicy, **settings: Any) -> BatchPolicy | None:
    """Return the policy with other settings, or None where it has no such setting or refuses the combination."""
    if not set(settings) <= {field.name for field in fields(policy)}:  # type: ignore[arg-type]
        return None
    try:
        return replace(policy, **settings)  # type: ignore[type-var]
    except (TypeError, ValueError):
        return None


def members(policy: BatchPolicy | AnyShape) -> list[Policy | CoMixup]:
    """Return the policies over pairs or groups that a policy is made of."""
    inner = getattr(policy, "policies", (getattr(policy, "policy", None),))
    inner = inner.values() if isinstance(inner, dict) else inner
    found = [each for member in inner if member is not None for each in members(member)]
    return [policy, *found] if isinstance(policy, Policy | CoMixup) else found


def follows_pixels(policy: BatchPolicy | AnyShape) -> bool:
    """Tell whether label weights are the sources' shares of the pixels."""
    return all(each.weights_sum_to_one and getattr(each, "correct_lam", True) for each in members(policy))


def sums_to_one(policy: BatchPolicy | AnyShape) -> bool:
    """Tell whether label weights are a distribution."""
    return all(each.weights_sum_to_one for each in members(policy))


def looks(policy: BatchPolicy | AnyShape) -> bool:
    """Tell whether a policy pairs by saliency, which couples the batch."""
    return any(isinstance(getattr(each, "pairing", None), Greedy) for each in (policy, *members(policy)))
