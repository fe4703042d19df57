"""Stochastic depth: residual branches that are left out at random in training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Set a branch to zero for each image with probability ``p`` in training, and divide the other images by 1 - p.

    Args:
        p: The probability (0 to 1).

    Source: Huang et al., *Deep Networks with Stochastic Depth*, ECCV 2016 (arXiv:1603.09382).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        keep = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


def drop_rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Return the probability of every block by stage, evenly spaced from 0 to that of the last block.

    Raises:
        ValueError: There are not four stages of at least one block.

    Example:
        >>> drop_rates((1, 1, 1, 2), 0.5)
        [[0.0], [0.125], [0.25], [0.375, 0.5]]
    """
    if len(depths) != 4 or min(depths) < 1:
        raise ValueError(f"depths must be four numbers of blocks, at least 1, but got {depths}")
    steps, rates = sum(depths) - 1, iter(range(sum(depths)))
    return [[last * next(rates) / steps for _ in range(depth)] for depth in depths]
