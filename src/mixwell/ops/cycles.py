"""Cycles through all rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def longest_steps(distance: Tensor) -> Tensor:
    """Build one cycle greedily: start with the longest step of all, and go on to the farthest row not yet reached.

    Nothing is read on the CPU: every step is a few small operations.

    Args:
        distance: Shape ``(B, B)``, ``-inf`` on the diagonal.

    Returns:
        The next row of every row, shape ``(B,)``, int64.
    """
    n = len(distance)
    best = distance.flatten().argmax()
    first, row = (best // n)[None], (best % n)[None]
    following = torch.empty(n, dtype=torch.int64, device=distance.device).scatter_(0, first, row)
    open_rows = distance.new_zeros(n).index_fill_(0, first, -torch.inf).index_fill_(0, row, -torch.inf)
    for _ in range(n - 2):
        ahead = (distance.index_select(0, row)[0] + open_rows).argmax()[None]
        following.scatter_(0, row, ahead)
        open_rows.index_fill_(0, ahead, -torch.inf)
        row = ahead
    return following.scatter_(0, row, first)
