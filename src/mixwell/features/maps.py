"""The layout of feature maps: grids of tokens, the position of the channels, the mean over positions."""

from __future__ import annotations

import math

from torch import Tensor

from mixwell.checks import in_proportion

_EXTRA_TOKENS = 16  # class, distillation and register tokens


def as_maps(features: Tensor, size: tuple[int, int], layer: str) -> Tensor:
    """Return features of a layer as maps ``(B, C, h, w)``.

    Args:
        features: Maps ``(B, C, h, w)`` or ``(B, h, w, C)``, or tokens ``(B, N, C)``, those outside the grid first.
        size: Height and width of the images.
        layer: Name of the layer, for the error.

    Raises:
        ValueError: The features have another shape.
    """
    if features.dim() == 4:
        return features.permute(0, 3, 1, 2) if channels_come_last(features, size) else features
    if features.dim() != 3:
        raise ValueError(
            f"Expected a layer that outputs maps (B, C, h, w) or tokens (B, N, C), but {layer!r} outputs "
            f"{tuple(features.shape)}: name another layer, as in layer='layer3'."
        )
    rows, columns = grid_of(features.shape[1], size)
    return features[:, features.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the largest grid with an image's proportions that so many tokens can fill.

    Raises:
        ValueError: More than sixteen tokens would be left over.

    Example:
        >>> grid_of(197, (224, 224)), grid_of(8, (32, 64))
        ((14, 14), (2, 4))
    """
    height, width = size
    for rows in range(math.isqrt(tokens * height // width), 0, -1):
        columns, remainder = divmod(rows * width, height)
        if not remainder and 0 <= tokens - rows * columns <= _EXTRA_TOKENS:
            return rows, columns
    raise ValueError(
        f"{tokens} tokens do not form a grid for images of {height} x {width}: choose another layer, or a policy that "
        "blends, such as MixUp."
    )


def channels_come_last(features: Tensor, size: tuple[int, int]) -> bool:
    """Return whether a map is ``(B, h, w, C)`` and not ``(B, C, h, w)``, judged by the proportions of the images.

    If neither fits exactly, as in a network that pads or cuts, a deviation of one position is accepted.

    Example:
        >>> import torch
        >>> channels_come_last(torch.rand(2, 7, 10, 768), (224, 300))
        True
    """
    shapes = tuple(features.shape[2:]), tuple(features.shape[1:3])
    first, last = (h * size[1] == w * size[0] for h, w in shapes)
    if not first and not last:
        first, last = (in_proportion(shape, size) for shape in shapes)
    return last and not first


def pooled(features: Tensor) -> Tensor:
    """Return one feature vector per image: the mean over everything but batch and channel.

    Args:
        features: ``(B, D)``, tokens ``(B, N, D)``, or maps with channels first ``(B, D, ...)``.

    Returns:
        Shape ``(B, D)``.

    Raises:
        ValueError: ``features`` has fewer than two dimensions.

    Example:
        >>> import torch
        >>> pooled(torch.rand(2, 6, 4, 4)).shape, pooled(torch.rand(2, 17, 6)).shape
        (torch.Size([2, 6]), torch.Size([2, 6]))
    """
    if features.ndim < 2:
        raise ValueError(f"features must have shape (B, D), (B, N, D) or (B, D, ...), but got {tuple(features.shape)}.")
    if features.ndim == 3:
        return features.mean(1)
    return features.flatten(2).mean(2) if features.ndim > 3 else features
