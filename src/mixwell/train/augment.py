"""Augmentation of whole batches on the device: reflected borders, crop and flip, random erasing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of the erased box, as in torchvision.transforms.v2.RandomErasing:
AREA, ASPECT, ATTEMPTS = (0.02, 0.33), (0.3, 3.3), 10


def reflect(images: Tensor, pad: int) -> Tensor:
    """Widen images of any dtype by ``pad`` pixels on each side, mirrored at the border without repeating it."""
    for dim in (2, 3):
        size = images.shape[dim]
        inside = torch.arange(-pad, size + pad, device=images.device).abs()
        images = images.index_select(dim, inside.minimum(2 * (size - 1) - inside))
    return images


def crop_and_flip(
    padded: Tensor, rows: Tensor, top: Tensor, left: Tensor, mirror: Tensor, size: tuple[int, int]
) -> Tensor:
    """Cut one window out of each chosen image, and mirror some.

    Args:
        padded: Images, shape ``(N, C, H + 2 * pad, W + 2 * pad)``.
        rows: Which images, shape ``(B,)``.
        top: First row of each window, shape ``(B,)``.
        left: First column of each window, shape ``(B,)``.
        mirror: Whether to mirror, bool, shape ``(B,)``.
        size: Height and width of the windows.

    Returns:
        Images of shape ``(B, C, *size)`` and the dtype of ``padded``.
    """
    windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (N, C, 2 pad + 1, 2 pad + 1, H, W), a view
    crops = windows[rows, :, top, left]
    return torch.where(mirror[:, None, None, None], crops.flip(-1), crops)


def erase(images: Tensor, p: float) -> Tensor:
    """Fill a random box of some images with standard normal noise, in place.

    Zhong et al., Random Erasing Data Augmentation, AAAI 2020. Area and aspect ratio of the box are drawn as torchvision
    draws them: the first of ten draws that fits into the image, none if none fits. Boxes come from torch's generator of
    the CPU, noise from that of the device, so that the device is never waited for.

    Args:
        images: Normalized float images, shape ``(B, C, H, W)``; overwritten.
        p: Probability that an image is erased.

    Returns:
        The same tensor.

    Example:
        >>> changed = (erase(torch.full((8, 3, 16, 16), 9.0), p=1.0) != 9).any(1)  # (8, 16, 16)
        >>> changed.flatten(1).any(1).all().item(), bool(changed.float().mean() < 0.35)
        (True, True)
    """
    height, width = images.shape[2:]
    chosen = (torch.rand(len(images)) < p).nonzero()[:, 0]
    area = height * width * torch.empty(len(chosen), ATTEMPTS).uniform_(*AREA)
    ratio = torch.empty(len(chosen), ATTEMPTS).uniform_(*map(math.log, ASPECT)).exp()
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(1, keepdim=True)
    h, w = (sides.gather(1, first)[:, 0] * fits.any(1) for sides in (heights, widths))
    top, left = (
        (torch.rand(len(chosen)) * (height - h + 1)).floor(),
        (torch.rand(len(chosen)) * (width - w + 1)).floor(),
    )
    top, bottom, left, right = torch.stack([top, top + h, left, left + w])[:, :, None].to(
        images.device, non_blocking=True
    )
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((y >= top) & (y < bottom))[:, None, :, None] & ((x >= left) & (x < right))[:, None, None]
    chosen = chosen.to(images.device, non_blocking=True)
    before = images[chosen]
    return images.index_copy_(0, chosen, torch.where(inside, torch.randn_like(before), before))
