"""Random numbers that depend on the seed and on the image's row in the data set only, not on batches or the device."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


class Draws:
    """Yields uniform and normal numbers for each image: a hash of seed, name, row and a counter (SplitMix64).

    Args:
        rows: Row of each image in the data set, int64, shape ``(B,)``.
        seed: Any whole number.
        name: What the numbers are for; other names give other numbers.

    Example:
        >>> both, second = Draws(torch.tensor([0, 1]), 5, "fog"), Draws(torch.tensor([1]), 5, "fog")
        >>> bool((both.uniform(7)[1] == second.uniform(7)[0]).all())
        True
    """

    def __init__(self, rows: Tensor, seed: int, name: str) -> None:
        key = torch.tensor((seed * 2**32 + zlib.crc32(name.encode())) % 2**63, device=rows.device)
        self.state, self.used = _hashed(_hashed(key) + rows.long() * GOLDEN), 0

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers inside (0, 1), shape ``(B, *shape)``, float32."""
        count = math.prod(shape)
        counter = torch.arange(self.used + 1, self.used + count + 1, device=self.state.device) * GOLDEN
        self.used += count
        bits = _right(_hashed(self.state[:, None] + counter), 41)  # 23 bits, so that the half below is exact
        return ((bits.float() + 0.5) / 2**23).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, shape ``(B, *shape)``, float32."""
        return torch.special.ndtri(self.uniform(*shape))


def _right(x: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _hashed(x: Tensor) -> Tensor:
    for places, factor in zip((30, 27), FACTORS, strict=True):
        x = (x ^ _right(x, places)) * factor
    return x ^ _right(x, 31)
