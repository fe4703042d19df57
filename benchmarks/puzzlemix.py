"""What PuzzleMix's mixing costs without the gradient pass, beside exact cuts of one image at a time.

Run ``python benchmarks/puzzlemix.py``; times are medians in milliseconds per batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from mixwell.integrations.scipy import exact_cut
from mixwell.ops.cells import on_grid, summing_to_one
from mixwell.ops.graphcut import energy
from mixwell.ops.puzzle import Costs, contrast, puzzle_costs, whole_costs
from mixwell.policies.puzzlemix import PuzzleMix


def swaps(costs: Costs) -> Tensor:
    """Label one image after the other with gco's alpha-beta swaps of whole numbers, as the published code does."""
    import gco
    import numpy as np

    unary, vertical, horizontal = (each.int().numpy() for each in whole_costs(costs))
    k = unary.shape[1] - 1
    bend = np.array([[(i - j) ** 2 / k**2 for j in range(k + 1)] for i in range(k + 1)], dtype=np.float32)
    shape = unary.shape[2:]
    found = [
        gco.cut_grid_graph(np.moveaxis(u, 0, 2).copy(), bend, v, h, algorithm="swap").reshape(shape)
        for u, v, h in zip(unary, vertical, horizontal, strict=True)
    ]
    return torch.from_numpy(np.stack(found)).long()


def median(call: Callable[[], object], seconds: float = 2.0) -> float:
    """Time a call until the time is up, at least three times."""
    call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


class OneAtATime(PuzzleMix):
    """PuzzleMix with exact cuts, and moves as usual."""

    def solve(self, costs: Costs) -> Tensor:
        """Cut one image after the other."""
        return exact_cut(costs)


class Published(PuzzleMix):
    """PuzzleMix with the solver of the published code, and moves as usual."""

    def solve(self, costs: Costs) -> Tensor:
        """Swap labels in one image after the other."""
        return swaps(costs)


def measure(shape: tuple[int, int, int, int], blocks: int) -> None:
    """Time one kind of batch with every solver, whole policy and solver alone."""
    images, labels = torch.rand(shape), torch.arange(shape[0])
    saliency, buffer = torch.rand(shape[0], *shape[2:]) ** 4, torch.empty_like(images)
    maps = summing_to_one(on_grid(saliency, blocks))
    partner = labels.roll(1)
    costs = puzzle_costs((maps, maps[partner]), contrast(images, partner, blocks, 4), torch.rand(shape[0]))
    least = energy(exact_cut(costs), costs).double()
    for kind in (PuzzleMix, OneAtATime, *((Published,) if find_spec("gco") else ())):
        policy = kind(blocks=blocks)
        with torch.no_grad():
            whole = median(partial(policy, images, labels, saliency=saliency, out=buffer))
            alone = median(partial(policy.solve, costs))
            excess = float(((energy(policy.solve(costs), costs).double() - least) / least.abs()).mean())
        size = "x".join(map(str, shape))
        print(f"{size:>14} {blocks:>6} {kind.__name__:<12} {whole:>9.1f} {alone:>9.1f} {excess:>9.1e}", flush=True)


def main() -> None:
    """Print a table."""
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads")
    print(f"{'batch':>14} {'blocks':>6} {'solver':<12} {'mixing ms':>9} {'solver ms':>9} {'excess':>9}")
    for blocks in (2, 4, 8, 16):
        measure((100, 3, 32, 32), blocks)
    for blocks in (4, 8):
        measure((64, 3, 224, 224), blocks)


if __name__ == "__main__":
    main()
