"""Exact solvers from SciPy, one image after the other on the CPU: to compare with, or for those who can wait."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor

from mixwell.ops.graphcut import quadratic, steps
from mixwell.ops.puzzle import Costs
from mixwell.policies.puzzlemix import PuzzleMix


def exact_cut(costs: Costs, profile: Sequence[float] | None = None) -> Tensor:
    """Label the cells of grids with the least energy there is, by one minimum cut per image.

    Costs are rounded to about a billionth of their sum, since the maximum flow is found in whole numbers.

    Args:
        costs: Of every label in every cell, and weights of the borders, see :data:`~mixwell.ops.puzzle.Costs`.
        profile: Cost of labels that differ by 0, 1, ... on a border of weight one, convex; ``None`` is
            :func:`~mixwell.ops.graphcut.quadratic`.

    Returns:
        Labels, shape ``(B, rows, columns)``, int64.

    Source: Ishikawa, *Exact optimization for Markov random fields with convex priors*, 2003.

    Example:
        >>> costs = torch.tensor([[[[1.0, 5.0]], [[3.0, 2.0]]]]), torch.zeros(1, 0, 2), torch.tensor([[[10.0]]])
        >>> exact_cut(costs)
        tensor([[[1, 1]]])
    """
    unary, vertical, horizontal = (each.detach().cpu().double().numpy() for each in costs)
    pair = steps(profile or quadratic(unary.shape[1]))
    labels = np.stack([_cut(*each, pair) for each in zip(unary, vertical, horizontal, strict=True)])
    return torch.from_numpy(labels).to(costs[0].device)


def _cut(unary: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray, pair: Sequence[float]) -> np.ndarray:
    """Label one image: node (k, cell) is on the source's side where the label is k or more."""
    slopes = np.diff(unary, axis=0)
    k, nodes = len(slopes), slopes.size
    node = np.arange(nodes, dtype=np.int32).reshape(slopes.shape)  # 32 bits: all that maximum_flow of SciPy 1.14 takes
    source, sink = nodes, nodes + 1
    tails, heads = [node, np.full_like(node, source)], [np.full_like(node, sink), node]
    capacity = [np.maximum(slopes, 0), np.maximum(-slopes, 0)]
    borders = ((vertical, node[:, :-1], node[:, 1:]), (horizontal, node[:, :, :-1], node[:, :, 1:]))
    for weight, first, second in borders:
        for i in range(k):
            for j in range(i + 1):
                tails += [first[i], second[i]]
                heads += [second[j], first[j]]
                capacity += [weight * pair[i - j]] * 2
    flat = np.concatenate([each.ravel() for each in capacity])
    whole = np.round(flat * (2**30 / max(flat.sum(), 1e-300)))  # no sum of flows exceeds 31 bits
    tails.append(node[1:])
    heads.append(node[:-1])
    unbroken = np.full(node[1:].size, 2**31 - 1)  # label k + 1 or more is label k or more
    ends = tuple(np.concatenate([each.ravel() for each in side]) for side in (tails, heads))
    graph = csr_array((np.concatenate((whole, unbroken)).astype(np.int32), ends), shape=(nodes + 2, nodes + 2))
    graph.sum_duplicates()
    left = csr_array(graph - maximum_flow(graph, source, sink).flow)
    left.eliminate_zeros()
    reached = np.zeros(nodes + 2, dtype=np.int64)
    reached[breadth_first_order(left, source, return_predecessors=False)] = 1
    return reached[:nodes].reshape(slopes.shape).sum(0)


def exact_assignment(costs: Tensor, shown: Tensor) -> Tensor:
    """Move cells at the least total cost, counted where the image is shown; every place gets a cell of its own.

    Args:
        costs: What it costs to show a cell in a place, shape ``(N, M, M)``.
        shown: Which places show the image at all, M of them, bool, the first dimension N.

    Returns:
        Which cell each place shows, shape ``(N, M)``, int64.

    Source: Crouse, *On implementing 2D rectangular assignment algorithms*, 2016, as SciPy has it.

    Example:
        >>> exact_assignment(torch.tensor([[[-2.0, -1.0], [-3.0, -1.0]]]), torch.ones(1, 1, 2, dtype=torch.bool))
        tensor([[1, 0]])
    """
    counted = torch.where(shown.flatten(1)[:, None], costs, 0.0).detach().cpu().double().numpy()
    places = np.stack([linear_sum_assignment(each.T)[1] for each in counted])
    return torch.from_numpy(places).to(costs.device)


class ExactPuzzleMix(PuzzleMix):
    """PuzzleMix with the best mask and the best moves there are.

    ``iterations`` has no effect. To be read from text, it must be named there: ``parse(text, extra={...})``.

    Args:
        **settings: See :class:`PuzzleMix`.

    Source: Kim et al., *Puzzle Mix*, ICML 2020 (arXiv:2009.06962).

    Example:
        >>> policy = ExactPuzzleMix(blocks=4)
        >>> policy(torch.rand(4, 3, 32, 32), torch.arange(4), saliency=torch.rand(4, 32, 32)).plan
        PatchPlan(sources=(4, 2), size=(32, 32))
    """

    def solve(self, costs: Costs) -> Tensor:
        """See :func:`exact_cut`."""
        return exact_cut(costs)

    def assign(self, costs: Tensor, shown: Tensor) -> Tensor:
        """See :func:`exact_assignment`."""
        return exact_assignment(costs, shown)
