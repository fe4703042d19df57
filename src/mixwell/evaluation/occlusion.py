"""Occlusion by patch drop: accuracy when a share of the patches of every image is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.normalization import Normalization

Fill = Literal["mean", "black"]
SHARES = tuple(k / 10 for k in range(10))  # 0 to 90 %


def drop_patches(
    images: Tensor,
    share: float,
    *,
    grid: int = 14,
    fill: Fill = "mean",
    normalization: Normalization | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hide randomly chosen patches, different ones in each image and the same number in all.

    Args:
        images: Normalized images, shape ``(B, C, H, W)``.
        share: Share of the patches to hide, rounded to whole patches, in [0, 1].
        grid: Patches along each side; 14 gives 16-pixel patches at 224 pixels. Smaller images have one patch per pixel.
        fill: Colour of hidden patches: the mean colour of the normalization, or black.
        normalization: How the images were normalized; None if they are in [0, 1], whose mean colour is taken as 0.5.
        generator: Source of the positions, on the CPU. With the same state, a larger share hides the same patches and
            more.

    Returns:
        Shape and dtype of ``images``, which are not written to.

    Raises:
        ValueError: ``share`` is not in [0, 1].

    Source: Naseer et al., *Intriguing Properties of Vision Transformers*, NeurIPS 2021.

    Example:
        >>> drop_patches(torch.ones(1, 1, 4, 4), 0.5, grid=2, fill="black").sum().item()
        8.0
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], but got {share}.")
    B, C, H, W = images.shape
    rows, columns = min(grid, H), min(grid, W)
    rank = torch.rand(B, rows * columns, generator=generator).argsort(1).argsort(1)
    hidden = (rank < round(share * rows * columns)).view(B, 1, rows, columns).to(images.device, torch.float32)
    hidden = F.interpolate(hidden, (H, W), mode="nearest") > 0
    colour = images.new_full((1, C, 1, 1), 0.5 if fill == "mean" and normalization is None else 0.0)
    if normalization is not None and fill == "black":
        colour = normalization.normalize(colour.float()).to(images.dtype)
    return torch.where(hidden, colour, images)


def area(values: Sequence[float], shares: Sequence[float] = SHARES) -> float:
    """Return the area under a curve by the trapezoidal rule, divided by the width of the curve.

    Example:
        >>> area([100.0, 50.0, 0.0], [0.0, 0.5, 1.0])
        50.0
    """
    y, x = torch.tensor([values, shares], dtype=torch.float64).unbind()
    return (torch.trapezoid(y, x) / (x[-1] - x[0])).item()
