"""Spectral residual: what is left of an image's spectrum once its smooth part is removed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def spectral_residual(grey: Tensor) -> Tensor:
    """Return the spectral-residual saliency of grey images.

    The amplitude of every frequency is divided by the geometric mean of the amplitudes around it; the phase stays.
    Brightness scale does not matter; an offset changes the lowest frequency alone.

    Args:
        grey: Grey images in any range, shape ``(B, H, W)``, floating point.

    Returns:
        Saliency, shape ``(B, H, W)``, float32.

    Source: Hou and Zhang, *Saliency Detection: A Spectral Residual Approach*, CVPR 2007.

    Example:
        >>> grey = torch.zeros(1, 24, 32)
        >>> grey[0, 7:12, 13:18] = 1
        >>> divmod(spectral_residual(grey).argmax().item(), 32)
        (9, 15)
    """
    spectrum = torch.view_as_real(torch.fft.fft2(grey.float()))
    log_amplitude = spectrum.square().sum(-1).add_(1e-10).log_().div_(2)
    # exp(log A - smooth(log A)) / A is exp(-smooth(log A)): the amplitude itself drops out.
    scale = _smoothed(log_amplitude, [1 / 3] * 3, "replicate").neg_().exp_()
    image = torch.view_as_real(torch.fft.ifft2(torch.view_as_complex(spectrum * scale[..., None])))
    return gaussian_blur(image.square().sum(-1).sqrt_())


def gaussian_blur(maps: Tensor, size: int = 7, sigma: float = 3.0) -> Tensor:
    """Return maps of shape ``(B, H, W)`` blurred by a Gaussian, mirrored at the border without repeating it.

    Args:
        maps: Shape ``(B, H, W)``. Sides too short to be mirrored (``size // 2`` or less) are continued by their edge.
        size: Width of the kernel in pixels, odd.
        sigma: Standard deviation in pixels.

    Example:
        >>> gaussian_blur(torch.ones(1, 8, 8)).allclose(torch.ones(1, 8, 8))
        True
    """
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-(size // 2), size // 2 + 1)]
    mode = "reflect" if min(maps.shape[1:]) > size // 2 else "replicate"
    return _smoothed(maps, [weight / sum(weights) for weight in weights], mode)


def _smoothed(maps: Tensor, weights: list[float], mode: str) -> Tensor:
    """Apply a symmetric kernel along both sides; sums of slices, as autocast would lower a convolution's precision."""
    reach = len(weights) // 2
    maps = F.pad(maps, (reach,) * 4, mode=mode)
    for dim in (1, 2):
        size = maps.shape[dim] - 2 * reach
        total = maps.narrow(dim, 0, size) * weights[0]
        for start, weight in enumerate(weights[1:], 1):
            total.add_(maps.narrow(dim, start, size), alpha=weight)
        maps = total
    return maps
