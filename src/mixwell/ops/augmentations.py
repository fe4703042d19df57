"""Ordinary augmentations of whole batches on their device, every image with a magnitude of its own.

All take images ``(B, C, H, W)`` with values in [0, 1] and magnitudes ``(B,)``, and return new images; they agree with
Pillow's operations on 8-bit images to within its rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # red, green and blue, as Pillow's greys have them


def levels(images: Tensor) -> Tensor:
    """Return the 8-bit levels of images, int64.

    Example:
        >>> levels(torch.tensor([0.0, 0.5, 1.0]))
        tensor([  0, 128, 255])
    """
    return (images.float() * 255).round().clamp(0, 255).long()


def autocontrast(images: Tensor) -> Tensor:
    """Stretch every channel of every image to the whole range; a channel of one value stays.

    Example:
        >>> autocontrast(torch.tensor([0.25, 0.5, 0.75]).view(1, 1, 1, 3)).flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high <= low
    return torch.where(flat, images, (images - low) / torch.where(flat, 1, high - low))


def equalize(images: Tensor) -> Tensor:
    """Flatten the histogram of every channel of every image.

    Example:
        >>> images = torch.arange(256).view(1, 1, 16, 16) / 255
        >>> bool(equalize(images).allclose(images))
        True
    """
    values = levels(images).flatten(2).flatten(0, 1)  # (B * C, H * W)
    ones = torch.ones_like(values)
    histogram = values.new_zeros(len(values), 256).scatter_add_(1, values, ones)
    last = histogram.gather(1, values.amax(1, keepdim=True))
    step = (values.shape[1] - last) // 255
    table = (histogram.cumsum(1) - histogram + step // 2) // step.clamp_min(1)
    spread = table.clamp_max(255).gather(1, values).to(images.dtype) / 255
    return torch.where(step > 0, spread, images.flatten(2).flatten(0, 1)).view(images.shape)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep only the highest bits, from 1 to 8, of every level.

    Example:
        >>> posterize(torch.tensor([0.3, 0.9]).view(1, 1, 1, 2), torch.tensor([1])).flatten() * 255
        tensor([  0., 128.])
    """
    step = (2 ** (8 - bits.long()))[:, None, None, None]
    return (levels(images) // step * step).to(images.dtype) / 255


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert all levels from a threshold on, which lies between 0 and 256.

    Example:
        >>> solarize(torch.tensor([0.25, 0.75]).view(1, 1, 1, 2), torch.tensor([128])).flatten()
        tensor([0.2500, 0.2500])
    """
    return torch.where(levels(images) >= threshold[:, None, None, None], 1 - images, images)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """Show at every place of the output the place of the input that a matrix maps it to, interpolated; black outside.

    Args:
        images: Shape ``(B, C, H, W)``.
        matrix: From output to input, in pixels, corners of pixels being whole numbers: shape ``(B, 2, 3)``, the first
            row for x.

    Returns:
        Images of the same shape.

    Example:
        >>> images = torch.arange(4.0).view(1, 1, 1, 4)
        >>> affine(images, torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])).flatten()
        tensor([1., 2., 3., 0.])
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=images.dtype) + 0.5
    y = torch.arange(height, device=images.device, dtype=images.dtype) + 0.5
    a, b, c = matrix.to(images)[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    where = a * x + b * y[:, None] + c  # (B, 2, H, W)
    size = torch.tensor((width, height), device=images.device, dtype=images.dtype)
    inside = ((where >= 0) & (where < size[:, None, None])).all(1, keepdim=True)
    grid = where.permute(0, 2, 3, 1) * (2 / size) - 1
    shown = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside, shown, 0)


def _matrix(*entries: Tensor | float, like: Tensor) -> Tensor:
    rows = [torch.as_tensor(e, dtype=torch.float32, device=like.device).expand(len(like)) for e in entries]
    return torch.stack(rows, 1).view(-1, 2, 3)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate counterclockwise about the centre.

    Example:
        >>> images = torch.eye(3).view(1, 1, 3, 3)
        >>> bool(rotate(images, torch.tensor([90.0])).allclose(images.flip(3), atol=1e-5))
        True
    """
    radians = torch.deg2rad(degrees.float())
    cos, sin, x, y = radians.cos(), radians.sin(), images.shape[3] / 2, images.shape[2] / 2
    return affine(images, _matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, like=degrees))


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Push rows to the left, by ``slope`` pixels more for every row down."""
    return affine(images, _matrix(1, slope, 0, 0, 1, 0, like=slope))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Push columns up, by ``slope`` pixels more for every column to the right."""
    return affine(images, _matrix(1, 0, 0, slope, 1, 0, like=slope))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Move to the left."""
    return affine(images, _matrix(1, 0, pixels, 0, 1, 0, like=pixels))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Move up."""
    return affine(images, _matrix(1, 0, 0, 0, 1, pixels, like=pixels))


def grey(images: Tensor) -> Tensor:
    """Return the luminance of colour images, or the mean of other channels, shape ``(B, 1, H, W)``.

    Example:
        >>> grey(torch.ones(1, 3, 2, 2)).shape
        torch.Size([1, 1, 2, 2])
    """
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = (weight * images[:, k : k + 1] for k, weight in enumerate(_LUMA))
    return red + green + blue


def _away_from(dull: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return (dull + factor[:, None, None, None].to(images.dtype) * (images - dull)).clamp(0, 1)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Move colours away from grey (above 1) or towards it (below)."""
    return _away_from(grey(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move values away from the image's mean grey (above 1) or towards it (below)."""
    return _away_from(grey(images).mean((1, 2, 3), keepdim=True), images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply all values."""
    return _away_from(torch.zeros_like(images[:, :1]), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Move values away from those of a smoothed image (above 1) or towards them (below); the border stays."""
    channels = images.shape[1]
    kernel = images.new_ones(3, 3)
    kernel[1, 1] = 5
    smooth = images.clone()
    if min(images.shape[2:]) > 2:
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    return _away_from(smooth, images, factor)
