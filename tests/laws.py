"""Distribution functions from SciPy, and how far draws are from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixwell import Beta, Folded, Ratio, Uniform

N = 20_000
Law = Callable[[Tensor], Tensor]  # a distribution function
LIMIT = 1.95 / math.sqrt(N)  # exceeded once in a thousand seeds


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def blank(rows: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a batch of any size that takes no memory, and its labels."""
    return torch.zeros(1).expand(rows, 1, height, width), torch.zeros(rows, dtype=torch.int64)


def law_of(ratio: Ratio) -> Law:
    """Return the distribution function of a ratio, from SciPy."""
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    if isinstance(ratio, Folded):
        inner = law_of(ratio.ratio)
        return lambda t: torch.where(t < 0.5, 0.0, inner(t) - inner(1 - t))
    if isinstance(ratio, Beta):
        law = stats.beta(ratio.alpha, ratio.alpha if ratio.beta is None else ratio.beta)
    else:
        assert isinstance(ratio, Uniform)
        law = stats.uniform(ratio.low, ratio.high - ratio.low)
    return lambda t: torch.from_numpy(law.cdf(t.double().numpy()))


def distance(draws: Tensor, law: Law) -> float:
    """Return the Kolmogorov-Smirnov distance, away from the ends, where float32 rounds to exactly 0 and 1."""
    grid = torch.linspace(1e-3, 1 - 1e-3, 999, dtype=torch.float64)
    below = torch.searchsorted(draws.double().sort().values, grid, right=True) / len(draws)
    return float((below - law(grid)).abs().max())


def uniform(counts: Tensor, weights: Tensor | None = None) -> bool:
    """Tell whether counts go with a law, at a level of one in a thousand."""
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    weights = torch.ones(len(counts)) if weights is None else weights
    expected = weights.double() / weights.double().sum() * counts.sum()
    return float(stats.chisquare(counts.double().numpy(), expected.numpy()).pvalue) > 1e-3
