"""Smooth random fields, and the masks of their largest values."""

from __future__ import annotations

import torch
from torch import Tensor


def low_frequency_field(noise: Tensor, size: tuple[int, int], decay: float) -> Tensor:
    """Turn white noise into an isotropic field whose amplitudes fall as ``frequency ** -decay``.

    Args:
        noise: Standard normal real and imaginary parts, shape ``(S, H, W // 2 + 1, 2)``.
        size: Height and width of the field.
        decay: Exponent of the fall.

    Returns:
        The field, shape ``(S, H, W)``; its scale and offset mean nothing.
    """
    amplitude = _amplitude(size, decay, noise)[: noise.shape[1], : noise.shape[2]]
    spectrum = torch.view_as_complex((noise * amplitude[..., None]).contiguous())
    return torch.fft.irfft2(spectrum[..., : size[1] // 2 + 1], s=size)


def published_field(noise: Tensor, size: tuple[int, int], decay: float) -> Tensor:
    """Make the field as the published code of FMix does, which takes two rows of frequencies for real and imaginary part.

    Args:
        noise: See :func:`low_frequency_field`; only the first two rows are used.
        size: See :func:`low_frequency_field`.
        decay: See :func:`low_frequency_field`.
    """
    rows = noise * _amplitude(size, decay, noise)[: noise.shape[1], : noise.shape[2], None]
    leaning = torch.complex(rows[:, 0], rows[:, 1 % rows.shape[1]])  # (S, W // 2 + 1, 2)
    return torch.fft.irfftn(leaning, s=size, dim=(1, 2))


def normalised(field: Tensor) -> Tensor:
    """Bring every field ``(S, H, W)`` to [0, 1], as a grey image."""
    from_zero = field - field.amin((1, 2), keepdim=True)
    return from_zero / from_zero.amax((1, 2), keepdim=True)


def _amplitude(size: tuple[int, int], decay: float, like: Tensor) -> Tensor:
    down = torch.fft.fftfreq(size[0], dtype=like.dtype, device=like.device)
    # Not rfftfreq: at odd widths the published grid holds one column more, which callers cut off.
    across = torch.fft.fftfreq(size[1], dtype=like.dtype, device=like.device)
    frequency = (down[:, None] ** 2 + across**2).sqrt()
    return frequency.clamp_min(1 / max(size)) ** -decay


def largest(field: Tensor, lam: Tensor, round_up: Tensor, soft: float = 0.0) -> Tensor:
    """Mark the largest values of a field.

    Args:
        field: Shape ``(S, H, W)``.
        lam: Share to mark, shape ``(S,)``.
        round_up: Round the number of pixels up instead of down, shape ``(S,)``, bool.
        soft: Largest width of the soft edge, as a share of the pixels; see :class:`mixwell.FMix`.

    Returns:
        Shape ``(S, H, W)``: bool, or float32 with a soft edge.
    """
    values = field.flatten(1)
    pixels = values.shape[1]
    count = torch.where(round_up, (lam * pixels).ceil(), (lam * pixels).floor()).long()[:, None]
    if not soft:
        smallest_kept = values.sort(1, descending=True).values.gather(1, (count - 1).clamp_min(0))
        return ((values >= smallest_kept) & (count > 0)).view(field.shape)
    edge = (pixels * lam.minimum(1 - lam).clamp(0, soft)).long()[:, None]
    rank = values.argsort(1, descending=True).argsort(1)
    fall = 1 - (rank - (count - edge)).float() / (2 * edge - 1).clamp_min(1)
    return torch.where(rank < count - edge, 1.0, torch.where(rank < count + edge, fall, 0.0)).view(field.shape)
