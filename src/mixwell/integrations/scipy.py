"""Exact solvers from SciPy, one image after the other on the CPU: to compare with, or for those who can wait.

PuzzleMix(solver=ExactCut(), assignment=ExactAssignment())
"""

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
from mixwell.value import Value


class ExactCut(Value):
    """Label the cells of a grid with the least energy there is, by one minimum cut per image.

    Costs are rounded to about a billionth of their sum, since the maximum flow is found in whole numbers.

    Args:
        profile: Cost of labels that differ by 0, 1, ... on a border of weight one, convex; ``None`` is
            :func:`~mixwell.ops.graphcut.quadratic`.

    Source: Ishikawa, *Exact optimization for Markov random fields with convex priors*, 2003.

    Example:
        >>> costs = torch.tensor([[[[1.0, 5.0]], [[3.0, 2.0]]]]), torch.zeros(1, 0, 2), torch.tensor([[[10.0]]])
        >>> ExactCut()(costs)
        tensor([[[1, 1]]])
    """

    profile: tuple[float, ...] | None = None

    def __call__(self, costs: Costs) -> Tensor:
        """Return labels ``(B, rows, columns)``, int64, for :data:`~mixwell.ops.puzzle.Costs`."""
        unary, vertical, horizontal = (each.detach().cpu().double().numpy() for each in costs)
        pair = steps(self.profile or quadratic(unary.shape[1]))
        labels = np.stack([_cut(*each, pair) for each in zip(unary, vertical, horizontal, strict=True)])
        return torch.from_numpy(labels).to(costs[0].device)


def _cut(unary: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray, pair: Sequence[float]) -> np.ndarray:
    """Label one image: node (k, cell) is on the source's side where the label is k or more."""
    slopes = np.diff(unary, axis=0)
    k, nodes = len(slopes), slopes.size
    node = np.arange(nodes).reshape(slopes.shape)
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


class ExactAssignment(Value):
    """Move cells at the least total cost, counted where the image is shown; every place gets a cell of its own.

    Source: Crouse, *On implementing 2D rectangular assignment algorithms*, 2016, as SciPy has it.

    Example:
        >>> ExactAssignment()(torch.tensor([[[-2.0, -1.0], [-3.0, -1.0]]]), torch.ones(1, 1, 2, dtype=torch.bool))
        tensor([[1, 0]])
    """

    def __call__(self, costs: Tensor, shown: Tensor) -> Tensor:
        """Return which cell each place shows, ``(N, M)``, int64, for costs ``(N, M, M)`` from cells to places."""
        counted = torch.where(shown.flatten(1)[:, None], costs, 0.0).detach().cpu().double().numpy()
        places = np.stack([linear_sum_assignment(each.T)[1] for each in counted])
        return torch.from_numpy(places).to(costs.device)
