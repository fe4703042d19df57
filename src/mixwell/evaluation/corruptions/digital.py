"""Digital changes: contrast, saturation, elastic transform, pixelation."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.evaluation.corruptions.draws import Draws
from mixwell.evaluation.corruptions.filters import bilinear, gaussian, symmetric


def contrast(pixels: Tensor, draws: Draws, factor: float) -> Tensor:
    """Move all pixels towards the mean of their channel."""
    mean = pixels.mean((2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def saturate(pixels: Tensor, draws: Draws, factor: float, more: float) -> Tensor:
    """Scale and raise the saturation in the HSV colour space; images without three channels stay as they are.

    A grey pixel has hue 0, so that it turns red where ``more`` is positive.
    """
    if pixels.shape[1] != 3:
        return pixels
    value = pixels.amax(1, keepdim=True)
    saturation = (value - pixels.amin(1, keepdim=True)) / value.clamp_min(1e-6)
    wanted = (saturation * factor + more).clamp(0, 1)
    red = value * (1 - wanted * pixels.new_tensor([0.0, 1.0, 1.0]).view(3, 1, 1))
    return torch.where(saturation > 0, value - (value - pixels) * wanted / saturation.clamp_min(1e-6), red)


def pixelate(pixels: Tensor, draws: Draws, share: float) -> Tensor:
    """Shrink the image to a share of its sides and enlarge it again, both with a box filter and 8-bit results."""
    H, W = pixels.shape[2:]
    small = [max(int(size * share), 1) for size in (H, W)]
    for height, width in (small, (H, W)):
        pixels = _rounded(pixels @ box_matrix(pixels.shape[3], width).to(pixels).T)
        pixels = _rounded(box_matrix(pixels.shape[2], height).to(pixels) @ pixels)
    return pixels


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels * 255 + 0.5 + 1e-4).floor() / 255


def box_matrix(size: int, wanted: int) -> Tensor:
    """Return the matrix ``(wanted, size)`` that averages the pixels whose centres lie in each new pixel."""
    scale = size / wanted
    width = max(scale, 1.0)
    centre = (torch.arange(wanted, dtype=torch.float64)[:, None] + 0.5) * scale
    distance = (torch.arange(size, dtype=torch.float64) + 0.5 - centre) / width
    inside = ((distance > -0.5) & (distance <= 0.5)).float()
    return inside / inside.sum(1, keepdim=True)


def elastic_transform(pixels: Tensor, draws: Draws, amount: float, sigma: float, shift: float) -> Tensor:
    """Move three points at random and the image with them, then move every pixel along a smooth random field.

    The three settings are in units of the image's shorter side.
    """
    H, W = pixels.shape[2:]
    side = min(H, W)
    moved = affine(pixels, (2 * draws.uniform(3, 2) - 1) * shift * side)
    noise = 2 * draws.uniform(2, H, W) - 1
    field = amount * side * (gaussian(noise, sigma * side, symmetric, 3.0) if amount else torch.zeros_like(noise))
    rows = torch.arange(H, device=pixels.device)[:, None] + field[:, 1]
    columns = torch.arange(W, device=pixels.device) + field[:, 0]
    return bilinear(moved, rows, columns, corners=False)


def affine(pixels: Tensor, shift: Tensor) -> Tensor:
    """Move three points around the centre by ``shift`` (right, down), shape ``(B, 3, 2)``, and the image with them."""
    H, W = pixels.shape[2:]
    third = min(H, W) // 3
    corners = shift.new_tensor([[third, third], [third, -third], [-third, -third]])
    points = shift.new_tensor([W // 2, H // 2]) + corners
    ones = shift.new_ones(len(shift), 3, 1)
    # The map from the moved points back to where their pixels come from.
    back = torch.linalg.solve(torch.cat([points + shift, ones], 2).double(), points.double().expand(len(shift), 3, 2))
    y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)], 2).to(back)
    source = (grid.view(-1, 3) @ back).view(-1, H, W, 2).float()
    return bilinear(pixels, source[..., 1], source[..., 0], corners=True)
