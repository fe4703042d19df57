"""Fine-grained saliency: the difference of a pixel from the mean of six windows around it."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

RADII = (12, 24, 28, 48, 56, 112)


def fine_grained(grey: Tensor, wrap: bool = False) -> Tensor:
    """Return the static fine-grained saliency of grey images.

    Whole numbers throughout, so that the map is OpenCV's to the last bit (``StaticSaliencyFineGrained``), for a whole
    batch at once; above 2**16 pixels OpenCV itself rounds its running sums and differs in a few pixels. Pixels darker
    and pixels brighter than their surround are scaled to 255 apart from each other and then added: a pixel that is
    both, at different radii, can exceed 1, and one dim halo can tie with a bright spot.

    Args:
        grey: Grey levels, whole numbers from 0 to 255 of any dtype, shape ``(B, H, W)``.
        wrap: Take the sum modulo 256 as OpenCV does by storing it in a byte, which turns some peaks into holes.

    Returns:
        Saliency, shape ``(B, H, W)``, float32; 1 is level 255.

    Source: Montabone and Soto, *Human detection using a mobile platform and novel features derived from a visual
    saliency mechanism*, Image and Vision Computing 2010.

    Example:
        >>> grey = torch.full((1, 48, 64), 40)
        >>> grey[0, 23:26, 31:34] = 100
        >>> divmod(fine_grained(grey).argmax().item(), 64)
        (24, 32)
    """
    levels = _binomial(_binomial(grey.int()))
    integral = torch.nn.functional.pad(levels.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32), (1, 0, 1, 0))
    difference = torch.zeros(grey.shape, device=grey.device)
    darker = torch.zeros_like(difference)
    # Windows that reach over the whole image from every pixel are all the same one.
    for radius, times in Counter(min(radius, max(grey.shape[1:])) for radius in RADII).items():
        contrast = _contrast(levels, integral, radius)
        difference.add_(contrast, alpha=times)
        darker.add_(contrast.clamp_(min=0), alpha=times)
    total = _stretched(darker - difference) + _stretched(darker)  # brighter = darker - difference
    return (total.remainder_(256) if wrap else total).div_(255)


def _contrast(levels: Tensor, integral: Tensor, radius: int) -> Tensor:
    """Return the mean of the other pixels in the window minus the pixel, cut to a whole number."""
    window = _window(_window(integral, radius, 1), radius, 2)
    rows, columns = (
        _window(torch.arange(size + 1, device=levels.device, dtype=torch.int32), radius, 0) for size in levels.shape[1:]
    )
    count = rows[:, None] * columns
    # Exact in float32: both terms stay below 2**24, and with fewer than 2**16 pixels in a window no fraction comes
    # close enough to the next whole number to be rounded to it.
    return window.addcmul_(levels, count, value=-1).float().div_((count - 1).clamp_(min=1)).trunc_()


def _window(integral: Tensor, radius: int, dim: int) -> Tensor:
    """Return the sum over places ``[i - radius + 1, i + radius + 1)`` clipped to the image, from running sums."""
    size = integral.shape[dim] - 1
    inside, beyond = max(size - radius - 1, 0), max(size - radius, 0)
    total = integral.narrow(dim, size, 1)
    shape = list(integral.shape)
    shape[dim] = size - inside
    ends = torch.cat([integral.narrow(dim, size - inside, inside), total.expand(shape)], dim)
    ends.narrow(dim, size - beyond, beyond).sub_(integral.narrow(dim, min(1, size), beyond))
    return ends


def _binomial(levels: Tensor) -> Tensor:
    """Blur with 1-2-1 in both directions, mirrored at the border without repeating it, rounded half up."""
    for dim in (1, 2):
        size = levels.shape[dim]
        edge = min(1, size - 1)
        first, last = levels.narrow(dim, edge, 1), levels.narrow(dim, size - 1 - edge, 1)
        padded = torch.cat([first, levels, last], dim)
        pairs = padded.narrow(dim, 0, size + 1) + padded.narrow(dim, 1, size + 1)
        levels = pairs.narrow(dim, 0, size) + pairs.narrow(dim, 1, size)
    return (levels + 8) >> 4


def _stretched(contrast: Tensor) -> Tensor:
    """Scale every image so that its largest value is 255, rounded down; flat images stay zero."""
    peak = contrast.amax((1, 2), keepdim=True).clamp_(min=1)
    return (contrast * 255).div_(peak).floor_()
