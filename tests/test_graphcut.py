"""The solver of PuzzleMix: against brute force, exact cuts and isotonic regression."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mixwell.integrations.scipy import exact_cut
from mixwell.ops.graphcut import energy, nested, primal_dual, quadratic, steps, truncated
from mixwell.ops.puzzle import Costs, contrast, puzzle_costs


def puzzles(b: int, cells: int, labels: int, peaked: float = 2.0, seed: int = 0) -> Costs:
    """Make energies as they occur."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(b, cells, cells, generator=generator) ** peaked
    maps = maps / maps.sum((1, 2), keepdim=True)
    partner = torch.randperm(b, generator=generator)
    borders = contrast(torch.rand(b, 3, 4 * cells, 4 * cells, generator=generator), partner, cells, 4)
    return puzzle_costs((maps, maps[partner]), borders, torch.rand(b, generator=generator), labels)


def anything(b: int, cells: int, labels: int, seed: int = 0, draw: Callable[..., torch.Tensor] = torch.rand) -> Costs:
    """Make energies without any structure."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (labels, cells, cells), (cells - 1, cells), (cells, cells - 1)
    unary, vertical, horizontal = (draw(b, *shape, generator=generator) for shape in shapes)
    return unary, vertical.abs(), horizontal.abs()


def gaussian(b: int, cells: int, labels: int, seed: int = 0) -> Costs:
    """Make energies without any structure and of both signs."""
    return anything(b, cells, labels, seed, torch.randn)


def smooth(b: int, cells: int, labels: int, seed: int = 0) -> Costs:
    """Make energies that change slowly from cell to cell, so that whole regions must agree to change."""
    coarse = torch.randn(b, labels + 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    maps = torch.nn.functional.interpolate(coarse, (cells, cells), mode="bicubic")
    return maps[:, :labels], maps[:, labels, :-1].abs(), maps[:, labels + 1, :, :-1].abs()


@pytest.mark.parametrize("make", [puzzles, anything, gaussian], ids=lambda make: make.__name__)
@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("cells", [2, 3])
def test_never_worse_than_brute_force(
    cells: int, labels: int, make: Callable[..., Costs], device: torch.device
) -> None:
    """On small grids no labelling at all is better."""
    costs = tuple(each.to(device) for each in make(32, cells, labels))
    found = energy(primal_dual(costs), costs)
    best = torch.full_like(found, torch.inf)
    everything = torch.tensor(list(itertools.product(range(labels), repeat=cells**2)), device=device)
    for part in everything.view(-1, 1, cells, cells).split(729):
        for row in range(32):
            one = tuple(each[row].expand(len(part), *each.shape[1:]) for each in costs)
            best[row] = torch.minimum(best[row], energy(part[:, 0], one).min())
    assert bool((found <= best + 1e-6).all())


@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("cells", [4, 8, 16])
@pytest.mark.parametrize("peaked", [1.0, 6.0])
def test_close_to_the_exact_cut(cells: int, labels: int, peaked: float) -> None:
    """Within a thousandth of the least energy, and never below it."""
    costs = puzzles(24, cells, labels, peaked, seed=cells + labels)
    found, least = energy(primal_dual(costs), costs).double(), energy(exact_cut(costs), costs).double()
    excess = (found - least) / least.abs()
    assert float(excess.min()) > -1e-6
    assert float(excess.max()) < 1e-3
    assert float(excess.mean()) < 2e-4


@pytest.mark.parametrize("make", [puzzles, anything, gaussian, smooth], ids=lambda make: make.__name__)
@pytest.mark.parametrize("labels", [2, 3])
def test_close_to_the_exact_cut_whatever_the_costs(labels: int, make: Callable[..., Costs]) -> None:
    """On 16 x 16 cells the worst of two hundred is within a thousandth of the least energy."""
    costs = make(200, 16, labels, seed=5)
    found, least = energy(primal_dual(costs), costs).double(), energy(exact_cut(costs), costs).double()
    excess = (found - least) / least.abs()
    assert float(excess.min()) > -1e-6
    assert float(excess.max()) < 1e-3


@pytest.mark.parametrize("profile", [None, truncated(4), (0.0, 0.1, 1.0, 3.0)])
def test_exact_cut_is_exact(profile: tuple[float, ...] | None) -> None:
    """The oracle itself agrees with brute force, for any convex profile."""
    costs = anything(8, 2, 4, seed=1)
    everything = torch.tensor(list(itertools.product(range(4), repeat=4))).view(-1, 2, 2)
    for row, labels in enumerate(exact_cut(costs, profile)):
        one = tuple(each[row].expand(len(everything), *each.shape[1:]) for each in costs)
        least = energy(everything, one, profile).min()
        torch.testing.assert_close(energy(labels[None], tuple(each[:1] for each in one), profile)[0], least)


def test_profiles() -> None:
    """Squares, and what the published solver makes of them, are sums of steps."""
    assert quadratic(3) == (0, 0.25, 1)
    assert truncated(4) == (0, 0.11, 0.44, 1)
    for profile in (quadratic(6), truncated(6)):
        c = steps(profile)
        assert min(c) > 0
        for d, value in enumerate(profile):
            assert sum((d - j) * c[j] for j in range(d)) == pytest.approx(value)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_projection(k: int) -> None:
    """Nested decisions are those next to the given ones: isotonic regression, then clipped."""
    isotonic = pytest.importorskip("sklearn.isotonic")
    u = torch.randn(k, 200, generator=torch.Generator().manual_seed(k))
    expected = [isotonic.isotonic_regression(u[:, i].double().numpy(), increasing=False) for i in range(200)]
    nearest = torch.from_numpy(np.stack(expected, 1)).float().clamp(0, 1)
    torch.testing.assert_close(nested(u.clone()), nearest, rtol=0, atol=1e-6)


def test_size_of_costs_is_no_matter() -> None:
    """Costs in other units have the same solution; without borders every cell decides alone."""
    costs = puzzles(16, 8, 3)
    labels = primal_dual(costs)
    for factor in (2.0**-20, 2.0**20):
        assert primal_dual(tuple(each * factor for each in costs)).equal(labels)
    alone = costs[0], costs[1] * 0, costs[2] * 0
    assert primal_dual(alone).equal(costs[0].argmin(1))
