"""What PuzzleMix's mixing costs without the gradient pass, beside exact cuts of one image at a time.

Run ``python benchmarks/puzzlemix.py``; times are medians in milliseconds per batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from mixwell.integrations.scipy import ExactCut
from mixwell.ops.graphcut import energy, primal_dual
from mixwell.ops.puzzle import Costs, whole_costs
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


def measure(shape: tuple[int, int, int, int], blocks: int) -> None:
    """Time one kind of batch with every solver, whole policy and solver alone."""
    images, labels = torch.rand(shape), torch.zeros(shape[0], dtype=torch.int64)
    saliency, buffer = torch.rand(shape[0], *shape[2:]) ** 4, torch.empty_like(images)
    policy, kept = PuzzleMix(blocks=blocks), []
    replace(policy, solver=lambda costs: kept.append(costs) or primal_dual(costs))(images, labels, saliency=saliency)
    least = energy(ExactCut()(kept[0]), kept[0]).double()
    solvers = {"primal-dual": primal_dual, "exact cuts": ExactCut()}
    solvers |= {"gco swaps": swaps} if find_spec("gco") else {}
    for name, solver in solvers.items():
        chosen = replace(policy, solver=solver)
        with torch.no_grad():
            whole = median(lambda: chosen(images, labels, saliency=saliency, out=buffer))
            alone = median(lambda: solver(kept[0]))
        excess = float(((energy(solver(kept[0]), kept[0]).double() - least) / least.abs()).mean())
        size = "x".join(map(str, shape))
        print(f"{size:>14} {blocks:>6} {name:<12} {whole:>9.1f} {alone:>9.1f} {excess:>9.1e}", flush=True)


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
