"""Smooth random fields, and the masks of their largest values."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.ops.pixels import on_host


def low_frequency_field(noise: Tensor, size: tuple[int, int], decay: float) -> Tensor:
    """Turn white noise into a field whose amplitudes fall as ``frequency ** -decay``; see :func:`isotropic_field`.

    Args:
        noise: Standard normal real and imaginary parts, shape ``(S, H, W // 2 + 1, 2)``.
        size: Height and width of the field.
        decay: Exponent of the fall.

    Returns:
        The field, shape ``(S, H, W)``; its scale and offset mean nothing.
    """
    return _field(noise, _amplitude(size, decay, noise)[: noise.shape[1], : noise.shape[2]], size)


def isotropic_field(noise: Tensor, size: tuple[int, ...], decay: float) -> Tensor:
    """Make a field that is alike in all directions, of any number of dimensions; see :func:`low_frequency_field`.

    Frequencies of the last dimension represent themselves and their mirror image, except the lowest and, at even
    widths, the highest: those have only half the energy unless their noise is amplified.

    Args:
        noise: Standard normal real and imaginary parts, shape ``(S, *size[:-1], size[-1] // 2 + 1, 2)``.
        size: Sizes of all dimensions of the field.
        decay: Exponent of the fall.
    """
    columns = size[-1] // 2 + 1
    amplitude = _amplitude(size, decay, noise)[..., :columns]
    amplitude[..., 0] *= 2**0.5
    if size[-1] % 2 == 0:
        amplitude[..., columns - 1] *= 2**0.5
    return _field(noise[..., :columns, :], amplitude, size)


def _field(noise: Tensor, amplitude: Tensor, size: tuple[int, ...]) -> Tensor:
    spectrum = torch.view_as_complex(noise) * amplitude
    return torch.fft.irfftn(spectrum[..., : size[-1] // 2 + 1], s=size, dim=tuple(range(-len(size), 0)))


def published_field(noise: Tensor, size: tuple[int, ...], decay: float) -> Tensor:
    """Make the field as FMix's published code does: two rows of frequencies serve as real and imaginary part.

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


def _amplitude(size: tuple[int, ...], decay: float, like: Tensor) -> Tensor:
    # Not rfftfreq: at odd widths the published grid holds one column more, which callers cut off.
    lines = [torch.fft.fftfreq(length, dtype=like.dtype, device=like.device) ** 2 for length in size]
    squares = lines[0]
    for line in lines[1:]:
        squares = squares[..., None] + line
    return squares.sqrt().clamp_min(1 / max(size)) ** -decay


def largest(field: Tensor, lam: Tensor, round_up: Tensor, soft: float = 0.0) -> Tensor:
    """Mark the largest values of a field.

    Args:
        field: Shape ``(S, H, W)``, or of any number of dimensions.
        lam: Share to mark, shape ``(S,)``.
        round_up: Round the number of pixels up instead of down, shape ``(S,)``, bool.
        soft: Largest width of the soft edge, as a share of the pixels; see :class:`mixwell.FMix`.

    Returns:
        Shape of the field: bool, or float32 with a soft edge.
    """
    values = field.flatten(1)
    pixels = values.shape[1]
    count = torch.where(round_up, (lam * pixels).ceil(), (lam * pixels).floor()).long()[:, None]
    if not soft:
        least = torch.where(count > 0, kth_largest(values, count.clamp_min(1)), torch.inf)
        return (values >= least).view(field.shape)
    edge = (pixels * lam.minimum(1 - lam).clamp(0, soft)).long()[:, None]
    rank = values.argsort(1, descending=True).argsort(1)
    fall = 1 - (rank - (count - edge)).float() / (2 * edge - 1).clamp_min(1)
    return torch.where(rank < count - edge, 1.0, torch.where(rank < count + edge, fall, 0.0)).view(field.shape)


def kth_largest(values: Tensor, k: Tensor) -> Tensor:
    """Find the k-th largest of every row, with another k for every row, in a fraction of the time of sorting.

    On the CPU by partial sorting, one row after the other; elsewhere by bisection, as nothing may wait for ``k`` there.

    Args:
        values: Floating point, shape ``(S, n)``.
        k: From 1 to n, shape ``(S, 1)``.

    Returns:
        Shape ``(S, 1)``.

    Example:
        >>> kth_largest(torch.tensor([[3.0, 1.0, 2.0], [5.0, 6.0, 4.0]]), torch.tensor([[1], [2]])).flatten()
        tensor([3., 5.])
    """
    if on_host(values):
        places = (values.shape[1] + 1 - k).flatten().tolist()
        return torch.stack(
            [row.kthvalue(place, keepdim=True).values for row, place in zip(values, places, strict=True)]
        )
    return _bisected(values, k)


def _bisected(values: Tensor, k: Tensor) -> Tensor:
    """Do the same with a count of every row for every bit of a number."""
    keys = _ordered(values.contiguous().view(torch.int64 if values.dtype == torch.float64 else torch.int32))
    low, high = keys.amin(1, keepdim=True), keys.amax(1, keepdim=True)  # the answer is in [low, high]
    for _ in range(torch.iinfo(keys.dtype).bits):
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # rounded up, without overflow
        enough = (keys >= middle).sum(1, keepdim=True) >= k
        low, high = torch.where(enough, middle, low), torch.where(enough, high, (middle - 1).maximum(low))
    return _ordered(low).view(values.dtype)


def _ordered(bits: Tensor) -> Tensor:
    """Turn the bits of floating-point numbers into integers in the same order, and back."""
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)
