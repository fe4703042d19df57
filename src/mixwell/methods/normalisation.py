"""Mean and standard deviation with which images were normalised, as settings of methods that need the plain images."""

from __future__ import annotations

import torch
from torch import Tensor


def as_channels(name: str, value: float | tuple[float, ...]) -> Tensor:
    """Return a setting as a tensor of shape ``(1, 1, 1)`` or ``(C, 1, 1)``.

    Raises:
        ValueError: It is empty, or a standard deviation that is not positive.

    Example:
        >>> as_channels("mean", (0.5, 0.4)).shape
        torch.Size([2, 1, 1])
    """
    numbers = torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1)
    if not len(numbers) or (name == "std" and not bool((numbers > 0).all())):
        wanted = "a positive number" if name == "std" else "a number"
        raise ValueError(f"{name} must be {wanted} or one for each channel, but got {value}.")
    return numbers


def check_channels(name: str, value: Tensor, images: Tensor) -> Tensor:
    """Return what :func:`as_channels` has made, or raise if images have another number of channels."""
    if len(value) not in (1, images.shape[1]):
        raise ValueError(
            f"{name} must be one number, or one for each channel of images of shape {tuple(images.shape)}, but got "
            f"{len(value)} numbers."
        )
    return value
